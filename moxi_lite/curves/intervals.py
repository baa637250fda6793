"""Values with their intervals: of means and other statistics by resampling, and of shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moxi_lite.games import FloatArray

N_RESAMPLES = 10_000
_FEWEST = 8  # with fewer units the interval of a bootstrap means little


class _Ends(NamedTuple):
    value: float
    low: float
    high: float


class Estimate(_Ends):
    """A value and the ends of its 95 % interval; it unpacks into these three.

    In a string it becomes value and interval, by the format given for a number:
    ``f"{Estimate(90.7, 81.5, 98.1):.0f}"`` is ``"91 (82 to 98)"``.

    Attributes
    ----------
    value : float
    low, high : float
        Ends of the interval; NaN where there are too few data for one.
    n : int or None
        Number of images, games or trials behind the value, where known.
    """

    n: int | None

    def __new__(cls, value: float, low: float, high: float, n: int | None = None) -> Estimate:
        """Make a tuple of three, with the number beside it."""
        made = super().__new__(cls, value, low, high)
        made.n = n
        return made

    @property
    def percent(self) -> Estimate:
        """The same times 100."""
        return Estimate(100 * self.value, 100 * self.low, 100 * self.high, self.n)

    def __format__(self, spec: str) -> str:
        """Write value and interval, each in the format given."""
        value = format(self.value, spec)
        if np.isnan(self.low):
            return f"{value} (too few for an interval)"
        return f"{value} ({self.low:{spec}} to {self.high:{spec}})"


def bootstrap(
    values: npt.ArrayLike,
    statistic: Callable[[FloatArray], Any] = np.mean,
    *,
    clusters: npt.ArrayLike | None = None,
    n_resamples: int = N_RESAMPLES,
    random_state: int | np.random.Generator | None = 0,
) -> Estimate:
    """Estimate a statistic, with a 95 % percentile bootstrap interval.

    The interval holds how much the statistic varies when as many units are drawn, with
    replacement, from those at hand. Where all values agree it has no width, which is no proof
    that all further ones would agree, too; for few units it is too narrow.

    Parameters
    ----------
    values : array_like of float, shape (k,)
        One an image, k > 0.
    statistic : callable
        From values, shape (m,), to a number, such as `numpy.median`.
    clusters : array_like, shape (k,) or (k, m), optional
        What is drawn in place of single values: the unit that each value comes from, or the m
        units that it is made of, such as the source digits of a composite; a value then counts as
        often as the numbers of times that its units are drawn, multiplied.
    n_resamples : int
        Number of resamples.
    random_state : int, numpy.random.Generator or None
        Seed or generator of the resamples.

    Returns
    -------
    Estimate
        With fewer than 8 units the ends of its interval are NaN.

    Raises
    ------
    ValueError
        If there are no values, they have more than one axis or are NaN.

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
    labels = np.arange(len(held)) if clusters is None else np.asarray(clusters)
    names, unit = np.unique(labels, return_inverse=True)
    unit = unit.reshape(len(held), -1)

    def of_drawn(times: npt.NDArray[np.int64]) -> FloatArray:
        weights = times[:, unit].prod(axis=2)  # how often each value counts
        if statistic is np.mean:
            return weights @ held / weights.sum(axis=1)
        return np.array([statistic(np.repeat(held, each)) for each in weights])

    low = high = np.nan
    if len(names) >= _FEWEST:
        ends = resampled(of_drawn, len(names), unit.size, n_resamples, random_state)
        low, high = map(float, ends)
    return Estimate(float(statistic(held)), low, high, len(held))


def resampled(
    of_drawn: Callable[[npt.NDArray[np.int64]], FloatArray],
    n_units: int,
    size: int,
    n_resamples: int = N_RESAMPLES,
    random_state: int | np.random.Generator | None = 0,
) -> tuple[FloatArray, FloatArray]:
    """Return the 95 % percentile interval of what `of_drawn` computes, draws first.

    It gets how often each unit is drawn, shape (draws, n_units), for so many draws at a time that
    arrays of `size` numbers a draw fit into memory.
    """
    from scipy import stats  # slow to import

    def of_units(units: npt.NDArray[np.int64], axis: int = -1) -> FloatArray:
        rows = np.atleast_2d(units)
        placed = rows + n_units * np.arange(len(rows))[:, None]
        times = np.bincount(placed.ravel(), minlength=n_units * len(rows))
        return of_drawn(times.reshape(-1, n_units)).T

    found = stats.bootstrap(
        (np.arange(n_units),),
        of_units,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, 2**20 // size),
        method="percentile",
        random_state=np.random.default_rng(random_state),
    ).confidence_interval
    return found.low, found.high


def wilson(successes: int, n: int) -> Estimate:
    r"""Estimate a share from successes in independent trials, with Wilson's 95 % score interval.

    Unlike the bootstrap it stays honest at 0 and n successes: it keeps a width there.

    .. math::
        \frac{1}{1 + z^2/n} \left( \hat p + \frac{z^2}{2n}
        \pm z \sqrt{\frac{\hat p (1 - \hat p)}{n} + \frac{z^2}{4 n^2}} \right)

    Parameters
    ----------
    successes, n : int
        Successes, 0..n, in n > 0 trials.

    Returns
    -------
    Estimate
        In 0..1; see `Estimate.percent`.

    Raises
    ------
    ValueError
        If n is not positive, one of the two is not a whole number, or successes are not in 0..n.

    Examples
    --------
    >>> f"{wilson(0, 60).percent:.0f}"
    '0 (0 to 6)'
    """
    if not (float(n).is_integer() and float(successes).is_integer() and 0 <= successes <= n >= 1):
        raise ValueError(f"successes must be a whole number in 0..n, not {successes} of {n}.")
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    return Estimate(int(successes) / int(n), float(interval.low), float(interval.high), int(n))
