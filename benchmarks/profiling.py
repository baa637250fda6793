"""Where the time of a step goes, by kind of operation."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import random_path
from moxi_lite.patches import PatchGame
from moxi_lite.search import best_steps

_KINDS = {
    "linear layers": ("addmm", "aten::mm", "linear", "gemm", "cutlass"),
    "attention": ("bmm", "scaled_dot", "flash", "softmax", "fmha"),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm",),
    "additions": ("aten::add", "aten::mul"),
    "copies": ("copy", "cat", "clone", "index", "gather", "contiguous"),
}


def shares_of_time(game: PatchGame, mode: str = "deletion") -> dict[str, float]:
    """Share of each kind in the time of one step in the middle of a search."""
    state = (game, random_path(game.n_players, mode)[game.n_players // 2])
    best_steps([state], mode)
    on_gpu = game.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as recorded:
        best_steps([state], mode)
        if on_gpu:
            torch.cuda.synchronize()
    seconds = dict.fromkeys([*_KINDS, "other"], 0.0)
    for event in recorded.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[_kind(event.key)] += spent
    total = sum(seconds.values()) or 1.0
    return {kind: spent / total for kind, spent in seconds.items()}


def _kind(name: str) -> str:
    for kind, parts in _KINDS.items():
        if any(part in name for part in parts):
            return kind
    return "other"
