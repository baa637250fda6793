"""Compare maskings on ViT-Ti, and ViT-Ti with DeiT-Ti, image by image (Appendices B and D).

    python scripts/run_masks_and_models.py --images 20

Images are those of run_imagenet_study.py that both models classify correctly, in its order, on a
grid of 7 x 7 patches.  Part "masks": greedy searches of ViT-Ti under token deletion, zero, mean
and blur, first steps only, and what each order achieves under every masking.  Part "models": why
DeiT-Ti needs more patches: what it says of nothing, of single patches, of random groups; greedy
search against the best pair of all, and against greedy search mended by swaps.

Resumable: each finished image is one file in _build/studies/masks_and_models.  In the end they are
joined into results/imagenet/masks_and_models.json.  On 2 idle cores an image takes two to three
minutes.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
from _common import say
from _results import RESULTS, STUDIES, correctly_classified, kept, parser, positive, working

import moxi_lite as moxi
from moxi_lite.data import image_list_sha256
from moxi_lite.files import write_atomically
from moxi_lite.study import StudyFolder, counted, now

MODELS = ("vit_tiny_patch16_224", "deit_tiny_patch16_224")
MASKINGS = ("drop", "zero", "mean", "blur")
GRID = (7, 7)
BUDGET = {"insertion": 8, "deletion": 10}
SIZES = (1, 2, 4, 8, 16, 24, 36)  # of random groups
N_RANDOM = 20
MOST_SWAPPED = 12  # largest group that is mended by swaps


def study_masks(models: dict[str, moxi.Classifier], index: int) -> dict[str, Any]:
    """Search under every masking; judge every order under every masking."""
    model, image = models[MODELS[0]], moxi.imagenet_sample(index).image
    games = {m: moxi.PatchGame(model, image, masking=m, grid=GRID, dtype="mixed") for m in MASKINGS}
    n = GRID[0] * GRID[1]
    record: dict[str, Any] = {"image": index, "maskings": {}, "judged": {}}
    searches: dict[str, dict[str, moxi.Explanation]] = {mode: {} for mode in BUDGET}
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
            searches[mode][name] = ex
            found[mode] = {
                "order": ex.order.tolist(),
                "log_odds": np.round(ex.values, 4).tolist(),
                "first_step": np.round(first, 4).tolist(),
                "seconds": round(time.monotonic() - started, 2),
            }
        record["maskings"][name] = found
    for mode, of_masking in searches.items():
        for found_under, ex in of_masking.items():
            rows = np.stack([ex.visible(step) for step in range(len(ex) + 1)])
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


def settings_of(models: dict[str, moxi.Classifier]) -> dict[str, Any]:
    return {
        "grid": GRID,
        "budget": BUDGET,
        "maskings": MASKINGS,
        "sizes": SIZES,
        "n_random": N_RANDOM,
        "most_swapped": MOST_SWAPPED,
        "weights_sha256": {name: model.weights_sha256 for name, model in models.items()},
    }


def joined(
    parts: dict[str, list[dict[str, Any]]], models: dict[str, moxi.Classifier]
) -> dict[str, Any]:
    """Join the finished images of both parts into the record that is stored."""
    made = [each.pop("environment") for records in parts.values() for each in records]
    return {
        "format": "moxi-lite masks and models",
        "command": "python scripts/run_masks_and_models.py",
        **settings_of(models),
        "image_list_sha256": {
            part: image_list_sha256([each["image"] for each in records])
            for part, records in parts.items()
        },
        "environments": counted(made),
        "environment": {  # of the process that joined the images
            "platform": f"{platform.system()} {platform.machine()}",
            "torch": torch.__version__,
            "timm": timm.__version__,
            "moxi-lite": moxi.__version__,
            "finished": now(),
        },
        **parts,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=positive, default=20, help="images a part (default 20)")
    given = options.parse_args()
    folder = StudyFolder(STUDIES / "masks_and_models")
    with working(given.threads):
        models = {name: moxi.load_model(name, device=given.device) for name in MODELS}
        indices = correctly_classified(models.values(), given.images)
        with folder.locked():
            folder.adopt_settings(settings_of(models))
            parts = {
                part: [
                    kept(
                        folder.root / "shards" / f"{part}-{index}.json",
                        models[MODELS[0]].device,
                        lambda look=look, index=index: look(models, index),
                    )
                    for index in indices
                ]
                for part, look in PARTS.items()
            }
        content = json.dumps(joined(parts, models), separators=(",", ":"))
        write_atomically(RESULTS / "imagenet" / "masks_and_models.json", content.encode())
    say(f"masks_and_models.json: {len(indices)} images a part")


if __name__ == "__main__":
    main()
