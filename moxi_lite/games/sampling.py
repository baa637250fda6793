"""Shapley values by sampling: unbiased by permutations, or as in the paper's experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from tqdm.auto import tqdm

from moxi_lite.errors import unknown_name, whole_number
from moxi_lite.games.game import FloatArray, Game, evaluate, player_count

RandomState: TypeAlias = int | np.random.Generator | None

DEFAULT_SAMPLES = 200  # the paper's sampling size, Sec. 5
_BATCH_CELLS = 2**20  # most coalitions x players that a sampler holds at a time


@dataclass(frozen=True, eq=False)
class ShapleyEstimate:
    """Sampled Shapley values.

    Attributes
    ----------
    values, standard_errors : ndarray of float64, shape (n,)
        Estimates in units of the reward, and their standard errors (NaN after a single sample).
    n_evaluations : int
        Number of coalitions evaluated, repeated ones included.
    method : {"permutation", "paper"}
        The sampler.
    """

    values: FloatArray
    standard_errors: FloatArray
    n_evaluations: int
    method: str


def estimate_shapley(
    game: Game,
    method: str = "permutation",
    n_samples: int = DEFAULT_SAMPLES,
    random_state: RandomState = None,
    show_progress: bool = False,
) -> ShapleyEstimate:
    """Estimate Shapley values (Eq. 1) by sampling, with standard errors, for any n.

    Parameters
    ----------
    game : Game
        The game. Wrap a small, slow one in `CachedGame`: coalitions repeat.
    method : {"permutation", "paper"}
        See Notes.
    n_samples : int
        ``"permutation"``: number m of permutations drawn; each is walked forwards and backwards,
        which takes 2 + 2m(n - 1) evaluations in all. ``"paper"``: number m of iterations, each
        with one subset a player, which takes 2mn evaluations.
    random_state : int, numpy.random.Generator or None
        Seed or generator. The same seed gives the same estimate.
    show_progress : bool
        Show a progress bar.

    Returns
    -------
    ShapleyEstimate

    Raises
    ------
    ValueError
        If the method is unknown or `n_samples` is below 1.

    Notes
    -----
    ``"permutation"`` adds the players in random order; what each adds to the reward, averaged
    over orders, is its Shapley value. Each order is paired with its reverse (antithetic
    sampling), and standard errors come from the spread of the m pair means. Estimates are
    unbiased, and as each walk ends at f(N), the values sum to f(N) - f(empty) exactly.

    ``"paper"`` follows the sampler of the paper's experiments (Sec. 5): each iteration draws one
    ratio u from U(0, 1), shared by all players, and for each player i a random subset S of the
    others of size int((n - 1) u); the mean of f(S + i) - f(S) is the estimate. Two quirks: the
    size n - 1 is never drawn, so what a player adds as the last one does not count and the
    estimate is biased; and the values need not sum to f(N) - f(empty). The standard errors
    measure the spread only, not the bias.
    """
    return nested_shapley(game, method, [n_samples], random_state, show_progress)[0]


def nested_shapley(
    game: Game,
    method: str,
    n_samples: Sequence[int],
    random_state: RandomState = None,
    show_progress: bool = False,
) -> list[ShapleyEstimate]:
    """Estimate Shapley values by several numbers of samples for the price of the largest.

    One run is drawn, and looked at after each number of samples, so the smaller estimates are
    parts of the larger ones: their differences are smaller than those of separate runs. The
    paper's sampler draws many iterations at a time: a smaller estimate is as good as that of a
    separate run with the same seed, but not the same numbers.

    Parameters
    ----------
    game, method, random_state, show_progress
        As for `estimate_shapley`.
    n_samples : sequence of int
        Rising numbers of samples, one or more.

    Returns
    -------
    list of ShapleyEstimate
        One for each number. Its `n_evaluations` are those up to there, so the last of them counts
        the whole run.

    Raises
    ------
    ValueError
        If the method is unknown, or the numbers are none, below 1 or do not rise.
    TypeError
        If they are not whole numbers.
    """
    if method not in SAMPLERS:
        raise unknown_name("method", method, SAMPLERS)
    numbers = rising_numbers("n_samples", n_samples)
    sampler, cost = SAMPLERS[method]
    n = player_count(game)
    batches = []
    with tqdm(total=numbers[-1], unit="sample", disable=not show_progress) as progress:
        for batch in sampler(game, numbers[-1], np.random.default_rng(random_state)):
            batches.append(batch)
            progress.update(len(batch))
    samples, estimates = np.concatenate(batches), []
    for m in numbers:
        drawn = samples[:m]
        errors = drawn.std(axis=0, ddof=1) / np.sqrt(m) if m > 1 else np.full(n, np.nan)
        estimates.append(ShapleyEstimate(drawn.mean(axis=0), errors, cost(n, m), method))
    return estimates


def rising_numbers(name: str, values: Iterable[int]) -> list[int]:
    """Return an argument that must be one or more whole numbers from 1, each above the last."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be rising numbers, such as [50, 200], got {values!r}.")
    numbers = [whole_number(name, value, 1) for value in values]
    if not numbers or any(later <= number for number, later in pairwise(numbers)):
        raise ValueError(f"{name} must be one or more rising numbers, got {numbers}.")
    return numbers


def _permutation_samples(
    game: Game, n_samples: int, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Yield pair means (k, n): what players add, forwards and backwards through permutations."""
    n = player_count(game)
    f_empty, f_full = evaluate(game, np.array([[False], [True]]).repeat(n, axis=1))
    rows = max(2, _BATCH_CELLS // n)
    batch = max(1, rows // (2 * max(n - 1, 1)))
    for start in range(0, n_samples, batch):
        size = min(batch, n_samples - start)
        orders = rng.permuted(np.tile(np.arange(n), (size, 1)), axis=1)
        ranks = np.argsort(orders, axis=1)
        # A prefix of the reversed permutation is the complement of a prefix.
        prefixes, complements = np.empty((2, size, n + 1))
        prefixes[:, 0] = complements[:, n] = f_empty
        prefixes[:, n] = complements[:, 0] = f_full
        step = max(1, rows // (2 * size))
        for low in range(1, n, step):
            lengths = np.arange(low, min(low + step, n))
            present = ranks[:, None, :] < lengths[:, None]
            rewards = evaluate(game, np.stack([present, ~present]).reshape(-1, n))
            prefixes[:, lengths], complements[:, lengths] = rewards.reshape(2, size, -1)
        added = (np.diff(prefixes) - np.diff(complements)) / 2
        yield np.take_along_axis(added, ranks, axis=1)


def _paper_samples(game: Game, n_samples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield differences (k, n): f(S + i) - f(S), subsets S of one size in an iteration."""
    n = player_count(game)
    rows = max(2, _BATCH_CELLS // n)
    batch = max(1, rows // (2 * n))
    for start in range(0, n_samples, batch):
        iterations = min(batch, n_samples - start)
        sizes = ((n - 1) * rng.random(iterations)).astype(np.int64)
        differences = np.empty((iterations, n))
        step = max(1, rows // (2 * iterations))
        for low in range(0, n, step):
            players = np.arange(low, min(low + step, n))
            keys = rng.random((iterations, players.size, n))
            keys[:, np.arange(players.size), players] = np.inf  # sorted last, hence never drawn
            drawn = np.broadcast_to((np.arange(n) < sizes[:, None])[:, None], keys.shape)
            without = np.zeros(keys.shape, dtype=np.bool_)
            np.put_along_axis(without, np.argsort(keys), drawn, axis=-1)
            joined = without | np.eye(n, dtype=np.bool_)[players]
            rewards = evaluate(game, np.stack([without, joined]).reshape(-1, n))
            before, after = rewards.reshape(2, iterations, -1)
            differences[:, players] = after - before
        yield differences


_Sampler: TypeAlias = Callable[[Game, int, np.random.Generator], Iterator[FloatArray]]
# Each with the evaluations that m samples of n players take
SAMPLERS: dict[str, tuple[_Sampler, Callable[[int, int], int]]] = {
    "permutation": (_permutation_samples, lambda n, m: 2 + 2 * m * (n - 1)),
    "paper": (_paper_samples, lambda n, m: 2 * m * n),
}
