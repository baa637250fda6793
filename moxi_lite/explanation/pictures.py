"""Pictures of explanations: heatmaps over the image, Figure-1 strips, traces.

Functions that take ``ax`` draw into it and return it; without ``ax`` they open a figure through
pyplot, as matplotlib's own users expect.  Nothing here calls ``plt.show()``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from moxi_lite.explanation.heat import HEAT, OPACITY, heat_colors

if TYPE_CHECKING:  # Explanation.plot draws with this module
    from moxi_lite.explanation.result import Explanation

METHOD_COLORS: Mapping[str, str] = MappingProxyType(
    {
        "MoXI": "#D55E00",
        "MoXI(-)": "#F0A81E",
        "Shapley": "#0072B2",
        "Grad-CAM": "#009E73",
        "Grad-CAM++": "#56B4E9",
        "Attention rollout": "#CC79A7",
        "RISE": "#3B1055",
        "Random": "#6E6E6E",
    }
)
"""One colour a method, the same in every figure; told apart under colour-blindness too."""

_REWARD_NAMES = {
    "log_odds": "log-odds (nats)",
    "log_probability": "log-probability (nats)",
    "probability": "probability",
    "logit": "logit",
}


def new_axes(figsize: tuple[float, float]) -> Axes:
    """Open a figure with one pair of axes through pyplot; inches."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def _short_label(ex: Explanation, index: int) -> str:
    """Return the first synonym, cut to fit under a small picture."""
    name = ex.class_name(index).split(",")[0]
    return name if len(name) <= 20 else name[:19] + "…"


def _step_title(ex: Explanation, steps: int) -> str:
    return f"{steps} of {ex.n_players} {ex.units} {ex.verb}"


def _add_colorbar(ex: Explanation, ax: Axes, steps: int) -> None:
    # The bar shows the colours as they look on the picture: mixed with a middle grey.
    mixed = OPACITY * HEAT(1 - np.arange(steps) / steps)[:, :3] + (1 - OPACITY) * 0.5
    colors = ScalarMappable(Normalize(0.5, steps + 0.5), ListedColormap(mixed))
    ticks = np.unique(np.linspace(1, steps, min(steps, 5)).round())
    bar = ax.figure.colorbar(colors, ax=ax, fraction=0.046, pad=0.03, ticks=ticks, format="%d")
    bar.ax.invert_yaxis()
    bar.set_label(f"order (1 = {ex.verb} first)")


def plot_explanation(
    ex: Explanation,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    steps: int | None = None,
    colorbar: bool = True,
    numbers: str | None = None,
) -> Axes:
    """Draw the paper's heatmap over the image (Sec. 5.2, Figure 4).

    Parameters
    ----------
    ex : Explanation
        Of an image, or of a plain game: then bars show f after each step, in the order of the
        players, coloured alike.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    title : str, optional
        Replaces the default, which counts the patches; an empty string leaves it out.
    steps : int, optional
        Number of patches to colour.  By default those inserted until the classification
        succeeds, or removed until it fails; all of them if the prediction never turns.
    colorbar : bool
        Whether to add the bar that says what red means.
    numbers : {"order", "patch"}, optional
        Write into each coloured patch when it was chosen, from 1, or which patch it is, from 0.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `steps` exceeds the length of the explanation, or `numbers` is something else.
    """
    if numbers not in (None, "order", "patch"):
        raise ValueError(f'numbers must be "order", "patch" or None, not {numbers!r}.')
    shown = ex.shown_steps(steps)
    if ax is None:
        ax = new_axes((4.8, 4) if ex.image is not None else (6, 3.2))
    ax.set_title(_step_title(ex, shown) if title is None else title)
    if ex.image is None or ex.grid is None:
        return _plot_bars(ex, ax, shown)
    ax.imshow(ex.overlay(shown))
    ax.set_axis_off()
    if shown == 0:
        _note(ax, _nothing_to_show(ex))
        return ax
    if numbers is not None:
        _add_numbers(ex, ax, shown, from_one=numbers == "order")
    if colorbar and shown > 1:
        _add_colorbar(ex, ax, shown)
    return ax


def _add_numbers(ex: Explanation, ax: Axes, steps: int, from_one: bool) -> None:
    assert ex.image is not None and ex.grid is not None
    height, width = ex.image.shape[:2]
    rows, columns = ex.grid
    inches = ax.get_window_extent().width / ax.figure.dpi / columns
    size = min(10, 0.42 * 72 * inches)  # three digits fill a patch
    for number, patch in enumerate(ex.order[:steps].tolist(), start=1):
        row, column = divmod(patch, columns)
        x, y = (column + 0.5) * width / columns - 0.5, (row + 0.5) * height / rows - 0.5
        text = str(number if from_one else patch)
        label = ax.text(x, y, text, color="white", fontsize=size, ha="center", va="center")
        label.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _note(ax: Axes, text: str) -> None:
    box = {"facecolor": "white", "alpha": 0.85, "lw": 0}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", bbox=box)


def _nothing_to_show(ex: Explanation) -> str:
    if ex.patches_to_flip() != 0 or ex.target is None:
        return "no patch chosen yet"
    name = _short_label(ex, ex.target)
    if ex.mode == "insertion":
        return f"nothing to insert: the empty image\nalready counts as {name}"
    return f"nothing to remove: the full image\ndoes not count as {name}"


def _plot_bars(ex: Explanation, ax: Axes, steps: int) -> Axes:
    places = np.arange(1, steps + 1)
    ax.bar(places, ex.values[:steps], color=heat_colors(steps) or None, edgecolor="0.3", lw=0.5)
    ax.set_xticks(places, [str(player) for player in ex.order[:steps]])
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_xlabel(f"player, in the order {ex.verb} (redder = earlier)")
    ax.set_ylabel("f after the step")
    if steps == 0:
        _note(ax, "no step taken")
    return ax


def plot_trace(ex: Explanation, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Draw the reward f after each step against the number of patches inserted or removed.

    Parameters
    ----------
    ex : Explanation
    ax : matplotlib.axes.Axes, optional
        Where to draw, several traces into one if wanted; a new figure by default.
    label : str, optional
        Name for the legend; a name in `METHOD_COLORS` also sets the colour, MoXI's by default.

    Returns
    -------
    matplotlib.axes.Axes
        The step at which the prediction turns carries a ring.
    """
    if ax is None:
        ax = new_axes((5.5, 3.4))
    color = METHOD_COLORS.get(label or "MoXI", METHOD_COLORS["MoXI"])
    insertion = ex.mode == "insertion"
    trace = np.array([ex.start_value, *ex.values])
    few = len(trace) <= 40
    ax.plot(np.arange(len(trace)), trace, color=color, label=label, marker="o" if few else "", ms=4)
    if (flip := ex.patches_to_flip()) is not None:
        said = "classified as the target" if insertion else "no longer classified as the target"
        ax.plot(
            flip, trace[flip], "o", ms=11, mfc="none", mec=color, mew=1.8, label=f"{flip}: {said}"
        )
    goal, name = (ex.f_full, "everything present") if insertion else (ex.f_empty, "nothing present")
    if all(line.get_label() != name for line in ax.lines):
        ax.axhline(goal, color="0.45", lw=1, ls="--", label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f"{ex.units} {ex.verb} (of {ex.n_players})")
    ax.set_ylabel(_value_label(ex))
    ax.legend(frameon=False, fontsize="small")
    return ax


class NotebookFigure(Figure):
    """A figure that notebooks can show although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def _value_label(ex: Explanation) -> str:
    if ex.target is None:
        return "reward f"
    return f"{_REWARD_NAMES.get(ex.reward or '', 'reward f')} of {_short_label(ex, ex.target)}"


def _strip_steps(explanations: Mapping[str, Explanation], n_columns: int) -> list[int]:
    """Spread the columns evenly up to the step at which the quickest method is done."""
    done = min(ex.shown_steps(None) for ex in explanations.values())
    last = min(max(done, n_columns), max(map(len, explanations.values())) or 1)
    return [int(step) for step in np.unique(np.linspace(0, last, n_columns + 1).round())[1:]]


def _caption(ex: Explanation, step: int) -> str:
    """Predicted class and probability after a step, and whether it is the target."""
    if ex.predictions is None or ex.confidences is None:
        return f"f = {ex.values[step - 1]:.2f}" if step else ""
    index = [ex.start_prediction, *ex.predictions.tolist()][step]
    probability = [ex.start_confidence, *ex.confidences.tolist()][step]
    return f"{'✓' if index == ex.target else '✗'} {_short_label(ex, index)} {probability:.2f}"


def figure1_strip(explanations: Mapping[str, Explanation], n_columns: int = 3) -> Figure:
    """Draw a strip like the paper's Figure 1: rows are methods, columns are steps.

    Parameters
    ----------
    explanations : mapping of str to Explanation
        Method name -> explanation, all of one image and one mode.
    n_columns : int
        Number of steps shown, spread evenly up to the point at which the quickest method
        succeeds (insertion) or makes the model fail (deletion).  A row that stopped earlier
        repeats its last state.

    Returns
    -------
    matplotlib.figure.Figure
        Under each picture stand the predicted class, its probability and whether it is the
        target; the last column is the heatmap.  The figure is not registered with pyplot: as
        the last line of a notebook cell it shows once, and scripts need not close it.

    Raises
    ------
    ValueError
        If there is no explanation, their modes differ, or one holds no image.
    """
    if not isinstance(explanations, Mapping):
        raise TypeError("figure1_strip takes a dict from names to explanations: {'MoXI': ex}.")
    modes = {ex.mode for ex in explanations.values()}
    if len(modes) != 1:
        raise ValueError(f"one strip shows explanations of one mode, not of {sorted(modes)}.")
    shown = _strip_steps(explanations, n_columns)
    figure = NotebookFigure(
        figsize=(2.1 * (len(shown) + 1) + 0.4, 2.3 * len(explanations) + 0.3), layout="constrained"
    )
    grid = figure.subplots(len(explanations), len(shown) + 1, squeeze=False)
    for row, (name, ex) in zip(grid, explanations.items(), strict=True):
        for ax, step in zip(row, [*shown, None], strict=False):
            if step is None:
                plot_explanation(ex, ax, title="", colorbar=False)
                below = _step_title(ex, ex.shown_steps(None))
            else:
                reached = min(step, len(ex.order))
                ax.imshow(ex.visible_image(reached))
                below = _caption(ex, reached) + (f" (at {reached})" if reached < step else "")
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_xlabel(below, fontsize="small")
        row[0].set_ylabel(name, color=METHOD_COLORS.get(name, "black"), fontweight="bold")
    for ax, step in zip(grid[0], shown, strict=False):
        ax.set_title(f"{step} {ex.verb}", fontsize="medium")
    grid[0, -1].set_title("heatmap (redder = earlier)", fontsize="medium")
    return figure
