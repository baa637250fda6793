"""Insertion and deletion curves: how fast a class appears or vanishes along an order of patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from moxi_lite.attribution import order_of
from moxi_lite.errors import unknown_name
from moxi_lite.games import BoolArray, FloatArray
from moxi_lite.patches import PatchGame, log_odds, probability
from moxi_lite.search import MODES

METRICS = ("correct", "probability", "log_odds")


@dataclass(frozen=True, eq=False)
class Curve:
    """What a classifier says after each patch of one order (Sec. 5.1).

    Attributes
    ----------
    fraction : ndarray of float64, shape (n + 1,)
        Share of the patches inserted or deleted, 0 to 1.
    correct : ndarray of bool, shape (n + 1,)
        Whether the target class is predicted.
    probability, log_odds : ndarray of float64, shape (n + 1,)
        Of the target class: 0..1, and in nats.
    mode : {"insertion", "deletion"}
    target : int
        The class.
    """

    fraction: FloatArray
    correct: BoolArray
    probability: FloatArray
    log_odds: FloatArray
    mode: str
    target: int

    def auc(self, metric: str = "probability") -> float:
        r"""Area under the curve by the trapezoidal rule, both endpoints included.

        .. math:: \frac{1}{n} \sum_{k=1}^{n} \frac{y_{k-1} + y_k}{2}

        Parameters
        ----------
        metric : {"probability", "correct", "log_odds"}
            High is good for insertion, low for deletion.

        Returns
        -------
        float
            In the units of the metric, as fractions have none.
        """
        return float(area_under(metric_of(self, metric), self.fraction))

    def patches_to_flip(self) -> int | None:
        """Count the patches until the prediction changes over.

        Returns
        -------
        int or None
            For insertion the smallest number of patches with which the target is predicted, for
            deletion the smallest number without which it no longer is; 0 if that holds at the
            start, None if it never does.
        """
        flipped = self.correct if self.mode == "insertion" else ~self.correct
        return int(flipped.argmax()) if flipped.any() else None


def insertion_curve(game: PatchGame, order: npt.ArrayLike) -> Curve:
    """Insert patches into an empty image, in the order given (Sec. 5.1).

    Parameters
    ----------
    game : PatchGame
        The image, the classifier, the target class and what "absent" means. Its reward does not
        matter.
    order : array_like of int, shape (n,)
        Every patch once, the most important first: from `explain`, `order_of` or
        `complete_order`.

    Returns
    -------
    Curve
        All counts 0..n, from n + 1 evaluations in one call of the game. The point at 0 is what
        the classifier says of no patch at all, and is evaluated like the others.

    Raises
    ------
    ValueError
        If the order has repeats or gaps, or is not made of whole numbers.
    TypeError
        If the game has no classes.
    """
    return curves_of(game, {"order": order}, "insertion")["order"]


def deletion_curve(game: PatchGame, order: npt.ArrayLike) -> Curve:
    """Delete patches from the whole image, in the order given (Sec. 5.1).

    Parameters, errors and the rest are those of `insertion_curve`.
    """
    return curves_of(game, {"order": order}, "deletion")["order"]


def curves_of(
    game: PatchGame, orders: Mapping[str, npt.ArrayLike], mode: str = "insertion"
) -> dict[str, Curve]:
    """Draw the curves of several orders of one image at once.

    The same curves as one by one, but faster where a game deletes tokens: it runs coalitions of
    one size as one batch, and each order has one of each size.

    Parameters
    ----------
    game : PatchGame
        As for `insertion_curve`.
    orders : mapping of str to array_like of int, shape (n,)
        Orders of the patches by name, for example the name of the method.
    mode : {"insertion", "deletion"}

    Returns
    -------
    dict of str to Curve
        In the order of `orders`.

    Raises
    ------
    ValueError, TypeError
        As for `insertion_curve`.
    """
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"curves need predicted classes, so a PatchGame, not {type(game).__name__}."
        )
    if not isinstance(orders, Mapping):
        raise TypeError(
            f"orders must be a dict from a name to an order, such as {{'mine': order}}, not "
            f"{type(orders).__name__}."
        )
    n = game.n_players
    ranks = np.empty((len(orders), n), dtype=np.int64)
    for row, (name, order) in enumerate(orders.items()):
        ranks[row, checked_order(order, n, name)] = np.arange(n)
    chosen = ranks[:, None, :] < np.arange(n + 1)[:, None]
    present = chosen if mode == "insertion" else ~chosen
    logits = torch.from_numpy(game.logits(present.reshape(-1, n)))
    shape = (len(orders), n + 1)
    correct = (logits.argmax(dim=1) == game.target).numpy().reshape(shape)
    p = probability(logits, game.target).double().numpy().reshape(shape)
    odds = log_odds(logits, game.target).double().numpy().reshape(shape)
    if not np.isfinite(odds).all():
        raise ValueError(
            f"{game.model.name} gives NaN or infinite scores for part of the image: check the "
            "model and the masking."
        )
    fraction = np.arange(n + 1) / n
    return {
        name: Curve(fraction, correct[row], p[row], odds[row], mode, game.target)
        for row, name in enumerate(orders)
    }


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


def metric_of(curve: Curve, metric: str) -> FloatArray:
    """Return one of `METRICS` as floats, shape (n + 1,)."""
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return np.asarray(getattr(curve, metric), dtype=np.float64)


def area_under(values: FloatArray, fraction: FloatArray) -> FloatArray:
    """Integrate along the last axis by the trapezoidal rule."""
    return (values[..., 1:] + values[..., :-1]) @ np.diff(fraction) / 2


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
