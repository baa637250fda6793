"""Explanations as pixels: heat over an image, and the image as its visible patches."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

from moxi_lite.errors import whole_number
from moxi_lite.patches import patch_map

if TYPE_CHECKING:
    from moxi_lite.explanation.result import Explanation

ABSENT_GREY = 127
"""Grey level (0..255) painted over patches that are absent."""

# From pale yellow (late) to red (early): ever redder, and ever darker, so that the order
# survives colour-blindness and grey-scale printing.
HEAT = LinearSegmentedColormap.from_list(
    "moxi_heat", ["#fdeba6", "#fcc763", "#f98a3c", "#f04a28", "#e01010"]
)
OPACITY = 0.62


def short_label(ex: Explanation, index: int) -> str:
    """Return the first synonym, cut to fit under a small picture."""
    name = ex.class_name(index).split(",")[0]
    return name if len(name) <= 20 else name[:19] + "…"


def shown_steps(ex: Explanation, steps: int | None) -> int:
    """Return `steps`, checked; None becomes the flip, or all steps if there is none."""
    if steps is None:
        flip = ex.patches_to_flip()
        return len(ex.order) if flip is None else flip
    return whole_number("steps", steps, 0, len(ex.order))


def heat_of(ex: Explanation, steps: int) -> np.ndarray:
    """Heat (rows, columns) of the first steps alone: 1 for the first, NaN where not selected."""
    return dataclasses.replace(ex, order=ex.order[:steps]).heatmap()


def _picture(ex: Explanation) -> tuple[np.ndarray, np.ndarray]:
    """Return the image (H, W, 3) and the patch number of every pixel (H, W)."""
    if ex.image is None or ex.grid is None:
        raise ValueError(
            "this explanation holds no image: expected one of a PatchGame. "
            "For a plain game use plot_explanation, which draws bars."
        )
    return ex.image, patch_map(ex.image.shape[0], ex.image.shape[1], ex.grid)


def visible_image(ex: Explanation, step: int) -> np.ndarray:
    """Show the image with only those patches that are present after some steps.

    Parameters
    ----------
    ex : Explanation
        With an image.
    step : int
        0 (before the first step) to k (after the last).

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Absent patches are grey, whatever the masking put there for the model.

    Raises
    ------
    ValueError
        If the explanation holds no image.
    """
    image, patches = _picture(ex)
    present = ex.visible(step)[patches]
    return np.where(present[..., None], image, np.uint8(ABSENT_GREY))


def overlay(ex: Explanation, steps: int | None = None) -> np.ndarray:
    """Paint the paper's heatmap over the image (Sec. 5.2).

    Parameters
    ----------
    ex : Explanation
        With an image.
    steps : int, optional
        Number of patches to colour.  By default those up to the success of an insertion or the
        failure of a deletion, or all if the prediction never turns.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Selected patches are tinted, the redder the earlier; the rest is dimmed and grey.

    Raises
    ------
    ValueError
        If the explanation holds no image, or `steps` exceeds its length.
    """
    image, patches = _picture(ex)
    heat = heat_of(ex, shown_steps(ex, steps)).ravel()[patches]
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    tint = 255 * HEAT(np.nan_to_num(heat))[..., :3]
    # Tinting the grey image, not the coloured one, leaves all the hue to the order.
    lit = OPACITY * tint + (1 - OPACITY) * grey[..., None]
    dim = np.repeat((50 + 0.6 * grey)[..., None], 3, axis=2)
    return np.where(np.isnan(heat)[..., None], dim, lit).round().astype(np.uint8)


def heat_colors(k: int) -> list[str]:
    """Return the colours of k steps as ``#rrggbb``, from the first (red) to the last (yellow)."""
    return [to_hex(HEAT((k - position) / k)) for position in range(k)]
