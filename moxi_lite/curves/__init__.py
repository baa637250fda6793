"""Insertion and deletion curves, their averages and intervals."""

from moxi_lite.curves.averages import (
    AverageCurve,
    average_curves,
    average_differences,
    average_table,
    differences,
    summary_table,
)
from moxi_lite.curves.curve import (
    Curve,
    checked_points,
    curves_of,
    curves_of_logits,
    deletion_curve,
    insertion_curve,
    mean_curve,
)
from moxi_lite.curves.following import follow
from moxi_lite.curves.intervals import Estimate, bootstrap, resampled, wilson
from moxi_lite.curves.pictures import average_curves_html, plot_average_curves, plot_forest

__all__ = [
    "AverageCurve",
    "Curve",
    "Estimate",
    "average_curves",
    "average_curves_html",
    "average_differences",
    "average_table",
    "bootstrap",
    "checked_points",
    "curves_of",
    "curves_of_logits",
    "deletion_curve",
    "differences",
    "follow",
    "insertion_curve",
    "mean_curve",
    "plot_average_curves",
    "plot_forest",
    "resampled",
    "summary_table",
    "wilson",
]
