"""Heat over an image, and the image as its visible patches, on plain arrays."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

from moxi_lite.games import BoolArray, FloatArray
from moxi_lite.patches import patch_map

ABSENT_GREY = 127
"""Grey level (0..255) painted over patches that are absent."""

# From pale yellow (late) to red (early): ever redder, and ever darker, so that the order
# survives colour-blindness and grey-scale printing.
HEAT = LinearSegmentedColormap.from_list(
    "moxi_heat", ["#fdeba6", "#fcc763", "#f98a3c", "#f04a28", "#e01010"]
)
OPACITY = 0.62


def shown_patches(image: np.ndarray, grid: tuple[int, int], present: BoolArray) -> np.ndarray:
    """Paint the absent patches, False in (n,), of an image (H, W, 3) grey."""
    pixels = present[patch_map(image.shape[0], image.shape[1], grid)]
    return np.where(pixels[..., None], image, np.uint8(ABSENT_GREY))


def tinted(image: np.ndarray, heat: FloatArray) -> np.ndarray:
    """Tint an image (H, W, 3) by heat (rows, columns) in 0..1; dim and grey where it is NaN."""
    rows, columns = heat.shape
    spread = heat.ravel()[patch_map(image.shape[0], image.shape[1], (rows, columns))]
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    tint = 255 * HEAT(np.nan_to_num(spread))[..., :3]
    # Tinting the grey image, not the coloured one, leaves all the hue to the order.
    lit = OPACITY * tint + (1 - OPACITY) * grey[..., None]
    dim = np.repeat((50 + 0.6 * grey)[..., None], 3, axis=2)
    return np.where(np.isnan(spread)[..., None], dim, lit).round().astype(np.uint8)


def heat_colors(k: int) -> list[str]:
    """Return the colours of k steps as ``#rrggbb``, from the first (red) to the last (yellow)."""
    return [to_hex(HEAT((k - position) / k)) for position in range(k)]
