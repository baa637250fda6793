"""Cost of a full search against the number of patches, and its cubic and quartic terms."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks import flops
from benchmarks.subjects import noise_image, random_vit
from benchmarks.timing import integrate, interleave, random_path
from moxi_lite.patches import PatchGame
from moxi_lite.search import MODES

SIZES = (112, 224, 448)  # pixels a side: 49, 196, 784 patches


def terms(shape: flops.Shape, mode: str) -> tuple[float, float]:
    """FLOPs of a full search that grow as n^3 (linear layers) and as n^4 (attention).

    Sums over steps of candidates x tokens, and of candidates x tokens squared.  With n patches
    they tend to n^3/6 and n^4/12 for insertion, n^3/3 and n^4/4 for deletion, times the cost of
    the layers per token and per pair of tokens.
    """
    n, d = shape.n_patches, shape.width
    per_token = shape.depth * (8 * d * d + 4 * d * shape.hidden)
    per_pair = shape.depth * 4 * d
    linear = attention = 0.0
    for k in range(n):
        rows, present = flops.step_size(n, k, mode)
        t = present + shape.n_prefix
        linear += rows * t * per_token
        attention += rows * t * t * per_pair
    return linear, attention


def measure_scaling(device: str | None, rounds: int) -> dict[str, Any]:
    """Time batches of several coalition sizes at 49, 196 and 784 patches, and fit both terms.

    A full search at 784 patches takes hours, but all coalitions of a step cost the same: one
    batch for each of five coalition sizes is timed, and seconds per FLOP are interpolated.
    """
    points = []
    for size in SIZES:
        game = PatchGame(random_vit(size, device), noise_image(size), target=0)
        shape = flops.Shape.of(game.model.module)
        n = shape.n_patches
        present = sorted({1, n // 8, n // 4, n // 2, 3 * n // 4, n - 1})
        jobs, n_rows = {}, {}
        for count in present:
            cost = flops.row_flops(shape, count, plain=False)
            n_rows[count] = int(np.clip(15e9 // cost, 2, n))
            rows = np.repeat(random_path(n, "insertion")[[count]], n_rows[count], axis=0)
            jobs[str(count)] = partial(game, rows)
        game(rows[:2])
        timed = interleave(jobs, rounds, game.model.device)
        wall = {int(name): t.wall / n_rows[int(name)] for name, t in timed.items()}
        cpu = {int(name): t.cpu / n_rows[int(name)] for name, t in timed.items()}
        for mode in MODES:
            cubic, quartic = terms(shape, mode)
            points.append(
                {
                    "n": n,
                    "mode": mode,
                    "seconds": _integrate_rows(shape, mode, wall),
                    "cpu_seconds": _integrate_rows(shape, mode, cpu),
                    "cubic": cubic,
                    "quartic": quartic,
                }
            )
    return {
        "points": points,
        "fit": _fit(points, "seconds"),
        "cpu_fit": _fit(points, "cpu_seconds"),
    }


def _integrate_rows(shape: flops.Shape, mode: str, per_row: dict[int, float]) -> float:
    n = shape.n_patches
    # insertion's step k has k + 1 patches present, deletion's n - k - 1
    sampled = {}
    for present, seconds in per_row.items():
        k = present - 1 if mode == "insertion" else n - present - 1
        sampled[k] = seconds * flops.step_size(n, k, mode)[0]
    return integrate(n, sampled, lambda k: flops.step_flops(shape, k, mode, plain=False))


def _fit(points: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Least squares of relative errors: seconds = a x cubic + b x quartic, a and b >= 0."""
    design = np.array([[p["cubic"] / p[key], p["quartic"] / p[key]] for p in points])
    (a, b), _ = nnls(design, np.ones(len(points)))
    errors = design @ [a, b] - 1
    return {
        "gflop_per_s_cubic": float(1e-9 / a) if a else float("inf"),
        "gflop_per_s_quartic": float(1e-9 / b) if b else float("inf"),
        "seconds_per_flop_cubic": float(a),
        "seconds_per_flop_quartic": float(b),
        "largest_relative_error": float(np.abs(errors).max()),
    }
