import base64
import hashlib
import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from moxi_lite.data import (
    SAMPLE_PHOTOS,
    ImagesUnavailableError,
    decode,
    image_list_sha256,
    imagenet_sample,
    labelled_images,
    load_image,
    sample_photo,
)
from moxi_lite.data import photos as data


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image, column=0, row=0):
    assert image.mode == "RGB"
    return image.getpixel((column, row))


# --- sources --------------------------------------------------------------------------------


def test_every_source_yields_the_same_pixels(gradient_image, tmp_path, web):
    base, files = web
    content = encode(gradient_image)
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    files["/photo.png"] = content
    sources = [
        path,
        str(path),
        f"{base}photo.png",
        content,
        bytearray(content),
        memoryview(content),
        np.asarray(gradient_image),
        gradient_image,
    ]
    for source in sources:
        image = load_image(source)
        assert image.mode == "RGB"
        assert image.size == (48, 40)
        assert np.array_equal(np.asarray(image), np.asarray(gradient_image))


def test_a_pil_image_is_copied(gradient_image):
    image = load_image(gradient_image)
    image.putpixel((0, 0), (1, 2, 3))
    assert pixel(gradient_image) == (0, 0, 128)


def test_missing_files_list_near_matches(tmp_path):
    (tmp_path / "chelsea.png").touch()
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'chelsea\.png'"):
        load_image(tmp_path / "chelsea.jpg")
    with pytest.raises(FileNotFoundError, match="has a similar name"):
        load_image(tmp_path / "zebra.webp")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist, either"):
        load_image(tmp_path / "nowhere" / "cat.jpg")


def test_folders_and_odd_sources_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ValueError, match="empty path"):
        load_image("")
    with pytest.raises(ValueError, match="http:// or https://"):
        load_image("ftp://example.org/cat.jpg")
    with pytest.raises(TypeError, match="cannot make an image from list"):
        load_image([1, 2, 3])


def test_addresses_that_yield_no_image(web):
    base, files = web
    with pytest.raises(ImagesUnavailableError, match="answers 404"):
        load_image(f"{base}missing.png")
    with pytest.raises(ImagesUnavailableError, match=r"my photo\.jpg cannot be loaded: "):
        load_image("http://127.0.0.1/my photo.jpg")
    with pytest.raises(ImagesUnavailableError, match=r"cannot be loaded: .*refused"):
        load_image("http://127.0.0.1:9/cat.jpg")
    files["/page.html"] = b"<html>a page about cats</html>"
    with pytest.raises(ValueError, match=r"page\.html: not an image that Pillow can read"):
        load_image(f"{base}page.html")


# --- kinds of image -------------------------------------------------------------------------


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (40, 20))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: top left becomes top right
    upright = load_image(encode(image, exif=exif))
    assert upright.size == (20, 40)
    assert pixel(upright, 19, 0) == (255, 0, 0)
    assert pixel(upright, 0, 0) == (0, 0, 0)


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (20, 20), (200, 0, 0, 0))
    image.putpixel((1, 0), (0, 100, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))  # a fifth of black on white
    for source in (encode(image), image, np.asarray(image)):
        loaded = load_image(source)
        assert pixel(loaded, 0) == (255, 255, 255)
        assert pixel(loaded, 1) == (0, 100, 0)
        assert pixel(loaded, 2) == (204, 204, 204)


def test_grey_with_alpha():
    image = Image.new("LA", (20, 20), (10, 255))
    image.putpixel((3, 4), (10, 0))
    loaded = load_image(encode(image))
    assert pixel(loaded) == (10, 10, 10)
    assert pixel(loaded, 3, 4) == (255, 255, 255)


def test_palette_with_and_without_transparency():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 255, 10, 20, 30])
    image.putpixel((5, 6), 0)
    assert pixel(load_image(encode(image)), 5, 6) == (0, 0, 255)
    transparent = load_image(encode(image, transparency=0))
    assert pixel(transparent, 5, 6) == (255, 255, 255)
    assert pixel(transparent) == (10, 20, 30)


def test_rgb_with_a_transparent_colour():
    image = Image.new("RGB", (20, 20), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    loaded = load_image(encode(image, transparency=(9, 9, 9)))
    assert pixel(loaded) == (255, 255, 255)
    assert pixel(loaded, 1) == (1, 2, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    values = np.full((20, 20), 25700, np.uint16)  # 100 * 257
    values[0, 1], values[0, 2] = 65535, 0
    loaded = load_image(encode(Image.fromarray(values), kind))
    assert [pixel(loaded, column)[0] for column in range(3)] == [100, 255, 0]


def test_wide_integers_and_floats_outside_their_range_are_refused():
    wide = Image.fromarray(np.full((20, 20), 70000, np.int32))
    with pytest.raises(ValueError, match="70000 to 70000, expected 16 bits"):
        load_image(encode(wide, "TIFF"))
    image = Image.fromarray(np.full((20, 20), 0.2, np.float32))
    assert pixel(load_image(encode(image, "TIFF"))) == (51, 51, 51)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1, got 200 to 200"):
        load_image(encode(Image.fromarray(np.full((20, 20), 200, np.float32)), "TIFF"))


def test_grey_bilevel_and_cmyk():
    assert pixel(load_image(encode(Image.new("L", (20, 20), 77)))) == (77, 77, 77)
    assert pixel(load_image(encode(Image.new("1", (20, 20), 1)))) == (255, 255, 255)
    cmyk = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    assert pixel(load_image(encode(cmyk, "TIFF"))) == (255, 0, 0)
    red, green, blue = pixel(load_image(encode(cmyk, "JPEG", quality=100)))
    assert red > 250
    assert max(green, blue) < 5


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(load_image(content)) == (255, 0, 0)


# --- broken files ---------------------------------------------------------------------------


def test_empty_and_broken_files_are_refused(tmp_path):
    path = tmp_path / "empty.jpg"
    path.touch()
    with pytest.raises(ValueError, match=r"empty\.jpg: the file is empty"):
        load_image(path)
    with pytest.raises(ValueError, match="the bytes given: the file is empty"):
        load_image(b"")
    with pytest.raises(ValueError, match=r"Pillow can read \(8 bytes\).*HEIC"):
        load_image(b"nonsense")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated_files_are_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encode(Image.fromarray(noise), kind)
    assert load_image(content).size == (64, 64)
    with pytest.raises(ValueError, match=r"truncated|Pillow can read"):
        load_image(content[: len(content) // 2])


@given(st.binary(max_size=200), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a"]))
def test_garbage_behind_a_signature_is_refused(tail, signature):
    with pytest.raises(ValueError):
        load_image(signature + tail)


def test_tiny_and_huge_images_are_refused(monkeypatch):
    assert load_image(Image.new("RGB", (16, 16))).size == (16, 16)
    with pytest.raises(ValueError, match=r"200 x 15 pixels \(width x height\) is too small"):
        load_image(encode(Image.new("RGB", (200, 15))))
    with pytest.raises(ValueError, match="too small"):
        load_image(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"16 x 1601 pixels is a strip.*at most 100 times"):
        load_image(encode(Image.new("L", (16, 1601))))
    assert load_image(Image.new("L", (16, 1600))).size == (16, 1600)
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="too large to decode safely"):
        load_image(encode(Image.new("L", (40, 40))))


def test_decompression_bombs_are_refused_before_decoding():
    content = bytearray(encode(Image.new("1", (16, 16))))
    content[16:24] = (30_000).to_bytes(4, "big") * 2  # width and height in the PNG header
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="too large to decode safely"):
        load_image(bytes(content))


def test_integer_pixels_that_may_be_8_bits_are_refused():
    grey = Image.new("L", (16, 16), 120)
    with pytest.raises(ValueError, match="mode I with pixels from 120 to 120 may be 8 bits"):
        load_image(grey.convert("I"))
    deep = Image.fromarray(np.full((16, 16), 30_840, np.int32), mode=None)
    assert deep.mode == "I"
    assert load_image(deep).getpixel((0, 0)) == (120, 120, 120)


# --- arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 1), (20, 24, 3)])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", 51), ("uint16", 51 * 257), ("float32", 0.2), ("float64", 0.2), ("float16", 0.2)],
)
def test_arrays_of_every_kind(shape, dtype, value):
    image = load_image(np.full(shape, value, dtype))
    assert image.size == (24, 20)
    assert pixel(image) == (51, 51, 51)


@pytest.mark.filterwarnings("ignore:16-bit")
@given(hnp.arrays(np.uint8, (16, 17, 3)))
def test_uint8_arrays_survive(array):
    assert np.array_equal(np.asarray(load_image(array)), array)
    assert np.array_equal(np.asarray(load_image(array / 255)), array)
    assert np.array_equal(np.asarray(load_image(array.astype(np.uint16) * 257)), array)


def test_arrays_that_are_no_contiguous_rows(gradient_image):
    array = np.asarray(gradient_image)[::-1, ::-1]
    assert np.array_equal(np.asarray(load_image(array)), array)


def test_rounding_beyond_one_is_allowed():
    assert pixel(load_image(np.full((20, 20), 1.0000001))) == (255, 255, 255)


@pytest.mark.parametrize(
    ("array", "kind", "message"),
    [
        (np.full((20, 20), np.nan), ValueError, "NaN or infinity, 400 of 400"),
        (np.full((20, 20), np.inf), ValueError, "NaN or infinity"),
        (np.full((20, 20), 128.0), ValueError, "Divide by 255"),
        (np.full((20, 20), -0.5), ValueError, r"must lie in 0\.\.1"),
        (np.zeros((3, 20, 20)), ValueError, r"got \(3, 20, 20\)\. Channels come last"),
        (np.zeros((20, 20, 2)), ValueError, r"got \(20, 20, 2\)\.$"),
        (np.zeros(20), ValueError, r"got \(20,\)"),
        (np.zeros((1, 3, 20, 20)), ValueError, r"got \(1, 3, 20, 20\)"),
        (np.zeros((0, 20), np.uint8), ValueError, "no pixels"),
        (np.zeros((20, 20), np.int64), TypeError, "got int64"),
        (np.zeros((20, 20), complex), TypeError, "got complex128"),
    ],
)
def test_bad_arrays_are_refused(array, kind, message):
    with pytest.raises(kind, match=message):
        load_image(array)


# --- sample photographs ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLE_PHOTOS)
def test_sample_photos_are_there(name):
    image = sample_photo(name)
    assert image.mode == "RGB"
    assert min(image.size) >= 224
    assert SAMPLE_PHOTOS[name]


def test_sample_photos_know_near_names():
    assert sample_photo("chelsea").size == (451, 300)
    with pytest.raises(ValueError, match="Did you mean 'chelsea'"):
        sample_photo("chelsey")


# --- ImageNet samples -----------------------------------------------------------------------


@pytest.fixture
def one_class(monkeypatch, tmp_path, web, gradient_image):
    """Serve a registry of a single image: yields its content, the files served, the folder."""
    base, files = web
    content = encode(gradient_image)
    name = "n00000001_jack-o'-lantern.JPEG"
    registry = {name: hashlib.sha256(content).hexdigest()}
    monkeypatch.setattr(data, "_registry", lambda: registry)
    monkeypatch.setattr(data, "_registry_names", lambda: (name,))
    monkeypatch.setattr(data, "IMAGENET_URL", base)
    monkeypatch.setenv("MOXI_LITE_DATA_DIR", str(tmp_path))
    return name, content, files, tmp_path / "imagenet-sample-images" / name


def test_samples_are_downloaded_once(one_class):
    name, content, files, path = one_class
    files["/" + name] = content
    sample = imagenet_sample(0)
    assert (sample.index, sample.wnid, sample.path) == (0, "n00000001", path)
    assert sample.name == "tench, Tinca tinca"
    assert sample.image.size == (48, 40)
    files.clear()
    assert imagenet_sample(0).image.size == (48, 40)


def test_a_damaged_copy_is_fetched_again(one_class):
    name, content, files, path = one_class
    files["/" + name] = content
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    assert imagenet_sample(0).image.size == (48, 40)
    assert path.read_bytes() == content


def test_a_wrong_download_is_refused(one_class):
    name, _, files, path = one_class
    files["/" + name] = b"something else"
    with pytest.raises(ImagesUnavailableError, match=r"is not there.*SHA256 hash"):
        imagenet_sample(0)
    assert not path.exists()


def test_without_file_and_network_the_error_says_how_to_help(one_class, monkeypatch):
    name, _, _, path = one_class
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    monkeypatch.setattr(data, "IMAGENET_URL", "http://127.0.0.1:9/")
    with pytest.raises(ImagesUnavailableError) as caught:
        imagenet_sample(0)
    for part in (name, str(path), "wrong SHA-256", "http://127.0.0.1:9/", "MOXI_LITE_DATA_DIR"):
        assert part in str(caught.value)


def test_registry_has_one_image_per_class_in_order():
    from timm.data import ImageNetInfo

    names = data._registry_names()
    assert len(names) == 1000
    assert [name.partition("_")[0] for name in names] == ImageNetInfo().label_names()
    assert all(len(value) == 64 for value in data._registry().values())


def test_class_indices_are_checked():
    for outside in (-1, 1000):
        with pytest.raises(IndexError, match="0 to 999"):
            imagenet_sample(outside)
    with pytest.raises(TypeError):
        imagenet_sample("3")
    with pytest.raises(IndexError):
        image_list_sha256([0, 5000])


def test_fingerprint_depends_on_content_and_order():
    names, registry = data._registry_names(), data._registry()
    by_hand = f"{names[5]} {registry[names[5]]}\n{names[2]} {registry[names[2]]}\n"
    assert image_list_sha256([5, 2]) == hashlib.sha256(by_hand.encode()).hexdigest()
    assert image_list_sha256([2, 5]) != image_list_sha256([5, 2])


@pytest.mark.hub
def test_real_samples_carry_their_labels():
    goldfish, kit = map(imagenet_sample, (1, 477))
    assert (goldfish.wnid, goldfish.name) == ("n01443537", "goldfish, Carassius auratus")
    assert goldfish.image.mode == "RGB"
    assert kit.path.name == "n02966687_carpenter's_kit.JPEG"
    assert kit.index == 477


# --- open files, data: URIs, other ranges of values ---------------------------------------------


def test_open_files_are_read_from_their_start(gradient_image, tmp_path):
    expected = np.asarray(gradient_image)
    memory = io.BytesIO()
    gradient_image.save(memory, "PNG")  # leaves it at its end
    path = tmp_path / "image.png"
    path.write_bytes(memory.getvalue())
    for _ in range(2):
        assert np.array_equal(np.asarray(load_image(memory)), expected)
    with path.open("rb") as file:
        assert np.array_equal(np.asarray(load_image(file)), expected)
    with path.open(encoding="latin-1") as file, pytest.raises(TypeError, match="for reading bytes"):
        load_image(file)
    with pytest.raises(ValueError, match="the file given: not an image"):
        load_image(io.BytesIO(b"nonsense"))


def test_data_uris_are_decoded_and_never_repeated(gradient_image):
    content = base64.b64encode(encode(gradient_image)).decode()
    image = load_image(f"data:image/png;base64,{content}")
    assert np.array_equal(np.asarray(image), np.asarray(gradient_image))
    for broken in ("image/png;base64," + content[: len(content) // 8 * 4], "nothing" * 1000):
        with pytest.raises((ValueError, OSError), match="the data: URI") as caught:
            load_image(f"data:{broken}")
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["array", "I;16", "TIFF"])
def test_twelve_bits_in_sixteen(kind):
    ramp = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    source = ramp if kind == "array" else Image.fromarray(ramp)
    source = encode(source, "TIFF") if kind == "TIFF" else source
    shown = np.asarray(load_image(source, value_range=(0, 4095)))[0, :, 0]
    assert np.array_equal(shown, np.rint(ramp[0] / 4095 * 255))
    with pytest.warns(UserWarning, match=r"at most 4095.*value_range=\(0, 4095\)"):
        assert np.asarray(load_image(source)).max() == 16


def test_a_window_of_values_of_any_kind():
    values = np.full((20, 20), -100, np.int16)
    values[0, :3] = -1000, 400, 3000
    shown = load_image(values, value_range=(-1000, 400))
    assert [pixel(shown, column)[0] for column in range(4)] == [0, 255, 255, 164]
    with pytest.raises(TypeError, match=r"int16.*value_range=\(0, 255\)"):
        load_image(values)
    with pytest.raises(ValueError, match="black below white"):
        load_image(values, value_range=(400, 400))
    with pytest.raises(ValueError, match="8 bits a channel"):
        load_image(Image.new("RGB", (20, 20)), value_range=(0, 255))


def test_bool_arrays_are_black_and_white():
    values = np.zeros((20, 20), bool)
    values[0, 1] = True
    assert [pixel(load_image(values), column)[0] for column in range(2)] == [0, 255]


# --- labelled images ----------------------------------------------------------------------------


def test_labels_from_folders_and_from_a_table(tmp_path):
    for name in ("dog/b.png", "cat/a.JPG", "cat/notes.txt", "cat/c.png", "loose.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    cats = [(tmp_path / "cat" / name, "cat") for name in ("a.JPG", "c.png")]
    dog = (tmp_path / "dog" / "b.png", "dog")
    assert labelled_images(tmp_path) == [*cats, dog]
    table = tmp_path / "labels.csv"
    table.write_text('image,label,source\ndog/b.png,dog,x\n"cat/a.JPG", cat ,y\n', "utf-8-sig")
    assert labelled_images(str(table)) == [dog, cats[0]]


@pytest.mark.parametrize("text", ["", "image,label\n", "file,class\na,b\n", "image,label\na,\n"])
def test_tables_without_labels_are_refused(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=r"labels\.csv holds no labelled images.*'image,label'"):
        labelled_images(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match="one folder a class"):
        labelled_images(tmp_path)
    with pytest.raises(FileNotFoundError):
        labelled_images(tmp_path / "absent")
