"""Corruptions against the published constants, numbers by hand and what each must leave alone."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from moxi_lite.corruption import CORRUPTIONS, corrupt
from moxi_lite.corruption.common import _fractal, _moved, _zoomed
from moxi_lite.data import sample_photo

NAMES = tuple(CORRUPTIONS)
DRAWING = {
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
}


@pytest.fixture(scope="module")
def photo():
    return np.asarray(sample_photo("chelsea").resize((64, 48)))


def test_the_published_table():
    """The 15 names of the benchmark, and constants as its authors' make_imagenet_c.py has them."""
    assert NAMES == (
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    )
    assert {len(levels) for levels in CORRUPTIONS.values()} == {5}
    last = {name: levels[-1] for name, levels in CORRUPTIONS.items()}
    assert last == {
        "gaussian_noise": (0.38,),
        "shot_noise": (3,),
        "impulse_noise": (0.27,),
        "defocus_blur": (10, 0.5),
        "glass_blur": (1.5, 4, 2),
        "motion_blur": (20, 15),
        "zoom_blur": (1.31, 0.03),
        "snow": (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        "frost": (0.6, 0.75),
        "fog": (3, 1.4),
        "brightness": (0.5,),
        "contrast": (0.05,),
        "elastic_transform": pytest.approx((244 * 0.12, 244 * 0.01, 244 * 0.02)),
        "pixelate": (0.25,),
        "jpeg_compression": (7,),
    }
    first = [244 * 2, 244 * 0.7, 244 * 0.1, 244 * 2, 244 * 0.08, 244 * 0.2]
    assert np.ravel(CORRUPTIONS["elastic_transform"][:2]) == pytest.approx(first)
    assert np.ravel(CORRUPTIONS["gaussian_noise"]).tolist() == [0.08, 0.12, 0.18, 0.26, 0.38]
    assert CORRUPTIONS["fog"] == ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))


@pytest.mark.parametrize("name", NAMES)
def test_each_corrupts_by_its_seed_and_level_0_does_not(name, photo):
    before = photo.copy()
    damaged = corrupt(photo, name, 5)
    assert damaged.shape == photo.shape and damaged.dtype == np.uint8
    assert (photo == before).all() and (damaged != photo).mean() > 0.2
    assert (damaged == corrupt(photo, name, 5, 0)).all()
    assert (damaged != corrupt(photo, name, 5, 1)).any() == (name in DRAWING)
    same = corrupt(photo, name, 0)
    assert (same == photo).all() and same is not photo


# the others redistribute: level 4 of frost is darker than level 3, of snow and glass finer
@pytest.mark.parametrize(
    "name", sorted({*NAMES} - {"glass_blur", "elastic_transform", "snow", "frost"})
)
def test_damage_rises_with_the_level(name, photo):
    x = photo.astype(float)
    errors = [np.abs(corrupt(photo, name, level) - x).mean() for level in range(6)]
    assert (np.diff(errors) > 0).all()


def grey(values):
    return np.repeat(np.array(values, np.uint8)[..., None], 3, axis=2)


def test_by_hand_on_4_by_4():
    image = grey([[0, 40, 80, 120], [40, 80, 120, 160], [80, 120, 160, 200], [120, 160, 200, 240]])
    # mean 120; a tenth of the distance from it stays: 108 to 132
    assert (corrupt(image, "contrast", 4)[..., 0] == 120 + (image[..., 0] - 120.0) / 10).all()
    # half of 255 is added, rounded to even: 127.5, 167.5, 207.5, 247.5, and what exceeds 255
    brighter = corrupt(image, "brightness", 5)[..., 0]
    assert brighter[[0, 2]].tolist() == [[128, 168, 208, 248], [208, 248, 255, 255]]
    # cells of 2 x 2 pixels become their mean
    cells = corrupt(image, "pixelate", 2)[..., 0]
    assert cells[::2, ::2].tolist() == [[40, 120], [120, 200]]
    assert (np.repeat(np.repeat(cells[::2, ::2], 2, 0), 2, 1) == cells).all()


def test_brightness_keeps_hue_and_saturation():
    orange = np.full((4, 4, 3), (102, 34, 0), np.uint8)  # value 0.4, raised to 0.6
    assert corrupt(orange, "brightness", 2)[0, 0].tolist() == [153, 51, 0]


def test_noise_has_the_moments_of_the_publication():
    image = np.full((200, 200, 3), 128, np.uint8)
    gaussian = corrupt(image, "gaussian_noise", 1) / 255
    assert gaussian.mean() == pytest.approx(128 / 255, abs=2e-3)
    assert gaussian.std() == pytest.approx(0.08, rel=0.02)
    shot = corrupt(image, "shot_noise", 1) / 255
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 60), rel=0.02)
    impulse = corrupt(image, "impulse_noise", 5)
    assert (impulse == 0).mean() == pytest.approx(0.135, rel=0.05)
    assert (impulse == 255).mean() == pytest.approx(0.135, rel=0.05)
    assert np.isin(impulse, (0, 128, 255)).all()


def test_fog_is_the_published_mixture():
    rng = np.random.default_rng(0)
    image = np.full((64, 64, 3), 51, np.uint8)  # 0.2
    expected = (0.2 + 3 * _fractal((64, 64), 1.4, rng)) * 0.2 / 3.2
    assert (corrupt(image, "fog", 5)[..., 1] == np.rint(255 * expected)).all()


def test_the_fractal_is_rougher_for_smaller_decay():
    roughness = []
    for decay in (1.2, 1.6, 2.5):
        field = _fractal((100, 80), decay, np.random.default_rng(1))
        assert field.shape == (100, 80) and field.min() >= 0 and field.max() <= 1
        roughness.append(np.abs(np.diff(field, axis=0)).mean())
    assert roughness[0] > roughness[1] > roughness[2]


def test_defocus_spreads_a_point_over_a_disk():
    image = np.zeros((65, 65, 3), np.uint8)
    image[32, 32] = 255
    disk = corrupt(image, "defocus_blur", 1)[..., 0]
    down, right = np.mgrid[-32:33, -32:33]
    inside = down**2 + right**2 <= 9
    assert inside.sum() == 29
    assert (disk[inside] == round(255 / 29)).all() and (disk[~inside] == 0).all()


def test_motion_smears_a_point_one_way():
    image = np.zeros((9, 9, 1))
    image[4, 6] = 1.0
    smeared = _moved(image, 1, 1.0, 0.0)[..., 0]  # a pixel takes what lies to its right
    weights = np.exp([-0.0, -0.5, -2.0])
    assert smeared[4, 4:7] == pytest.approx((weights / weights.sum())[::-1])
    assert smeared.sum() == pytest.approx(1)
    falling = _moved(image, 1, 1.0, 90.0)[..., 0]
    assert falling[2:5, 6] == pytest.approx((weights / weights.sum())[::-1])


def test_zoom_magnifies_the_middle():
    x = np.random.default_rng(0).random((40, 30, 3))
    zoomed = _zoomed(x, 2.0)
    assert zoomed.shape == x.shape
    assert zoomed == pytest.approx(ndimage.zoom(x[10:30, 7:22], (2, 2, 1), order=1))


def test_what_moves_or_mixes_pixels_leaves_one_colour_alone():
    image = np.full((40, 40, 3), 77, np.uint8)
    for name in ("glass_blur", "elastic_transform", "motion_blur", "zoom_blur"):
        for level in range(1, 6):
            assert (corrupt(image, name, level) == 77).all(), name


def test_jpeg_is_that_of_pillow(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "x.jpg", quality=7)
    with Image.open(tmp_path / "x.jpg") as file:
        assert (corrupt(photo, "jpeg_compression", 5) == np.asarray(file)).all()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"name": "fogg"}, ValueError, "unknown corruption 'fogg'. Did you mean 'fog'"),
        ({"level": 6}, ValueError, "level must be in 0..5, got 6"),
        ({"level": -1}, ValueError, "level must be in 0..5"),
        ({"level": 2.0}, TypeError, "level must be a whole number"),
        ({"image": np.zeros((64, 31, 3), np.uint8)}, ValueError, "at least 32 x 32 pixels"),
        ({"image": np.zeros((64, 64), np.uint8)}, ValueError, r"\(64, 64\)"),
        ({"image": np.zeros((64, 64, 3))}, TypeError, "uint8, 0..255, not float64"),
        ({"image": None}, TypeError, "not NoneType"),
    ],
)
def test_bad_input(change, kind, said):
    arguments = {"image": np.zeros((64, 64, 3), np.uint8), "name": "fog", "level": 5} | change
    with pytest.raises(kind, match=said):
        corrupt(**arguments)
