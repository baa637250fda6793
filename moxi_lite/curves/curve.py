"""Insertion and deletion curves: how fast a class appears or vanishes along an order of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moxi_lite.errors import unknown_name
from moxi_lite.games import BoolArray, FloatArray
from moxi_lite.patches import PatchGame, outcome_of
from moxi_lite.search import along, check_mode, checked_order

METRICS = ("correct", "probability", "log_odds")


@dataclass(frozen=True, eq=False)
class Curve:
    """What a classifier says after each patch of one order (Sec. 5.1).

    Attributes
    ----------
    fraction : ndarray of float64, shape (m,)
        Share of the patches inserted or deleted, 0 to 1: after each patch, so that m = n + 1, or
        only at some points, the first patch among them.
    correct : ndarray of bool, shape (m,)
        Whether the target class is predicted; of a `mean_curve` the share of the orders, 0..1.
    probability, log_odds : ndarray of float64, shape (m,)
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

        .. math:: \sum_{k=1}^{m-1} (x_k - x_{k-1}) \frac{y_{k-1} + y_k}{2},

        divided by the last fraction where that is below 1 (see `until`).

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

    @property
    def n_patches(self) -> int:
        """Number n of patches of the image."""
        return patches_of(self.fraction)

    def until(self, share: float) -> Curve:
        """Cut the curve off after a share of the patches: its rise, not its long tail.

        Parameters
        ----------
        share : float
            More than 0 and at most 1; the nearest whole number of patches counts, as in
            `AverageCurve.at`, but no fewer than one.

        Returns
        -------
        Curve
            Whose area (`auc`) is the mean height up to there.
        """
        if not 0 < share <= 1:
            raise ValueError(f"a share of the patches is in 0..1, got {share!r} (4 % is 0.04).")
        first = slice(max(step_at(share, self.fraction), 1) + 1)
        parts = ("fraction", "correct", "probability", "log_odds")
        return replace(self, **{name: getattr(self, name)[first] for name in parts})

    def patches_to_flip(self) -> int | None:
        """Count the patches until the prediction changes over, at the points that there are.

        Returns
        -------
        int or None
            For insertion the smallest number of patches with which the target is predicted, for
            deletion the smallest number without which it no longer is; 0 if that holds at the
            start, None if it never does. Of a `mean_curve`: for half of the orders.
        """
        flipped = has_turned(self)
        point = self.fraction[flipped.argmax()]
        return round(point * self.n_patches) if flipped.any() else None


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
    game: PatchGame,
    orders: Mapping[str, npt.ArrayLike],
    mode: str = "insertion",
    points: npt.ArrayLike | None = None,
) -> dict[str, Curve]:
    """Draw the curves of several orders of one image at once.

    Faster than one by one where a game deletes tokens: it runs coalitions of one size as one
    batch, and each order has one of each size.

    Parameters
    ----------
    game : PatchGame
        As for `insertion_curve`.
    orders : mapping of str to array_like of int, shape (n,)
        Orders of the patches by name, for example the name of the method.
    mode : {"insertion", "deletion"}
    points : array_like of int, optional
        Numbers of patches, 0..n, after which to evaluate, besides 0, 1 and n; all by default.

    Returns
    -------
    dict of str to Curve
        In the order of `orders`.

    Raises
    ------
    ValueError, TypeError
        As for `insertion_curve`.
    """
    check_mode(mode)
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"curves need predicted classes, so a PatchGame, not {type(game).__name__}."
        )
    n = game.n_players
    checked = [checked_order(order, n, name) for name, order in orders.items()]
    at = checked_points(points, n)
    present = np.array([along(order, mode)[at] for order in checked], dtype=bool)
    logits = game.logits(present.reshape(-1, n))
    return curves_of_logits(game, list(orders), at, logits, mode)


def curves_of_logits(
    game: PatchGame, names: Sequence[str], at: npt.NDArray[np.int64], logits: np.ndarray, mode: str
) -> dict[str, Curve]:
    """Make named curves of logits (k * m, C): m rows a name, one for each number of patches."""
    shape = (len(names), len(at))
    of_reward = {
        reward: outcome_of(logits, game.target, reward, game.model.outputs)
        for reward in ("probability", "log_odds")
    }
    p, odds = (said.rewards.reshape(shape) for said in of_reward.values())
    correct = (of_reward["log_odds"].predictions == game.target).reshape(shape)
    if not np.isfinite(odds).all():
        raise ValueError(
            f"{game.model.name} gives NaN or infinite scores for part of the image: check the "
            "model and the masking."
        )
    fraction = at / game.n_players
    return {
        name: Curve(fraction, correct[row], p[row], odds[row], mode, game.target)
        for row, name in enumerate(names)
    }


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Average the curves of several orders of one image, as of random ones.

    Parameters
    ----------
    curves : sequence of Curve
        One or more, of one image, mode and points.

    Returns
    -------
    Curve
        Its `correct` is the share of the orders, 0..1.
    """
    first = curves[0]
    of_all = {
        metric: np.mean([metric_of(curve, metric) for curve in curves], axis=0)
        for metric in METRICS
    }
    return replace(first, **of_all) if len(curves) > 1 else first


def checked_points(points: npt.ArrayLike | None, n: int) -> npt.NDArray[np.int64]:
    """Return the numbers of patches at which a curve is evaluated, ascending, 0, 1 and n included.

    Raises ValueError for what is no whole number in 0..n.
    """
    if points is None:
        return np.arange(n + 1)
    given = np.asarray(points)
    if (
        given.ndim != 1
        or not np.issubdtype(given.dtype, np.integer)
        or not np.isin(given, np.arange(n + 1)).all()
    ):
        raise ValueError(f"points must be numbers of patches in 0..{n}, not {points!r}.")
    return np.unique([0, 1, n, *given]).astype(np.int64)


def has_turned(curve: Curve) -> BoolArray:
    """Tell where the prediction has changed over, shape (m,); of a mean, in half of the orders."""
    said = curve.correct if curve.mode == "insertion" else 1.0 - curve.correct
    return np.asarray(said) >= 0.5


def patches_of(fraction: FloatArray) -> int:
    """Return the number of patches of an image, from the points of a curve."""
    return round(1 / float(fraction[1]))


def metric_of(curve: Curve, metric: str) -> FloatArray:
    """Return one of `METRICS` as floats, shape (m,)."""
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return np.asarray(getattr(curve, metric), dtype=np.float64)


def step_at(share: float, fraction: FloatArray) -> int:
    """Find the point of a curve at the nearest whole number of patches; a half counts as one.

    Raises ValueError if there is none.
    """
    n = patches_of(fraction)
    points = np.rint(fraction * n).astype(int)
    k = int(share * n + 0.5)
    place = min(int(np.searchsorted(points, k)), len(points) - 1)
    if points[place] != k:
        raise ValueError(
            f"the curve has no point at {k} of {n} patches; the nearest are at "
            f"{points[max(place - 1, 0)]} and {points[place]}."
        )
    return place


def area_under(values: FloatArray, fraction: FloatArray) -> FloatArray:
    """Average along the last axis by the trapezoidal rule."""
    return (values[..., 1:] + values[..., :-1]) @ np.diff(fraction) / (2 * np.ptp(fraction))
