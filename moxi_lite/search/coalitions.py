"""Which coalitions a step looks at, and which an order passes through; and the orders themselves.

The one home of "each remaining player in turn", of "order -> coalitions", and of the checks of
modes, budgets and orders.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moxi_lite.errors import unknown_name, whole_number
from moxi_lite.explanation import VERBS
from moxi_lite.games import BoolArray

MODES = tuple(VERBS)


def check_mode(mode: str) -> None:
    """Raise ValueError for a mode that is neither insertion nor deletion."""
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)


def checked_budget(budget: int | None, n_players: int) -> int:
    """Return the most steps that a search may take; raises what `whole_number` does."""
    return n_players if budget is None else whole_number("budget (players)", budget, 1, n_players)


def remaining(present: BoolArray, mode: str) -> npt.NDArray[np.int64]:
    """Return the players that can still be inserted or deleted, ascending."""
    return np.flatnonzero(present == (mode == "deletion"))


def next_coalitions(present: BoolArray, candidates: npt.ArrayLike, mode: str) -> BoolArray:
    """Insert or delete each candidate in turn: bool (n,) to (number of candidates, n)."""
    players = np.asarray(candidates, dtype=np.int64)
    rows = np.repeat(present[None], len(players), axis=0)
    rows[np.arange(len(rows)), players] = mode == "insertion"
    return rows


def along(order: npt.ArrayLike, mode: str) -> BoolArray:
    """Return who is present after 0 to n steps of a whole order: int (n,) to bool (n + 1, n)."""
    place = np.argsort(order)  # of each player in the order
    taken = place < np.arange(len(place) + 1)[:, None]
    return taken if mode == "insertion" else ~taken


def order_of(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Sort patches by falling score; ties go to the lowest index.

    Scores that agree to 12 digits (of the largest) are ties: equal players can differ in the last
    bit of an exact Shapley value.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        For example from `attribute`; not NaN.

    Returns
    -------
    ndarray of int64, shape (n,)
        Patches, the highest score first.

    Raises
    ------
    ValueError
        If the scores are not one number a patch, or a score is NaN.

    Examples
    --------
    >>> order_of([0.5, 2.0, 0.5]).tolist()
    [1, 0, 2]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"scores must be one number a patch, shape (n,); got {values.shape}: flatten a map "
            "with .ravel()."
        )
    for patch in np.flatnonzero(np.isnan(values)):
        raise ValueError(
            f"scores must be numbers to be sorted, but the score of patch {patch} is NaN."
        )
    scale = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    return np.argsort(-np.round(values / scale, 12), kind="stable").astype(np.int64)


def complete_order(
    order: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """Append the patches that a search stopped by a budget has left out.

    Parameters
    ----------
    order : array_like of int, shape (k,)
        The patches chosen, first to last, each at most once.
    scores : array_like of float, shape (n,)
        Those left out follow by falling score, ties by index; zeros put them in index order.

    Returns
    -------
    order : ndarray of int64, shape (n,)
        Every patch once.
    exact : ndarray of bool, shape (n,)
        True for the patches that the search itself put in their place; also for the last one if
        it is the only one left.

    Raises
    ------
    ValueError
        If the order repeats a patch or names one that has no score, or a score is NaN.

    Examples
    --------
    >>> completed, exact = complete_order([3], [0.1, 0.4, 0.2, 0.0])
    >>> completed.tolist(), exact.tolist()
    ([3, 1, 2, 0], [True, False, False, False])
    """
    ranked = order_of(scores)
    chosen = _distinct_patches(order, len(ranked), "order")
    completed = np.concatenate([chosen, ranked[~np.isin(ranked, chosen)]])
    exact = np.arange(len(ranked)) < len(chosen)
    if len(chosen) == len(ranked) - 1:
        exact[-1] = True
    return completed, exact


def checked_order(order: npt.ArrayLike, n: int, name: str) -> npt.NDArray[np.int64]:
    """Return an order that has each of n patches once; raises ValueError for any other."""
    patches = _distinct_patches(order, n, name)
    if len(patches) < n:
        missing = np.setdiff1d(np.arange(n), patches)
        raise ValueError(
            f"{name} has {len(patches)} of {n} patches, without {_listed(missing)}. A curve needs "
            "all: append the rest with complete_order(order, scores), or search without budget "
            "and stop."
        )
    return patches


def _distinct_patches(order: npt.ArrayLike, n: int, name: str) -> npt.NDArray[np.int64]:
    """Return an order that has patches at most once; raises ValueError for any other."""
    patches = np.asarray(order)
    if patches.size == 0 and patches.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if patches.ndim != 1 or not np.issubdtype(patches.dtype, np.integer):
        raise ValueError(
            f"{name} must be patch numbers, whole and one after another; got {patches.dtype} of "
            f"shape {patches.shape}. Turn scores into an order with order_of(scores)."
        )
    outside = np.unique(patches[(patches < 0) | (patches >= n)])
    if outside.size:
        raise ValueError(f"{name} has {_listed(outside)}, but patches are numbered 0 to {n - 1}.")
    counts = np.bincount(patches, minlength=n)
    if counts.max() > 1:
        missing = np.flatnonzero(counts == 0)
        without = f", and is without {_listed(missing)}" if missing.size else ""
        raise ValueError(
            f"{name} repeats {_listed(np.flatnonzero(counts > 1))}{without}: each patch must "
            "occur once."
        )
    return patches.astype(np.int64)


def _listed(patches: npt.NDArray[np.integer]) -> str:
    named = ", ".join(map(str, patches[:10].tolist())) + (", ..." if len(patches) > 10 else "")
    return f"{'patch' if len(patches) == 1 else 'patches'} {named}"
