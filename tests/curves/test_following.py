"""Following an order: against the curve along it, and against the search that made it."""

import numpy as np
import pytest
import torch

from moxi_lite.curves import curves_of, follow
from moxi_lite.games import SetSumGame
from moxi_lite.patches import PatchGame, outcome_of
from moxi_lite.search import explain


@pytest.fixture(params=["insertion", "deletion"])
def mode(request):
    return request.param


@pytest.fixture
def game(tiny_vit):
    pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(6))
    return PatchGame(tiny_vit, pixels)


def test_the_order_of_a_search_gives_its_explanation_back(game, mode):
    search = explain(game, mode)
    found = follow(game, search.order, mode)
    for name in ("order", "predictions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(search, name))
    for name in ("values", "confidences", "f_empty", "f_full", "start_confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(search, name), atol=1e-5)
    for name in ("mode", "stop_reason", "target", "grid", "labels", "model", "masking", "reward"):
        assert getattr(found, name) == getattr(search, name), name
    assert found.n_evaluations == 16


@pytest.mark.parametrize("empty", [True, False])
def test_rewards_that_are_not_finite_are_refused(game, mode, monkeypatch, empty):
    sound = PatchGame.logits

    def logits(self, coalitions):
        found = sound(self, coalitions)
        found[np.atleast_2d(coalitions).sum(axis=1) == (0 if empty else 16)] = np.nan
        return found

    monkeypatch.setattr(PatchGame, "logits", logits)
    monkeypatch.setattr(
        PatchGame, "outcome", lambda self, rows: outcome_of(self.logits(rows), self.target)
    )
    with pytest.raises(ValueError, match="reward is nan"):
        follow(game, np.arange(16), mode)


def test_it_stops_where_the_prediction_turns(game, mode):
    reasons = set()
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(16)
        curve = curves_of(game, {"drawn": order}, mode)["drawn"]
        found = follow(game, order, mode, stop="flip")
        flip = curve.patches_to_flip()
        assert len(found) == (16 if flip is None else flip)
        assert found.patches_to_flip() == flip
        assert found.stop_reason == ("all" if flip is None else "flip")
        steps = slice(1, len(found) + 1)
        np.testing.assert_allclose(found.values, curve.log_odds[steps], atol=1e-4)
        np.testing.assert_array_equal(found.predictions == game.target, curve.correct[steps])
        reasons.add(len(found))
    assert len(reasons) > 2  # of different lengths, so that the comparison says something


def test_bad_arguments_cost_nothing(game):
    before = game.n_evaluations
    with pytest.raises(ValueError, match="repeats patch 0"):
        follow(game, np.zeros(16, dtype=int))
    with pytest.raises(ValueError, match="without patch 15"):
        follow(game, range(15))
    with pytest.raises(ValueError, match="Did you mean 'deletion'"):
        follow(game, range(16), "delete")
    with pytest.raises(ValueError, match='None, "flip" or a callable'):
        follow(game, range(16), stop="flp")
    with pytest.raises(TypeError, match="SetSumGame"):
        follow(SetSumGame([1, 2]), [0, 1])
    assert game.n_evaluations == before
