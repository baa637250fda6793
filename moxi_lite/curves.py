"""Insertion and deletion curves: how fast a class appears or vanishes along an order of patches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from moxi_lite._errors import unknown_name
from moxi_lite.attribution import order_of
from moxi_lite.game import BoolArray, FloatArray
from moxi_lite.patch_game import PatchGame
from moxi_lite.reward import log_odds, probability
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
        return float(_area(_metric(self, metric), self.fraction))

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


@dataclass(frozen=True, eq=False)
class AverageCurve:
    """Mean of curves over images, with percentile bootstrap intervals.

    Attributes
    ----------
    fraction : ndarray of float64, shape (n + 1,)
        Share of the patches inserted or deleted, 0 to 1.
    mean, lower, upper : ndarray of float64, shape (n + 1,)
        Mean of the metric over images, and its interval at each fraction by itself.
    auc, auc_lower, auc_upper : float
        Area under the mean curve, which is the mean area, and its interval.
    n_images : int
        Number of curves averaged; the interval of a single one has no width.
    metric : {"correct", "probability", "log_odds"}
        The mean of ``"correct"`` is the accuracy.
    mode : {"insertion", "deletion"}
    confidence : float
        Level of the intervals, in 0..1.
    """

    fraction: FloatArray
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    auc: float
    auc_lower: float
    auc_upper: float
    n_images: int
    metric: str
    mode: str
    confidence: float


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
    n = game.n_players
    ranks = np.empty((len(orders), n), dtype=np.int64)
    for row, (name, order) in enumerate(orders.items()):
        ranks[row, _checked_order(order, n, name)] = np.arange(n)
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


def average_curves(
    curves: Iterable[Curve],
    metric: str = "correct",
    n_bootstrap: int = 1000,
    random_state: int | np.random.Generator | None = 0,
    confidence: float = 0.95,
) -> AverageCurve:
    """Average curves of several images, with intervals by resampling the images.

    The paper draws the accuracy (``"correct"``) over images that are classified correctly as a
    whole; whether the curves come from such images is up to the caller.

    Parameters
    ----------
    curves : iterable of Curve
        One an image, all of one mode and one number of patches.
    metric : {"correct", "probability", "log_odds"}
    n_bootstrap : int
        Number of resamples, at least 1.
    random_state : int, numpy.random.Generator or None
        Seed or generator of the resamples.
    confidence : float
        Level of the intervals, between 0 and 1.

    Returns
    -------
    AverageCurve
        Intervals run from the ``(1 - confidence) / 2`` to the ``(1 + confidence) / 2`` quantile.

    Raises
    ------
    ValueError
        If there are no curves, they differ in mode or length, or an argument is out of range.
    """
    curves = _alike(curves)
    values = np.stack([_metric(curve, metric) for curve in curves])
    if n_bootstrap < 1 or not 0 < confidence < 1:
        raise ValueError(
            "n_bootstrap must be at least 1 and confidence between 0 and 1, got "
            f"{n_bootstrap} and {confidence}."
        )
    n_images, fraction = len(values), curves[0].fraction
    rng = np.random.default_rng(random_state)
    # How often each image is drawn: resampling all curves is then one matrix product.
    draws = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_bootstrap)
    means = draws @ values / n_images
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    lower, upper = np.quantile(means, tails, axis=0)
    auc_lower, auc_upper = np.quantile(_area(means, fraction), tails)
    mean = values.mean(axis=0)
    return AverageCurve(
        fraction=fraction,
        mean=mean,
        lower=lower,
        upper=upper,
        auc=float(_area(mean, fraction)),
        auc_lower=float(auc_lower),
        auc_upper=float(auc_upper),
        n_images=n_images,
        metric=metric,
        mode=curves[0].mode,
        confidence=confidence,
    )


def accuracy_at(curves: Iterable[Curve], fractions: npt.ArrayLike) -> FloatArray:
    """Share of images whose target is predicted at given fractions of patches.

    Parameters
    ----------
    curves : iterable of Curve
        One an image, all of one mode and one number of patches.
    fractions : array_like of float
        Shares of the patches inserted or deleted, each in 0..1; the nearest whole number of
        patches counts (half a patch rounds up): 0.04 of 196 patches is 8 patches.

    Returns
    -------
    ndarray of float64, in the shape of `fractions`
        Accuracies in 0..1.

    Raises
    ------
    ValueError
        If there are no curves, they differ in mode or length, or a fraction is outside 0..1.
    """
    curves = _alike(curves)
    wanted = np.asarray(fractions, dtype=np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"fractions of patches are in 0..1, got {fractions!r} (4 % is 0.04).")
    counts = np.floor(wanted * (len(curves[0].fraction) - 1) + 0.5).astype(np.int64)
    return np.mean([curve.correct for curve in curves], axis=0)[counts]


def _metric(curve: Curve, metric: str) -> FloatArray:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return np.asarray(getattr(curve, metric), dtype=np.float64)


def _area(values: FloatArray, fraction: FloatArray) -> FloatArray:
    """Trapezoidal rule along the last axis."""
    return (values[..., 1:] + values[..., :-1]) @ np.diff(fraction) / 2


def _alike(curves: Iterable[Curve]) -> Sequence[Curve]:
    found = list(curves)
    if not found:
        raise ValueError("expected one curve or more, got none.")
    kinds = sorted({(curve.mode, len(curve.fraction) - 1) for curve in found})
    if len(kinds) > 1:
        listed = ", ".join(f"{mode} of {n} patches" for mode, n in kinds)
        raise ValueError(f"only curves of one kind can be averaged, but these mix {listed}.")
    return found


def _checked_order(order: npt.ArrayLike, n: int, name: str) -> npt.NDArray[np.int64]:
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
