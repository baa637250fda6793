"""explain_class() on games whose logits are sums over players, so that every step is hand-made."""

import numpy as np
import pytest
import torch

from moxi_lite.games import SetSumGame
from moxi_lite.patches import PatchGame, log_odds
from moxi_lite.search import explain, explain_class


class AdditiveGame:
    """Logits are the sum of one row of scores a present player; plus what nobody brings."""

    reward = "logit"  # then every contribution is a number of the table itself

    def __init__(self, scores, target, nobody=(0, 0, 0)):
        self.scores = np.array(scores, dtype=np.float32)
        self.nobody = np.array(nobody, dtype=np.float32)
        self.n_players = len(scores)
        self.target = target
        self.predicted = int(self.logits(np.ones((1, self.n_players), bool))[0].argmax())
        self.n_evaluations = 0

    def logits(self, coalitions):
        self.n_evaluations = getattr(self, "n_evaluations", 0) + len(coalitions)
        return self.nobody + np.asarray(coalitions, dtype=np.float32) @ self.scores


DOG, CAT, FENCE = 0, 1, 2
# One row a player: what it adds to the scores of dog, cat and fence.
PETS = [
    [3, -1, 0],  # 0: the dog's face, which also speaks against a cat
    [3, 1, 0],  # 1: fur, for both: stage 1 must leave it alone
    [2, -2, 0],  # 2: the dog's ear
    [0, 4, 0],  # 3: the cat's face
    [-1, 1, 0],  # 4: whiskers: against the dog
    [0, 0, 3],  # 5: the fence
    [1, -1, 0],  # 6: the dog's tail
]


def test_scores_that_are_not_finite_are_refused():
    scores = np.array(PETS, dtype=np.float32)
    scores[3, CAT] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite scores"):
        explain_class(AdditiveGame(scores, target=CAT))


def test_games_without_classes_are_refused():
    with pytest.raises(TypeError, match="SetSumGame has no logits and no target and no reward"):
        explain_class(SetSumGame([1, 2, 3]))


@pytest.mark.parametrize(
    ("budget", "error"),
    [(0, ValueError), (-1, ValueError), (8, ValueError)]
    + [(each, TypeError) for each in (1.5, True, float("nan"), "flip")],
)
def test_budgets_are_checked(budget, error):
    with pytest.raises(error, match=r"budget \(players\) must be"):
        explain_class(AdditiveGame(PETS, target=CAT), budget=budget)


def test_two_stages_by_hand():
    """Full image: dog 8, cat 2, fence 3.

    Stage 1 may take players 0, 2 and 6, which pay 4, 4 and 2 in cat minus dog: first 0 (the
    lowest of equals; dog 5, cat 3), then 2 (dog 3, cat 5, fence 3), and cat is predicted.
    Stage 2 takes what serves the cat most: 3, its face (cat 1, dog 3, fence 3): no cat any more.
    """
    found = explain_class(AdditiveGame(PETS, target=CAT))
    assert found.cleared.order.tolist() == [0, 2]
    assert found.cleared.values.tolist() == [5, 3]  # of the dog
    assert found.cleared.predictions.tolist() == [DOG, CAT]
    assert (found.cleared.f_full, found.cleared.f_empty) == (8, 0)
    assert (found.cleared.target, found.cleared.stop_reason) == (DOG, "flip")
    assert found.highlighted.order.tolist() == [3]
    assert found.highlighted.values.tolist() == [1]  # of the cat
    assert found.highlighted.f_full == 5
    assert (found.highlighted.target, found.highlighted.start_prediction) == (CAT, CAT)
    assert found.highlighted.predictions.tolist() == [DOG]  # dog and fence tie at 3
    assert found.highlighted.stop_reason == "flip"
    assert found.highlighted.n_players == 7


def test_evaluations_are_counted_and_none_is_wasted():
    game = AdditiveGame(PETS, target=CAT)
    game.n_evaluations = 0
    found = explain_class(game)
    assert found.cleared.n_evaluations == 7 + 6
    assert found.highlighted.n_evaluations == 5  # cleared patches are no candidates
    ends = 2 + 2  # both stages evaluate their empty and their full coalition
    assert game.n_evaluations == 7 + 6 + 5 + ends


def test_stage_one_takes_nothing_that_helps_the_target_or_spares_the_rival():
    """Players 1 (for both) and 4 (against the dog) stay although cat never wins; 5 is neutral."""
    scores = [row if row != PETS[3] else [4, 0, 0] for row in PETS]  # the cat's face is a dog's
    found = explain_class(AdditiveGame(scores, target=CAT, nobody=(2, 0, 0)))
    assert found.cleared.order.tolist() == [0, 2, 6]
    assert found.cleared.stop_reason == "stuck"
    assert found.highlighted is None


def test_a_third_class_in_between_is_cleared_only_by_following():
    """Full image: dog 5, cat 2, fence 4.

    Without player 0, the dog, fence (4) is ahead of cat (3). Player 1, a part of the fence, then
    speaks for the class predicted, but never spoke for the dog. Without it: cat 4, fence 2.
    """
    scores = [[5, -1, 0], [0, -1, 2], [0, 4, 2]]
    strict = explain_class(AdditiveGame(scores, target=CAT), track_leader=False)
    assert strict.cleared.order.tolist() == [0]
    assert strict.cleared.predictions.tolist() == [FENCE]
    assert (strict.cleared.stop_reason, strict.highlighted) == ("stuck", None)
    found = explain_class(AdditiveGame(scores, target=CAT))
    assert found.cleared.order.tolist() == [0, 1]
    assert found.cleared.predictions.tolist() == [FENCE, CAT]
    assert found.cleared.values.tolist() == [0, 0]  # of the dog all the same
    assert found.highlighted.order.tolist() == [2]


def test_the_last_patch_is_never_cleared():
    found = explain_class(AdditiveGame([[2, -1, 0], [1, -1, 0]], target=CAT, nobody=(0, 1, 9)))
    # without any patch cat (1) would still lose to fence (9); player 1 stays
    assert found.cleared.predictions.tolist() == []  # fence is predicted, and is the rival
    assert found.cleared.stop_reason == "stuck"
    found = explain_class(AdditiveGame([[9, -1, 0], [9, -1, 0]], target=CAT, nobody=(0, 1, 0)))
    assert found.cleared.order.tolist() == [0]
    assert (found.cleared.stop_reason, found.highlighted) == ("stuck", None)


def test_budget_limits_each_stage():
    found = explain_class(AdditiveGame(PETS, target=CAT), budget=1)
    assert found.cleared.order.tolist() == [0]
    assert (found.cleared.stop_reason, found.highlighted) == ("budget", None)
    # two faces: without the first, the other keeps the cat ahead, 5 against 1
    found = explain_class(AdditiveGame([[6, -6, 0], [1, 5, 0], [0, 5, 0]], target=CAT), budget=1)
    assert found.cleared.stop_reason == "flip"
    assert found.highlighted.stop_reason == "budget"


def test_the_predicted_class_needs_no_clearing(tiny_vit, gradient_image):
    """Fig. 5(b) is the plain deletion of Algorithm 2."""
    game = PatchGame(tiny_vit, gradient_image)
    found, plain = explain_class(game), explain(game, mode="deletion", stop="flip")
    assert len(found.cleared) == 0
    assert found.cleared.stop_reason == "flip"
    assert found.highlighted.order.tolist() == plain.order.tolist()
    np.testing.assert_allclose(found.highlighted.values, plain.values, atol=1e-5)
    assert found.highlighted.labels == plain.labels
    assert (found.highlighted.image == plain.image).all()


def test_stages_on_an_image_agree_with_the_game(tiny_vit, gradient_image):
    """Replay both stages: every reward, class and the two conditions hold."""
    predicted = PatchGame(tiny_vit, gradient_image).predicted
    reached = []
    for target in set(range(5)) - {predicted}:
        game = PatchGame(tiny_vit, gradient_image, target=target)
        found = explain_class(game, track_leader=False)
        present = np.ones(game.n_players, bool)
        for step, player in enumerate(found.cleared.order):
            before = logits_of(game, present)
            present[player] = False
            after = logits_of(game, present)
            assert log_odds(after, target) > log_odds(before, target)
            assert log_odds(after, predicted) < log_odds(before, predicted)
            assert found.cleared.values[step] == pytest.approx(
                float(log_odds(after, predicted)), abs=1e-4
            )
            assert found.cleared.predictions[step] == int(after.argmax())
        assert (found.highlighted is not None) == (int(logits_of(game, present).argmax()) == target)
        if found.highlighted is None:
            continue
        reached.append(target)
        second = found.highlighted
        assert not set(second.order) & set(found.cleared.order)
        assert second.f_full == pytest.approx(
            float(log_odds(logits_of(game, present), target)), abs=1e-4
        )
        cleared = ~found.cleared.visible(len(found.cleared)).reshape(game.grid)
        pixels = np.kron(cleared, np.ones((8, 8), bool))
        assert (second.image[pixels] == 127).all()
        assert (second.image[~pixels] == game.display[~pixels]).all()
        present[second.order] = False
        assert second.values[-1] == pytest.approx(
            float(log_odds(logits_of(game, present), target)), abs=1e-4
        )
        if second.stop_reason == "flip":
            assert second.predictions[-1] != target
        assert {target, *second.predictions.tolist()} <= set(second.labels)
    assert reached, "the tiny model should come to predict another class at least once"


def logits_of(game, present):
    return torch.from_numpy(game.logits(present))
