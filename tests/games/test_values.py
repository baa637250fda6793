import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moxi_lite.games import (
    CachedGame,
    CountingGame,
    SetSumGame,
    TableGame,
    all_coalitions,
    as_game,
    coalition_index,
    coalition_of,
    estimate_shapley,
    full_context_interaction,
    full_context_shapley,
    interaction,
    interaction_matrix,
    nested_shapley,
    self_context_interaction,
    self_context_shapley,
    shapley_values,
    tabulate,
)

seeds = st.integers(0, 2**32 - 1)


def random_game(n, seed):
    return TableGame(np.random.default_rng(seed).normal(size=2**n))


def reward_of(game):
    """f as a function of a Python set of players."""
    return lambda players: game.values[sum(2**player for player in players)]


def subsets(players):
    players = list(players)
    for size in range(len(players) + 1):
        yield from map(frozenset, itertools.combinations(players, size))


def shapley_by_orders(f, players, i):
    """The mean, over all orders of the players, of what i adds to those before it."""
    added = []
    for order in itertools.permutations(players):
        before = order[: order.index(i)]
        added.append(f(before + (i,)) - f(before))
    return sum(added) / len(added)


def shapley_by_subsets(f, players, i, sizes=None):
    """Eq. 1 (Eq. 9 sums the same terms over S with i); optionally only some sizes, each equal."""
    others = [player for player in players if player != i]
    sizes = range(len(others) + 1) if sizes is None else sizes
    return sum(
        (f([*chosen, i]) - f(chosen)) / math.comb(len(others), size) / len(sizes)
        for size in sizes
        for chosen in itertools.combinations(others, size)
    )


def interaction_by_definition(f, n, i, j):
    """Eq. 2 word by word: phi of the pair merged, minus phi of each without the other."""
    rest = [player for player in range(n) if player not in (i, j)]
    pair = "pair"

    def merged(players):
        return f([p for p in players if p != pair] + ([i, j] if pair in players else []))

    return (
        shapley_by_orders(merged, [*rest, pair], pair)
        - shapley_by_orders(f, [*rest, i], i)
        - shapley_by_orders(f, [*rest, j], j)
    )


# Exact values against definitions


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_shapley_values_against_all_orders(n):
    game = random_game(n, seed=n)
    expected = [shapley_by_orders(reward_of(game), tuple(range(n)), i) for i in range(n)]
    np.testing.assert_allclose(shapley_values(game), expected, atol=1e-12)


def test_shapley_values_against_all_subsets():
    game = random_game(8, seed=3)
    expected = [shapley_by_subsets(reward_of(game), range(8), i) for i in range(8)]
    np.testing.assert_allclose(shapley_values(game), expected, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_interactions_against_the_definition(n):
    game = random_game(n, seed=10 + n)
    matrix = interaction_matrix(game)
    assert np.array_equal(matrix, matrix.T)
    for i, j in itertools.permutations(range(n), 2):
        expected = interaction_by_definition(reward_of(game), n, i, j)
        assert matrix[i, j] == pytest.approx(expected, abs=1e-12)
        assert interaction(game, i, j) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 4])
def test_interaction_of_a_player_with_itself(n):
    game = random_game(n, seed=0)
    phi = shapley_values(game)
    np.testing.assert_allclose(np.diag(interaction_matrix(game)), -phi, atol=1e-12)
    np.testing.assert_allclose([interaction(game, i, i) for i in range(n)], -phi, atol=1e-12)


def test_set_sum_by_hand():
    game = SetSumGame([2, 2, 1])
    # The two 2s share one reward of 2; the 1 is always worth 1.
    np.testing.assert_allclose(shapley_values(game), [1, 1, 1])
    # Either 2 is worthless beside the other: f(01) - f(0) - f(1) + f() = 2 - 2 - 2 + 0.
    np.testing.assert_allclose(interaction_matrix(game), [[-1, -2, 0], [-2, -1, 0], [0, 0, -1]])
    np.testing.assert_allclose(self_context_shapley(game), [2, 2, 1])
    np.testing.assert_allclose(self_context_interaction(game, 0), [np.nan, -2, 0])
    # Without a 2 nothing changes; without the 1 the sum falls from 3 to 2.
    np.testing.assert_allclose(full_context_shapley(game), [0, 0, 1 / 3])
    # (3 - f(12) - f(02) + f(2)) / 2 = (3 - 3 - 3 + 1) / 2, and (3 - 3 - 2 + 2) / 2.
    np.testing.assert_allclose(full_context_interaction(game, 0), [np.nan, -1, 0])
    # With S = {0, 1}, b = 2 in Eq. 11: (3 - f(2) - f(01) + f()) / 1 = 3 - 1 - 2 + 0.
    assert full_context_interaction(game, [0, 1], 2) == 0


def test_large_tables_are_quick_and_consistent():
    game = random_game(16, seed=1)
    phi, matrix = shapley_values(game), interaction_matrix(game)
    assert phi.sum() == pytest.approx(game.values[-1] - game.values[0], abs=1e-10)
    np.testing.assert_allclose(np.diag(matrix), -phi, atol=1e-12)
    assert interaction(game, 3, 15) == pytest.approx(matrix[3, 15], abs=1e-12)


def test_exact_values_evaluate_each_coalition_once():
    for quantity in (shapley_values, interaction_matrix, lambda game: interaction(game, 0, 1)):
        game = CountingGame(SetSumGame([1, 2, 3, 4]))
        quantity(game)
        assert game.n_evaluations == 16


# Axioms


@given(seeds, st.integers(1, 6))
def test_efficiency(seed, n):
    game = random_game(n, seed)
    gain = game.values[-1] - game.values[0]
    assert shapley_values(game).sum() == pytest.approx(gain, abs=1e-10)


@given(seeds, st.integers(2, 6))
def test_symmetric_players_have_equal_values(seed, n):
    game = random_game(n, seed)
    coalitions = all_coalitions(n)
    swapped = coalitions[:, [1, 0, *range(2, n)]]
    symmetric = TableGame(game(coalitions) + game(swapped))
    phi, matrix = shapley_values(symmetric), interaction_matrix(symmetric)
    assert phi[0] == pytest.approx(phi[1], abs=1e-10)
    np.testing.assert_allclose(matrix[0, 2:], matrix[1, 2:], atol=1e-10)


@given(seeds, st.integers(2, 6), st.floats(-10, 10))
def test_dummy_player_gets_its_own_worth_and_no_interaction(seed, n, worth):
    rest = random_game(n - 1, seed)
    coalitions = all_coalitions(n)
    game = TableGame(rest(coalitions[:, :-1]) + worth * coalitions[:, -1])
    phi, matrix = shapley_values(game), interaction_matrix(game)
    assert phi[-1] == pytest.approx(worth, abs=1e-10)
    np.testing.assert_allclose(phi[:-1], shapley_values(rest), atol=1e-10)
    np.testing.assert_allclose(matrix[-1, :-1], 0, atol=1e-10)


@given(seeds, seeds, st.integers(1, 5), st.floats(-3, 3))
def test_linearity(first, second, n, scale):
    one, two = random_game(n, first), random_game(n, second)
    both = TableGame(one.values + scale * two.values)
    for quantity in (
        shapley_values,
        interaction_matrix,
        self_context_shapley,
        full_context_shapley,
        lambda game: self_context_interaction(game, 0),
        lambda game: full_context_interaction(game, 0),
    ):
        np.testing.assert_allclose(
            quantity(both), quantity(one) + scale * quantity(two), atol=1e-10
        )


@given(seeds)
def test_values_follow_a_renumbering_of_the_players(seed):
    game = random_game(5, seed)
    order = np.random.default_rng(seed).permutation(5)
    renumbered = as_game(lambda c: game(c[:, np.argsort(order)]), 5)  # player i becomes order^-1
    np.testing.assert_allclose(shapley_values(renumbered), shapley_values(game)[order], atol=1e-10)
    np.testing.assert_allclose(
        interaction_matrix(renumbered), interaction_matrix(game)[np.ix_(order, order)], atol=1e-10
    )


# Self-context and full-context


@given(seeds, st.integers(2, 6), st.data())
def test_self_context_against_equations_5_and_6(seed, n, data):
    game = random_game(n, seed)
    f = reward_of(game)
    members = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    phi, joint = self_context_shapley(game), self_context_interaction(game, members)
    for b in range(n):
        assert phi[b] == pytest.approx(f([b]) - f([]))
        if b in members:
            assert np.isnan(joint[b])
            continue
        expected = f([*members, b]) - f(members) - f([b]) + f([])
        assert joint[b] == pytest.approx(expected)
        assert self_context_interaction(game, members, b) == pytest.approx(expected)
        # Eq. 7: what greedy insertion maximises, up to a constant.
        assert phi[b] + joint[b] == pytest.approx(f([*members, b]) - f(members), abs=1e-10)


@given(seeds, st.integers(2, 6), st.data())
def test_full_context_against_equations_10_and_11_and_the_identity(seed, n, data):
    game = random_game(n, seed)
    f = reward_of(game)
    members = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    everyone, s = frozenset(range(n)), len(members)
    phi, joint = full_context_shapley(game), full_context_interaction(game, members)
    for b in range(n):
        assert phi[b] == pytest.approx((f(everyone) - f(everyone - {b})) / n)
        if b in members:
            assert np.isnan(joint[b])
            continue
        after = f(everyone - members - {b})
        bracket = f(everyone) - f(everyone - members) - f(everyone - {b}) + after
        assert joint[b] == pytest.approx(bracket / (n - s))
        assert full_context_interaction(game, members, b) == pytest.approx(bracket / (n - s))
        # The identity behind the corrected Eqs. 12 and 13.
        removed_before = f(everyone) - f(everyone - members)
        assert f(everyone) - after == pytest.approx(
            n * phi[b] - (n - s) * joint[b] + removed_before, abs=1e-10
        )


@pytest.mark.parametrize("n", [2, 3, 4])
def test_self_context_is_the_exact_value_of_the_small_game(n):
    game = random_game(n, seed=n)
    # Eq. 5: phi(a | {a}); Eq. 6: I(a, b | {a, b}). The game of players 0 and 1 alone:
    small = TableGame(game.values[:4])
    for player in (0, 1):
        alone = TableGame(game.values[[0, 2**player]])
        assert self_context_shapley(game)[player] == pytest.approx(shapley_values(alone)[0])
    assert self_context_interaction(game, 0, 1) == pytest.approx(interaction(small, 0, 1))


def corrected(game, removed):
    n, s = game.n_players, len(removed)
    return n * full_context_shapley(game) - (n - s) * full_context_interaction(game, removed)


def printed(game, removed):
    """Eqs. 12 and 13 as they stand in the paper."""
    n, s = game.n_players, len(removed)
    return full_context_shapley(game) + (n - s) * full_context_interaction(game, removed)


def test_printed_equation_12_picks_the_wrong_player_of_a_logical_or():
    # f = (0 or 1); player 2 does nothing. Player 0 has been removed: S = {0}, n = 3, s = 1.
    # Removing 1 as well leaves nothing of the reward; removing 2 changes nothing. So b = 1.
    game = as_game(lambda c: c[:, 0] | c[:, 1], 3)
    assert game(np.array([[False, False, True], [False, True, False]])).tolist() == [0, 1]

    # phi_d = 0 for all, as no player alone is missed: f(N) - f(N \ b) = 1 - 1.
    np.testing.assert_allclose(full_context_shapley(game), [0, 0, 0])
    # I_d(0, 1) = (f(N) - f(N\0) - f(N\1) + f(N\01)) / 2 = (1 - 1 - 1 + 0) / 2 = -1/2
    # I_d(0, 2) = (f(N) - f(N\0) - f(N\2) + f(N\02)) / 2 = (1 - 1 - 1 + 1) / 2 = 0
    np.testing.assert_allclose(full_context_interaction(game, [0]), [np.nan, -0.5, 0])

    # Printed: 0 + 2 * (-1/2) = -1 for player 1 and 0 for player 2: it picks the idle player 2.
    np.testing.assert_allclose(printed(game, [0]), [np.nan, -1, 0])
    assert np.nanargmax(printed(game, [0])) == 2
    # Corrected: 3 * 0 - 2 * (-1/2) = 1 for player 1 and 0 for player 2, the two drops in reward.
    np.testing.assert_allclose(corrected(game, [0]), [np.nan, 1, 0])
    assert np.nanargmax(corrected(game, [0])) == 1


def test_the_sign_alone_does_not_mend_equation_12():
    # f = 3 [1 present] + 2 (0 or 2); 0 has been removed. Removing 1 costs 3, removing 2 costs 2.
    game = as_game(lambda c: 3 * c[:, 1] + 2 * (c[:, 0] | c[:, 2]), 3)
    np.testing.assert_allclose(full_context_shapley(game), [0, 1, 0])
    np.testing.assert_allclose(full_context_interaction(game, [0]), [np.nan, 0, -1])
    np.testing.assert_allclose(corrected(game, [0]), [np.nan, 3, 2])
    # phi_d without its factor n: 1 - 0 for player 1 against 0 + 2 for player 2.
    sign_only = full_context_shapley(game) - 2 * full_context_interaction(game, [0])
    np.testing.assert_allclose(sign_only, [np.nan, 1, 2])


def test_printed_equation_13_is_wrong_in_most_random_games():
    wrong = 0
    for seed in range(100):
        game = random_game(6, seed)
        candidates = [2, 3, 4, 5]
        rewards = [game(~coalition_of([0, 1, b], 6))[0] for b in candidates]
        best = candidates[int(np.argmin(rewards))]
        assert np.nanargmax(corrected(game, [0, 1])) == best
        wrong += np.nanargmax(printed(game, [0, 1])) != best
    assert wrong > 50


def test_contextual_quantities_take_one_small_call():
    game = CountingGame(SetSumGame([1, 2, 3, 4, 5]))
    for quantity, evaluations in [
        (lambda: self_context_shapley(game), 6),
        (lambda: full_context_shapley(game), 6),
        (lambda: self_context_interaction(game, [0, 1]), 8),
        (lambda: full_context_interaction(game, [0, 1]), 8),
        (lambda: self_context_interaction(game, 0, 1), 4),
        (lambda: full_context_interaction(game, 0, 1), 4),
    ]:
        game.reset()
        quantity()
        assert (game.n_calls, game.n_evaluations) == (1, evaluations)


@pytest.mark.parametrize("quantity", [self_context_interaction, full_context_interaction])
def test_the_empty_set_and_the_set_of_all(quantity):
    game = random_game(3, seed=0)
    np.testing.assert_allclose(quantity(game, []), 0, atol=1e-12)
    assert np.isnan(quantity(game, [0, 1, 2])).all()


@pytest.mark.parametrize("quantity", [self_context_interaction, full_context_interaction])
def test_bad_players_are_refused_before_the_game_is_asked(quantity):
    game = CountingGame(SetSumGame([2, 2, 1]))
    with pytest.raises(ValueError, match=r"player 1 is a member of S=\[0, 1\]"):
        quantity(game, [0, 1], 1)
    with pytest.raises(IndexError, match="no player 3"):
        quantity(game, [0], 3)
    with pytest.raises(IndexError, match="no player -1"):
        quantity(game, -1)
    with pytest.raises(TypeError, match="integer"):
        quantity(game, [True, False, False])
    with pytest.raises(IndexError, match="no player 7"):
        interaction(game, 0, 7)
    assert game.n_calls == 0


# Samplers


def z_scores(estimate, expected):
    return (estimate.values - expected) / estimate.standard_errors


def test_permutation_sampling_is_unbiased_with_honest_standard_errors():
    game = random_game(6, seed=5)
    estimates = [estimate_shapley(game, n_samples=400, random_state=seed) for seed in range(40)]
    z = np.array([z_scores(estimate, shapley_values(game)) for estimate in estimates])
    assert np.abs(z).max() < 4.5
    # 240 z-scores, nearly independent: their mean square is 1 up to about 0.1.
    assert 0.75 < np.mean(z**2) < 1.25
    pooled = np.mean([estimate.values for estimate in estimates], axis=0)
    error = estimates[0].standard_errors / math.sqrt(len(estimates))
    assert np.abs((pooled - shapley_values(game)) / error).max() < 4


@pytest.mark.parametrize("m", [1, 7])
def test_permutation_sampling_is_efficient_and_counts_evaluations(m):
    game = CountingGame(random_game(6, seed=5))
    estimate = estimate_shapley(game, "permutation", m, random_state=0)
    values = game.game.values
    assert estimate.values.sum() == pytest.approx(values[-1] - values[0], abs=1e-10)
    assert estimate.n_evaluations == game.n_evaluations == 2 + 2 * m * 5
    assert estimate.method == "permutation"
    assert np.isnan(estimate.standard_errors).all() == (m == 1)


def test_permutation_sampling_walks_an_order_and_its_reverse():
    asked = []

    def spy(coalitions):
        asked.append(coalitions.copy())
        return np.zeros(len(coalitions))

    estimate_shapley(as_game(spy, 5), n_samples=1, random_state=0)
    assert [len(batch) for batch in asked] == [2, 8]
    forwards, complements = np.split(asked[1], 2)
    assert forwards.sum(axis=1).tolist() == [1, 2, 3, 4]
    assert (forwards[:-1] <= forwards[1:]).all()  # each prefix contains the one before
    assert np.array_equal(complements, ~forwards)


def test_a_pair_of_opposite_orders_is_exact_up_to_pairwise_interactions():
    rng = np.random.default_rng(0)
    single, pairs = rng.normal(size=8), rng.normal(size=(8, 8))
    game = as_game(lambda c: c @ single + np.einsum("mi,ij,mj->m", c, pairs, c), 8)
    estimate = estimate_shapley(game, n_samples=3, random_state=1)
    np.testing.assert_allclose(estimate.values, shapley_values(game), atol=1e-12)
    np.testing.assert_allclose(estimate.standard_errors, 0, atol=1e-12)


@pytest.mark.parametrize("method", ["permutation", "paper"])
def test_sampling_error_falls_as_one_over_the_square_root(method):
    game = random_game(7, seed=2)
    expected = shapley_values(game)
    if method == "paper":
        expected = paper_expectation(game)

    def mean_square_error(m):
        runs = [estimate_shapley(game, method, m, seed).values for seed in range(60)]
        return np.mean((np.array(runs) - expected) ** 2)

    # 16 times the samples: a sixteenth of the mean square error, a quarter of the error.
    assert 11 < mean_square_error(10) / mean_square_error(160) < 23


def paper_expectation(game):
    """Eq. 1 with the sizes 0..n-2 drawn equally often and size n-1 never."""
    n = game.n_players
    f = reward_of(game)
    return np.array([shapley_by_subsets(f, range(n), i, sizes=range(n - 1)) for i in range(n)])


def test_paper_sampler_estimates_the_mean_over_the_sizes_it_draws():
    game = random_game(5, seed=4)
    estimate = estimate_shapley(game, "paper", 20_000, random_state=0)
    assert np.abs(z_scores(estimate, paper_expectation(game))).max() < 4
    # Its quirks: biased as an estimate of Eq. 1, and not efficient.
    assert np.abs(z_scores(estimate, shapley_values(game))).max() > 10
    gain = game.values[-1] - game.values[0]
    assert abs(estimate.values.sum() - gain) > 0.1


def test_paper_sampler_shares_one_size_among_players_and_never_draws_all_others():
    n, seen = 6, set()
    for seed in range(80):
        asked = []

        def spy(coalitions, asked=asked):
            asked.append(coalitions.copy())
            return np.zeros(len(coalitions))

        estimate_shapley(as_game(spy, n), "paper", n_samples=1, random_state=seed)
        without, joined = np.split(np.concatenate(asked), 2)
        sizes = set(without.sum(axis=1).tolist())
        assert len(sizes) == 1  # one ratio u for all players of an iteration
        assert not without.diagonal().any()
        assert np.array_equal(joined, without | np.eye(n, dtype=bool))
        seen |= sizes
    assert seen == set(range(n - 1))


def test_paper_sampler_counts_evaluations_and_draws_a_size_per_iteration():
    sizes = []
    game = as_game(lambda c: sizes.extend(c.sum(axis=1)) or np.zeros(len(c)), 4)
    estimate = estimate_shapley(game, "paper", random_state=0)
    assert estimate.n_evaluations == 2 * 200 * 4 == len(sizes)
    per_iteration = np.reshape(sizes[: len(sizes) // 2], (200, 4))
    assert (per_iteration == per_iteration[:, :1]).all()
    assert set(per_iteration[:, 0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("method", ["permutation", "paper"])
def test_batches_are_bounded_and_do_not_change_the_estimate(method, monkeypatch):
    sizes = []
    table = random_game(6, seed=0)
    game = as_game(lambda c: sizes.append(len(c)) or table(c), 6)
    whole = estimate_shapley(game, method, 25, random_state=3)
    largest = max(sizes)
    for cells in (6 * 30, 6 * 4):  # several permutations a batch; less than one
        sizes.clear()
        monkeypatch.setattr("moxi_lite.games.sampling._BATCH_CELLS", cells)
        parts = estimate_shapley(game, method, 25, random_state=3)
        assert max(sizes) <= cells // 6 < largest
        assert parts.n_evaluations == whole.n_evaluations
        if method == "permutation":  # the paper's sampler interleaves its draws with batches
            np.testing.assert_allclose(parts.values, whole.values, atol=1e-12)
            np.testing.assert_allclose(parts.standard_errors, whole.standard_errors, atol=1e-12)


@pytest.mark.parametrize("method", ["permutation", "paper"])
def test_nested_estimates_are_those_of_the_samples_so_far(method, monkeypatch):
    n = 5
    monkeypatch.setattr("moxi_lite.games.sampling._BATCH_CELLS", n * 2 * n * 4)  # 4, 5 a batch
    game = CountingGame(random_game(n, seed=0))
    few, some, all_ = nested_shapley(game, method, [1, 11, 25], random_state=3)
    assert game.n_evaluations == all_.n_evaluations  # the smaller ones cost nothing
    alone = estimate_shapley(game.game, method, 25, random_state=3)
    np.testing.assert_allclose(all_.values, alone.values, atol=1e-12)
    np.testing.assert_allclose(all_.standard_errors, alone.standard_errors, atol=1e-12)
    assert np.isnan(few.standard_errors).all()
    for estimate, m in ((few, 1), (some, 11)):
        single = estimate_shapley(game.game, method, m, random_state=3)
        assert estimate.n_evaluations == single.n_evaluations
        assert estimate.method == method
        if method == "permutation":  # the paper's sampler interleaves its draws with batches
            np.testing.assert_allclose(estimate.values, single.values, atol=1e-12)
            np.testing.assert_allclose(estimate.standard_errors, single.standard_errors, atol=1e-12)


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        ([], ValueError, "one or more rising numbers, got \\[\\]"),
        ([50, 50], ValueError, "one or more rising numbers, got"),
        ([200, 50], ValueError, "one or more rising numbers, got"),
        ([0, 50], ValueError, "must be at least 1, got 0"),
        ([2.5], TypeError, "must be a whole number, got 2.5"),
        (50, TypeError, r"must be rising numbers, such as \[50, 200\], got 50"),
        ("50", TypeError, "must be rising numbers, .* got '50'"),
    ],
)
def test_nested_estimates_refuse_numbers_that_do_not_rise(numbers, error, message):
    with pytest.raises(error, match=message):
        nested_shapley(random_game(3, seed=0), "paper", numbers)


@pytest.mark.parametrize("method", ["permutation", "paper"])
def test_one_player(method):
    game = TableGame([1.0, 4.0])
    assert estimate_shapley(game, method, 5, 0).values.tolist() == [3.0]


@pytest.mark.parametrize("method", ["permutation", "paper"])
def test_random_state(method):
    game = random_game(5, seed=0)
    first, again = (shapley_values(game, method, 10, random_state=7) for _ in range(2))
    assert np.array_equal(first, again)
    generator = np.random.default_rng(7)
    assert np.array_equal(first, shapley_values(game, method, 10, random_state=generator))
    assert not np.array_equal(first, shapley_values(game, method, 10, random_state=generator))
    assert np.array_equal(first, estimate_shapley(game, method, 10, 7).values)
    assert shapley_values(game, method).shape == (5,)


def test_a_cache_saves_repeated_coalitions():
    game = CachedGame(random_game(4, seed=0))
    estimate = estimate_shapley(game, n_samples=100, random_state=0)
    assert game.n_misses == 16
    assert game.n_hits == estimate.n_evaluations - 16


def test_progress_bars(capfd):
    estimate_shapley(SetSumGame([1, 2]), n_samples=3, show_progress=True)
    assert "3/3" in capfd.readouterr().err
    shapley_values(SetSumGame([1, 2]), show_progress=True)
    assert "4/4" in capfd.readouterr().err


# Bad input


def test_too_many_players_for_exact_values():
    game = as_game(lambda c: c.sum(axis=1), 21)
    for quantity in (shapley_values, interaction_matrix, lambda game: interaction(game, 0, 1)):
        with pytest.raises(ValueError, match="method='permutation'"):
            quantity(game)
    np.testing.assert_allclose(shapley_values(game, "permutation", 2), 1)


@settings(max_examples=5)
@given(st.integers(-3, 0), st.sampled_from(["permutation", "paper"]))
def test_too_few_samples(n_samples, method):
    with pytest.raises(ValueError, match="at least 1"):
        shapley_values(SetSumGame([1, 2]), method, n_samples)


def test_unknown_methods_name_near_matches():
    game = SetSumGame([1, 2])
    with pytest.raises(ValueError, match="Did you mean 'permutation'"):
        shapley_values(game, "permutations")
    with pytest.raises(ValueError, match="'permutation', 'paper'"):
        estimate_shapley(game, "exact")
    with pytest.raises(ValueError, match="takes no n_samples"):
        shapley_values(game, "exact", n_samples=10)
    with pytest.raises(TypeError):
        estimate_shapley(game, n_samples=2.5)


@pytest.mark.parametrize(
    "quantity",
    [
        shapley_values,
        interaction_matrix,
        estimate_shapley,
        lambda game: estimate_shapley(game, "paper"),
        self_context_shapley,
        full_context_shapley,
        lambda game: self_context_interaction(game, 0),
        lambda game: full_context_interaction(game, 0),
    ],
)
def test_games_that_return_nan_or_the_wrong_length(quantity):
    with pytest.raises(ValueError, match=r"reward is nan for coalition"):
        quantity(as_game(lambda c: np.full(len(c), np.nan), 3))
    with pytest.raises(ValueError, match="expected one reward a coalition"):
        quantity(as_game(lambda c: np.zeros(len(c) + 1), 3))


def test_tables_and_games_give_the_same_values():
    game = SetSumGame([4, 4, 2, 1])
    assert np.array_equal(shapley_values(tabulate(game)), shapley_values(game))
    assert coalition_index(all_coalitions(4)).size == tabulate(game).values.size
