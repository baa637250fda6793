"""Whole searches of many images in lockstep, on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks import flops
from benchmarks.subjects import Subject
from benchmarks.timing import clock, interleave, product
from moxi_lite.patches import PatchGame
from moxi_lite.search import MODES, explain_many

_DTYPES: dict[str, tuple[torch.dtype | str, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "mixed": ("mixed", torch.bfloat16),
}


def measure_lockstep(subject: Subject, n_images: int, budget: int | None = None) -> dict[str, Any]:
    """Images per second, memory and share of the matrix peak of full searches, run to the end.

    The peak is that of a large product in the same dtype (for mixed: bfloat16), with the same
    settings for TF32 as the searches.
    """
    device = subject.model.device
    on_gpu = device.type == "cuda"
    shape = flops.Shape.of(subject.model.module)
    images = [subject.images[i % len(subject.images)] for i in range(n_images)]
    n_steps = budget or shape.n_patches
    results = {}
    for name, (dtype, product_dtype) in _DTYPES.items():
        work, amount = product(product_dtype, device)
        work()
        peak = amount / interleave({"product": work}, 5, device)["product"].wall
        games = [PatchGame(subject.model, image, dtype=dtype) for image in images]
        explain_many(games, budget=2)
        for mode in MODES:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            seconds, _ = clock(partial(explain_many, games, mode, budget=n_steps), device)
            each = sum(flops.step_flops(shape, k, mode, plain=False) for k in range(n_steps))
            results[f"{mode} {name}"] = {
                "images_per_s": len(images) / seconds,
                "share_of_peak": len(images) * each / seconds / peak,
                "peak_flop_per_s": peak,
                "memory_gib": torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else None,
            }
    return {"n_images": n_images, "n_steps": n_steps, "results": results}
