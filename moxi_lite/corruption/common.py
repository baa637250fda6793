"""The 15 common corruptions of Hendrycks and Dietterich (2019), written from the publication.

No library fits: imagecorruptions has other constants for the elastic transform and brings a second
OpenCV and 200 MB of numba, corrupt-tta ignores the second constant of fog, imagenet-c needs
ImageMagick and an old NumPy; all draw from NumPy's global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from moxi_lite.errors import unknown_name, whole_number
from moxi_lite.games import FloatArray, RandomState

Pixels = npt.NDArray[np.uint8]
Constants = tuple[float, ...]

CORRUPTIONS: Mapping[str, tuple[Constants, ...]] = MappingProxyType(
    {
        "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),  # standard deviation
        "shot_noise": ((60,), (25,), (12,), (5,), (3,)),  # photons of full brightness
        "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),  # share of the values
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),  # radius, softness
        # standard deviation of the blur, reach of the shuffling, rounds
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),  # radius, deviation
        # end and step of the magnifications, from 1
        "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        # flakes: mean, deviation, magnification, threshold; radius and deviation of their motion;
        # share of the image that is not whitened
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),  # image, ice
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),  # thickness, smoothness
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),  # added to the value
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),  # what is left of it
        # strength and deviation of the displacement, largest shift of three corners; pixels
        "elastic_transform": (
            (488, 170.8, 24.4),
            (488, 19.52, 48.8),
            (12.2, 2.44, 4.88),
            (17.08, 2.44, 4.88),
            (29.28, 2.44, 4.88),
        ),
        "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),  # resolution
        "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),  # quality
    }
)
"""Name -> the published constants of levels 1 to 5, for `corrupt`."""

# Sides in pixels; those that look at a pixel's neighbours need as many as the widest blur.
_SMALLEST = dict.fromkeys(CORRUPTIONS, 32) | dict.fromkeys(
    ("gaussian_noise", "shot_noise", "impulse_noise", "brightness", "contrast"), 1
)
_SMALLEST |= {"pixelate": 4, "jpeg_compression": 8}

# Mean colour and deviation of the photographs of frost that the published corruption adds.
_ICE, _ICE_DEVIATION = (0.57, 0.65, 0.70), 0.12


def corrupt(
    image: Pixels, name: str, level: int, random_state: RandomState = 0
) -> npt.NDArray[np.uint8]:
    """Corrupt an image as ImageNet-C does (Sec. 5.3, App. G.1; arXiv:1903.12261).

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        At the resolution that the network sees, as `PatchGame.display` has it. The constants are
        those for 224 x 224 pixels and are not scaled.
    name : str
        One of `CORRUPTIONS`.
    level : int
        Severity, 1 to 5; 0 is the identity.
    random_state : int, numpy.random.Generator or None
        Seed of what is drawn: noise, directions, the shapes of snow, fog and ice. With one seed the
        levels draw alike, so that damage rises without jumping.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new image.

    Raises
    ------
    ValueError
        If name or level is unknown, the image has another shape, or is too small for the
        corruption.
    TypeError
        If the image is no array of uint8, or the level no whole number.

    Notes
    -----
    Two departures from the published code. Values are rounded where it cuts them off. The ice of
    ``"frost"`` is drawn, needles on a fractal with the colours of the published photographs of
    frost, which come without a licence of their own; the amounts of image and ice are as published.
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corruption", name, CORRUPTIONS)
    level = whole_number("level", level, 0, len(CORRUPTIONS[name]))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"the image must be an array of uint8, 0..255, not {kind}.")
    smallest = _SMALLEST[name]
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < smallest:
        raise ValueError(
            f"{name} needs an image (H, W, 3) of at least {smallest} x {smallest} pixels, "
            f"got {image.shape}."
        )
    if level == 0:
        return image.copy()
    rng = np.random.default_rng(random_state)
    damaged = _FUNCTIONS[name](image / 255, rng, *CORRUPTIONS[name][level - 1])
    return _as_bytes(damaged)


def _as_bytes(x: FloatArray) -> Pixels:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


# Each takes an image (H, W, 3) in 0..1, a generator and its constants; what it makes is clipped.


def _gaussian_noise(x: FloatArray, rng: np.random.Generator, deviation: float) -> FloatArray:
    return x + rng.normal(0, deviation, x.shape)


def _shot_noise(x: FloatArray, rng: np.random.Generator, photons: float) -> FloatArray:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: FloatArray, rng: np.random.Generator, share: float) -> FloatArray:
    hit, white = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(hit, white, x)


def _defocus_blur(
    x: FloatArray, rng: np.random.Generator, radius: int, softness: float
) -> FloatArray:
    reach = max(8, radius)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (down**2 + right**2 <= radius**2).astype(float)
    rim = 1 if radius <= 8 else 2  # pixels over which the edge of the disk is softened
    disk = ndimage.gaussian_filter(disk / disk.sum(), softness, radius=rim, mode="mirror")
    return ndimage.correlate(x, disk[..., None], mode="mirror")


def _glass_blur(
    x: FloatArray, rng: np.random.Generator, deviation: float, reach: int, rounds: int
) -> FloatArray:
    height, width = x.shape[:2]
    source = np.arange(height * width).reshape(height, width).tolist()
    for _ in range(rounds):
        shifts = rng.integers(-reach, reach, (height, width, 2)).tolist()
        # the published code means to swap two pixels, but copies one: its images are the benchmark
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                right, down = shifts[row - 1][column - 1]
                source[row][column] = source[row + down][column + right]
    shuffled = _smoothed(x, deviation).reshape(-1, 3)[np.array(source)]
    return _smoothed(shuffled, deviation)


def _motion_blur(
    x: FloatArray, rng: np.random.Generator, radius: int, deviation: float
) -> FloatArray:
    return _moved(x, radius, deviation, rng.uniform(-45, 45))


def _zoom_blur(x: FloatArray, rng: np.random.Generator, end: float, step: float) -> FloatArray:
    factors = np.arange(1, end, step)
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(
    x: FloatArray,
    rng: np.random.Generator,
    mean: float,
    spread: float,
    size: float,
    threshold: float,
    radius: int,
    deviation: float,
    kept: float,
) -> FloatArray:
    flakes = _zoomed(rng.normal(mean, spread, (*x.shape[:2], 1)), size)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    falling = _moved(flakes, radius, deviation, rng.uniform(-135, -45))
    grey = x @ np.array([[0.299], [0.587], [0.114]])
    whitened = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5)
    return whitened + falling + falling[::-1, ::-1]


def _frost(x: FloatArray, rng: np.random.Generator, kept: float, amount: float) -> FloatArray:
    seeds = (rng.random((*x.shape[:2], 1)) < 0.005).astype(float)
    needles = np.max([_moved(seeds, 12, 10, rng.uniform(0, 360)) for _ in range(6)], axis=0)
    ice = 11 * needles[..., 0] + _fractal(x.shape, 1.4, rng)
    relief = (ice - ice.mean()) / ice.std()
    return kept * x + amount * np.clip(_ICE + _ICE_DEVIATION * relief[..., None], 0, 1)


def _fog(x: FloatArray, rng: np.random.Generator, thickness: float, decay: float) -> FloatArray:
    brightest = x.max()
    foggy = x + thickness * _fractal(x.shape, decay, rng)[..., None]
    return foggy * brightest / (brightest + thickness)


def _brightness(x: FloatArray, rng: np.random.Generator, added: float) -> FloatArray:
    value = x.max(axis=2, keepdims=True)  # of hue, saturation, value: the others stay
    brighter = np.minimum(value + added, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def _contrast(x: FloatArray, rng: np.random.Generator, left: float) -> FloatArray:
    mean = x.mean(axis=(0, 1))
    return (x - mean) * left + mean


def _elastic_transform(
    x: FloatArray, rng: np.random.Generator, strength: float, deviation: float, shift: float
) -> FloatArray:
    size = x.shape[:2]
    centre, arm = np.array(size) // 2, min(size) // 3
    corners = centre + arm * np.array([(1, 1), (-1, 1), (-1, -1)])
    moved = corners + rng.uniform(-shift, shift, (3, 2))
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    places = np.indices(size).astype(float)
    sheared = np.tensordot(back[:2].T, places, 1) + back[2][:, None, None]
    waves = [
        strength * ndimage.gaussian_filter(rng.uniform(-1, 1, size), deviation, truncate=3)
        for _ in range(2)
    ]
    return _sampled(_sampled(x, sheared, "mirror"), places + waves, "reflect")


def _pixelate(x: FloatArray, rng: np.random.Generator, resolution: float) -> FloatArray:
    height, width = x.shape[:2]
    small = (int(width * resolution), int(height * resolution))
    shrunk = Image.fromarray(_as_bytes(x)).resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BOX)) / 255


def _jpeg_compression(x: FloatArray, rng: np.random.Generator, quality: int) -> FloatArray:
    file = io.BytesIO()
    Image.fromarray(_as_bytes(x)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


_FUNCTIONS: dict[str, Callable[..., FloatArray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}


def _smoothed(x: FloatArray, deviation: float) -> FloatArray:
    return ndimage.gaussian_filter(x, (deviation, deviation, 0), mode="nearest")


def _moved(x: FloatArray, radius: int, deviation: float, degrees: float) -> FloatArray:
    """Blur along a direction, one-sided as ImageMagick does; the edge repeats."""
    distance = np.arange(2 * radius + 1)
    weights = np.exp(-(distance**2) / (2 * deviation**2))
    weights /= weights.sum()
    angle, (height, width) = np.deg2rad(degrees), x.shape[:2]
    down = np.ceil(distance * np.sin(angle) - 0.5).astype(int)
    right = np.ceil(distance * np.cos(angle) - 0.5).astype(int)
    rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
    blurred = np.zeros_like(x)
    for weight, row, column in zip(weights, rows, columns, strict=True):
        blurred += weight * x[row][:, column]
    return blurred


def _zoomed(x: FloatArray, factor: float) -> FloatArray:
    """Magnify the middle, shape kept."""
    size = np.array(x.shape[:2])
    cut = np.ceil(size / factor).astype(int)
    magnified = ndimage.zoom(_middle(x, cut), (factor, factor, 1), order=1)
    return _middle(magnified, size)


def _middle(x: FloatArray, size: npt.NDArray[np.int64]) -> FloatArray:
    top, left = (np.array(x.shape[:2]) - size) // 2
    return x[top : top + size[0], left : left + size[1]]


def _fractal(shape: tuple[int, ...], decay: float, rng: np.random.Generator) -> FloatArray:
    """Make a field (H, W) in 0..1 by the diamond-square algorithm; the larger decay, the smoother.

    From one size of square to the next, half as large, the noise falls by the square of the decay.
    """
    side = 1 << (max(shape[:2]) - 1).bit_length()
    field, step, noise = np.zeros((side, side)), side, 1.0
    while step >= 2:
        half = step // 2
        number = (side // step, side // step)
        corners = field[::step, ::step]
        rows = corners + np.roll(corners, -1, axis=0)
        centres = (rows + np.roll(rows, -1, axis=1)) / 4 + rng.uniform(-noise, noise, number)
        field[half::step, half::step] = centres
        for axis, edges in ((0, np.s_[::step, half::step]), (1, np.s_[half::step, ::step])):
            around = centres + np.roll(centres, 1, axis) + corners + np.roll(corners, -1, 1 - axis)
            field[edges] = around / 4 + rng.uniform(-noise, noise, number)
        step, noise = half, noise / decay**2
    field -= field.min()
    return (field / field.max())[: shape[0], : shape[1]]


def _sampled(x: FloatArray, places: FloatArray, mode: str) -> FloatArray:
    """Interpolate at rows and columns (2, H, W)."""
    channels = [ndimage.map_coordinates(x[..., c], places, order=1, mode=mode) for c in range(3)]
    return np.stack(channels, axis=-1)
