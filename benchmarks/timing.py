"""Timing side by side: competitors take turns, and the median of their rounds counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from moxi_lite.games import BoolArray
from moxi_lite.search import along


@dataclass(frozen=True)
class Timing:
    """Medians over rounds, in seconds."""

    wall: float
    cpu: float  # of all threads of the process; far from wall x threads on a busy machine


def clock(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Run once; returns wall and processor time in seconds."""
    _synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _synchronise(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def interleave(
    jobs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Time jobs in turns: A B C, A B C, ...; so that a slow minute slows them all."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, work in jobs.items():
            seconds[name].append(clock(work, device))
    return {name: Timing(*np.median(rows, axis=0).tolist()) for name, rows in seconds.items()}


def product(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], float]:
    """Make a large square matrix product, and count its floating-point operations."""
    side = 2048 if device.type == "cpu" else 8192
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2.0 * side**3


def integrate(n: int, sampled: Mapping[int, float], work: Callable[[int], float]) -> float:
    """Sum the time of steps 0..n-1 from that of a few.

    Seconds per unit of work vary slowly from step to step: they are interpolated linearly
    between the sampled steps, and multiplied by the work of every step.
    """
    steps = np.arange(n)
    amounts = np.array([work(int(k)) for k in steps])
    known = sorted(sampled)
    pace = np.interp(steps, known, [sampled[k] / amounts[k] for k in known])
    return float(pace @ amounts)


def sampled_steps(n: int, count: int) -> list[int]:
    """Steps spread over 0..n-1, first and one near the last included."""
    return sorted(set(np.linspace(0, n - 1 - n // 28, count).round().astype(int).tolist()))


def random_path(n: int, mode: str) -> BoolArray:
    """Patches present before each step along a seeded random order, bool (n + 1, n)."""
    return along(np.random.default_rng(0).permutation(n), mode)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
