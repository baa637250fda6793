"""Walk along an order of patches that any method made, and tell it as a search does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moxi_lite.explanation import Explanation
from moxi_lite.games import BoolArray, checked_rewards
from moxi_lite.patches import Outcome, PatchGame
from moxi_lite.search import StopRule, along, check_mode, checked_order, step_of, stop_rule, told

_FIRST_LOOK = 8  # patches looked at before asking whether to stop


def follow(
    game: PatchGame,
    order: npt.ArrayLike,
    mode: str = "insertion",
    *,
    stop: str | StopRule | None = None,
) -> Explanation:
    """Insert or delete patches in a given order, and note what the model says after each.

    What `explain` returns for its own order, this returns for any, so that a rival's map can be
    drawn, stepped through and saved in the same ways.

    Parameters
    ----------
    game : PatchGame
        The image, the classifier, the target class, the reward and what "absent" means.
    order : array_like of int, shape (n,)
        Every patch once, the most important first: from `order_of` or `complete_order`.
    mode : {"insertion", "deletion"}
    stop : {"flip"} or callable, optional
        As for `explain`; by default all n patches are followed.

    Returns
    -------
    Explanation
        Its ``n_evaluations`` counts the coalitions looked at, besides the empty and the full one.

    Raises
    ------
    ValueError
        If the order has repeats or gaps or is not made of whole numbers, or mode or stop is
        unknown.
    TypeError
        If the game has no classes.
    """
    check_mode(mode)
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"following needs predicted classes, so a PatchGame, not {type(game).__name__}."
        )
    ends_here = stop_rule(stop, game, mode)
    n = game.n_players
    patches = checked_order(order, n, "order")
    path = along(patches, mode)
    ends = _evaluated(game, path[[0, -1]])
    steps = [step_of(ends, 0, 0, None)]
    looked, ahead = 0, _FIRST_LOOK if stop else n
    stopped = ends_here(steps[0])
    while looked < n and not stopped:
        found = _evaluated(game, path[looked + 1 : looked + 1 + ahead])
        for row, patch in enumerate(patches[looked : looked + ahead].tolist()):
            steps.append(step_of(found, row, looked + row + 1, patch))
            if stopped := ends_here(steps[-1]):
                break
        looked, ahead = min(looked + ahead, n), 2 * ahead
    return told(
        mode,
        steps,
        float(ends.rewards[1]),
        n,
        ("flip" if stop == "flip" else "callable") if stopped else "all",
        np.arange(1, len(steps)),
        n_evaluations=looked,
        **game.facts(step.prediction for step in steps if step.prediction is not None),
    )


def _evaluated(game: PatchGame, rows: BoolArray) -> Outcome:
    outcome = game.outcome(rows)
    checked_rewards(outcome.rewards, rows)
    return outcome
