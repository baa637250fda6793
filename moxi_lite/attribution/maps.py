"""From a map over the image, at any resolution, to one score a patch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from moxi_lite.games import FloatArray
from moxi_lite.patches import PatchGame


def pool_to_grid(values: FloatArray, game: PatchGame) -> FloatArray:
    """Average a map, (h, w) over the whole image, by area over the patches of a game, row-major.

    Where it is coarser than the game's grid, it is first interpolated to the size of the image.
    Negative cells count as 0, but a patch of nothing else has their (negative) average.
    """
    above = _averaged(np.maximum(values, 0), game)
    return np.where(above > 0, above, _averaged(np.minimum(values, 0), game))


def _averaged(values: FloatArray, game: PatchGame) -> FloatArray:
    rows, columns = game.grid
    if values.shape[0] < rows or values.shape[1] < columns:
        size, stack = tuple(game.pixels.shape[1:]), torch.from_numpy(values)[None, None]
        values = nn.functional.interpolate(stack, size, mode="bilinear")[0, 0].numpy()
    return (_shares(rows, values.shape[0]) @ values @ _shares(columns, values.shape[1]).T).ravel()


def _shares(n_patches: int, n_cells: int) -> FloatArray:
    """Share of each cell's length in each patch's along one side, (n_patches, n_cells)."""
    patches, cells = np.arange(n_patches)[:, None], np.arange(n_cells)
    # In units of 1 / (n_patches * n_cells) of the side, all bounds are whole numbers.
    starts = np.maximum(patches * n_cells, cells * n_patches)
    ends = np.minimum((patches + 1) * n_cells, (cells + 1) * n_patches)
    return np.maximum(ends - starts, 0) / n_cells
