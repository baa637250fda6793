"""Search for the group of players that matters most: greedy (Algorithms 1, 2) and exhaustive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from moxi_lite.errors import unknown_name, whole_number
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

MODES = ("insertion", "deletion")
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
    >>> from moxi_lite.game import SetSumGame
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
    _check_mode(mode)
    if search not in SEARCHES:
        raise unknown_name("search", search, SEARCHES)
    if not isinstance(games, Iterable):
        raise TypeError(
            f"explain_many takes a list of games, not one {type(games).__name__}: pass [game], or "
            "use explain."
        )
    searches = [_Greedy(game, mode, budget, _stop_rule(stop, game, mode)) for game in games]
    ends = _outcomes([(each.game, each.ends()) for each in searches])
    for each, outcome in zip(searches, ends, strict=True):
        each.begin(outcome)
    total = sum(each.budget for each in searches)
    with tqdm(total=total, desc=mode, unit="patch", disable=not show_progress) as bar:
        while active := [each for each in searches if not each.done]:
            candidates = [each.candidates() for each in active]
            finalists = _screen(active, candidates)
            found = _outcomes(
                [
                    (each.game, rows[chosen])
                    for each, rows, chosen in zip(active, candidates, finalists, strict=True)
                ]
            )
            for each, chosen, outcome in zip(active, finalists, found, strict=True):
                each.take(chosen, outcome)
            bar.update(len(active))
    return [each.explanation(stop) for each in searches]


class _Greedy:
    """One greedy search, to be advanced step by step."""

    def __init__(self, game: Game, mode: str, budget: int | None, stop: StopRule | None) -> None:
        self.game = game
        self.budget = checked_budget(budget, player_count(game))
        self.done = False
        self._mode = mode
        self._stop = stop
        self._present = np.full(game.n_players, mode == "deletion")
        self._remaining = np.arange(game.n_players)
        self._steps: list[Step] = []
        self._n_evaluations = 0

    def ends(self) -> BoolArray:
        """Return the empty and the full coalition."""
        return np.stack([np.zeros_like(self._present), np.ones_like(self._present)])

    def begin(self, ends: AnyOutcome) -> None:
        """Take note of their outcome."""
        self._f_empty, self._f_full = ends.rewards.tolist()
        self._add(_step(ends, int(self._mode == "deletion"), 0, None))

    def candidates(self) -> BoolArray:
        """Return the coalitions of the next step, one for each remaining player."""
        rows = np.repeat(self._present[None], len(self._remaining), axis=0)
        rows[np.arange(len(rows)), self._remaining] = self._mode == "insertion"
        return rows

    def merit(self, rewards: FloatArray) -> FloatArray:
        """Return what the mode maximises."""
        return rewards if self._mode == "insertion" else -rewards

    def take(self, rows: np.ndarray, outcome: AnyOutcome) -> None:
        """Choose the best of those candidates (ascending `rows`) whose outcome is known."""
        self._n_evaluations += len(self._remaining)
        best = int(self.merit(outcome.rewards).argmax())  # the first of equals
        player = int(self._remaining[rows[best]])
        self._present[player] = self._mode == "insertion"
        self._remaining = np.delete(self._remaining, rows[best])
        self._add(_step(outcome, best, len(self._steps), player))

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._stopped = self._stop is not None and self._stop(step)
        self.done = self._stopped or step.number == self.budget

    def _facts(self) -> dict[str, Any]:
        if not isinstance(self.game, PatchGame):
            return {}
        return self.game.facts(s.prediction for s in self._steps if s.prediction is not None)

    def explanation(self, stop: str | StopRule | None) -> Explanation:
        """Summarise the finished search."""
        start, taken = self._steps[0], self._steps[1:]
        has_classes = start.prediction is not None
        if self._stopped:
            stop_reason = "flip" if stop == "flip" else "callable"
        else:
            stop_reason = "budget" if len(self._remaining) else "all"
        return Explanation(
            order=np.array([step.player for step in taken], dtype=np.int64),
            values=np.array([step.value for step in taken], dtype=float),
            f_empty=self._f_empty,
            f_full=self._f_full,
            n_players=len(self._present),
            n_evaluations=self._n_evaluations,
            mode=self._mode,
            stop_reason=stop_reason,
            predictions=np.array([s.prediction for s in taken], np.int64) if has_classes else None,
            confidences=np.array([s.confidence for s in taken], float) if has_classes else None,
            start_prediction=start.prediction,
            start_confidence=start.confidence,
            **self._facts(),
        )


def _screen(searches: list[_Greedy], candidates: list[BoolArray]) -> list[np.ndarray]:
    """Choose, by their rewards in bfloat16, the candidates worth a second look in float32.

    Games that do not screen keep all their candidates.
    """
    finalists = [np.arange(len(rows)) for rows in candidates]
    screening = [
        number
        for number, each in enumerate(searches)
        if isinstance(each.game, PatchGame)
        and each.game.screens
        and len(candidates[number]) > N_FINALISTS
    ]
    requests = [(searches[number].game, candidates[number]) for number in screening]
    for number, outcome in zip(screening, _outcomes(requests, screening=True), strict=True):
        merit = searches[number].merit(outcome.rewards)
        finalists[number] = np.sort(np.argpartition(-merit, N_FINALISTS)[:N_FINALISTS])
    return finalists


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
    _check_mode(mode)
    n = game.n_players
    table = tabulate(game).values
    if mode == "deletion":
        table = table[::-1]  # the reward without the players of each row: rows mirror complements
    chosen = all_coalitions(n)
    sizes = chosen.sum(axis=1)
    merit = table if mode == "insertion" else -table
    best = [int(np.flatnonzero(sizes == k)[np.argmax(merit[sizes == k])]) for k in range(n + 1)]
    return Optimum(sets=chosen[best], values=table[best])


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)


def checked_budget(budget: int | None, n_players: int) -> int:
    """Return the most steps that a search may take; raises what `whole_number` does."""
    return n_players if budget is None else whole_number("budget (players)", budget, 1, n_players)


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


def _outcomes(
    requests: Sequence[tuple[Game, BoolArray]], screening: bool = False
) -> list[AnyOutcome]:
    """Evaluate coalitions of several games; PatchGames share batches."""
    of_patches = [
        (number, game, rows)
        for number, (game, rows) in enumerate(requests)
        if isinstance(game, PatchGame)
    ]
    together = outcomes([(game, rows) for _, game, rows in of_patches], screening)
    found: dict[int, AnyOutcome] = {
        number: outcome for (number, _, _), outcome in zip(of_patches, together, strict=True)
    }
    for number, (game, rows) in enumerate(requests):
        if number not in found:
            by_class = getattr(game, "outcome", None)
            found[number] = by_class(rows) if by_class else _Rewards(evaluate(game, rows))
        checked_rewards(found[number].rewards, rows)
    return [found[number] for number in range(len(requests))]


def _step(outcome: AnyOutcome, row: int, number: int, player: int | None) -> Step:
    value = float(outcome.rewards[row])
    if isinstance(outcome, _Rewards):
        return Step(number, player, value, prediction=None, confidence=None)
    prediction, confidence = int(outcome.predictions[row]), float(outcome.confidences[row])
    return Step(number, player, value, prediction, confidence)
