"""Interactive pictures: self-contained HTML that works live, in Colab and in a static book.

Each piece carries its data, style and script, loads nothing, and keeps to its own element, so any
number of them may share a page.  `set_sum_dashboard` alone needs a running kernel.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from moxi_lite._files import write_atomically
from moxi_lite.attribution import order_of
from moxi_lite.explanation import VERBS, Explanation
from moxi_lite.game import FloatArray, SetSumGame, all_coalitions
from moxi_lite.heat import heat_colors
from moxi_lite.search import explain, optimal_sets
from moxi_lite.values import self_context_interaction, self_context_shapley, shapley_values

if TYPE_CHECKING:
    import ipywidgets

_MOST_PLAYERS = 8


@dataclass(frozen=True)
class SliderHTML:
    """A piece of interactive HTML; notebooks show it, `save` writes it as a page.

    Attributes
    ----------
    html : str
        One ``<div>`` with its data, style and script; it may be pasted into any page.
    title : str
        What it shows, as plain text.
    """

    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Summarise in one line, without the HTML."""
        return f"SliderHTML({self.title!r}, {len(self.html) // 1024} KiB)"

    def save(self, path: str | os.PathLike[str], lang: str = "en") -> Path:
        """Write a complete HTML page that needs no other file; atomic, so never half a page.

        Parameters
        ----------
        path : path-like
            Where to; the folder must exist.
        lang : str
            Language of the page, as in ``<html lang="en">``.

        Returns
        -------
        Path
            The path written.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist.
        """
        path = Path(path).expanduser()
        fields = {"LANG": html.escape(lang), "TITLE": html.escape(self.title), "BODY": self.html}
        write_atomically(path, _fill("page.html", fields).encode())
        return path


def reveal(ex: Explanation, *, title: str | None = None) -> SliderHTML:
    """Show an explanation step by step, with a slider.

    Parameters
    ----------
    ex : Explanation
        Of an image, or of a plain game: then numbered tiles stand for the players.
    title : str, optional
        Read out by screen readers and shown above the saved page; says class, mode and model
        by default.

    Returns
    -------
    SliderHTML
        The slider runs over steps 0 to k.  Each shows the patches present (absent ones grey,
        the newest outlined), the predicted class and its probability, the reward f, and how
        many patches are present.  It starts where the prediction turns, or at the last step.
    """
    if title is None:
        aim = "reward" if ex.target is None else ex.class_name(ex.target)
        title = f"{aim}: {ex.mode} step by step" + (f", {ex.model}" if ex.model else "")
    rows, columns = ex.grid or (math.ceil(ex.n_players / 10), min(ex.n_players, 10))
    height, width = (40 * rows, 40 * columns) if ex.image is None else ex.image.shape[:2]
    flip = ex.patches_to_flip()
    alt = "the image as the model sees it" if ex.image is not None else "the players of the game"
    units = "players" if ex.grid is None else "patches"
    data = {
        "mode": ex.mode,
        "verb": VERBS[ex.mode],
        "units": units,
        "seen": "present" if ex.image is None else "visible",
        "picture": alt[0].upper() + alt[1:],
        "n": ex.n_players,
        "grid": [rows, columns],
        "size": [height, width],
        "numbered": ex.image is None,
        "present": "#0072b2",
        "order": ex.order.tolist(),
        "colors": heat_colors(len(ex)),
        "f": _rounded(np.array([ex.f_empty if ex.mode == "insertion" else ex.f_full, *ex.values])),
        "flip": flip,
        "target": ex.target,
        "targetName": None if ex.target is None else ex.class_name(ex.target).split(",")[0],
        "classes": _classes(ex),
        "probabilities": _probabilities(ex),
    }
    picture = "" if ex.image is None else _image_element(ex.image)
    fields = {
        "TITLE": html.escape(title),
        "ALT": html.escape(str(data["picture"])),
        "WIDTH": str(width),
        "HEIGHT": str(height),
        "IMAGE": picture,
        "STEPS": str(len(ex)),
        "START": str(len(ex) if flip is None else flip),
        "VERB": VERBS[ex.mode],
        "UNITS": units,
        "DATA": _json_for_html(data),
    }
    return SliderHTML(_fill("reveal.html", fields), title)


def _classes(ex: Explanation) -> list[tuple[int, str] | None] | None:
    """Index and name of the predicted class from step 0 on."""
    if ex.predictions is None:
        return None
    steps = [ex.start_prediction, *ex.predictions.tolist()]
    return [None if index is None else (index, ex.class_name(index)) for index in steps]


def _probabilities(ex: Explanation) -> list[float | None] | None:
    if ex.confidences is None:
        return None
    return [None if p is None else round(p, 4) for p in (ex.start_confidence, *ex.confidences)]


def _image_element(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    height, width = image.shape[:2]
    return f'<image href="data:image/jpeg;base64,{encoded}" width="{width}" height="{height}"/>'


def _rounded(values: FloatArray) -> list[Any]:
    """Nested lists of numbers for JSON: six digits, whole numbers without a point, NaN as null."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    short = [float(f"{value:.6g}") for value in values]
    return [None if np.isnan(v) else int(v) if v.is_integer() else v for v in short]


def _json_for_html(data: Mapping[str, Any]) -> str:
    """JSON that is safe inside ``<script>``: no ``<``, so neither ``</script>`` nor ``<!--``."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """Fill ``@@NAME@@`` in one pass, so that a field's text is never taken for a place."""
    text = resources.files("moxi_lite").joinpath(template).read_text(encoding="utf-8")
    # The same content gets the same token: builds repeat exactly, and copies do no harm.
    token = hashlib.sha256("\0".join([text, *fields.values()]).encode()).hexdigest()[:16]
    known = {"TOKEN": token, **fields}
    return re.sub("@@([A-Z]+)@@", lambda place: known[place[1]], text).rstrip("\n")


def set_sum_playground(numbers: Sequence[int]) -> SliderHTML:
    """Play the SET-SUM game by hand (Sec. 4.1): choose players, see f, Eqs. 5 to 7 at work.

    Parameters
    ----------
    numbers : sequence of int
        The number that each player holds, at most 8.

    Returns
    -------
    SliderHTML
        All :math:`2^n` coalitions are computed beforehand, so no kernel is needed.

    Raises
    ------
    ValueError
        If there are no or more than 8 numbers.
    TypeError
        If they are not integers.
    """
    game = _small_game(numbers)
    coalitions = all_coalitions(game.n_players)
    phi = self_context_shapley(game)
    interactions = np.stack([_interactions(game, members) for members in coalitions])
    data = {
        "numbers": list(game.numbers),
        "f": _rounded(game(coalitions)),
        "phi": _rounded(phi),
        "interaction": _rounded(interactions),
        "choice": [_choice(phi, row) for row in interactions],
    }
    title = f"The SET-SUM game with {', '.join(map(str, game.numbers))}"
    fields = {
        "TITLE": html.escape(title),
        "ORDERS": _orders_table(game),
        "DATA": _json_for_html(data),
    }
    return SliderHTML(_fill("playground.html", fields), title)


def _small_game(numbers: Sequence[int]) -> SetSumGame:
    game = SetSumGame(numbers)
    if game.n_players > _MOST_PLAYERS:
        raise ValueError(
            f"the playground shows at most {_MOST_PLAYERS} players, not {game.n_players}: "
            "use moxi_lite.explain and plot_explanation for larger games."
        )
    return game


def _interactions(game: SetSumGame, members: np.ndarray) -> FloatArray:
    """Self-context interactions (Eq. 6) of a coalition with every player, NaN for its members."""
    return np.asarray(self_context_interaction(game, np.flatnonzero(members).tolist()))


def _choice(phi: FloatArray, interactions: FloatArray) -> int | None:
    """Greedy choice of Eq. 7, the lowest index on ties; None once everybody is in."""
    gains = phi + interactions
    return None if np.isnan(gains).all() else int(np.nanargmax(gains))


def _orders_table(game: SetSumGame) -> str:
    """Compare f along the Shapley order and the greedy order with the optimum of every size."""
    shapley = shapley_values(game)
    by_shapley = order_of(shapley)
    greedy = explain(game)
    optimum = optimal_sets(game)
    lines = []
    for k in range(1, game.n_players + 1):
        first = np.isin(np.arange(game.n_players), by_shapley[:k])
        player = int(by_shapley[k - 1])
        best = ", ".join(map(str, np.flatnonzero(optimum.sets[k])))
        cells = [
            f"{player} (φ = {shapley[player]:.3g})",
            f"{game(first)[0]:g}",
            str(greedy.order[k - 1]),
            f"{greedy.values[k - 1]:g}",
            f"{{{best}}}",
            f"{optimum.values[k]:g}",
        ]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{k}</th>{row}</tr>')
    heads = ["k", "k-th by Shapley value", "f", "k-th greedy", "f", "best set of size k", "f"]
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    caption = "The first k players: by Shapley value, greedily, and the optimum (Problem 1)"
    return (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def set_sum_dashboard(numbers: Sequence[int]) -> ipywidgets.VBox:
    """Play the SET-SUM game live with ipywidgets; needs a running kernel.

    Parameters
    ----------
    numbers : sequence of int
        The number that each player holds, at most 8.

    Returns
    -------
    ipywidgets.VBox
        Toggle buttons for the players, a button that adds the greedy choice, and what f and
        Eqs. 5 to 7 say.  Without a kernel use `set_sum_playground`.

    Raises
    ------
    ValueError
        If there are no or more than 8 numbers.
    """
    import ipywidgets as widgets  # needed here alone

    game = _small_game(numbers)
    phi = self_context_shapley(game)
    toggles = [
        widgets.ToggleButton(description=f"player {player}: {number}")
        for player, number in enumerate(game.numbers)
    ]
    add = widgets.Button(description="Add the greedy choice", layout={"width": "auto"})
    report = widgets.HTML()

    def members() -> np.ndarray:
        return np.array([toggle.value for toggle in toggles])

    def show(_change: object = None) -> None:
        interactions = _interactions(game, members())
        choice = _choice(phi, interactions)
        add.disabled = choice is None
        report.value = _report(game, members(), phi, interactions, choice)

    def add_choice(_button: object) -> None:
        choice = _choice(phi, _interactions(game, members()))
        if choice is not None:
            toggles[choice].value = True

    for toggle in toggles:
        toggle.observe(show, names="value")
    add.on_click(add_choice)
    show()
    return widgets.VBox([widgets.HBox(toggles, layout={"flex_flow": "row wrap"}), add, report])


def _report(
    game: SetSumGame,
    members: np.ndarray,
    phi: FloatArray,
    interactions: FloatArray,
    choice: int | None,
) -> str:
    inside = ", ".join(map(str, np.flatnonzero(members)))
    rows = [
        f"<tr><td>{b}{' ← greedy' if b == choice else ''}</td><td>{game.numbers[b]}</td>"
        f"<td>{phi[b]:g}</td><td>{interactions[b]:g}</td><td>{phi[b] + interactions[b]:g}</td></tr>"
        for b in np.flatnonzero(~members)
    ]
    heads = ["player b", "number", "φ⁽⁰⁾(b)", "I⁽⁰⁾(S, b)", "f(S ∪ b) − f(S)"]
    head = "".join(f'<th style="padding: 0 1em">{name}</th>' for name in heads)
    return (
        f"<b>S = {{{inside}}}, f(S) = {game(members)[0]:g}</b>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    )
