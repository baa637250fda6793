"""Averages of curves over images, with intervals by resampling the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moxi_lite.curves.curve import Curve, area_under, metric_of
from moxi_lite.curves.intervals import Estimate
from moxi_lite.games import FloatArray


@dataclass(frozen=True, eq=False)
class AverageCurve:
    """Mean of curves, or of differences of curves, over images, with bootstrap intervals.

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

    def at(self, fraction: float) -> Estimate:
        """Read off the mean and its interval where a share of the patches is in, or out.

        Parameters
        ----------
        fraction : float
            In 0..1; the nearest whole number of patches counts, as for `accuracy_at`.

        Returns
        -------
        Estimate
            In the units of the metric.

        Raises
        ------
        ValueError
            If the fraction is outside 0..1.
        """
        step = int(_steps(fraction, len(self.fraction) - 1))
        return Estimate(*(float(ends[step]) for ends in (self.mean, self.lower, self.upper)))

    @property
    def area(self) -> Estimate:
        """Area under the mean curve, with its interval."""
        return Estimate(self.auc, self.auc_lower, self.auc_upper)


def average_curves(
    curves: Iterable[Curve] | Mapping[str, Curve],
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
    curves : iterable of Curve, or mapping to Curve
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
    values = np.stack([metric_of(curve, metric) for curve in curves])
    return _average(values, curves[0], metric, n_bootstrap, random_state, confidence)


def average_differences(
    first: Mapping[str, Curve],
    second: Mapping[str, Curve],
    metric: str = "correct",
    n_bootstrap: int = 1000,
    random_state: int | np.random.Generator | None = 0,
    confidence: float = 0.95,
) -> AverageCurve:
    """Average the differences of two methods within each image (paired comparison).

    What makes an image easy or hard for both methods drops out, so the interval of the mean
    difference is narrower than the intervals of the two means suggest.

    Parameters
    ----------
    first, second : mapping of str to Curve
        From the image's name to its curve. Images that only one of them has are left out.
    metric, n_bootstrap, random_state, confidence
        As for `average_curves`.

    Returns
    -------
    AverageCurve
        Of the first minus the second.

    Raises
    ------
    ValueError
        If no image is in both, curves differ in mode or length, or an argument is out of range.
    TypeError
        If one of them is not a mapping.
    """
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        raise TypeError(
            "expected two mappings from an image's name to its curve, as of study_curves."
        )
    both = [image for image in first if image in second]
    if not both:
        raise ValueError("the two methods have no image in common.")
    _alike([each[image] for each in (first, second) for image in both])
    gaps = np.stack([metric_of(first[i], metric) - metric_of(second[i], metric) for i in both])
    like = first[both[0]]
    return _average(gaps, like, metric, n_bootstrap, random_state, confidence)


def accuracy_at(
    curves: Iterable[Curve] | Mapping[str, Curve], fractions: npt.ArrayLike
) -> FloatArray:
    """Share of images whose target is predicted at given fractions of patches.

    Parameters
    ----------
    curves : iterable of Curve, or mapping to Curve
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
    steps = _steps(fractions, len(curves[0].fraction) - 1)
    return np.mean([curve.correct for curve in curves], axis=0)[steps]


def _average(
    values: FloatArray,
    like: Curve,
    metric: str,
    n_bootstrap: int,
    random_state: int | np.random.Generator | None,
    confidence: float,
) -> AverageCurve:
    """Average rows of values, shape (images, n + 1), over the images."""
    if n_bootstrap < 1 or not 0 < confidence < 1:
        raise ValueError(
            "n_bootstrap must be at least 1 and confidence between 0 and 1, got "
            f"{n_bootstrap} and {confidence}."
        )
    n_images, fraction = len(values), like.fraction
    rng = np.random.default_rng(random_state)
    # How often each image is drawn: resampling all curves is then one matrix product.
    draws = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_bootstrap)
    means = draws @ values / n_images
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    lower, upper = np.quantile(means, tails, axis=0)
    auc_lower, auc_upper = np.quantile(area_under(means, fraction), tails)
    mean = values.mean(axis=0)
    return AverageCurve(
        fraction=fraction,
        mean=mean,
        lower=lower,
        upper=upper,
        auc=float(area_under(mean, fraction)),
        auc_lower=float(auc_lower),
        auc_upper=float(auc_upper),
        n_images=n_images,
        metric=metric,
        mode=like.mode,
        confidence=confidence,
    )


def _steps(fractions: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    """Round shares of n patches to whole numbers of them."""
    wanted = np.asarray(fractions, dtype=np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError(f"fractions of patches are in 0..1, got {fractions!r} (4 % is 0.04).")
    return np.floor(wanted * n + 0.5).astype(np.int64)


def _alike(curves: Iterable[Curve] | Mapping[str, Curve]) -> Sequence[Curve]:
    if isinstance(curves, Curve):
        raise TypeError("averages are of several curves: pass a list of them, such as [curve].")
    found = list(curves.values() if isinstance(curves, Mapping) else curves)
    if not found:
        raise ValueError("expected one curve or more, got none.")
    kinds = sorted({(curve.mode, len(curve.fraction) - 1) for curve in found})
    if len(kinds) > 1:
        listed = ", ".join(f"{mode} of {n} patches" for mode, n in kinds)
        raise ValueError(f"only curves of one kind can be averaged, but these mix {listed}.")
    return found
