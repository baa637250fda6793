"""Compare maskings on ViT-Ti, and ViT-Ti with DeiT-Ti, image by image (Appendices B and D).

    python scripts/run_masks_and_models.py --images 20
    python scripts/run_masks_and_models.py --part models --images 10
    python scripts/run_masks_and_models.py --collect

Images are those of run_imagenet_study.py that both models classify correctly, in its order, on a
grid of 7 x 7 patches.  Part "masks": greedy searches of ViT-Ti under token deletion, zero, mean
and blur, first steps only, and what each order achieves under every masking.  Part "models": why
DeiT-Ti needs more patches: what it says of nothing, of single patches, of random groups; greedy
search against the best pair of all, and against greedy search mended by swaps.

Resumable: each finished image is one line in _build/studies/masks_and_models/PART.jsonl.  With
--collect they are joined into results/imagenet/masks_and_models.json; so they are at the end.
On 2 idle cores an image takes two to three minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _common import BUILD, ROOT, fail, say
from run_imagenet_study import correctly_classified, without_machine

import moxi_lite as moxi
from moxi_lite.data import image_list_sha256
from moxi_lite.files import write_atomically
from moxi_lite.study import StudyFolder, environment

MODELS = ("vit_tiny_patch16_224", "deit_tiny_patch16_224")
MASKINGS = ("drop", "zero", "mean", "blur")
GRID = (7, 7)
BUDGET = {"insertion": 8, "deletion": 10}
SIZES = (1, 2, 4, 8, 16, 24, 36)  # of random groups
N_RANDOM = 20
MOST_SWAPPED = 12  # largest group that is mended by swaps
WORK = BUILD / "studies" / "masks_and_models"
RESULT = ROOT / "results" / "imagenet" / "masks_and_models.json"


def nested(order: np.ndarray, n: int, mode: str) -> np.ndarray:
    """Coalitions after 0, 1, ..., k steps, (k + 1, n)."""
    rows = np.full((len(order) + 1, n), mode == "deletion")
    for step, patch in enumerate(order, 1):
        rows[step:, patch] = mode == "insertion"
    return rows


def study_masks(models: dict[str, moxi.Classifier], index: int) -> dict[str, Any]:
    """Search under every masking; judge every order under every masking."""
    model, image = models[MODELS[0]], moxi.imagenet_sample(index).image
    games = {m: moxi.PatchGame(model, image, masking=m, grid=GRID, dtype="mixed") for m in MASKINGS}
    n = GRID[0] * GRID[1]
    record: dict[str, Any] = {"image": index, "maskings": {}, "judged": {}}
    orders: dict[str, dict[str, np.ndarray]] = {mode: {} for mode in BUDGET}
    for name, game in games.items():
        empty = game.outcome(np.zeros(n, dtype=bool))
        found: dict[str, Any] = {
            "empty_prediction": int(empty.predictions[0]),
            "empty_confidence": float(empty.confidences[0]),
            "empty_log_odds": float(empty.rewards[0]),
        }
        for mode, budget in BUDGET.items():
            started = time.monotonic()
            first = moxi.attribute(game, "moxi-", mode=mode)
            ex = moxi.explain(game, mode=mode, budget=budget)
            orders[mode][name] = ex.order
            found[mode] = {
                "order": ex.order.tolist(),
                "log_odds": np.round(ex.values, 4).tolist(),
                "first_step": np.round(first, 4).tolist(),
                "seconds": round(time.monotonic() - started, 2),
            }
        record["maskings"][name] = found
    for mode, of_masking in orders.items():
        for found_under, order in of_masking.items():
            rows = nested(order, n, mode)
            for judge, game in games.items():
                outcome = game.outcome(rows)
                record["judged"][f"{mode}/{found_under}/{judge}"] = {
                    "correct": (outcome.predictions == game.target).tolist(),
                    "log_odds": np.round(outcome.rewards, 4).tolist(),
                }
    return record


def mended(game: moxi.PatchGame, members: np.ndarray) -> tuple[np.ndarray, float]:
    """Swap one patch in for one out, the best swap each time, until none helps."""
    members, best = members.copy(), float(game(members)[0])
    while True:
        inside, outside = np.flatnonzero(members), np.flatnonzero(~members)
        rows = np.repeat(members[None], len(inside) * len(outside), axis=0)
        at = np.arange(len(rows))
        rows[at, np.repeat(inside, len(outside))] = False
        rows[at, np.tile(outside, len(inside))] = True
        rewards = game(rows)
        top = int(rewards.argmax())
        if rewards[top] <= best + 1e-5:
            return members, best
        members, best = rows[top], float(rewards[top])


def rank_of_target(game: moxi.PatchGame, rows: np.ndarray) -> np.ndarray:
    """Place of the target among the classes, from 1."""
    logits = game.logits(rows)
    return (logits > logits[:, [game.target]]).sum(axis=1) + 1


def study_models(models: dict[str, moxi.Classifier], index: int) -> dict[str, Any]:
    """Look at both models' games of one image, tokens deleted."""
    record: dict[str, Any] = {"image": index}
    for name, model in models.items():
        game = moxi.PatchGame(model, moxi.imagenet_sample(index).image, grid=GRID)
        n = game.n_players
        ends = game.outcome(np.stack([np.zeros(n, dtype=bool), np.ones(n, dtype=bool)]))
        singles = game.outcome(np.eye(n, dtype=bool))
        ex = moxi.explain(game, stop="flip")
        rng = np.random.default_rng(index)
        random = {}
        for size in SIZES:
            rows = rng.random((N_RANDOM, n)).argsort(axis=1).argsort(axis=1) < size
            outcome = game.outcome(rows)
            random[str(size)] = {
                "correct": float((outcome.predictions == game.target).mean()),
                "log_odds": float(outcome.rewards.mean()),
            }
        pairs = np.array([(a, b) for a in range(n) for b in range(a)])
        rows = np.zeros((len(pairs), n), dtype=bool)
        rows[np.arange(len(pairs))[:, None], pairs] = True
        of_pairs = game.outcome(rows)
        best = int(of_pairs.rewards.argmax())
        swapped, swapped_values = None, []
        for size in range(1, min(len(ex), MOST_SWAPPED) + 1):
            members, value = mended(game, ex.visible(size))
            swapped_values.append(round(value, 4))
            if game.outcome(members).predictions[0] == game.target:
                swapped = size
                break
        record[name] = {
            "full_log_odds": float(ends.rewards[1]),
            "full_confidence": float(ends.confidences[1]),
            "empty_log_odds": float(ends.rewards[0]),
            "empty_prediction": int(ends.predictions[0]),
            "empty_confidence": float(ends.confidences[0]),
            "single_log_odds": np.round(singles.rewards, 4).tolist(),
            "single_recognised": int((singles.predictions == game.target).sum()),
            "single_best_rank": int(rank_of_target(game, np.eye(n, dtype=bool)).min()),
            "greedy_order": ex.order.tolist(),
            "greedy_log_odds": np.round(ex.values, 4).tolist(),
            "greedy_confidence": np.round(ex.confidences, 4).tolist(),
            "greedy_flip": len(ex),
            "swapped_flip": swapped,
            "swapped_log_odds": swapped_values,
            "best_pair_log_odds": float(of_pairs.rewards[best]),
            "best_pair_recognised": bool(of_pairs.predictions[best] == game.target),
            "pairs_recognised": int((of_pairs.predictions == game.target).sum()),
            "random": random,
        }
    return record


PARTS: dict[str, Callable[[dict[str, moxi.Classifier], int], dict[str, Any]]] = {
    "models": study_models,
    "masks": study_masks,
}


def finished(work: Path, part: str) -> list[dict[str, Any]]:
    path = work / f"{part}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def store(work: Path, part: str, record: dict[str, Any]) -> None:
    """Add one finished image; a killed process leaves no half line behind."""
    lines = [json.dumps(each) + "\n" for each in (*finished(work, part), record)]
    write_atomically(work / f"{part}.jsonl", "".join(lines).encode())


def settings_of(models: dict[str, moxi.Classifier]) -> dict[str, Any]:
    """Everything but the images that determines what is found."""
    return {
        "grid": GRID,
        "budget": BUDGET,
        "maskings": MASKINGS,
        "sizes": SIZES,
        "n_random": N_RANDOM,
        "most_swapped": MOST_SWAPPED,
        "weights_sha256": {name: model.weights_sha256 for name, model in models.items()},
    }


def collect(work: Path, result: Path, models: dict[str, moxi.Classifier]) -> None:
    """Join the finished images of both parts."""
    parts = {part: finished(work, part) for part in PARTS}
    computed: dict[str, dict[str, Any]] = {}
    for record in (record for records in parts.values() for record in records):
        facts = {**record.pop("environment", {"commit": None}), "images": 0}
        computed.setdefault(json.dumps(facts), facts)["images"] += 1
    whole = {
        "format": "moxi-lite masks and models",
        "command": "python scripts/run_masks_and_models.py",
        **settings_of(models),
        "image_list_sha256": {
            part: image_list_sha256([each["image"] for each in records])
            for part, records in parts.items()
        },
        "environments": list(computed.values()),
        "environment": {  # of the process that joined the images
            "platform": f"{platform.system()} {platform.machine()}",
            "torch": torch.__version__,
            "timm": timm.__version__,
            "moxi-lite": moxi.__version__,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        },
        **parts,
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(result, (json.dumps(whole, separators=(",", ":")) + "\n").encode())
    say(f"{result}: " + ", ".join(f"{part}: {len(each)} images" for part, each in parts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part")
    parser.add_argument("--images", type=int, default=20, help="images a part (default 20)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--collect", action="store_true", help="compute nothing, join")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.images < 1 or options.threads < 1:
        parser.error("--images and --threads must be 1 or more")
    torch.set_num_threads(options.threads)
    folder = StudyFolder(options.work.resolve())
    try:
        models = {name: moxi.load_model(name) for name in MODELS}
        folder.prepare()
        folder.adopt_settings(settings_of(models))
    except (OSError, ValueError) as error:
        fail(str(error))
    try:
        if not options.collect:
            study(models, options.part or list(PARTS), options.images, options.work)
        collect(options.work, options.out, models)
    except OSError as error:  # no sample images, no room
        fail(str(error))


def study(models: dict[str, moxi.Classifier], parts: list[str], n_images: int, work: Path) -> None:
    """Compute and store what is not finished."""
    indices = correctly_classified(models.values(), n_images)
    for part in parts:
        done = {each["image"] for each in finished(work, part)}
        for index in indices:
            if index in done:
                continue
            started = time.monotonic()
            record = PARTS[part](models, index)
            record["seconds"] = round(time.monotonic() - started, 1)
            record["environment"] = without_machine(environment(str(models[MODELS[0]].device)))
            store(work, part, record)
            say(f"{part}: image {index} in {record['seconds']:.0f} s")


if __name__ == "__main__":
    main()
