"""Scores by sampling coalitions: Shapley values and RISE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from moxi_lite.errors import whole_number
from moxi_lite.games import (
    DEFAULT_SAMPLES,
    FloatArray,
    Game,
    RandomState,
    ShapleyEstimate,
    as_game,
    evaluate,
    nested_shapley,
    player_count,
)
from moxi_lite.patches import PatchGame, outcomes

SHAPLEY_SAMPLERS = {"shapley": "permutation", "shapley-paper": "paper"}

_RISE_MASKS = 4000  # as many as its authors used for VGG-16; 8000 for ResNet-50
_RISE_ROWS = 1024  # masks between two steps of the progress bar


def shapley_estimates(
    game: Game,
    method: str,
    n_samples: Sequence[int],
    random_state: RandomState = None,
    show_progress: bool = False,
) -> list[ShapleyEstimate]:
    """Estimates of ``"shapley"`` or ``"shapley-paper"`` after each of several rising numbers.

    See `moxi_lite.attribute` for the methods and `nested_shapley` for the numbers, of which the
    largest sets the cost.
    """
    sampler = SHAPLEY_SAMPLERS[method]
    return nested_shapley(_for_sampling(game), sampler, n_samples, random_state, show_progress)


def shapley(
    game: Game,
    *,
    method: str,
    n_samples: int | None,
    random_state: RandomState,
    show_progress: bool,
) -> FloatArray:
    """Shapley values, by default for the price of the paper's 200 iterations, 2n * 200."""
    if n_samples is None:
        n_samples, n = DEFAULT_SAMPLES, player_count(game)
        if method == "shapley":  # the most pairs m of permutations: 2 + 2m(n - 1) evaluations
            n_samples = (DEFAULT_SAMPLES * n - 1) // max(n - 1, 1)
    return shapley_estimates(game, method, [n_samples], random_state, show_progress)[0].values


def rise(
    game: Game, *, n_samples: int | None, random_state: RandomState, show_progress: bool
) -> FloatArray:
    """Mean rewards of random coalitions that contain a patch; half of all coalitions do."""
    total = whole_number("n_samples", _RISE_MASKS if n_samples is None else n_samples, 2)
    if total % 2:
        raise ValueError(f"rise draws masks in pairs: n_samples must be even, got {total}.")
    half = np.random.default_rng(random_state).random((total // 2, player_count(game))) < 0.5
    masks = np.concatenate([half, ~half])
    # Masks of one size run as one dense batch when a game deletes tokens.
    masks = masks[np.argsort(masks.sum(axis=1), kind="stable")]
    sums = np.zeros(masks.shape[1])
    game = _for_sampling(game)
    with tqdm(total=total, unit="mask", disable=not show_progress) as progress:
        for start in range(0, total, _RISE_ROWS):
            rows = masks[start : start + _RISE_ROWS]
            sums += evaluate(game, rows) @ rows
            progress.update(len(rows))
    return sums / (total // 2)


def _for_sampling(game: Game) -> Game:
    """Return the game in bfloat16 if it may screen in it: sampling errs by far more."""
    if not (isinstance(game, PatchGame) and game.screens):
        return game
    return as_game(lambda rows: outcomes([(game, rows)], screening=True)[0].rewards, game.n_players)
