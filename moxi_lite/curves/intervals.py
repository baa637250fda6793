"""Values with their intervals: of means and other statistics by resampling, and of shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Estimate(NamedTuple):
    """A value and the ends of its interval, which are NaN where there are too few data for one.

    In a string it becomes value and interval, by the format given for a number:
    ``f"{Estimate(90.7, 81.5, 98.1):.0f}"`` is ``"91 (82 to 98)"``.

    Attributes
    ----------
    value : float
    low, high : float
        Ends of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def percent(self) -> Estimate:
        """The same times 100."""
        return Estimate(*(100 * part for part in self))

    def __format__(self, spec: str) -> str:
        """Write value and interval, each in the format given."""
        value = format(self.value, spec)
        if np.isnan(self.low):
            return f"{value} (too few for an interval)"
        return f"{value} ({self.low:{spec}} to {self.high:{spec}})"


def bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    *,
    n_bootstrap: int = 2000,
    at_least: int = 8,
    random_state: int | np.random.Generator | None = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate a statistic of independent values, with a percentile bootstrap interval.

    The interval holds how much the statistic varies when as many values are drawn, with
    replacement, from those at hand. Where all values agree it has no width, which is no proof
    that all further ones would agree, too; for few values it is too narrow.

    Parameters
    ----------
    values : array_like of float, shape (k,)
        One an image, k > 0.
    statistic : callable
        From an array and ``axis=`` to the statistic along that axis, such as `numpy.median`.
    n_bootstrap : int
        Number of resamples, at least 1.
    at_least : int
        With fewer values than this the ends of the interval are NaN.
    random_state : int, numpy.random.Generator or None
        Seed or generator of the resamples.
    confidence : float
        Level of the interval, between 0 and 1.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        If there are no values, they have more than one axis or are NaN, or an argument is out of
        range.

    Examples
    --------
    >>> f"{bootstrap([3, 5, 4, 9, 4, 6, 5, 4, 7], np.median):.0f}"
    '5 (4 to 7)'
    """
    held = np.asarray(values, dtype=np.float64)
    if held.ndim != 1 or not len(held):
        raise ValueError(
            f"values must be a row of one number or more, got an array of shape {held.shape}."
        )
    if np.isnan(held).any():
        raise ValueError(f"{int(np.isnan(held).sum())} of the {len(held)} values are NaN.")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, not {n_bootstrap}.")
    _check_confidence(confidence)
    value = float(statistic(held, axis=0))
    if len(held) < at_least:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(random_state)
    rows = rng.integers(len(held), size=(n_bootstrap, len(held)))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(statistic(held[rows], axis=1), tails)
    return Estimate(value, float(low), float(high))


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    r"""Estimate a share from successes in independent trials, with Wilson's score interval.

    Unlike the bootstrap it stays honest at 0 and n successes: it keeps a width there.

    .. math::
        \frac{1}{1 + z^2/n} \left( \hat p + \frac{z^2}{2n}
        \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}} \right)

    Parameters
    ----------
    successes, n : int
        Successes, 0..n, in n > 0 trials.
    confidence : float
        Level of the interval, between 0 and 1.

    Returns
    -------
    Estimate
        In 0..1; see `Estimate.percent`.

    Raises
    ------
    ValueError
        If n is not positive, one of the two is not a whole number, successes are not in 0..n, or
        the confidence is out of range.

    Examples
    --------
    >>> f"{wilson(0, 60).percent:.0f}"
    '0 (0 to 6)'
    """
    if not (float(n).is_integer() and float(successes).is_integer() and 0 <= successes <= n >= 1):
        raise ValueError(f"successes must be a whole number in 0..n, not {successes} of {n}.")
    _check_confidence(confidence)
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return Estimate(int(successes) / int(n), float(interval.low), float(interval.high))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}.")
