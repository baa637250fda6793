"""Search for the group of players that matters most: greedy (Algorithms 1, 2) and exhaustive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from moxi_lite._errors import unknown_name
from moxi_lite.explanation import Explanation
from moxi_lite.game import (
    BoolArray,
    FloatArray,
    Game,
    all_coalitions,
    checked_rewards,
    evaluate,
    player_count,
    tabulate,
)
from moxi_lite.patch_game import Outcome, PatchGame

MODES = ("insertion", "deletion")
SEARCHES = ("greedy",)


@dataclass(frozen=True)
class Step:
    """One finished step of a search, as a callable stop rule sees it.

    Attributes
    ----------
    number : int
        Counts from 1; 0 is the state before the first step.
    player : int or None
        The player just inserted or deleted; None before the first step.
    value : float
        Reward after the step.
    prediction : int or None
        Class predicted after the step; None for games without classes.
    confidence : float or None
        Its probability, 0..1.
    """

    number: int
    player: int | None
    value: float
    prediction: int | None
    confidence: float | None


StopRule = Callable[[Step], bool]


def explain(
    game: Game,
    mode: str = "insertion",
    budget: int | None = None,
    stop: str | StopRule | None = None,
    search: str = "greedy",
    show_progress: bool = False,
) -> Explanation:
    r"""Find the group of players with the highest (lowest) reward, one player at a time.

    Insertion (Algorithm 1) adds :math:`b_k = \arg\max_b f(S_{k-1} \cup b)`, which by Eq. 7
    maximises self-context Shapley value plus interaction; deletion (Algorithm 2) removes
    :math:`b_k = \arg\min_b f(N \setminus (S_{k-1} \cup b))`.  Every step evaluates the remaining
    players in one batch; ties go to the lowest index.

    Parameters
    ----------
    game : Game
        For example a `PatchGame` or a `SetSumGame`.
    mode : {"insertion", "deletion"}
    budget : int, optional
        Most players to choose, 1..n.  None means n.
    stop : {"flip"} or callable, optional
        ``"flip"`` ends an insertion as soon as the target class is predicted and a deletion as
        soon as it no longer is.  A callable is asked after each step, and before the first, with
        a `Step`, and ends the search by returning True.
    search : {"greedy"}
        How to search.
    show_progress : bool
        Show a progress bar over the steps.

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError
        If mode, search, stop or budget is not one of the above, or the game returns NaN, Inf or
        the wrong number of rewards.
    TypeError
        If ``stop="flip"`` is asked of a game that has no predicted class.

    Examples
    --------
    >>> from moxi_lite.game import SetSumGame
    >>> explain(SetSumGame([2, 2, 1])).order
    array([0, 2, 1])
    """
    _check_mode(mode)
    if search not in SEARCHES:
        raise unknown_name("search", search, SEARCHES)
    budget = _check_budget(budget, player_count(game))
    stop_rule = _stop_rule(stop, game, mode)

    ends = _outcome(game, np.stack([np.zeros(game.n_players, bool), np.ones(game.n_players, bool)]))
    steps = [_step(ends, int(mode == "deletion"), 0, None)]
    n_evaluations = 0
    present = np.full(game.n_players, mode == "deletion")
    remaining = np.arange(game.n_players)
    stopped = stop_rule is not None and stop_rule(steps[0])
    with tqdm(total=budget, desc=mode, unit="patch", disable=not show_progress) as bar:
        while not stopped and len(steps) <= budget:
            candidates = np.repeat(present[None], len(remaining), axis=0)
            candidates[np.arange(len(remaining)), remaining] = mode == "insertion"
            outcome = _outcome(game, candidates)
            n_evaluations += len(candidates)
            merit = outcome.rewards if mode == "insertion" else -outcome.rewards
            pick = int(merit.argmax())  # the first of equals, and `remaining` is sorted
            player = int(remaining[pick])
            present[player] = mode == "insertion"
            remaining = np.delete(remaining, pick)
            steps.append(_step(outcome, pick, len(steps), player))
            bar.update()
            stopped = stop_rule is not None and stop_rule(steps[-1])

    reason = _stop_reason(stop, stopped, len(steps) - 1, game.n_players)
    return _explanation(game, mode, ends.rewards, steps, n_evaluations, reason)


@dataclass(frozen=True)
class Optimum:
    """The best coalition of every size (Problems 1 and 2).

    Attributes
    ----------
    sets : ndarray of bool, shape (n + 1, n)
        Row k marks the k players to insert (Problem 1) or to delete (Problem 2).
    values : ndarray of float64, shape (n + 1,)
        Reward after inserting or deleting them.
    """

    sets: BoolArray
    values: FloatArray


def optimal_sets(game: Game, mode: str = "insertion") -> Optimum:
    r"""Solve Problems 1 and 2 by looking at all :math:`2^n` coalitions.

    Problem 1 (insertion) maximises :math:`f(S)` over sets of k players, Eq. 3; Problem 2
    (deletion) minimises :math:`f(N \setminus S)`, Eq. 8.  Ties go to the set whose lowest players
    come first in the table of coalitions.

    Parameters
    ----------
    game : Game
        At most 20 players.
    mode : {"insertion", "deletion"}

    Returns
    -------
    Optimum

    Raises
    ------
    ValueError
        If the mode is unknown or the game has more than 20 players.
    """
    _check_mode(mode)
    n = game.n_players
    table = tabulate(game).values
    coalitions = all_coalitions(n)
    chosen = coalitions if mode == "insertion" else ~coalitions
    sizes = chosen.sum(axis=1)
    merit = table if mode == "insertion" else -table
    best = [int(np.flatnonzero(sizes == k)[np.argmax(merit[sizes == k])]) for k in range(n + 1)]
    return Optimum(sets=chosen[best], values=table[best])


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)


def _check_budget(budget: int | None, n_players: int) -> int:
    if budget is None:
        return n_players
    if int(budget) != budget or not 1 <= budget <= n_players:
        raise ValueError(
            f"budget must be a whole number of players in 1..{n_players}, not {budget!r}."
        )
    return int(budget)


def _stop_rule(stop: str | StopRule | None, game: Game, mode: str) -> StopRule | None:
    if stop is None or callable(stop):
        return stop
    if stop != "flip":
        raise ValueError(f'stop must be None, "flip" or a callable, not {stop!r}.')
    target = getattr(game, "target", None)
    if target is None or not hasattr(game, "outcome"):
        raise TypeError(
            'stop="flip" needs a game with a target and predicted classes, such as a PatchGame; '
            f"{type(game).__name__} has none: pass a callable, for example "
            "stop=lambda step: step.value > 3."
        )
    return lambda step: (step.prediction == target) == (mode == "insertion")


def _stop_reason(stop: str | StopRule | None, stopped: bool, n_steps: int, n_players: int) -> str:
    if stopped:
        return "flip" if stop == "flip" else "callable"
    return "all" if n_steps == n_players else "budget"


@dataclass(frozen=True)
class _Rewards:
    """Outcome of a game that has no classes."""

    rewards: FloatArray


def _outcome(game: Game, coalitions: BoolArray) -> Outcome | _Rewards:
    if not hasattr(game, "outcome"):
        return _Rewards(evaluate(game, coalitions))
    outcome = game.outcome(coalitions)
    checked_rewards(outcome.rewards, coalitions)
    return outcome


def _step(outcome: Outcome | _Rewards, row: int, number: int, player: int | None) -> Step:
    value = float(outcome.rewards[row])
    if not isinstance(outcome, Outcome):
        return Step(number, player, value, prediction=None, confidence=None)
    prediction, confidence = int(outcome.predictions[row]), float(outcome.confidences[row])
    return Step(number, player, value, prediction, confidence)


def _explanation(
    game: Game,
    mode: str,
    ends: FloatArray,
    steps: list[Step],
    n_evaluations: int,
    stop_reason: str,
) -> Explanation:
    start, taken = steps[0], steps[1:]
    has_classes = start.prediction is not None
    return Explanation(
        order=np.array([step.player for step in taken], dtype=np.int64),
        values=np.array([step.value for step in taken], dtype=float),
        f_empty=float(ends[0]),
        f_full=float(ends[1]),
        n_players=game.n_players,
        n_evaluations=n_evaluations,
        mode=mode,
        stop_reason=stop_reason,
        predictions=np.array([s.prediction for s in taken], np.int64) if has_classes else None,
        confidences=np.array([s.confidence for s in taken], float) if has_classes else None,
        start_prediction=start.prediction,
        start_confidence=start.confidence,
        **_patch_facts(game, steps),
    )


def _patch_facts(game: Game, steps: list[Step]) -> dict[str, Any]:
    if not isinstance(game, PatchGame):
        return {}
    classes = {game.target, *(step.prediction for step in steps if step.prediction is not None)}
    return {
        "target": game.target,
        "grid": game.grid,
        "labels": {index: game.model.class_name(index) for index in sorted(classes)},
        "image": game.display,
        "model": game.model.name,
        "masking": game.masking,
        "reward": game.reward,
    }
