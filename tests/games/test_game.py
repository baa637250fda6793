import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moxi_lite.games import (
    CachedGame,
    CountingGame,
    Game,
    SetSumGame,
    TableGame,
    all_coalitions,
    as_coalitions,
    as_game,
    as_player,
    coalition_index,
    coalition_of,
    evaluate,
    player_count,
    tabulate,
)


class RecordingGame:
    """Keeps every batch it is asked; the reward is the index of the coalition."""

    def __init__(self, n_players):
        self.n_players = n_players
        self.batches = []

    def __call__(self, coalitions):
        self.batches.append(coalitions.copy())
        return coalition_index(coalitions).astype(float)


def rows(*players_lists, n):
    return np.array([coalition_of(players, n) for players in players_lists])


# SET-SUM


def test_set_sum_by_hand():
    game = SetSumGame([2, 2, 1])
    #          {}  {0} {1} {0,1} {2} {0,2} {1,2} {0,1,2}
    by_hand = [0, 2, 2, 2, 1, 3, 3, 3]
    assert game.n_players == 3 and game.numbers == (2, 2, 1)
    assert game(all_coalitions(3)).tolist() == by_hand
    assert game(np.array([True, True, False])).tolist() == [2.0]
    assert game(all_coalitions(3)).dtype == np.float64


def test_set_sum_with_zero_and_negative_numbers():
    game = SetSumGame([0, -3, 5, -3])
    assert evaluate(game, rows([0], [1, 3], [0, 1, 2, 3], n=4)).tolist() == [0, -3, 2]


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=7))
def test_set_sum_is_the_sum_of_a_python_set(numbers):
    coalitions = all_coalitions(len(numbers))
    expected = [
        sum({number for number, here in zip(numbers, row, strict=True) if here})
        for row in coalitions
    ]
    assert SetSumGame(numbers)(coalitions).tolist() == expected


@pytest.mark.parametrize("numbers", [[], [[1, 2]], 3])
def test_set_sum_refuses_what_is_not_a_list_of_numbers(numbers):
    with pytest.raises(ValueError, match="one integer a player"):
        SetSumGame(numbers)


def test_set_sum_refuses_fractions():
    with pytest.raises(TypeError, match="integers"):
        SetSumGame([1.5, 2])


# Coalitions and their numbering


def test_all_coalitions_in_binary_order():
    assert all_coalitions(2).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert all_coalitions(9).shape == (512, 9) and all_coalitions(9).dtype == np.bool_


@pytest.mark.parametrize("n", [1, 3, 8, 9, 12])
def test_coalition_index_inverts_all_coalitions(n):
    index = coalition_index(all_coalitions(n))
    assert index.dtype == np.int64
    assert np.array_equal(index, np.arange(2**n))


def test_coalition_index_of_many_players():
    assert coalition_index(coalition_of([0, 62], 63)).tolist() == [2**62 + 1]
    with pytest.raises(ValueError, match="at most 63"):
        coalition_index(np.zeros((1, 64), dtype=bool))


def test_all_coalitions_refuses_what_memory_cannot_hold():
    with pytest.raises(ValueError, match=r"2\*\*196"):
        all_coalitions(196)


def test_coalition_of_one_player_or_a_set():
    assert coalition_of(1, 3).tolist() == [False, True, False]
    assert coalition_of(np.int64(1), 3).tolist() == [False, True, False]
    assert coalition_of({0, 2}, 3).tolist() == [True, False, True]
    assert coalition_of(np.array([2, 2]), 3).tolist() == [False, False, True]
    assert not coalition_of([], 3).any()


@pytest.mark.parametrize("player", [3, -1])
def test_players_out_of_range(player):
    with pytest.raises(IndexError, match="0 to 2"):
        coalition_of([0, player], 3)


@pytest.mark.parametrize("player", [1.0, "1", True, np.True_, torch.tensor(True), None])
def test_players_are_integers(player):
    with pytest.raises(TypeError, match="integer"):
        as_player(player, 3)


def test_a_mask_is_not_read_as_player_numbers():
    with pytest.raises(TypeError, match="integer"):
        coalition_of(np.array([True, False, True]), 3)


def test_as_coalitions_shapes():
    assert as_coalitions([True, False], 2).shape == (1, 2)
    assert as_coalitions(np.zeros((0, 2), dtype=bool), 2).shape == (0, 2)
    rows = all_coalitions(2)
    assert np.shares_memory(as_coalitions(rows, 2), rows)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 1, 2), ()])
def test_as_coalitions_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(m, 2\)"):
        as_coalitions(np.zeros(shape, dtype=bool), 2)


@pytest.mark.parametrize("given_", [[0, 1], [[0.0, 1.0]], ["a", "b"]])
def test_as_coalitions_refuses_other_dtypes(given_):
    with pytest.raises(TypeError, match="boolean"):
        as_coalitions(given_, 2)


# Games


def test_everything_is_a_game():
    table = TableGame([0, 1])
    for game in (table, SetSumGame([1]), CountingGame(table), CachedGame(table), as_game(len, 1)):
        assert isinstance(game, Game)
        assert player_count(game) == 1


def test_as_game_gives_the_function_two_dimensions_and_returns_float64():
    shapes = []

    def size(coalitions):
        shapes.append(coalitions.shape)
        return coalitions.sum(axis=1)

    game = as_game(size, 3)
    rewards = game(np.array([True, True, False]))
    assert rewards.tolist() == [2.0] and rewards.dtype == np.float64
    assert shapes == [(1, 3)]


def test_bare_functions_are_refused_with_advice():
    with pytest.raises(TypeError, match="as_game"):
        evaluate(lambda coalitions: coalitions.sum(axis=1), [True])
    with pytest.raises(TypeError, match="as_game"):
        CountingGame(np.zeros(3))


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_as_game_refuses_bad_player_counts(n, error):
    with pytest.raises(error, match="n_players"):
        as_game(len, n)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_not_finite_name_the_first_coalition(bad):
    game = as_game(lambda c: np.where(c[:, 1] & c[:, 2], bad, 0.0), 4)
    with pytest.raises(ValueError, match=r"\{1, 2\} \(row 6, 2 players present\); 4 of 16"):
        evaluate(game, all_coalitions(4))


@pytest.mark.parametrize("result", [np.zeros(3), np.zeros((4, 1)), 0.0, None])
def test_rewards_of_the_wrong_length(result):
    with pytest.raises(ValueError, match=r"for 4 coalitions; expected .* shape \(4,\)"):
        evaluate(as_game(lambda coalitions: result, 2), all_coalitions(2))


# Tables


def test_table_game_looks_up_by_index():
    game = TableGame([0, 10, 20, 30])
    assert game.n_players == 2
    assert game(np.array([[False, True], [True, False]])).tolist() == [20, 10]


def test_table_is_a_read_only_copy():
    values = np.zeros(4)
    game = TableGame(values)
    values[1] = 1
    assert game.values[1] == 0
    with pytest.raises(ValueError, match="read-only"):
        game.values[1] = 1


@pytest.mark.parametrize("values", [[], [1.0], [1, 2, 3], np.zeros((2, 2)), 1.0])
def test_table_sizes(values):
    with pytest.raises(ValueError, match=r"2\*\*n"):
        TableGame(values)


def test_table_refuses_nan():
    with pytest.raises(ValueError, match=r"values\[2\] is nan"):
        TableGame([0, 1, np.nan, 3])


def test_tabulate_equals_direct_evaluation():
    game = SetSumGame([3, 1, 3, 7, 1])
    coalitions = np.random.default_rng(0).random((50, 5)) < 0.5
    assert np.array_equal(tabulate(game)(coalitions), game(coalitions))


@pytest.mark.parametrize("batch_size", [1, 5, 16, 100])
def test_tabulate_asks_once_in_order_in_batches(batch_size, monkeypatch):
    monkeypatch.setattr("moxi_lite.games.game._BATCH", batch_size)
    game = RecordingGame(4)
    table = tabulate(game)
    assert np.array_equal(np.concatenate(game.batches), all_coalitions(4))
    assert max(map(len, game.batches)) == min(batch_size, 16)
    assert np.array_equal(table.values, np.arange(16))


def test_tabulate_keeps_a_table():
    table = TableGame(np.zeros(2**3))
    assert tabulate(table, max_players=2) is table


def test_tabulate_refuses_many_players_before_asking():
    game = RecordingGame(21)
    with pytest.raises(ValueError, match="permutation"):
        tabulate(game)
    assert not game.batches


def test_tabulate_shows_progress(capfd):
    tabulate(SetSumGame([1, 2]), show_progress=True)
    assert "4/4" in capfd.readouterr().err


# Counting and caching


def test_counting_game_counts_calls_and_coalitions():
    game = CountingGame(SetSumGame([2, 2, 1]))
    game(all_coalitions(3))
    assert game(np.array([True, False, True])).tolist() == [3.0]
    assert (game.n_calls, game.n_evaluations) == (2, 9)
    tabulate(game)
    assert (game.n_calls, game.n_evaluations) == (3, 17)
    game.reset()
    assert (game.n_calls, game.n_evaluations) == (0, 0)


def test_cached_game_asks_each_coalition_once_in_order_of_appearance():
    inner = RecordingGame(3)
    game = CachedGame(inner)
    asked = rows([2], [0], [2], [0, 1], n=3)
    assert game(asked).tolist() == [4, 1, 4, 3]
    assert (game.n_hits, game.n_misses) == (1, 3)
    assert np.array_equal(inner.batches[0], asked[[0, 1, 3]])

    assert game(rows([1], [0], n=3)).tolist() == [2, 1]
    assert (game.n_hits, game.n_misses) == (2, 4)
    assert np.array_equal(inner.batches[1], rows([1], n=3))

    game(asked)
    assert (game.n_hits, game.n_misses) == (6, 4)
    assert len(inner.batches) == 2


def test_cached_game_does_not_remember_failures():
    answers = iter([np.array([np.nan]), np.array([5.0])])
    game = CachedGame(as_game(lambda coalitions: next(answers), 1))
    with pytest.raises(ValueError, match="nan"):
        game([True])
    assert (game.n_hits, game.n_misses) == (0, 0)
    assert game([True]).tolist() == [5.0]


@given(st.integers(0, 2**32 - 1))
def test_wrappers_do_not_change_rewards(seed):
    rng = np.random.default_rng(seed)
    table = TableGame(rng.normal(size=2**9))
    coalitions = rng.random((30, 9)) < 0.5
    assert np.array_equal(CachedGame(CountingGame(table))(coalitions), table(coalitions))
