"""What a search found: the result, its pictures and its sliders."""

from moxi_lite.explanation.heat import ABSENT_GREY, heat_colors
from moxi_lite.explanation.html import SliderHTML, framed, reveal, rounded
from moxi_lite.explanation.pictures import (
    METHOD_COLORS,
    NotebookFigure,
    figure1_strip,
    new_axes,
    plot_explanation,
    plot_trace,
)
from moxi_lite.explanation.playground import set_sum_dashboard, set_sum_playground
from moxi_lite.explanation.result import VERBS, Explanation

__all__ = [
    "ABSENT_GREY",
    "METHOD_COLORS",
    "VERBS",
    "Explanation",
    "NotebookFigure",
    "SliderHTML",
    "figure1_strip",
    "framed",
    "heat_colors",
    "new_axes",
    "plot_explanation",
    "plot_trace",
    "reveal",
    "rounded",
    "set_sum_dashboard",
    "set_sum_playground",
]
