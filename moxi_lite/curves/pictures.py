"""Pictures of averaged insertion and deletion curves: in a figure, and as HTML with a slider."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from moxi_lite.curves.averages import AverageCurve
from moxi_lite.curves.curve import patches_of
from moxi_lite.curves.intervals import Estimate
from moxi_lite.errors import unknown_name
from moxi_lite.explanation import (
    METHOD_COLORS,
    VERBS,
    SliderHTML,
    framed,
    new_axes,
    rounded,
)

_METRICS = {"correct": "accuracy", "probability": "probability", "log_odds": "log-odds"}


def plot_average_curves(
    averages: Mapping[str, AverageCurve],
    ax: Axes | None = None,
    *,
    exact: Mapping[str, float] | None = None,
    bands: Collection[str] | None = None,
) -> Axes:
    """Draw averaged insertion or deletion curves with their intervals (Sec. 5.1, Figure 3).

    Parameters
    ----------
    averages : mapping of str to AverageCurve
        Label -> curve, all of one mode and metric. A label in `METHOD_COLORS` sets the colour.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    exact : mapping of str to float, optional
        Label -> share of the patches, 0..1, beyond which they are only ranked: drawn dotted.
    bands : collection of str, optional
        Labels of the curves whose intervals are drawn; all by default.

    Returns
    -------
    matplotlib.axes.Axes
        In per cent, except for log-odds; labels for a legend say the number of images.

    Raises
    ------
    ValueError
        If there is no curve, modes or metrics differ, or `exact` or `bands` has other labels.
    """
    mode, metric = _one_kind(averages)
    for label in (*(exact or {}), *(bands or ())):
        if label not in averages:
            raise unknown_name("label", label, averages)
    if ax is None:
        ax = new_axes((6, 4))
    scale = 1 if metric == "log_odds" else 100
    for order, (label, curve) in enumerate(averages.items()):  # the first lies on top
        color = METHOD_COLORS.get(label, f"C{order}")
        x, z = 100 * curve.fraction, 3 - order / len(averages)
        last = np.searchsorted(curve.fraction, (exact or {}).get(label, 1.0) + 1e-9) - 1
        if bands is None or label in bands:
            low, high = scale * curve.lower, scale * curve.upper
            ax.fill_between(x, low, high, color=color, alpha=0.13, lw=0, zorder=z)
        y, name = scale * curve.mean, f"{label} (n = {curve.n_images})"
        ax.plot(x[: last + 1], y[: last + 1], "-", color=color, label=name, zorder=z)
        ax.plot(x[last:], y[last:], ":", color=color, zorder=z)
    ax.set_xlabel(f"patches {VERBS[mode]} (%)")
    ax.set_ylabel(_METRICS[metric] + (" (nats)" if metric == "log_odds" else " (%)"))
    return ax


def average_curves_html(
    *metrics: Mapping[str, AverageCurve], start: float = 0.04, title: str = ""
) -> SliderHTML:
    """Show averaged curves with a slider over the share of the patches (Figure 3).

    Parameters
    ----------
    *metrics : mapping of str to AverageCurve
        Label -> curve: one of the accuracy, of the probability, or one of each.
    start : float
        Share of the patches, 0..1, at which the slider begins, or at the next point after it.
    title : str, optional
        Read out by screen readers; says mode and metrics by default.

    Returns
    -------
    SliderHTML

    Raises
    ------
    ValueError
        If there is no curve; modes, points or labels differ; a metric is log-odds or comes twice.
    """
    kinds = [_one_kind(averages) for averages in metrics or ({},)]
    first = metrics[0]
    fraction = next(iter(first.values())).fraction
    points = np.rint(fraction * patches_of(fraction)).astype(int)
    shown = [_METRICS[metric] for _, metric in kinds]
    alike = {(c.mode, c.fraction.tobytes(), *each) for each in metrics for c in each.values()}
    if len(alike) > 1 or len({*shown} - {"log-odds"}) < len(shown):
        raise ValueError("one slider shows accuracy and probability of the same methods and mode.")
    data = {
        "points": points.tolist(),
        "start": int(np.searchsorted(points, int(start * points[-1] + 0.5))),
        "verb": VERBS[kinds[0][0]],
        "methods": list(first),
        "colors": [to_hex(METHOD_COLORS.get(k, f"C{order}")) for order, k in enumerate(first)],
        "images": [curve.n_images for curve in first.values()],
        "metrics": {
            name: [rounded(np.round([c.mean, c.lower, c.upper], 4)) for c in averages.values()]
            for name, averages in zip(shown, metrics, strict=True)
        },
    }
    if not title:
        title = f"{kinds[0][0].capitalize()} curves: {' and '.join(shown)}"
    return framed("curves", "curves", title, data, {})


def plot_forest(
    estimates: Mapping[str, Estimate],
    ax: Axes | None = None,
    *,
    xlabel: str = "",
    reference: float | None = 0.0,
) -> Axes:
    """Draw estimates with their intervals, one row a label, the first on top (a forest plot).

    Parameters
    ----------
    estimates : mapping of str to Estimate
        Label -> value and interval, such as `differences` gives them. A label in `METHOD_COLORS`,
        also with more behind it ("Shapley (50)", "Grad-CAM, plain"), sets the colour; the
        number of images stands beside it where the estimate knows it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    xlabel : str
        What the values are, with their unit.
    reference : float, optional
        Where a vertical line marks "no difference"; None draws none.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        ax = new_axes((6.4, 0.9 + 0.34 * len(estimates)))
    for row, (label, estimate) in enumerate(estimates.items()):
        color = METHOD_COLORS.get(re.split(r" \(|, ", label)[0], "0.2")
        ax.plot([estimate.low, estimate.high], [row, row], color=color, lw=2)
        ax.plot(estimate.value, row, "o", color=color, ms=7)
    if reference is not None:
        ax.axvline(reference, color="0.5", lw=1, ls="--", zorder=0)
    names = [f"{k} (n = {e.n})" if e.n is not None else k for k, e in estimates.items()]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(xlabel)
    return ax


def _one_kind(averages: Mapping[str, AverageCurve]) -> tuple[str, str]:
    """Mode and metric, which all curves of one picture share."""
    kinds = sorted({(curve.mode, curve.metric) for curve in averages.values()})
    if len(kinds) != 1:
        raise ValueError(f"one picture shows curves of one mode and metric, not {kinds or 'none'}.")
    return kinds[0]
