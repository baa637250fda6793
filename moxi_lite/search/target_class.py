"""Explain a class that the model does not predict, by deletion in two stages (Sec. 5.2, Fig. 5)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from moxi_lite.explanation import Explanation
from moxi_lite.games import BoolArray, FloatArray
from moxi_lite.patches import Outcome, PatchGame, get_reward, outcome_of
from moxi_lite.search.coalitions import checked_budget, next_coalitions
from moxi_lite.search.greedy import explain, step_of, told


class ClassGame(Protocol):
    """What `explain_class` asks of a game; every `PatchGame` has it."""

    reward: str
    target: int
    predicted: int

    @property
    def n_players(self) -> int:
        """Number of players, n."""

    def logits(self, coalitions: BoolArray) -> np.ndarray:
        """Evaluate the raw scores of all classes: bool (m, n) to (m, C)."""


@dataclass(frozen=True, eq=False)
class ClassExplanation:
    """The two stages of `explain_class`.

    Attributes
    ----------
    cleared : Explanation
        Stage 1: patches removed, first to last, until the target is predicted. It is told from
        the side of the class predicted for the whole image: that is its target, and `values` are
        its rewards. Its `stop_reason` is ``"flip"`` if the target came to be predicted,
        ``"stuck"`` if no patch was left that speaks for the predicted class and against the
        target.
    highlighted : Explanation or None
        Stage 2: patches removed from what stage 1 left, until the prediction turns; these the
        paper highlights. `f_full` is the target's reward of what stage 1 left, and in `image`
        the patches that it cleared are grey; `visible` still counts those as present. None if
        the target never came to be predicted.
    """

    cleared: Explanation
    highlighted: Explanation | None


def explain_class(
    game: ClassGame,
    *,
    budget: int | None = None,
    track_leader: bool = True,
    show_progress: bool = False,
) -> ClassExplanation:
    r"""Find the patches of a class that the model does not predict (Sec. 5.2, Fig. 5).

    Stage 1 clears the stage.  With P the patches still present, t the target and p the class
    predicted, only patches b count that speak for p and against t:

    .. math:: f_p(P \setminus b) < f_p(P) \quad\text{and}\quad f_t(P \setminus b) > f_t(P).

    Of these the one that raises :math:`f_t - f_p` most is removed, until t is predicted.  Stage 2
    is Algorithm 2 on what is left: it removes the patch whose loss lowers :math:`f_t` most, until
    t is no longer predicted.  If t is predicted from the start, stage 1 is empty and stage 2 is
    ``explain(game, mode="deletion", stop="flip")``.

    Parameters
    ----------
    game : ClassGame
        A `PatchGame` whose `target` is the class asked for.
    budget : int, optional
        Most patches removed in each stage, at least 1.  None means no limit.
    track_leader : bool
        Whether p is the class predicted *at present*, so that a third class which comes first in
        between is cleared as well.  False keeps p to the class predicted for the whole image, as
        the paper words it.  The two differ only once a third class is predicted.
    show_progress : bool
        Show a progress bar for each stage.

    Returns
    -------
    ClassExplanation

    Raises
    ------
    ValueError
        If the budget is not in 1..n, the model's scores are not finite, or its labels do not
        exclude each other (``outputs="multilabel"``).
    TypeError
        If the game has no classes, or the budget is not a whole number.

    Notes
    -----
    The paper says which patches stage 1 removes, but not in which order, nor what to do when none
    is left; the order by :math:`f_t - f_p` and stopping are choices of this package.  Ties go to
    the lowest index.
    """
    missing = [name for name in ("logits", "target", "reward") if not hasattr(game, name)]
    if missing:
        raise TypeError(
            f"explain_class needs a game with classes, such as a PatchGame; {type(game).__name__} "
            f"has no {' and no '.join(missing)}."
        )
    if isinstance(game, PatchGame) and game.model.outputs == "multilabel":
        raise ValueError(
            "explain_class weighs a class against the one predicted in its place, but labels of a "
            "multilabel model do not compete: use explain, which explains the label that is the "
            "game's target, predicted or not."
        )
    most = checked_budget(budget, game.n_players)
    cleared = _clear(game, most, track_leader, show_progress)
    if cleared.stop_reason != "flip":
        return ClassExplanation(cleared, None)
    players = np.flatnonzero(cleared.visible(len(cleared)))
    found = explain(
        _Remainder(game, players),
        mode="deletion",
        budget=min(most, len(players)),
        stop="flip",
        show_progress=show_progress,
    )
    found = dataclasses.replace(found, order=players[found.order], n_players=game.n_players)
    image = None if cleared.image is None else cleared.visible_image(len(cleared))
    return ClassExplanation(cleared, _with_facts(found, game, game.target, image))


def _clear(game: ClassGame, budget: int, track_leader: bool, show_progress: bool) -> Explanation:
    """Stage 1."""
    n, reward_of = game.n_players, get_reward(game.reward)
    present = np.ones(n, dtype=bool)
    ends = _logits(game, np.stack([~present, present]))
    at_ends = outcome_of(ends, game.predicted, game.reward)
    now, leader, stuck = ends[1:], int(at_ends.predictions[1]), False
    steps = [step_of(at_ends, 1, 0, None)]
    with tqdm(total=budget, desc="clearing", unit="patch", disable=not show_progress) as bar:
        while leader != game.target and len(steps) <= budget and not stuck:
            rival = leader if track_leader else game.predicted
            players = np.flatnonzero(present)
            rows = next_coalitions(present, players, "deletion")
            logits = _logits(game, rows)
            of_target, of_rival = (reward_of(logits, each) for each in (game.target, rival))
            useful = of_target > reward_of(now, game.target)
            useful &= of_rival < reward_of(now, rival)
            stuck = len(players) == 1 or not bool(useful.any())  # stage 2 needs somebody, too
            if not stuck:
                margin = torch.where(useful, of_target - of_rival, -torch.inf).numpy()
                best = int(margin.argmax())  # the first of equals
                present, now = rows[best], logits[best : best + 1]
                said = outcome_of(now, game.predicted, game.reward)
                leader = int(said.predictions[0])
                steps.append(step_of(said, 0, len(steps), int(players[best])))
                bar.update()
    reason = "flip" if leader == game.target else "stuck" if stuck else "budget"
    # Looking once more without finding anybody costs evaluations, too.
    evaluations = (n - np.arange(len(steps) - 1 + stuck)).cumsum()
    found = told(
        "deletion",
        steps,
        float(at_ends.rewards[0]),
        n,
        reason,
        evaluations[: len(steps) - 1],
        n_evaluations=int(evaluations[-1]) if len(evaluations) else 0,
    )
    image = game.display if isinstance(game, PatchGame) else None
    return _with_facts(found, game, game.predicted, image)


class _Remainder:
    """The game of some of the players, all others absent for good."""

    def __init__(self, game: ClassGame, players: np.ndarray) -> None:
        self.n_players = len(players)
        self.target = game.target
        self._game = game
        self._players = players

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Evaluate rewards of the target."""
        return self.outcome(coalitions).rewards

    def outcome(self, coalitions: BoolArray) -> Outcome:
        """Evaluate rewards of the target, predicted classes and their probabilities."""
        rows = np.zeros((len(coalitions), self._game.n_players), dtype=bool)
        rows[:, self._players] = coalitions
        return outcome_of(_logits(self._game, rows), self.target, self._game.reward)


def _logits(game: ClassGame, rows: BoolArray) -> torch.Tensor:
    logits = torch.from_numpy(np.asarray(game.logits(rows), dtype=np.float32))
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "the model gives NaN or infinite scores for part of the image: check the model and the "
            "masking."
        )
    return logits


def _with_facts(
    found: Explanation, game: ClassGame, target: int, image: np.ndarray | None
) -> Explanation:
    """Add what is known of the image, the model and the classes."""
    if not isinstance(game, PatchGame) or found.predictions is None:
        return dataclasses.replace(found, target=target)
    classes = {target, found.start_prediction, *found.predictions.tolist()}
    facts = game.facts(classes) | {"target": target, "image": image}
    return dataclasses.replace(found, **facts)
