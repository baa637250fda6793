"""Curves against plain loops and areas by hand; orders that are none."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moxi_lite.curves import Curve, curves_of, deletion_curve, insertion_curve
from moxi_lite.games import SetSumGame
from moxi_lite.patches import PatchGame
from moxi_lite.search import explain


@pytest.fixture
def pixels():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(6))


@pytest.fixture(params=["vit", "cnn"])
def game(request, tiny_vit, tiny_cnn, pixels):
    if request.param == "vit":
        return PatchGame(tiny_vit, pixels, target=2, reward="logit")
    return PatchGame(tiny_cnn, pixels, target=1, masking="zero")


def shuffled(n=16, seed=0):
    return np.random.default_rng(seed).permutation(n)


def made(probability, mode="insertion", correct=None, target=0):
    """A curve with given probabilities."""
    p = np.asarray(probability, dtype=np.float64)
    fraction = np.linspace(0, 1, len(p))
    correct = p > 0.5 if correct is None else np.asarray(correct, dtype=bool)
    return Curve(fraction, correct, p, np.log(p / (1 - p)), mode, target)


@pytest.mark.parametrize("draw", [insertion_curve, deletion_curve])
def test_curves_equal_a_plain_loop(game, draw):
    order = shuffled()
    curve = draw(game, order)
    present = np.full(16, draw is deletion_curve)
    for count in range(17):
        if count:
            present[order[count - 1]] ^= True
        logits = game.logits(present)[0].astype(np.float64)
        p = np.exp(logits - logits.max())
        p = p / p.sum()
        assert curve.fraction[count] == count / 16
        assert curve.correct[count] == (logits.argmax() == game.target)
        assert curve.probability[count] == pytest.approx(p[game.target], rel=1e-4, abs=1e-7)
        others = np.delete(p, game.target).sum()
        assert curve.log_odds[count] == pytest.approx(np.log(p[game.target] / others), abs=1e-4)
    assert curve.target == game.target
    assert curve.correct.dtype == bool and curve.log_odds.dtype == np.float64


def test_both_curves_meet_at_the_ends(game):
    inserted, deleted = insertion_curve(game, shuffled()), deletion_curve(game, shuffled(seed=1))
    for metric in ("correct", "probability", "log_odds"):
        rising, falling = getattr(inserted, metric), getattr(deleted, metric)
        np.testing.assert_allclose(rising[[0, -1]], falling[[-1, 0]], atol=1e-5)


def test_reversing_the_order_reverses_the_curve(game):
    inserted = insertion_curve(game, shuffled())
    deleted = deletion_curve(game, shuffled()[::-1])
    np.testing.assert_allclose(inserted.log_odds, deleted.log_odds[::-1], atol=1e-5)


def test_one_call_of_the_game_for_a_curve_and_for_many(game, monkeypatch):
    calls = []
    logits = game.logits
    monkeypatch.setattr(game, "logits", lambda rows: calls.append(len(rows)) or logits(rows))
    orders = {"a": shuffled(), "b": shuffled(seed=1).tolist(), "c": np.arange(16, dtype=np.uint8)}
    together = curves_of(game, orders, "deletion")
    assert calls == [3 * 17]
    assert list(together) == ["a", "b", "c"]
    for name, order in orders.items():
        alone = deletion_curve(game, order)
        np.testing.assert_allclose(together[name].log_odds, alone.log_odds, atol=1e-5)
        np.testing.assert_array_equal(together[name].correct, alone.correct)
    assert calls == [51, 17, 17, 17]
    assert curves_of(game, {}) == {}


def test_the_curve_of_a_search_is_what_the_search_saw(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels, target=1)
    for mode, draw in (("insertion", insertion_curve), ("deletion", deletion_curve)):
        ex = explain(game, mode)
        curve = draw(game, ex.order)
        np.testing.assert_allclose(curve.log_odds[1:], ex.values, atol=1e-5)
        stopped = explain(game, mode, stop="flip")
        flips = len(stopped) if stopped.stop_reason == "flip" else None
        assert curve.patches_to_flip() == flips


def test_area_by_hand():
    curve = made([0.1, 0.5, 0.3], correct=[False, True, True])
    assert curve.auc() == pytest.approx((0.3 + 0.4) / 2)
    assert curve.auc("correct") == pytest.approx((0.5 + 1) / 2)
    odds = np.log([1 / 9, 1, 3 / 7])
    assert curve.auc("log_odds") == pytest.approx((odds[0] / 2 + odds[1] + odds[2] / 2) / 2)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(1, 20))
def test_area_of_a_straight_line_is_its_middle(start, end, n):
    assert made(np.linspace(start, end, n + 1)).auc() == pytest.approx((start + end) / 2)


@pytest.mark.parametrize(
    ("correct", "insertion", "deletion"),
    [
        ([0, 0, 1, 0], 2, 0),
        ([1, 1, 0, 1], 0, 2),
        ([1, 1, 1, 1], 0, None),
        ([0, 0, 0, 0], None, 0),
    ],
)
def test_patches_to_flip(correct, insertion, deletion):
    assert made([0.2] * 4, "insertion", correct).patches_to_flip() == insertion
    assert made([0.2] * 4, "deletion", correct).patches_to_flip() == deletion


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([*range(15), 3], r"repeats patch 3, and is without patch 15"),
        ([*range(16), 3], r"repeats patch 3: each"),
        (list(range(14)), r"14 of 16 patches, without patches 14, 15.*complete_order"),
        ([], r"0 of 16 patches, without patches 0, 1, .*\.\.\."),
        ([*range(15), 16], "has patch 16, but patches are numbered 0 to 15"),
        ([*range(15), -1], "has patch -1"),
        (np.arange(16.0), "order_of"),
        (np.arange(16).reshape(4, 4), r"shape \(4, 4\)"),
        (np.ones(16, dtype=bool), "bool"),
    ],
)
def test_orders_that_are_none(tiny_cnn, pixels, order, words):
    game = PatchGame(tiny_cnn, pixels, masking="zero")
    before = game.n_evaluations
    for draw in (insertion_curve, deletion_curve):
        with pytest.raises(ValueError, match=words):
            draw(game, order)
    assert game.n_evaluations == before


def test_the_error_names_the_order(tiny_cnn, pixels):
    game = PatchGame(tiny_cnn, pixels, masking="zero")
    with pytest.raises(ValueError, match="rollout repeats patch 0"):
        curves_of(game, {"fine": range(16), "rollout": np.zeros(16, dtype=int)})


def test_bad_arguments(tiny_cnn, pixels):
    game = PatchGame(tiny_cnn, pixels, masking="zero")
    with pytest.raises(TypeError, match="SetSumGame"):
        insertion_curve(SetSumGame([1, 2]), [0, 1])
    with pytest.raises(ValueError, match="Did you mean 'deletion'"):
        curves_of(game, {"a": range(16)}, "delete")
    curve = made([0.2, 0.4])
    with pytest.raises(ValueError, match="Did you mean 'probability'"):
        curve.auc("probabilty")


def test_a_model_that_breaks_on_masked_images_is_named(tiny_cnn, pixels):
    class Fragile(torch.nn.Module):
        def forward(self, batch):
            return torch.log(batch.mean(dim=(2, 3)) + 1)

    from dataclasses import replace

    game = PatchGame(replace(tiny_cnn, module=Fragile(), name="fragile"), pixels, masking="zero")
    dark = torch.full_like(pixels, -4)
    game = PatchGame(game.model, pixels.abs(), masking=dark)
    with pytest.raises(ValueError, match="fragile gives NaN"):
        insertion_curve(game, range(16))
