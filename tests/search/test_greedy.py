"""explain() against hand-computed orders, exhaustive search and exact counts of evaluations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxi_lite.games import (
    CountingGame,
    SetSumGame,
    TableGame,
    as_game,
    full_context_interaction,
    full_context_shapley,
    self_context_interaction,
    self_context_shapley,
)
from moxi_lite.patches import Outcome
from moxi_lite.search import explain, explain_many, optimal_sets


def modular_game(weights):
    weights = np.asarray(weights, dtype=float)
    return as_game(lambda coalitions: np.atleast_2d(coalitions) @ weights, len(weights))


def random_game(seed, n):
    return TableGame(np.random.default_rng(seed).normal(size=2**n))


def test_set_sum_by_hand():
    ex = explain(SetSumGame([2, 2, 1]))
    # player 0 first (2, tied with player 1), then the 1, and only then the useless second 2
    assert ex.order.tolist() == [0, 2, 1]
    assert ex.values.tolist() == [2, 3, 3]
    assert (ex.f_empty, ex.f_full) == (0, 3)
    assert ex.n_evaluations == 3 + 2 + 1
    assert ex.predictions is None and ex.stop_reason == "all"


def test_set_sum_deletion_by_hand():
    ex = explain(SetSumGame([2, 2, 1]), mode="deletion")
    # removing one 2 costs nothing, so the 1 goes first; then the 2s, of which only the last counts
    assert ex.order.tolist() == [2, 0, 1]
    assert ex.values.tolist() == [2, 2, 0]


@pytest.mark.parametrize("mode", ["insertion", "deletion"])
def test_evaluations_of_196_players_are_19306(mode):
    game = CountingGame(modular_game(np.linspace(-1, 1, 196)))
    ex = explain(game, mode=mode)
    assert ex.n_evaluations == 196 * 197 // 2 == 19_306
    # one call a step, and one for the empty and the full coalition
    assert (game.n_evaluations, game.n_calls) == (19_306 + 2, 196 + 1)
    assert sorted(ex.order) == list(range(196))


def test_ties_break_to_the_lowest_index():
    constant = as_game(lambda coalitions: np.ones(len(np.atleast_2d(coalitions))), 5)
    for mode in ("insertion", "deletion"):
        assert explain(constant, mode=mode).order.tolist() == [0, 1, 2, 3, 4]


weights = st.lists(st.integers(-50, 50), min_size=2, max_size=7)


@given(weights)
@settings(max_examples=40)
def test_greedy_is_optimal_on_modular_games(weights):
    game = modular_game(weights)
    for mode in ("insertion", "deletion"):
        ex, best = explain(game, mode=mode), optimal_sets(game, mode=mode)
        np.testing.assert_allclose(ex.values, best.values[1:])
        assert best.sets.sum(axis=1).tolist() == list(range(len(weights) + 1))


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=40)
def test_greedy_never_beats_the_optimum(seed, n):
    game = random_game(seed, n)
    inserted, deleted = explain(game), explain(game, mode="deletion")
    assert (inserted.values <= optimal_sets(game).values[1:] + 1e-12).all()
    assert (deleted.values >= optimal_sets(game, "deletion").values[1:] - 1e-12).all()
    # the first step and the last are optimal by definition
    assert inserted.values[0] == optimal_sets(game).values[1]
    assert deleted.values[0] == optimal_sets(game, "deletion").values[1]


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=40)
def test_every_step_maximises_self_context_value_plus_interaction(seed, n):
    """Eq. 7: argmax f(S u b) = argmax phi0(b) + I0(S, b)."""
    game = random_game(seed, n)
    order = explain(game).order
    phi = self_context_shapley(game)
    assert order[0] == np.argmax(phi)
    for k in range(1, n):
        gain = phi + self_context_interaction(game, order[:k])
        assert order[k] == np.nanargmax(gain)


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=40)
def test_every_deletion_maximises_the_corrected_equation_13(seed, n):
    """n phi_d(b) - (n - s) I_d(S, b), not the sign and scale printed in the paper."""
    game = random_game(seed, n)
    order = explain(game, mode="deletion").order
    phi = full_context_shapley(game)
    assert order[0] == np.argmax(phi)
    for k in range(1, n):
        drop = n * phi - (n - k) * full_context_interaction(game, order[:k])
        assert order[k] == np.nanargmax(drop)


def test_optimum_can_need_what_greedy_never_takes():
    # players 1 and 2 are worth 10 together and nothing alone; greedy starts with player 0
    def reward(coalitions):
        c = np.atleast_2d(coalitions)
        return 1.0 * c[:, 0] + 10.0 * (c[:, 1] & c[:, 2])

    game = as_game(reward, 3)
    assert explain(game).values.tolist() == [1, 1, 11]
    best = optimal_sets(game)
    assert best.values.tolist() == [0, 1, 10, 11]
    assert best.sets[2].tolist() == [False, True, True]


def test_budget_and_stop():
    game = modular_game([3, 1, 2, 0])
    assert explain(game, budget=2).order.tolist() == [0, 2]
    assert explain(game, budget=2).stop_reason == "budget"
    assert explain(game, budget=4).stop_reason == "all"
    seen = []

    def stop(step):
        seen.append((step.number, step.player, step.value))
        return step.value >= 5

    ex = explain(game, stop=stop)
    assert ex.order.tolist() == [0, 2] and ex.stop_reason == "callable"
    assert seen == [(0, None, 0.0), (1, 0, 3.0), (2, 2, 5.0)]
    assert ex.n_evaluations == 4 + 3


def test_a_rule_that_holds_at_once_ends_before_the_first_step():
    ex = explain(modular_game([1, 2]), stop=lambda step: True)
    assert len(ex) == 0 and ex.n_evaluations == 0 and np.isnan(ex.heatmap()).all()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"mode": "insertoin"}, ValueError, "Did you mean 'insertion'"),
        ({"search": "gredy"}, ValueError, "Did you mean 'greedy'"),
        ({"budget": 0}, ValueError, r"1\.\.3, got 0"),
        ({"budget": 4}, ValueError, r"1\.\.3, got 4"),
        ({"budget": 1.5}, TypeError, "whole number"),
        ({"stop": "flop"}, ValueError, "'flop'"),
        ({"stop": "flip"}, TypeError, "PatchGame"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        explain(SetSumGame([2, 2, 1]), **arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_game_that_returns_nan_is_refused(bad):
    game = as_game(lambda c: np.where(np.atleast_2d(c).sum(axis=1) == 2, bad, 0.0), 3)
    with pytest.raises(ValueError, match=r"(?i)nan|inf"):
        explain(game)


def test_a_game_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="shape"):
        explain(as_game(lambda c: np.zeros(1), 3))


def test_optimal_ties_go_to_the_lowest_players():
    size = as_game(lambda c: c.sum(axis=1).astype(float), 3)
    for mode in ("insertion", "deletion"):
        assert optimal_sets(size, mode).sets.tolist() == [
            [False, False, False],
            [True, False, False],
            [True, True, False],
            [True, True, True],
        ]


class Traffic:
    """A game of our own with classes: green (1) once two players are present."""

    n_players, target = 4, 1

    def __call__(self, coalitions):
        return np.atleast_2d(coalitions).sum(axis=1).astype(float)

    def outcome(self, coalitions):
        rewards = self(coalitions)
        return Outcome(rewards, (rewards >= 2).astype(int), np.ones(len(rewards)))


def test_flip_works_for_any_game_with_an_outcome():
    assert explain(Traffic(), stop="flip").order.tolist() == [0, 1]
    assert explain(Traffic(), "deletion", stop="flip").order.tolist() == [0, 1, 2]


def test_exhaustive_search_refuses_large_games():
    with pytest.raises(ValueError, match="20"):
        optimal_sets(modular_game(np.zeros(21)))


def test_lockstep_equals_one_by_one_on_plain_games():
    games = [random_game(seed, n) for seed, n in ((1, 3), (2, 6), (3, 5))]
    for mode in ("insertion", "deletion"):
        for together, game in zip(explain_many(games, mode), games, strict=True):
            alone = explain(game, mode)
            assert together.order.tolist() == alone.order.tolist()
            assert together.values.tolist() == alone.values.tolist()
            assert together.n_evaluations == alone.n_evaluations


def test_lockstep_over_no_game():
    assert explain_many([]) == []


@pytest.mark.parametrize(
    ("budget", "error"),
    [(0, ValueError), (4, ValueError)]
    + [(each, TypeError) for each in (2.5, 2.0, True, float("inf"), float("nan"), "flip", [2])],
)
def test_budgets_are_whole_numbers_of_players(budget, error):
    with pytest.raises(error, match=r"budget \(players\) must be"):
        explain(SetSumGame([1, 2, 3]), budget=budget)


def test_one_game_is_not_many():
    with pytest.raises(TypeError, match=r"not one SetSumGame: pass \[game\]"):
        explain_many(SetSumGame([1, 2, 3]))
