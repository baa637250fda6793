"""Single steps of moxi_lite's search, to be timed one by one."""

from __future__ import annotations

import numpy as np

from moxi_lite.games import BoolArray
from moxi_lite.patches import PatchGame, outcomes
from moxi_lite.search import N_FINALISTS


def sampled_steps(n: int, count: int) -> list[int]:
    """Steps spread over 0..n-1, first and one near the last included."""
    return sorted(set(np.linspace(0, n - 1 - n // 28, count).round().astype(int).tolist()))


def state(n: int, k: int, mode: str, order: np.ndarray | None = None) -> BoolArray:
    """Patches present before step k, along an order (by default a seeded random one)."""
    if order is None:
        order = np.random.default_rng(0).permutation(n)
    present = np.full(n, mode == "deletion")
    present[order[:k]] = mode == "insertion"
    return present


def candidates(present: BoolArray, mode: str) -> tuple[np.ndarray, BoolArray]:
    """Patches that can be chosen, ascending, and the coalitions that they lead to."""
    remaining = np.flatnonzero(present == (mode == "deletion"))
    rows = np.repeat(present[None], len(remaining), axis=0)
    rows[np.arange(len(rows)), remaining] = mode == "insertion"
    return remaining, rows


def screen(game: PatchGame, rows: BoolArray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose finalists in bfloat16; returns them, ascending, and the merit of all candidates."""
    merit = _sign(mode) * outcomes([(game, rows)], screening=True)[0].rewards
    n_finalists = min(N_FINALISTS, len(rows) - 1)
    return np.sort(np.argpartition(-merit, n_finalists)[:N_FINALISTS]), merit


def decide(game: PatchGame, rows: BoolArray, finalists: np.ndarray, mode: str) -> tuple[int, float]:
    """Choose among finalists in float32; returns the row and its reward."""
    rewards = outcomes([(game, rows[finalists])])[0].rewards
    best = int((_sign(mode) * rewards).argmax())
    return int(finalists[best]), float(rewards[best])


def step(game: PatchGame, present: BoolArray, mode: str) -> tuple[int, float]:
    """Take one step as `moxi_lite.explain` does; returns the patch and the reward after it."""
    remaining, rows = candidates(present, mode)
    finalists = np.arange(len(rows))
    if game.screens and len(rows) > N_FINALISTS:
        finalists, _ = screen(game, rows, mode)
    row, reward = decide(game, rows, finalists, mode)
    return int(remaining[row]), reward


def _sign(mode: str) -> float:
    return 1.0 if mode == "insertion" else -1.0
