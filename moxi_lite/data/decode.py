"""From the bytes of a file, an array or any PIL image to an RGB image, or a clear refusal."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from skimage.util import img_as_float, img_as_ubyte

ValueRange = tuple[float, float] | None  # what is black and what is white
MIN_SIDE = 16
MAX_PIXELS = 100_000_000
MAX_RATIO = 100  # the short side is made as long as the model asks, and the long one with it


def decode_image(content: bytes, what: str, value_range: ValueRange = None) -> Image.Image:
    """Turn the bytes of an image file into an RGB image."""
    if not content:
        raise ValueError(f"{what}: the file is empty (0 bytes).")
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{what}: too large to decode safely. {error}") from error
    except Exception as error:  # Pillow's plugins raise many types on broken files
        raise ValueError(
            f"{what}: not an image that Pillow can read ({len(content)} bytes). Expected JPEG, "
            "PNG, WebP, GIF, TIFF or BMP; convert HEIC or RAW files first."
        ) from error
    return finish_image(image, what, value_range)


def finish_image(image: Image.Image, what: str, value_range: ValueRange = None) -> Image.Image:
    """Check the size, decode, rotate as EXIF says, and convert to RGB; `what` names the source."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"{what}: {width} x {height} pixels (width x height) is too small, expected "
            f"{MIN_SIDE} a side or more."
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(
            f"{what}: {width} x {height} pixels is a strip, of which a model would see a tiny "
            f"part: expected one side at most {MAX_RATIO} times the other. Crop it first."
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{what}: {width} x {height} pixels is too large to decode safely, expected at most "
            f"{MAX_PIXELS // 10**6} million. Scale it down first."
        )
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's plugins raise many types on broken files
        raise ValueError(f"{what}: the image is broken or truncated: {error}.") from error
    return _to_rgb(upright, what, value_range)


def _to_rgb(image: Image.Image, what: str, value_range: ValueRange) -> Image.Image:
    if value_range is not None:
        if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
            raise ValueError(
                f"{what}: value_range is for arrays and for grey images of 16 bits or float, but "
                f"this one has 8 bits a channel (mode {image.mode}): leave it out."
            )
        image = array_to_image(np.asarray(image), value_range)
    elif image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"{what}: integer pixels from {values.min()} to {values.max()}, expected 16 bits, "
                "0 to 65535. Scale them to 0..255 (uint8) first."
            )
        if image.mode == "I" and 0 < values.max() <= 255:
            raise ValueError(
                f"{what}: mode I with pixels from {values.min()} to {values.max()} may be 8 bits "
                "or 16. Convert it to mode L (8 bits) or I;16 first."
            )
        image = array_to_image(values.astype(np.uint16))
    elif image.mode == "F":
        image = array_to_image(np.asarray(image))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def array_to_image(array: npt.NDArray[Any], value_range: ValueRange = None) -> Image.Image:
    """Turn an array into an 8-bit PIL image in mode L, RGB or RGBA."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        turn = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = " Channels come last: use array.transpose(1, 2, 0)." if turn else ""
        raise ValueError(
            f"an image array has shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got "
            f"{array.shape}.{hint}"
        )
    if array.size == 0:
        raise ValueError(f"the array has no pixels: its shape is {array.shape}.")
    if value_range is not None:
        low, high = value_range
        if not low < high:
            raise ValueError(
                f"value_range is (black, white), black below white, not {value_range}."
            )
        array = np.clip((array.astype(np.float64) - low) / (high - low), 0, 1)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise ValueError(f"the array holds NaN or infinity, {count} of {array.size} values.")
        # Less than half a grey level beyond 0..1 is rounding, such as 1.0000001 after resizing.
        if array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ValueError(
                f"float pixels must lie in 0..1, got {array.min():g} to {array.max():g}. Divide by "
                "255, or say what is black and what is white, as in value_range=(0, 255)."
            )
        array = np.clip(array, 0, 1)
    elif array.dtype not in (np.bool_, np.uint8, np.uint16):
        raise TypeError(
            f"image arrays are bool, uint8 (0..255), uint16 (0..65535) or float (0..1), got "
            f"{array.dtype}. Say what is black and what is white, as in value_range=(0, 255)."
        )
    elif array.dtype == np.uint16 and 255 < array.max() <= 4095:
        warnings.warn(
            f"16-bit pixels of at most {array.max()} make a nearly black image. If these are 12 "
            "bits, say so: load_image(..., value_range=(0, 4095)).",
            stacklevel=4,
        )
    return Image.fromarray(img_as_ubyte(img_as_float(array)))
