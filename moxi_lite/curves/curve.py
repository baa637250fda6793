"""Insertion and deletion curves: how fast a class appears or vanishes along an order of patches."""

from __future__ import annotations

from collections.abc import Mapping
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
    fraction : ndarray of float64, shape (n + 1,)
        Share of the patches inserted or deleted, 0 to 1, in equal steps.
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

        With the last fraction below 1 (see `until`), n is the number of patches up to there.

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

    Faster than one by one where a game deletes tokens: it runs coalitions of one size as one
    batch, and each order has one of each size.

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
    check_mode(mode)
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"curves need predicted classes, so a PatchGame, not {type(game).__name__}."
        )
    n = game.n_players
    checked = [checked_order(order, n, name) for name, order in orders.items()]
    present = np.array([along(order, mode) for order in checked], dtype=bool)
    logits = game.logits(present.reshape(-1, n))
    shape = (len(orders), n + 1)
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
    fraction = np.arange(n + 1) / n
    return {
        name: Curve(fraction, correct[row], p[row], odds[row], mode, game.target)
        for row, name in enumerate(orders)
    }


def metric_of(curve: Curve, metric: str) -> FloatArray:
    """Return one of `METRICS` as floats, shape (n + 1,)."""
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return np.asarray(getattr(curve, metric), dtype=np.float64)


def step_at(share: float, fraction: FloatArray) -> int:
    """Return the nearest whole number of patches of a curve's steps; a half counts as one."""
    return int(share * round(1 / fraction[1]) + 0.5)


def area_under(values: FloatArray, fraction: FloatArray) -> FloatArray:
    """Average along the last axis by the trapezoidal rule."""
    return (values[..., 1:] + values[..., :-1]) @ np.diff(fraction) / (2 * np.ptp(fraction))
