"""Averages of curves over images, with intervals over the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moxi_lite.curves.curve import Curve, area_under, has_turned, metric_of, step_at
from moxi_lite.curves.intervals import Estimate, bootstrap, resampled, wilson
from moxi_lite.errors import unknown_name
from moxi_lite.games import FloatArray

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class AverageCurve:
    """Mean of curves, or of differences of curves, over images, with 95 % intervals.

    Those of accuracies are Wilson's, all others come from resampling the images (bootstrap).

    Attributes
    ----------
    fraction : ndarray of float64, shape (m,)
        Share of the patches inserted or deleted, 0 to 1, at the points of the curves.
    mean, lower, upper : ndarray of float64, shape (m,)
        Mean of the metric over images, and its interval at each fraction by itself.
    area : Estimate
        Area under the mean curve, which is the mean area, with its interval; of curves cut off by
        `Curve.until` their mean height.
    n_images : int
        Number of curves averaged; the interval of a single one has no width.
    metric : {"correct", "probability", "log_odds"}
        The mean of ``"correct"`` is the accuracy.
    mode : {"insertion", "deletion"}
    """

    fraction: FloatArray
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    area: Estimate
    n_images: int
    metric: str
    mode: str

    def at(self, fraction: float) -> Estimate:
        """Read off the mean and its interval where a share of the patches is in, or out.

        Parameters
        ----------
        fraction : float
            In 0..1; the nearest whole number of patches counts (half a patch rounds up): 0.04 of
            196 patches is 8 patches.

        Returns
        -------
        Estimate
            In the units of the metric.

        Raises
        ------
        ValueError
            If the fraction is not in 0..1, or the curves have no point there.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fractions of patches are in 0..1, got {fraction!r} (4 % is 0.04).")
        step = step_at(fraction, self.fraction)
        value, low, high = (float(each[step]) for each in (self.mean, self.lower, self.upper))
        return Estimate(value, low, high, self.n_images)

    @property
    def auc(self) -> float:
        """The value of `area`."""
        return self.area.value


def average_curves(
    curves: Iterable[Curve] | Mapping[str, Curve], metric: str = "correct"
) -> AverageCurve:
    """Average curves of several images, with intervals over the images.

    The paper draws the accuracy (``"correct"``) over images that are classified correctly as a
    whole; whether the curves come from such images is up to the caller.

    Parameters
    ----------
    curves : iterable of Curve, or mapping to Curve
        One an image, all of one mode and one number of patches.
    metric : {"correct", "probability", "log_odds"}

    Returns
    -------
    AverageCurve

    Raises
    ------
    ValueError
        If there are no curves, they differ in mode or points, or the metric is unknown.
    """
    curves = _alike(curves.values() if isinstance(curves, Mapping) else curves)
    values = np.stack([metric_of(c, metric) for c in curves])
    right_or_wrong = metric == "correct" and bool(np.isin(values, (0, 1)).all())
    return _average(values, curves[0], metric, shares=right_or_wrong)


def average_differences(
    first: Mapping[str, Curve], second: Mapping[str, Curve], metric: str = "correct"
) -> AverageCurve:
    """Average the differences of two methods within each image (paired comparison).

    What makes an image easy or hard for both methods drops out, so the interval of the mean
    difference is narrower than the intervals of the two means suggest.

    Parameters
    ----------
    first, second : mapping of str to Curve
        From the image's name to its curve. Images that only one of them has are left out.
    metric : {"correct", "probability", "log_odds"}

    Returns
    -------
    AverageCurve
        Of the first minus the second.

    Raises
    ------
    ValueError
        If no image is in both, curves differ in mode or points, or the metric is unknown.
    """
    both = [image for image in first if image in second]
    if not both:
        raise ValueError("the two methods have no image in common.")
    _alike([each[image] for each in (first, second) for image in both])
    gaps = np.stack([metric_of(first[i], metric) - metric_of(second[i], metric) for i in both])
    return _average(gaps, first[both[0]], metric, shares=False)


def differences(
    curves: Mapping[str, Mapping[str, Curve]],
    first: str,
    rivals: Iterable[str],
    share: float | None = None,
    metric: str = "correct",
    *,
    until: float = 1,
) -> dict[str, Estimate]:
    """Compare one method with several rivals, each on the images that both have.

    Parameters
    ----------
    curves : mapping of str to (mapping of str to Curve)
        Label -> image -> curve.
    first : str
        Label of the method that the rivals' values are subtracted from.
    rivals : iterable of str
        Their labels.
    share : float, optional
        Compare at this share of the patches, 0..1; by default compare areas under the curves.
    metric : {"correct", "probability", "log_odds"}
    until : float
        Compare the curves up to this share of the patches only: the area is then their mean height
        up to there, which is larger the sooner a curve rises.

    Returns
    -------
    dict of str to Estimate
        Rival -> paired difference, in points (per cent) or, for log-odds, in nats.

    Raises
    ------
    ValueError
        If a label or the metric is unknown, or two methods have no image in common.
    """
    gaps = {}
    for rival in rivals:
        for label in (first, rival):
            if label not in curves:
                raise unknown_name("label", label, curves)
        one, other = (
            {image: curve.until(until) for image, curve in curves[label].items()}
            for label in (first, rival)
        )
        average = average_differences(one, other, metric)
        gap = average.area if share is None else average.at(share)
        gaps[rival] = gap if metric == "log_odds" else gap.percent
    return gaps


def average_table(
    curves: Mapping[str, Mapping[str, Curve]],
    shares: Iterable[float],
    metric: str = "correct",
) -> pd.DataFrame:
    """Tabulate averaged curves at some shares of the patches.

    Parameters
    ----------
    curves : mapping of str to (mapping of str to Curve)
        Label -> image -> curve.
    shares : iterable of float
        In 0..1.
    metric : {"correct", "probability", "log_odds"}

    Returns
    -------
    pandas.DataFrame
        One row a label; column ``n``, the number of images, and one a share, such as ``"4 %"``,
        with mean and interval as text: ``"92 (85 to 98)"``, in per cent or, for log-odds, in nats.
    """
    import pandas as pd  # slow

    rows = {}
    for label, by_image in curves.items():
        average = average_curves(by_image, metric)
        rows[label] = {"n": str(average.n_images)} | {
            f"{100 * share:g} %": f"{average.at(share):.1f}"
            if metric == "log_odds"
            else f"{average.at(share).percent:.0f}"
            for share in shares
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype({"n": int} if rows else {})


def summary_table(curves: Mapping[str, Mapping[str, Curve]]) -> pd.DataFrame:
    """Tabulate areas, and how many patches it takes until the prediction changes over.

    Parameters
    ----------
    curves : mapping of str to (mapping of str to Curve)
        Label -> image -> curve, all of one mode.

    Returns
    -------
    pandas.DataFrame
        One row a label: ``n``, the number of images; the areas under accuracy and probability (%);
        the median number of patches after which the target is first predicted (insertion) or no
        longer predicted (deletion), all of them where that never happens, as text with intervals;
        and the share of images in which it stays so from there on (%): both at the points that
        the curves have.
    """
    import pandas as pd  # slow

    rows = {}
    for label, by_image in curves.items():
        several = list(by_image.values())
        flips = [c.patches_to_flip() for c in several]
        steps = [c.n_patches if k is None else k for c, k in zip(several, flips, strict=True)]
        stays = [
            k is not None and bool(has_turned(c)[c.fraction >= (k - 0.5) / c.n_patches].all())
            for c, k in zip(several, flips, strict=True)
        ]
        rows[label] = {
            "n": len(several),
            "area, accuracy (%)": f"{average_curves(several).area.percent:.1f}",
            "area, probability (%)": f"{average_curves(several, 'probability').area.percent:.1f}",
            "median patches": f"{bootstrap(steps, np.median):.1f}",
            "stays (%)": f"{100 * np.mean(stays):.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _average(values: FloatArray, like: Curve, metric: str, *, shares: bool) -> AverageCurve:
    """Average rows of values, shape (images, m), over the images."""
    n_images, fraction = len(values), like.fraction
    height = area_under(values, fraction)
    resampled_too = height[:, None] if shares else np.column_stack([values, height])

    def mean_of(times: npt.NDArray[np.int64]) -> FloatArray:
        return times @ resampled_too / n_images

    mean = values.mean(axis=0)
    if n_images > 1:
        lower, upper = resampled(mean_of, n_images, n_images)
    else:  # every draw is the same
        lower = upper = resampled_too[0]
    area = Estimate(float(height.mean()), float(lower[-1]), float(upper[-1]), n_images)
    if shares:
        ends = [wilson(right, n_images) for right in values.sum(axis=0)]
        lower, upper = (np.array([getattr(each, end) for each in ends]) for end in ("low", "high"))
    else:
        lower, upper = lower[:-1], upper[:-1]
    return AverageCurve(fraction, mean, lower, upper, area, n_images, metric, like.mode)


def _alike(curves: Iterable[Curve]) -> Sequence[Curve]:
    found = list(curves)
    if not found:
        raise ValueError("expected one curve or more, got none.")
    kinds = sorted({(c.mode, c.n_patches, len(c.fraction), c.fraction.tobytes()) for c in found})
    if len(kinds) > 1:
        listed = ", ".join(
            f"{mode} of {n} patches" + f" at {m} points" * (m <= n) for mode, n, m, _ in kinds
        )
        raise ValueError(f"only curves of one kind can be averaged, but these mix {listed}.")
    return found
