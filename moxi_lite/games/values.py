"""Shapley values and interactions: exact, sampled, self-context and full-context.

The exact quantities (Eqs. 1 and 2) need all 2^n rewards, unless Eq. 1 is sampled
(`moxi_lite.games.sampling`); the self-context and full-context quantities (Eqs. 5, 6, 10, 11) need
about 2n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import SupportsIndex, TypeAlias

import numpy as np

from moxi_lite.errors import unknown_name
from moxi_lite.games.game import (
    FloatArray,
    Game,
    as_player,
    coalition_of,
    evaluate,
    player_count,
    tabulate,
)
from moxi_lite.games.sampling import DEFAULT_SAMPLES, SAMPLERS, RandomState, estimate_shapley

Players: TypeAlias = SupportsIndex | Iterable[SupportsIndex]


def shapley_values(
    game: Game,
    method: str = "exact",
    n_samples: int | None = None,
    random_state: RandomState = None,
    *,
    show_progress: bool = False,
) -> FloatArray:
    r"""Shapley value of every player, Eq. 1.

    .. math:: \phi(i|N) = \sum_{S \subseteq N \setminus \{i\}}
              \frac{(n - 1 - |S|)!\,|S|!}{n!} \, [f(S \cup \{i\}) - f(S)]

    Parameters
    ----------
    game : Game
        The game. For ``"exact"``, at most 20 players, or a `TableGame` of any size.
    method : {"exact", "permutation", "paper"}
        ``"exact"`` evaluates all 2^n coalitions; the samplers are those of `estimate_shapley`.
    n_samples, random_state : optional
        For the samplers only, see there; 200 samples unless given.
    show_progress : bool
        Show a progress bar.

    Returns
    -------
    ndarray of float64, shape (n,)
        Values in units of the reward.

    Raises
    ------
    ValueError
        If the method is unknown, `n_samples` is below 1 or given for ``"exact"``, or there are
        too many players for ``"exact"`` (use ``"permutation"``).
    """
    if method not in ("exact", *SAMPLERS):
        raise unknown_name("method", method, ["exact", *SAMPLERS])
    if method != "exact":
        samples = DEFAULT_SAMPLES if n_samples is None else n_samples
        return estimate_shapley(game, method, samples, random_state, show_progress).values
    if n_samples is not None:
        raise ValueError(f"method='exact' takes no n_samples (got {n_samples}): leave it out.")
    table = tabulate(game, show_progress=show_progress).values
    players = range(player_count(game))
    weights = _weights(len(players) - 1)
    return np.array([(_derivative(table, player) * weights).sum() for player in players])


def interaction(game: Game, i: SupportsIndex, j: SupportsIndex) -> float:
    r"""Interaction I(i, j | N) of two players, Eq. 2 (the index of Grabisch and Roubens).

    The Shapley value of the pair as one player, minus that of each player without the other:

    .. math:: I(i,j|N) = \phi(S_{ij}|N') - \phi(i|N \setminus \{j\}) - \phi(j|N \setminus \{i\})

    with :math:`N' = N \setminus \{i,j\} \cup \{S_{ij}\}`. For one and the same player it is
    :math:`I(i,i|N) = -\phi(i|N)`.

    Parameters
    ----------
    game : Game
        At most 20 players, or a `TableGame` of any size. All 2^n coalitions are evaluated:
        `tabulate` a slow game first (with a progress bar), or use `interaction_matrix`.
    i, j : int
        Players.

    Raises
    ------
    IndexError, ValueError
        If a player does not exist; if there are too many players.
    """
    n = player_count(game)
    low, high = sorted((as_player(i, n), as_player(j, n)))
    table = tabulate(game).values
    if low == high:
        return float((-_derivative(table, low) * _weights(n - 1)).sum())
    # The higher player first, so that the lower one keeps its place in the smaller table.
    return float((_derivative(_derivative(table, high), low) * _weights(n - 2)).sum())


def interaction_matrix(game: Game) -> FloatArray:
    r"""Interactions of all pairs, Eq. 2: symmetric, float64 of shape (n, n).

    The diagonal holds :math:`I(i,i|N) = -\phi(i|N)`, as the paper remarks below Eq. 2. Takes the
    same games and raises the same errors as `interaction`.
    """
    n = player_count(game)
    table = tabulate(game).values
    own_weights, pair_weights = _weights(n - 1), _weights(max(n - 2, 0))
    matrix = np.empty((n, n))
    for j in range(n):
        derivative = _derivative(table, j)
        matrix[j, j] = (-derivative * own_weights).sum()
        for i in range(j):
            matrix[i, j] = matrix[j, i] = (_derivative(derivative, i) * pair_weights).sum()
    return matrix


def self_context_shapley(game: Game) -> FloatArray:
    r"""Self-context Shapley values, Eq. 5: :math:`\phi^{(0)}(a) = f(a) - f(\emptyset)`.

    Takes n + 1 evaluations in one call. Returns float64 of shape (n,), in units of the reward.
    """
    return _single_differences(game, removed=False)


def self_context_interaction(
    game: Game, S: Players, b: SupportsIndex | None = None
) -> float | FloatArray:
    r"""Self-context interaction of a set and a player, Eq. 6.

    .. math:: I^{(0)}(S, b) = f(S \cup b) - f(S) - f(b) + f(\emptyset)

    The set S counts as one player. With `self_context_shapley`, this gives the greedy choice of
    insertion, Eq. 7: :math:`b_k = \arg\max_b \phi^{(0)}(b) + I^{(0)}(S_{k-1}, b)`.

    Parameters
    ----------
    game : Game
        The game.
    S : int or iterable of int
        One player or a set of players; the interaction with the empty set is 0.
    b : int, optional
        A player outside S; all of them unless given.

    Returns
    -------
    float, or ndarray of float64, shape (n,)
        In units of the reward; without `b`, one value a player, NaN for members of S. Takes 4
        evaluations, or 2 + 2(n - \|S\|), in one call.

    Raises
    ------
    IndexError, ValueError
        If a player does not exist; if b is a member of S.
    """
    return _joint_differences(game, S, b, removed=False)


def full_context_shapley(game: Game) -> FloatArray:
    r"""Full-context Shapley values, Eq. 10.

    .. math:: \phi_d^{(n)}(a) = \frac{1}{n} [f(N) - f(N \setminus \{a\})]

    Takes n + 1 evaluations in one call. Returns float64 of shape (n,), in units of the reward.
    """
    return _single_differences(game, removed=True) / player_count(game)


def full_context_interaction(
    game: Game, S: Players, b: SupportsIndex | None = None
) -> float | FloatArray:
    r"""Full-context interaction of a set and a player, Eq. 11.

    .. math:: I_d(S, b) = \frac{1}{n - s}
              [f(N) - f(N \setminus S) - f(N \setminus b) + f(N \setminus (S \cup b))]

    with s = \|S\|: the set S counts as one player, so that n - s + 1 players remain.
    Parameters, return value and errors are those of `self_context_interaction`.

    Eqs. 12 and 13 are printed with a wrong sign and scale. Eqs. 10 and 11 give the drop in reward

    .. math:: f(N) - f(N \setminus (S \cup b))
              = n\,\phi_d(b) - (n - s)\,I_d(S, b) + [f(N) - f(N \setminus S)],

    so the greedy choice of deletion is
    :math:`b_k = \arg\max_b n\,\phi_d(b) - (n - s)\,I_d(S_{k-1}, b)`.
    """
    size = int(np.count_nonzero(coalition_of(S, player_count(game))))
    # With S = N no player is left to interact with: all NaN, over any scale.
    return _joint_differences(game, S, b, removed=True) / max(player_count(game) - size, 1)


def _derivative(table: FloatArray, player: int) -> FloatArray:
    """Return f(S + player) - f(S) for all S of the other players: a table of half the size."""
    pairs = table.reshape(-1, 2, 2**player)
    return (pairs[:, 1] - pairs[:, 0]).ravel()


def _weights(n_others: int) -> FloatArray:
    """Return P(S|B) of Eq. 1 for all subsets S of a set B of `n_others` players."""
    sizes = np.zeros(1, dtype=np.int8)
    for _ in range(n_others):
        sizes = np.concatenate([sizes, sizes + np.int8(1)])
    by_size = [1 / ((n_others + 1) * math.comb(n_others, size)) for size in range(n_others + 1)]
    return np.array(by_size)[sizes]


def _single_differences(game: Game, removed: bool) -> FloatArray:
    """Return f({a}) - f(empty) for every player a, or f(N) - f(N without a) if `removed`."""
    n = player_count(game)
    rows = np.vstack([np.zeros(n, dtype=np.bool_), np.eye(n, dtype=np.bool_)])
    rewards = evaluate(game, ~rows if removed else rows)
    return rewards[0] - rewards[1:] if removed else rewards[1:] - rewards[0]


def _joint_differences(
    game: Game, S: Players, b: SupportsIndex | None, removed: bool
) -> float | FloatArray:
    """Return f(S + b) - f(S) - f(b) + f(empty), of the players present or of those removed."""
    n = player_count(game)
    members = coalition_of(S, n)
    if b is not None and members[as_player(b, n)]:
        raise ValueError(
            f"player {b} is a member of S={np.flatnonzero(members).tolist()}; the interaction of a "
            "set is with a player outside it."
        )
    partners = np.flatnonzero(~members) if b is None else np.array([as_player(b, n)])
    alone = np.eye(n, dtype=np.bool_)[partners]
    rows = np.vstack([np.zeros(n, dtype=np.bool_), members, alone, alone | members])
    rewards = evaluate(game, ~rows if removed else rows)
    single, joint = np.split(rewards[2:], 2)
    differences = joint - rewards[1] - single + rewards[0]
    if b is not None:
        return float(differences[0])
    result = np.full(n, np.nan)
    result[partners] = differences
    return result
