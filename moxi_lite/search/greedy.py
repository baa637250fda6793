"""Search for the group of players that matters most: greedy (Algorithms 1, 2) and exhaustive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from moxi_lite.errors import unknown_name
from moxi_lite.explanation import Explanation
from moxi_lite.games import (
    BoolArray,
    FloatArray,
    Game,
    all_coalitions,
    checked_rewards,
    evaluate,
    player_count,
    tabulate,
)
from moxi_lite.patches import Outcome, PatchGame, outcomes
from moxi_lite.search.coalitions import check_mode, checked_budget, next_coalitions, remaining

SEARCHES = ("greedy",)

N_FINALISTS = 8
"""Candidates that a game of ``dtype="mixed"`` evaluates again in float32 at each step."""


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
    prediction, confidence : int and float, or None
        Class predicted after the step and its probability, 0..1; None for games without classes.
    """

    number: int
    player: int | None
    value: float
    prediction: int | None
    confidence: float | None


StopRule = Callable[[Step], bool]


@dataclass(frozen=True)
class _Rewards:
    """Outcome of a game that has no classes."""

    rewards: FloatArray


AnyOutcome = Outcome | _Rewards


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
        If ``stop="flip"`` is asked of a game that has no predicted class, or the budget is not a
        whole number.

    Examples
    --------
    >>> from moxi_lite.games import SetSumGame
    >>> explain(SetSumGame([2, 2, 1])).order
    array([0, 2, 1])
    """
    return explain_many([game], mode, budget, stop, search, show_progress)[0]


def explain_many(
    games: Sequence[Game],
    mode: str = "insertion",
    budget: int | None = None,
    stop: str | StopRule | None = None,
    search: str = "greedy",
    show_progress: bool = False,
) -> list[Explanation]:
    """Explain several games in lockstep; the results are those of `explain`, one by one.

    All games take their next step together, so that the candidates of images of one model fill
    the same batches.  That pays on a GPU, and wherever a single image has few candidates left.

    Parameters
    ----------
    games : sequence of Game
    mode, budget, stop, search, show_progress
        As for `explain`; they hold for every game.

    Returns
    -------
    list of Explanation
        In the order of the games.
    """
    check_mode(mode)
    if search not in SEARCHES:
        raise unknown_name("search", search, SEARCHES)
    if not isinstance(games, Iterable):
        raise TypeError(f"explain_many takes games, not one {type(games).__name__}: pass [game].")
    searches = [_Greedy(game, mode, budget, stop_rule(stop, game, mode)) for game in games]
    ends = [(each.game, np.array([[False], [True]]).repeat(each.n, axis=1)) for each in searches]
    for each, outcome in zip(searches, _outcomes(ends), strict=True):
        each.begin(outcome)
    total = sum(each.budget for each in searches)
    with tqdm(total=total, desc=mode, unit="patch", disable=not show_progress) as bar:
        while active := [each for each in searches if not each.done]:
            chosen = best_steps([(each.game, each.present) for each in active], mode)
            for each, step in zip(active, chosen, strict=True):
                each.take(step)
            bar.update(len(active))
    return [each.explanation(stop) for each in searches]


def best_steps(states: Sequence[tuple[Game, BoolArray]], mode: str) -> list[Step]:
    """Take the next greedy step of several games, each from the players present in it, bool (n,).

    At least one player of each can still be inserted or deleted; of equals the lowest is best.
    """
    sign = 1.0 if mode == "insertion" else -1.0
    players = [remaining(present, mode) for _, present in states]
    rows = [
        next_coalitions(present, candidates, mode)
        for (_, present), candidates in zip(states, players, strict=True)
    ]
    # Where a game is "mixed", its rewards in bfloat16 choose who is worth a look in float32.
    screening = [
        number
        for number, (game, _) in enumerate(states)
        if isinstance(game, PatchGame) and game.screens and len(rows[number]) > N_FINALISTS
    ]
    screened = _outcomes([(states[i][0], rows[i]) for i in screening], screening=True)
    for i, outcome in zip(screening, screened, strict=True):
        finalists = np.sort(np.argpartition(-sign * outcome.rewards, N_FINALISTS)[:N_FINALISTS])
        players[i], rows[i] = players[i][finalists], rows[i][finalists]
    requests = [(game, of_game) for (game, _), of_game in zip(states, rows, strict=True)]
    steps = []
    for candidates, of_game, outcome in zip(players, rows, _outcomes(requests), strict=True):
        best = int((sign * outcome.rewards).argmax())  # the first of equals
        number = int((of_game[best] == (mode == "insertion")).sum())
        steps.append(step_of(outcome, best, number, int(candidates[best])))
    return steps


class _Greedy:
    """One greedy search, to be advanced step by step."""

    def __init__(self, game: Game, mode: str, budget: int | None, stop: StopRule) -> None:
        self.game = game
        self.n = player_count(game)
        self.budget = checked_budget(budget, self.n)
        self.present = np.full(self.n, mode == "deletion")
        self.done = False
        self._mode = mode
        self._stop = stop
        self._steps: list[Step] = []

    def begin(self, ends: AnyOutcome) -> None:
        """Take note of the outcome of nobody and of everybody."""
        start = int(self._mode == "deletion")
        self._other_end = float(ends.rewards[1 - start])
        self._add(step_of(ends, start, 0, None))

    def take(self, step: Step) -> None:
        """Insert or delete the player of a step."""
        self.present[step.player] = self._mode == "insertion"
        self._add(step)

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._stopped = self._stop(step)
        self.done = self._stopped or step.number == self.budget

    def explanation(self, stop: str | StopRule | None) -> Explanation:
        """Summarise the finished search."""
        reason = "budget" if len(self._steps) <= self.n else "all"
        if self._stopped:
            reason = "flip" if stop == "flip" else "callable"
        facts = {}
        if isinstance(self.game, PatchGame):
            facts = self.game.facts(s.prediction for s in self._steps if s.prediction is not None)
        candidates = self.n - np.arange(len(self._steps) - 1)
        return told(
            self._mode, self._steps, self._other_end, self.n, reason, candidates.cumsum(), **facts
        )


def told(
    mode: str,
    steps: Sequence[Step],
    other_end: float,
    n_players: int,
    stop_reason: str,
    step_evaluations: np.ndarray,
    **facts: Any,
) -> Explanation:
    """Turn the steps of a search, step 0 included, into an `Explanation`."""
    has_classes = steps[0].prediction is not None
    return Explanation.from_steps(
        mode,
        [step.player for step in steps[1:]],
        [step.value for step in steps],
        other_end,
        n_players=n_players,
        stop_reason=stop_reason,
        predictions=[step.prediction for step in steps] if has_classes else None,
        confidences=[step.confidence for step in steps] if has_classes else None,
        step_evaluations=step_evaluations,
        **facts,
    )


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
    (deletion) minimises :math:`f(N \setminus S)`, Eq. 8.  Ties go to the set whose highest player
    is lowest.

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
    check_mode(mode)
    n = game.n_players
    table = tabulate(game).values
    if mode == "deletion":
        table = table[::-1]  # the reward without the players of each row: rows mirror complements
    chosen = all_coalitions(n)
    sizes = chosen.sum(axis=1)
    merit = table if mode == "insertion" else -table
    best = [int(np.flatnonzero(sizes == k)[np.argmax(merit[sizes == k])]) for k in range(n + 1)]
    return Optimum(sets=chosen[best], values=table[best])


def stop_rule(stop: str | StopRule | None, game: Game, mode: str) -> StopRule:
    """Make a rule of whatever `explain` takes for one."""
    if stop is None:
        return lambda step: False
    if callable(stop):
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


def _outcomes(
    requests: Sequence[tuple[Game, BoolArray]], screening: bool = False
) -> list[AnyOutcome]:
    """Evaluate coalitions of several games; PatchGames share batches."""
    of_patches = [(game, rows) for game, rows in requests if isinstance(game, PatchGame)]
    together = iter(outcomes(of_patches, screening))
    found: list[AnyOutcome] = []
    for game, rows in requests:
        if isinstance(game, PatchGame):
            found.append(next(together))
        elif hasattr(game, "outcome"):
            found.append(game.outcome(rows))
        else:
            found.append(_Rewards(evaluate(game, rows)))
        checked_rewards(found[-1].rewards, rows)
    return found


def step_of(outcome: AnyOutcome, row: int, number: int, player: int | None) -> Step:
    """Tell one row of an outcome as a step."""
    value = float(outcome.rewards[row])
    if isinstance(outcome, _Rewards):
        return Step(number, player, value, prediction=None, confidence=None)
    prediction, confidence = int(outcome.predictions[row]), float(outcome.confidences[row])
    return Step(number, player, value, prediction, confidence)
