"""Coalitions of a step and along an order, against what one counts by hand; checks of orders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moxi_lite.games import SetSumGame
from moxi_lite.search import (
    MODES,
    along,
    best_steps,
    check_mode,
    complete_order,
    explain,
    next_coalitions,
    order_of,
    remaining,
)


def test_each_candidate_in_turn():
    present = np.array([True, False, True, False])
    assert remaining(present, "insertion").tolist() == [1, 3]
    inserted = next_coalitions(present, [1, 3], "insertion")
    assert inserted.tolist() == [[True, True, True, False], [True, False, True, True]]
    assert remaining(present, "deletion").tolist() == [0, 2]
    deleted = next_coalitions(present, [0, 2], "deletion")
    assert deleted.tolist() == [[False, False, True, False], [True, False, False, False]]
    assert present.tolist() == [True, False, True, False]
    assert next_coalitions(present, [], "insertion").shape == (0, 4)


@given(st.permutations(range(7)))
def test_an_order_passes_from_nobody_to_everybody_or_back(order):
    inserted, deleted = (along(order, mode) for mode in MODES)
    assert (deleted == ~inserted).all()
    for k, row in enumerate(inserted):
        assert set(np.flatnonzero(row)) == set(order[:k])


@pytest.mark.parametrize("mode", MODES)
def test_a_search_is_its_best_steps_one_after_another(mode):
    game = SetSumGame([4, 4, 1, 3, 2])
    ex = explain(game, mode)
    for k, player in enumerate(ex.order):
        (step,) = best_steps([(game, ex.visible(k))], mode)
        assert (step.number, step.player, step.value) == (k + 1, player, ex.values[k])


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'deletion'"):
        check_mode("delete")


def test_complete_order():
    order, exact = complete_order([4, 1], [0.0, 9.0, 2.0, 2.0, 0.0])
    assert order.tolist() == [4, 1, 2, 3, 0]
    assert exact.tolist() == [True, True, False, False, False]
    order, exact = complete_order([], np.zeros(3))
    assert order.tolist() == [0, 1, 2] and not exact.any()
    order, exact = complete_order([2, 0], np.zeros(3))  # nothing left to choose
    assert order.tolist() == [2, 0, 1] and exact.all()
    order, exact = complete_order([2, 0, 1], np.zeros(3))
    assert order.tolist() == [2, 0, 1] and exact.all()


@given(st.permutations(range(12)), st.integers(0, 12))
def test_completed_orders_have_every_patch_once(permutation, k):
    order, exact = complete_order(permutation[:k], np.zeros(12))
    assert order[:k].tolist() == permutation[:k]
    assert order[k:].tolist() == sorted(permutation[k:])
    assert exact.sum() == (12 if k >= 11 else k)


def test_orders_that_cannot_be_completed():
    with pytest.raises(ValueError, match="repeats patch 1"):
        complete_order([1, 1], np.zeros(4))
    with pytest.raises(ValueError, match="has patch 4"):
        complete_order([4], np.zeros(4))
    with pytest.raises(ValueError, match="NaN"):
        complete_order([1], [0.0, np.nan])


@given(
    arrays(np.float64, st.integers(0, 30), elements=st.sampled_from([-np.inf, -1, 0.0, -0.0, 2]))
)
def test_order_of_sorts_and_breaks_ties_to_the_lowest_index(scores):
    order = order_of(scores)
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(len(scores)), key=lambda patch: (-scores[patch], patch))


def test_order_of_unsigned_numbers():
    assert order_of(np.array([1, 0, 3], dtype=np.uint8)).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("scores", "words"), [([1.0, np.nan], "patch 1 is NaN"), (np.zeros((2, 2)), "ravel")]
)
def test_order_of_bad_scores(scores, words):
    with pytest.raises(ValueError, match=words):
        order_of(scores)


def test_scores_that_differ_in_the_last_bit_are_ties():
    assert order_of([0.1 + 0.2, 0.3, 1.0]).tolist() == [2, 0, 1]
    assert order_of([0.3, 0.1 + 0.2, 1.0]).tolist() == [2, 0, 1]
    assert order_of([0.0, -np.inf, np.inf]).tolist() == [2, 0, 1]
