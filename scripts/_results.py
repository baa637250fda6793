"""What the scripts behind results/ share: options, photographs, records kept on the way, hashes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from _common import BUILD, ROOT, fail, say

import moxi_lite as moxi
from moxi_lite.study import environment, publishable, write_json

RESULTS = ROOT / "results"
STUDIES = BUILD / "studies"
REGISTRY = ROOT / "moxi_lite" / "study" / "results_registry.txt"
N_SAMPLES = 1000  # ImageNet sample images, one a class
GOLDEN = (5**0.5 - 1) / 2


def positive(text: str) -> int:
    """Read an option that counts something."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def parser(description: str | None, *, device: bool = True) -> argparse.ArgumentParser:
    """Make a parser with the options of every script; training knows no device."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--threads", type=positive, default=2, help="of the processor (default 2)")
    if device:
        made.add_argument("--device", help="default: cuda if there is one")
    return made


@contextmanager
def working(threads: int) -> Iterator[None]:
    """Do the work of a script: few threads, missing files told in a line, hashes renewed."""
    torch.set_num_threads(threads)
    try:
        yield
    except (OSError, ValueError) as error:  # no weights or samples, other settings, no room
        fail(str(error))
    pooch.make_registry(str(RESULTS), str(REGISTRY))


def kept(path: Path, device: torch.device, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a stored record, or compute and store it, with its seconds and environment."""
    if not path.is_file():
        started = time.perf_counter()
        record = compute()
        record["seconds"] = round(time.perf_counter() - started, 1)
        write_json(path, record | {"environment": publishable(environment(device))})
        say(f"{path.stem}: {record['seconds']:.0f} s")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def spread() -> list[int]:
    """Order the samples so that the first k are spread evenly over the classes, for every k."""
    places = np.floor(np.arange(1, 3 * N_SAMPLES) * GOLDEN % 1 * N_SAMPLES).astype(int)
    return list(dict.fromkeys([*places.tolist(), *range(N_SAMPLES)]))


def classifies(model: moxi.Classifier, index: int) -> bool:
    """Whether the model gets a sample right."""
    pixels = model.preprocess(moxi.imagenet_sample(index).image)
    return int(model.logits(pixels[None]).argmax()) == index


def correctly_classified(models: Iterable[moxi.Classifier], n: int) -> list[int]:
    """Return the first n samples, in the order of `spread`, that all models get right."""
    every = tuple(models)
    right = (index for index in spread() if all(classifies(model, index) for model in every))
    return list(islice(right, n))
