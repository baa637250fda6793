"""Images: any photograph, photographs that come with packages, and one per ImageNet class."""

from __future__ import annotations

import csv
import difflib
import functools
import hashlib
import http.client
import importlib.util
import itertools
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pooch
from PIL import Image

from moxi_lite.data.decode import array_to_image, decode_image, finish_image
from moxi_lite.data.downloads import ImagesUnavailableError, data_folder, fetch
from moxi_lite.errors import index_of, unknown_name
from moxi_lite.models import imagenet_class_names

_MAX_DOWNLOAD_BYTES = 100_000_000
_TIMEOUT_SECONDS = 20.0
_IMAGENET_FOLDER = "imagenet-sample-images"
IMAGENET_URL = "https://raw.githubusercontent.com/EliSchwartz/imagenet-sample-images/master/"

_PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png", "Eileen Collins in her space suit"),
    "camera": ("skimage", "data/camera.png", "a photographer and his tripod, in grey"),
    "chelsea": ("skimage", "data/chelsea.png", "Chelsea, a tabby cat"),
    "china": ("sklearn", "datasets/images/china.jpg", "a pavilion of the Summer Palace, Beijing"),
    "coffee": ("skimage", "data/coffee.png", "a cup of espresso"),
    "flower": ("sklearn", "datasets/images/flower.jpg", "a flower"),
    "motorcycle": ("skimage", "data/motorcycle_left.png", "a motorcycle in a workshop"),
    "rocket": ("skimage", "data/rocket.jpg", "the launch of a Falcon 9"),
}

SAMPLE_PHOTOS: Mapping[str, str] = MappingProxyType(
    {name: description for name, (_, _, description) in _PHOTOS.items()}
)
"""Name -> what the photograph shows, for `sample_photo`."""


@dataclass(frozen=True, eq=False)
class ImageNetSample:
    """One ImageNet image with its label.

    Attributes
    ----------
    image : PIL.Image.Image
        In mode RGB, at its own size.
    index : int
        ImageNet class, 0..999: the label.
    wnid : str
        WordNet identifier of the class, such as ``"n02123045"``.
    name : str
        Name of the class, as `Classifier.class_names` has it.
    path : pathlib.Path
        The file.
    """

    image: Image.Image = field(repr=False)
    index: int
    wnid: str
    name: str
    path: Path


def load_image(
    source: str | os.PathLike[str] | bytes | IO[bytes] | npt.NDArray[Any] | Image.Image,
    value_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Load an image from nearly anywhere, as an RGB image the right way up.

    Parameters
    ----------
    source : path, URL, bytes, open file, array or PIL image
        A path; an ``http(s)://`` address or a ``data:`` URI; the bytes of an image file, or a file
        opened for reading bytes, such as `io.BytesIO`, from its start; an array (H, W), (H, W, 1),
        (H, W, 3) or (H, W, 4) of bool, uint8 (0..255), uint16 (0..65535) or float (0..1); a PIL
        image.
    value_range : (float, float), optional
        The values that are black and white, for arrays of any kind of number and for grey images
        of 16 bits or float: ``(0, 4095)`` for 12-bit data. What lies beyond is clipped.

    Returns
    -------
    PIL.Image.Image
        A new image in mode RGB, 8 bits a channel. EXIF rotation is applied. Transparent pixels lie
        on white. 16-bit values are divided by 257, so that 65535 becomes 255. Of an animation or a
        document of several pages it is the first frame.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file (near matches of the folder are listed).
    ImagesUnavailableError
        If an address does not yield a file.
    ValueError
        If the content is empty, broken, truncated, smaller than 16 pixels a side, larger than
        100 million pixels, or has a shape or values that do not make an image.
    TypeError
        For sources or arrays of another type.
    """
    if isinstance(source, np.ndarray):
        return finish_image(array_to_image(source, value_range), "the array")
    if isinstance(source, Image.Image):
        return finish_image(source, "the PIL image", value_range)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), "the bytes given", value_range)
    if isinstance(source, str) and source.startswith("data:"):
        return decode_image(_download(source, "the data: URI"), "the data: URI", value_range)
    if isinstance(source, str) and (scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)):
        if scheme[1].lower() not in ("http", "https"):
            raise ValueError(
                f"cannot load {source!r}: expected a path or an address that starts with http:// "
                "or https://."
            )
        return decode_image(_download(source, source), source, value_range)
    if isinstance(source, (str, os.PathLike)):
        return decode_image(_read(source), str(source), value_range)
    if hasattr(source, "read"):
        return decode_image(_read_open(source), "the file given", value_range)
    raise TypeError(
        f"cannot make an image from {type(source).__name__}: expected a path, a URL, the bytes of "
        "a file, an open file, a numpy array or a PIL image. PatchGame takes preprocessed tensors "
        "as they are."
    )


def sample_photo(name: str) -> Image.Image:
    """Load a photograph that scikit-image or scikit-learn ship: no download.

    Parameters
    ----------
    name : str
        One of `SAMPLE_PHOTOS`, such as ``"chelsea"``.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    ValueError
        If there is no photograph of this name.
    FileNotFoundError
        If the installed version of the package does not carry it.
    """
    if name not in _PHOTOS:
        raise unknown_name("sample photo", name, _PHOTOS)
    package, file, _ = _PHOTOS[name]
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0] if folders else package, file)
    if not path.is_file():
        raise FileNotFoundError(
            f"the photograph {name!r} comes with {package}, but {path} does not exist. Reinstall "
            f"{'scikit-image' if package == 'skimage' else 'scikit-learn'} from a wheel."
        )
    return load_image(path)


def labelled_images(source: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """List the images of a folder, or of a table, with their labels, for `run_study`.

    Parameters
    ----------
    source : path
        A folder with one folder a class, whose name is the label; or a CSV file whose first line
        names the columns ``image``, a path (seen from the file's folder), and ``label``.

    Returns
    -------
    list of (path, label)
        Sorted by class and name, or as in the file. A label is the name or index of a class.

    Raises
    ------
    ValueError
        If no image is found, or the file lacks these columns.
    FileNotFoundError
        If there is no such folder or file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        kinds = Image.registered_extensions()
        files = sorted(path.glob("*/*"))
        found = [(file, file.parent.name) for file in files if file.suffix.lower() in kinds]
        expected = "one folder a class, with images in it"
    else:
        with path.open(encoding="utf-8-sig", newline="") as table:
            rows = [(row.get("image"), row.get("label")) for row in csv.DictReader(table)]
        found = [(path.parent / image, label.strip()) for image, label in rows if image and label]
        found = found if len(found) == len(rows) else []
        expected = "a line 'image,label', and below it a path and a class in every line"
    if not found:
        raise ValueError(f"{path} holds no labelled images: expected {expected}.")
    return found


def imagenet_sample(index: int) -> ImageNetSample:
    """Load the sample image of an ImageNet class.

    The images are those of the GitHub repository EliSchwartz/imagenet-sample-images, one a class.
    They are probably training images, so that accuracies on them are not validation figures.
    A file is looked for in ``<data>/imagenet-sample-images`` and downloaded to there at first use;
    ``<data>`` is the environment variable ``MOXI_LITE_DATA_DIR`` or the user's cache folder.

    Parameters
    ----------
    index : int
        ImageNet class, 0..999.

    Returns
    -------
    ImageNetSample

    Raises
    ------
    IndexError
        If `index` is out of range.
    ImagesUnavailableError
        If the file is neither there nor available from the network (told within seconds), or has
        another SHA-256 than the registry says.
    """
    checked = _check_index(index)
    file_name = _registry_names()[checked]
    files = pooch.create(path=imagenet_folder(), base_url=IMAGENET_URL, registry=dict(_registry()))
    advice = (
        f"set MOXI_LITE_DATA_DIR to a folder whose subfolder {_IMAGENET_FOLDER} holds the files; "
        "or use photographs of your own."
    )
    path = fetch(files, file_name, f"the ImageNet sample image {file_name!r}", advice)
    return ImageNetSample(
        image=load_image(path),
        index=checked,
        wnid=file_name.partition("_")[0],
        name=imagenet_class_names()[checked],
        path=path,
    )


def image_list_sha256(indices: Iterable[int]) -> str:
    """Fingerprint of a list of ImageNet sample images: SHA-256 over file names and file hashes.

    Needs no file, only the registry; the order of `indices` counts.
    """
    names = [_registry_names()[_check_index(index)] for index in indices]
    lines = "".join(f"{name} {_registry()[name]}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def imagenet_folder() -> Path:
    """Folder of the ImageNet sample images: ``<data>/imagenet-sample-images``; may not exist."""
    return data_folder(_IMAGENET_FOLDER)


@functools.cache
def _registry() -> Mapping[str, str]:
    """File name -> SHA-256, sorted by name: the position is the ImageNet class."""
    files = pooch.create(path=imagenet_folder(), base_url=IMAGENET_URL)
    files.load_registry(Path(__file__).with_name("imagenet_sample_images.txt"))
    return MappingProxyType(dict(sorted(files.registry.items())))


@functools.cache
def _registry_names() -> tuple[str, ...]:
    return tuple(_registry())


def _check_index(index: int) -> int:
    try:
        number = index_of(index)
    except TypeError:
        raise TypeError(
            f"an ImageNet class is a whole number such as 281, not {index!r}."
        ) from None
    if not 0 <= number < len(_registry_names()):
        raise IndexError(
            f"ImageNet class {number} is out of range: there are {len(_registry_names())} sample "
            f"images, 0 to {len(_registry_names()) - 1}."
        )
    return number


def _read(source: str | os.PathLike[str]) -> bytes:
    if not str(source):
        raise ValueError("cannot load an image from an empty path.")
    path = Path(source).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an image file.")
    if not path.exists():
        hint = f"The folder {path.parent} does not exist, either."
        if path.parent.is_dir():
            names = [entry.name for entry in itertools.islice(path.parent.iterdir(), 10_000)]
            near = difflib.get_close_matches(path.name, sorted(names), n=3, cutoff=0.6)
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
            hint = hint or f"Nothing in the folder {path.parent.resolve()} has a similar name."
        raise FileNotFoundError(f"there is no file {str(path)!r}. {hint}")
    return path.read_bytes()


def _read_open(file: IO[bytes]) -> bytes:
    if file.seekable():
        file.seek(0)  # where it stands is after what was written, or read before
    content = file.read()
    if not isinstance(content, bytes):
        raise TypeError("an open file must be opened for reading bytes: open(path, 'rb').")
    return content


def _download(url: str, what: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "moxi-lite"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            content: bytes = response.read(_MAX_DOWNLOAD_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ImagesUnavailableError(
            f"{what} answers {error.code} {error.reason}. Check the address; a browser may show a "
            "page there rather than the image itself."
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImagesUnavailableError(
            f"{what} cannot be loaded: {getattr(error, 'reason', error)}. Check the address and "
            "the network, or download the image and pass its path."
        ) from error
    if len(content) > _MAX_DOWNLOAD_BYTES:
        raise ValueError(f"{what} is larger than {_MAX_DOWNLOAD_BYTES // 10**6} MB.")
    return content
