"""Full insertion and deletion: share of the machine's peak, and speed against the reference."""

from __future__ import annotations

import resource
import statistics
import sys
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import flops, reference
from benchmarks.subjects import Subject
from benchmarks.timing import (
    Timing,
    clock,
    integrate,
    interleave,
    product,
    random_path,
    sampled_steps,
)
from moxi_lite.patches import PatchGame
from moxi_lite.search import MODES, best_steps, explain

PRECISIONS: dict[str, torch.dtype | str | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "mixed": "mixed",
}


def measure_searches(subject: Subject, n_samples: int, rounds: int) -> dict[str, Any]:
    """Time sampled steps of ours and the reference's, and integrate them over all steps.

    Returns
    -------
    dict
        ``seconds`` of full searches by competitor and mode, extrapolated from the samples;
        ``peak_flop_per_s`` of a large matrix product by dtype; ``flop_per_s`` of the two full
        searches together, counting what runs (``executed``) and what plain forward passes of the
        same coalitions would need (``plain``).  All three again by processor time, ``cpu_...``.
    """
    model, image, device = subject.model, subject.images[0], subject.model.device
    shape = flops.Shape.of(model.module)
    n = shape.n_patches
    games = {name: PatchGame(model, image, dtype=dtype) for name, dtype in PRECISIONS.items()}
    paths = {mode: random_path(n, mode) for mode in MODES}
    memory = _memory(games["fp32"], subject)
    for game in games.values():  # first runs allocate and tune
        best_steps([(game, paths["insertion"][n - n // 10])], "insertion")
    products = {name: product(dtype, device) for name, dtype in _DTYPES.items()}
    sampled = sampled_steps(n, n_samples)
    timings: dict[str, dict[str, dict[int, Timing]]] = {}
    peaks: dict[str, list[Timing]] = {name: [] for name in products}
    for mode in MODES:
        for k in sampled:
            jobs = {
                name: partial(best_steps, [(game, paths[mode][k])], mode)
                for name, game in games.items()
            }
            target, gone = games["fp32"].target, list(range(k))
            jobs["reference"] = partial(
                reference.step, model.module, image.to(device), target, gone, mode
            )
            jobs |= {f"product {name}": work for name, (work, _) in products.items()}
            for name, timing in interleave(jobs, rounds, device).items():
                if name.startswith("product "):
                    peaks[name.removeprefix("product ")].append(timing)
                else:
                    timings.setdefault(name, {}).setdefault(mode, {})[k] = timing

    def work(name: str, mode: str, k: int) -> float:
        if name == "reference":
            return flops.reference_step_flops(shape, k, mode)
        return flops.step_flops(shape, k, mode, plain=False)

    def total(name: str, mode: str, kind: str) -> float:
        sampled = {k: getattr(timing, kind) for k, timing in timings[name][mode].items()}
        return integrate(n, sampled, partial(work, name, mode))

    counted = {
        kind: {mode: flops.search_flops(shape, mode, plain=kind == "plain") for mode in MODES}
        for kind in ("executed", "plain")
    }
    results: dict[str, Any] = {
        "steps_sampled": sampled,
        "rounds": rounds,
        "flop_of_search": counted,
        "memory": memory,
    }
    for clock_name, prefix in (("wall", ""), ("cpu", "cpu_")):
        seconds = {
            name: {mode: total(name, mode, clock_name) for mode in MODES} for name in timings
        }
        results[f"{prefix}seconds"] = seconds
        results[f"{prefix}peak_flop_per_s"] = {
            name: products[name][1] / statistics.median(getattr(t, clock_name) for t in peaks[name])
            for name in products
        }
        results[f"{prefix}flop_per_s"] = {
            name: {
                kind: sum(counted[kind].values()) / sum(seconds[name].values()) for kind in counted
            }
            for name in products
        }
    return results


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure_flip(subject: Subject, reference_insertion: float) -> dict[str, Any]:
    """Time explanations to the flip, the game's making included, for every image.

    They are compared with a full insertion of the reference (a user who wants to know which few
    patches suffice has no other way in code without a stop rule), and with a reference that
    stops at the flip too.
    """
    rows: list[dict[str, float]] = []
    device = subject.model.device
    for image in subject.images:
        found: dict[str, Any] = {}
        for name, dtype in (("fp32", None), ("mixed", "mixed")):

            def run(name=name, dtype=dtype, image=image, found=found):
                game = PatchGame(subject.model, image, dtype=dtype)
                found[name] = explain(game, "insertion", stop="flip"), game.target

            found[f"{name} seconds"] = clock(run, device)[0]
        seconds, mixed = found["fp32 seconds"], found["mixed seconds"]
        rows.append(
            {
                "patches": len(found["fp32"][0]),
                "seconds": seconds,
                "mixed_seconds": mixed,
                "times_faster_than_full_reference": reference_insertion / seconds,
                "mixed_times_faster_than_full_reference": reference_insertion / mixed,
            }
        )
        if len(rows) == 1:
            of_first = (subject.model.module, image.to(device), found["fp32"][1], "insertion")
            stopping = clock(partial(reference.search, *of_first, until_flip=True), device)[0]
            rows[0]["times_faster_than_reference_to_the_flip"] = stopping / seconds
    medians = {
        key: statistics.median(row[key] for row in rows if key in row) for key in sorted(rows[0])
    }
    return {"images": rows, "median": medians}


def _memory(game: PatchGame, subject: Subject) -> dict[str, float] | None:
    """MiB that the process grows by in the largest step of ours and then of the reference."""
    if subject.model.device.type != "cpu":
        return None
    image = subject.images[0]
    start = _peak_mib()
    best_steps([(game, np.ones(game.n_players, dtype=bool))], "deletion")
    ours = _peak_mib()
    reference.step(subject.model.module, image, game.target, [], "deletion")
    return {"moxi_lite_mib": ours - start, "reference_mib": _peak_mib() - start}


def _peak_mib() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
