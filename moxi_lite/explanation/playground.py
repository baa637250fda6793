"""The SET-SUM game to play by hand, in static HTML and live with ipywidgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moxi_lite.explanation.html import SliderHTML, framed, rounded
from moxi_lite.games import (
    FloatArray,
    SetSumGame,
    all_coalitions,
    self_context_interaction,
    self_context_shapley,
    shapley_values,
)

if TYPE_CHECKING:
    import ipywidgets

_MOST_PLAYERS = 8


def set_sum_playground(numbers: Sequence[int]) -> SliderHTML:
    """Play the SET-SUM game by hand (Sec. 4.1): choose players, see f, Eqs. 5 to 7 at work.

    Parameters
    ----------
    numbers : sequence of int
        The number that each player holds, 1 to 8 of them; otherwise ValueError.

    Returns
    -------
    SliderHTML
        All :math:`2^n` coalitions are computed beforehand, so no kernel is needed.
    """
    game = _small_game(numbers)
    coalitions = all_coalitions(game.n_players)
    phi = self_context_shapley(game)
    interactions = np.stack([_interactions(game, members) for members in coalitions])
    f = game(coalitions)
    choice = [_choice(phi, row) for row in interactions]
    data = {
        "numbers": list(game.numbers),
        "f": rounded(f),
        "phi": rounded(phi),
        "interaction": rounded(interactions),
        "choice": choice,
    }
    title = f"The SET-SUM game with {', '.join(map(str, game.numbers))}"
    orders = _orders_table(game, f, choice)
    return framed("explanation", "playground", title, data, {"ORDERS": orders})


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


def _orders_table(game: SetSumGame, f: FloatArray, choice: Sequence[int | None]) -> str:
    """Compare f along the Shapley order and the greedy order with the optimum of every size."""
    coalitions = all_coalitions(game.n_players)
    sizes = coalitions.sum(axis=1)
    shapley = shapley_values(game)
    by_shapley = np.argsort(-shapley.round(12), kind="stable").tolist()
    ranked = greedy = 0  # rows of the coalitions so far: row 2^0 + 2^3 is {0, 3}
    lines = []
    for k, player in enumerate(by_shapley, start=1):
        optimum = int(np.where(sizes == k, f, -np.inf).argmax())
        chosen = choice[greedy]
        assert chosen is not None
        ranked, greedy = ranked + 2**player, greedy + 2**chosen
        cells = [
            f"{player} (φ = {shapley[player]:.3g})",
            f"{f[ranked]:g}",
            str(chosen),
            f"{f[greedy]:g}",
            f"{{{', '.join(map(str, np.flatnonzero(coalitions[optimum])))}}}",
            f"{f[optimum]:g}",
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
        As for `set_sum_playground`, which needs no kernel.

    Returns
    -------
    ipywidgets.VBox
        Toggle buttons for the players, a button that adds the greedy choice, and what f and
        Eqs. 5 to 7 say.
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
        add.disabled = bool(members().all())
        report.value = _report(game, members(), phi, interactions)

    def add_choice(_button: object) -> None:
        choice = _choice(phi, _interactions(game, members()))
        assert choice is not None  # the button is disabled then
        toggles[choice].value = True

    for toggle in toggles:
        toggle.observe(show, names="value")
    add.on_click(add_choice)
    show()
    return widgets.VBox([widgets.HBox(toggles, layout={"flex_flow": "row wrap"}), add, report])


def _report(
    game: SetSumGame, members: np.ndarray, phi: FloatArray, interactions: FloatArray
) -> str:
    inside, choice = ", ".join(map(str, np.flatnonzero(members))), _choice(phi, interactions)
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
