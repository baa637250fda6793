"""Measure moxi_lite's speed as ratios within one run; print a table, store JSON.

``python -m benchmarks.bench`` takes some five minutes on two idle cores, ``--quick`` one or two.
Full searches are not run to the end: a sample of their steps is timed, competitors taking turns,
and the seconds per FLOP are interpolated over all steps.  On a busy machine compare the ratios of
processor time, which the table has as well.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import measure_agreement
from benchmarks.gpu import measure_lockstep
from benchmarks.profiling import shares_of_time
from benchmarks.report import table
from benchmarks.scaling import measure_scaling
from benchmarks.searches import measure_flip, measure_searches
from benchmarks.subjects import find_subject
from moxi_lite.files import write_atomically
from moxi_lite.patches import PatchGame
from moxi_lite.study import environment

PARTS = ("searches", "flip", "agreement", "scaling", "profile", "gpu")
# Patches inserted or deleted already where mixed and float32 are compared; early steps of a
# deletion are the most expensive.
COUNTS = {"insertion": [0, 2, 6, 16, 40], "deletion": [0, 30, 90, 140]}
QUICK_COUNTS = {"insertion": [0, 4, 16], "deletion": [60, 130]}
BUILD = Path(__file__).resolve().parent.parent / "_build"


def main() -> None:
    """Measure, print and store."""
    options = _options()
    start = time.monotonic()
    if options.threads:
        torch.set_num_threads(options.threads)
    n_images = 2 if options.quick else 4
    subject = find_subject(n_images, options.device, options.random_weights)
    device = subject.model.device
    results: dict[str, Any] = {
        "machine": describe(device),
        "quick": options.quick,
        "subject": subject.description,
        "real_weights": subject.real,
    }
    for name, value in results["machine"].items():
        print(f"{name:<16}{value}")
    print(f"{'subject':<16}{subject.description}\n", flush=True)

    rounds = 1 if options.quick else 3
    tasks: dict[str, Callable[[], Any]] = {
        "searches": lambda: measure_searches(subject, 4 if options.quick else 6, rounds),
        "flip": lambda: measure_flip(
            subject, results["searches"]["seconds"]["reference"]["insertion"]
        ),
        "agreement": lambda: measure_agreement(
            subject, n_images, QUICK_COUNTS if options.quick else COUNTS
        ),
        "scaling": lambda: measure_scaling(options.device, rounds),
        "profile": lambda: {
            name: shares_of_time(PatchGame(subject.model, subject.images[0], dtype=dtype))
            for name, dtype in (("fp32", None), ("bf16", torch.bfloat16))
        },
    }
    if device.type == "cuda":
        tasks["gpu"] = lambda: measure_lockstep(subject, 4 if options.quick else 16)
    elif "gpu" in options.parts:
        print("gpu: torch sees no CUDA device; left out")
    for part, task in tasks.items():
        if part in options.parts:
            began = time.monotonic()
            results[part] = task()
            print(f"{part}: measured in {time.monotonic() - began:.0f} s", flush=True)
    results["seconds_of_benchmark"] = time.monotonic() - start
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())
    print(f"\n{table(results)}\n\nstored in {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, one round")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--device", help="torch device; by default CUDA where there is one")
    parser.add_argument("--threads", type=int, help="torch threads (by default torch decides)")
    parser.add_argument("--random-weights", action="store_true", help="use no trained weights")
    parser.add_argument("--out", type=Path, default=BUILD / "bench.json", help="where to store")
    options = parser.parse_args()
    if "flip" in options.parts and "searches" not in options.parts:
        parser.error("flip is compared with the reference's full insertion: add --parts searches.")
    return options


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and how busy it is: only ratios within one run mean something elsewhere."""
    facts = environment(str(device))
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: value for name, value in facts.items() if name != "host"},
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "tf32": torch.backends.cuda.matmul.allow_tf32 if device.type == "cuda" else None,
    }


if __name__ == "__main__":
    main()
