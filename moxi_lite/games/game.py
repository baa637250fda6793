"""Cooperative games: rewards of coalitions of players (Sec. 3 of the paper).

A game is any object with a number of players ``n_players`` that maps coalitions, a boolean array
of shape ``(m, n_players)`` in which True means "present", to ``m`` rewards. This is the convention
of shapiq, so games can be passed either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from moxi_lite.errors import index_of, whole_number

BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float64]

_MAX_INDEXED_PLAYERS = 63  # row indices are non-negative int64
_MAX_LISTED_PLAYERS = 25  # all_coalitions(25) takes 0.8 GiB
_BATCH = 4096  # most coalitions that `tabulate` evaluates in one call


@runtime_checkable
class Game(Protocol):
    """A reward f(S) for each coalition S of the players 0, ..., n_players - 1."""

    @property
    def n_players(self) -> int:
        """Number of players, |N|."""

    def __call__(self, coalitions: BoolArray, /) -> FloatArray:
        """Return the rewards, float64 of shape (m,), of coalitions of shape (m, n) or (n,)."""


def player_count(game: Game) -> int:
    """Return the number of players of a game; TypeError if it is not a game."""
    if not callable(game) or not hasattr(game, "n_players"):
        raise TypeError(
            f"expected a game (a callable with n_players), got {type(game).__name__}. "
            "Wrap a function of coalitions with as_game(function, n_players)."
        )
    return whole_number("n_players", game.n_players, 1)


def as_player(player: SupportsIndex, n_players: int) -> int:
    """Return `player` as an int in 0..n_players-1; TypeError (also for True), or IndexError."""
    try:
        index = index_of(player)
    except TypeError:
        kind = type(player).__name__
        raise TypeError(f"a player is an integer, got {player!r} ({kind}).") from None
    if not 0 <= index < n_players:
        raise IndexError(f"no player {index}: players are numbered 0 to {n_players - 1}.")
    return index


def coalition_of(players: SupportsIndex | Iterable[SupportsIndex], n_players: int) -> BoolArray:
    """Return the coalition, bool of shape (n_players,), of one player or a collection of players.

    Errors are those of `as_player`: a boolean mask is refused, not read as players 0 and 1.
    """
    coalition = np.zeros(n_players, dtype=np.bool_)
    for player in players if isinstance(players, Iterable) else [players]:
        coalition[as_player(player, n_players)] = True
    return coalition


def as_coalitions(coalitions: npt.ArrayLike, n_players: int) -> BoolArray:
    """Check coalitions, (m, n_players) or (n_players,), and give them the shape (m, n_players).

    They are not copied where they already have this form. TypeError if the dtype is not bool
    (integers could be 0/1 flags or player numbers), ValueError if the shape is wrong.
    """
    array = np.asarray(coalitions)
    if array.dtype != np.bool_:
        raise TypeError(
            f"coalitions must be boolean (True = present), got dtype {array.dtype}. Convert 0/1 "
            "flags with .astype(bool), and player numbers with coalition_of(players, n_players)."
        )
    if array.ndim not in (1, 2) or array.shape[-1] != n_players:
        raise ValueError(
            f"coalitions must have shape (m, {n_players}) or ({n_players},), one column a player; "
            f"got {array.shape}."
        )
    return np.atleast_2d(array)


def evaluate(game: Game, coalitions: npt.ArrayLike) -> FloatArray:
    """Call a game once for coalitions (m, n) or (n,): finite rewards, float64 of shape (m,).

    ValueError if it does not return one reward a coalition, or returns NaN or infinity; the
    message names the first such coalition.
    """
    checked = as_coalitions(coalitions, player_count(game))
    return checked_rewards(game(checked), checked)


def checked_rewards(rewards: npt.ArrayLike, coalitions: BoolArray) -> FloatArray:
    """Return what a game gave for coalitions (m, n), float64 (m,); ValueError as for `evaluate`."""
    checked = np.asarray(rewards, dtype=np.float64)
    if checked.shape != (len(coalitions),):
        raise ValueError(
            f"the game returned rewards of shape {checked.shape} for {len(coalitions)} coalitions; "
            f"expected one reward a coalition, shape ({len(coalitions)},)."
        )
    bad = np.flatnonzero(~np.isfinite(checked))
    if bad.size:
        players = np.flatnonzero(coalitions[bad[0]]).tolist()
        named = ", ".join(map(str, players[:10])) + (", ..." if len(players) > 10 else "")
        raise ValueError(
            f"the game's reward is {checked[bad[0]]} for coalition {{{named}}} (row {bad[0]}, "
            f"{len(players)} players present); {bad.size} of {checked.size} rewards are not "
            "finite. Rewards must be finite numbers: check the model's outputs and the reward."
        )
    return checked


def as_game(function: Callable[[BoolArray], Any], n_players: int) -> Game:
    """Make a game of any function that maps coalitions, bool (m, n_players), to m rewards.

    It is always called with two dimensions, also for a single coalition.
    """
    return _FunctionGame(function, whole_number("n_players", n_players, 1))


@dataclass(frozen=True)
class _FunctionGame:
    function: Callable[[BoolArray], Any]
    n_players: int

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        return np.asarray(self.function(as_coalitions(coalitions, self.n_players)), np.float64)


class SetSumGame:
    """The SET-SUM game: the reward is the sum of the distinct numbers present (Sec. 4.1).

    Parameters
    ----------
    numbers : sequence of int
        The number that each player holds; equal numbers are redundant.

    Examples
    --------
    >>> SetSumGame([2, 2, 1])(np.array([[True, True, False], [True, True, True]]))
    array([2., 3.])
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        held = np.asarray(numbers)
        if held.ndim != 1 or held.size == 0:
            raise ValueError(f"expected one integer a player, at least one; got {numbers!r}.")
        if not np.issubdtype(held.dtype, np.integer):
            raise TypeError(f"SET-SUM is played with integers, got {numbers!r}.")
        self.numbers = tuple(held.tolist())
        self.n_players = len(self.numbers)
        self._distinct = np.unique(held)
        self._holds = held[:, None] == self._distinct  # (n_players, number of distinct numbers)

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Return the rewards, float64 of shape (m,)."""
        # A product of booleans is "and" summed by "or": which distinct numbers are present.
        shown = as_coalitions(coalitions, self.n_players) @ self._holds
        return shown @ self._distinct.astype(np.float64)


class TableGame:
    """A game given by the table of all its 2^n rewards.

    Parameters
    ----------
    values : array_like of float, shape (2**n,)
        Reward of every coalition; bit i of the position says whether player i is present
        (`coalition_index`). Copied.

    Attributes
    ----------
    values : ndarray of float64, shape (2**n,)
        The table, read-only.
    """

    def __init__(self, values: npt.ArrayLike) -> None:
        table = np.array(values, dtype=np.float64)
        n_players = table.size.bit_length() - 1
        if table.ndim != 1 or n_players < 1 or table.size != 2**n_players:
            raise ValueError(
                f"a table has 2**n rewards, shape (2**n,) with n >= 1; got shape {table.shape}."
            )
        for row in np.flatnonzero(~np.isfinite(table)):
            raise ValueError(f"rewards must be finite numbers, but values[{row}] is {table[row]}.")
        table.flags.writeable = False
        self.values: FloatArray = table
        self.n_players = n_players

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Return the rewards, float64 of shape (m,)."""
        return self.values[coalition_index(as_coalitions(coalitions, self.n_players))]


def all_coalitions(n_players: int) -> BoolArray:
    """List all coalitions, bool of shape (2**n, n); bit i of the row index is player i."""
    if whole_number("n_players", n_players, 1) > _MAX_LISTED_PLAYERS:
        raise ValueError(
            f"{n_players} players have 2**{n_players} coalitions, too many to list (at most "
            f"{_MAX_LISTED_PLAYERS} players). Sample coalitions instead."
        )
    return _coalitions_at(np.arange(2**n_players), n_players)


def coalition_index(coalitions: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the rows of coalitions (m, n) in `all_coalitions`, int64 (m,), for n up to 63."""
    checked = as_coalitions(coalitions, np.shape(coalitions)[-1])
    n_players = checked.shape[1]
    if n_players > _MAX_INDEXED_PLAYERS:
        raise ValueError(
            f"{n_players} players do not fit an int64 index (at most {_MAX_INDEXED_PLAYERS})."
        )
    packed = np.zeros((len(checked), 8), dtype=np.uint8)
    packed[:, : (n_players + 7) // 8] = np.packbits(checked, axis=1, bitorder="little")
    return packed.view("<i8")[:, 0].astype(np.int64)


def tabulate(game: Game, max_players: int = 20, *, show_progress: bool = False) -> TableGame:
    """Evaluate all 2^n coalitions once, in the order of `all_coalitions`.

    Parameters
    ----------
    game : Game
        The game; a `TableGame` is returned as it is.
    max_players : int
        Refuse games with more players. The table takes ``8 * 2**n`` bytes.
    show_progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If the game has too many players, or a reward is not finite.
    """
    if isinstance(game, TableGame):
        return game
    n_players = player_count(game)
    if n_players > max_players:
        raise ValueError(
            f"all 2**{n_players} coalitions of {n_players} players are too many to evaluate (at "
            f"most {max_players} players; tabulate(game, max_players=...) moves the limit). Use "
            "shapley_values(game, method='permutation'), which samples, or the self-context and "
            "full-context quantities, or group players."
        )
    values = np.empty(2**n_players)
    with tqdm(total=values.size, unit="coalition", disable=not show_progress) as progress:
        for start in range(0, values.size, _BATCH):
            rows = np.arange(start, min(start + _BATCH, values.size))
            values[rows] = evaluate(game, _coalitions_at(rows, n_players))
            progress.update(rows.size)
    return TableGame(values)


class CountingGame:
    """A game that counts how often another one is asked.

    Attributes
    ----------
    n_calls : int
        Number of calls (batches).
    n_evaluations : int
        Number of coalitions in them; repeated coalitions count each time.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.n_players = player_count(game)
        self.reset()

    def reset(self) -> None:
        """Set both counts to zero."""
        self.n_calls = 0
        self.n_evaluations = 0

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Return the rewards, float64 of shape (m,)."""
        checked = as_coalitions(coalitions, self.n_players)
        self.n_calls += 1
        self.n_evaluations += len(checked)
        return self.game(checked)


class CachedGame:
    """A game that asks another one for each coalition once and remembers the reward.

    New coalitions of a call are passed on in one batch, in the order of their first appearance.
    Memory grows with the number of distinct coalitions; only finite rewards are kept.

    Attributes
    ----------
    n_hits : int
        Coalitions answered without an evaluation, repeats within a call included.
    n_misses : int
        Coalitions evaluated.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.n_players = player_count(game)
        self.n_hits = 0
        self.n_misses = 0
        self._rewards: dict[bytes, float] = {}

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Return the rewards, float64 of shape (m,)."""
        checked = as_coalitions(coalitions, self.n_players)
        keys = [row.tobytes() for row in np.packbits(checked, axis=1)]
        first_rows: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in self._rewards:
                first_rows.setdefault(key, row)
        if first_rows:
            fresh = evaluate(self.game, checked[list(first_rows.values())])
            self._rewards.update(zip(first_rows, fresh.tolist(), strict=True))
        self.n_misses += len(first_rows)
        self.n_hits += len(keys) - len(first_rows)
        return np.array([self._rewards[key] for key in keys], dtype=np.float64)


def _coalitions_at(rows: npt.NDArray[np.int64], n_players: int) -> BoolArray:
    """Return some rows of `all_coalitions` without making all of them."""
    octets = rows.astype("<i8").view(np.uint8).reshape(-1, 8)
    bits = np.unpackbits(octets, axis=1, count=n_players, bitorder="little")
    return bits.view(np.bool_)
