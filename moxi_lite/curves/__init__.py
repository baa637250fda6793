"""Insertion and deletion curves, their averages and intervals."""

from moxi_lite.curves.averages import AverageCurve, accuracy_at, average_curves, average_differences
from moxi_lite.curves.curve import Curve, complete_order, curves_of, deletion_curve, insertion_curve
from moxi_lite.curves.following import follow
from moxi_lite.curves.intervals import Estimate, bootstrap, wilson
from moxi_lite.curves.pictures import average_curves_html, plot_average_curves

__all__ = [
    "AverageCurve",
    "Curve",
    "Estimate",
    "accuracy_at",
    "average_curves",
    "average_curves_html",
    "average_differences",
    "bootstrap",
    "complete_order",
    "curves_of",
    "deletion_curve",
    "follow",
    "insertion_curve",
    "plot_average_curves",
    "wilson",
]
