"""Explain classes that the model does not predict (Sec. 5.2, Fig. 5), and store what was found.

    python scripts/run_target_class.py
    python scripts/run_target_class.py --pairs 50

Most images are made of two photographs, so that it is known where each class is: the middle of
one sample image of ImageNet on the left, of another on the right.  Pairs are taken in the order of
the study (run_imagenet_study.py), first two neighbours each, then two places farther apart, if
both photographs are classified correctly and, side by side, their classes are the model's first
and second choice.  The first choice is predicted; the second is the target.  No photograph is in
two pairs.  The paper's own two classes (bull mastiff and tiger cat) and some photographs that hold
two things come on top, as examples.

Writes results/imagenet/target_class.parquet and target_class.json.  Killed and started again, it
goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import say
from _results import RESULTS, STUDIES, classifies, kept, parser, spread, working

import moxi_lite as moxi
from moxi_lite.files import write_atomically
from moxi_lite.search import explain_class
from moxi_lite.study import StudyFolder, counted, write_json

MODEL = "vit_tiny_patch16_224"
GRID = (7, 7)  # deletion runs on nearly all tokens: larger patches, so fewer candidates
EXAMPLE_PAIRS = ((243, 282),)  # Fig. 5: bull mastiff, tiger cat
SAID = {"value": np.nan, "prediction": -1, "confidence": np.nan}  # of a step; else unknown
PHOTOS = {"camera": "reflex camera", "coffee": "cup", "motorcycle": "disk brake"}


@dataclass(frozen=True)
class Scene:
    """An image to explain: two sample images of ImageNet side by side, or a sample photograph."""

    name: str
    pixels: torch.Tensor
    target: int
    left: int = -1
    right: int = -1
    drawn: bool = False  # by the rule, and not as an example
    tried: int = 0  # pairs looked at until this one was found


def side_by_side(model: moxi.Classifier, left: int, right: int) -> torch.Tensor:
    """Join the middle halves of two sample images, preprocessed."""
    quarter = model.input_size[1] // 4
    halves = [
        model.preprocess(moxi.imagenet_sample(index).image)[:, :, quarter : 3 * quarter]
        for index in (left, right)
    ]
    return torch.cat(halves, dim=2)


def best_two(model: moxi.Classifier, pixels: torch.Tensor) -> list[int]:
    return model.logits(pixels[None])[0].topk(2).indices.tolist()


def scene_of_pair(model: moxi.Classifier, left: int, right: int, tried: int = 0) -> Scene | None:
    """Put two photographs side by side; None if their classes are not the best two."""
    pixels = side_by_side(model, left, right)
    best = best_two(model, pixels)
    if set(best) != {left, right}:
        return None
    name = f"imagenet-{left:04d}-{right:04d}"
    return Scene(name, pixels, best[1], left, right, drawn=tried > 0, tried=tried)


def scenes(model: moxi.Classifier, n_pairs: int) -> Iterator[Scene]:
    """Yield the examples, then the pairs drawn by the rule."""
    for name, target in PHOTOS.items():
        pixels = model.preprocess(moxi.sample_photo(name))
        yield Scene(f"photo-{name}", pixels, model.class_index(target))
    classified = cache(partial(classifies, model))
    used: set[int] = set()
    for left, right in EXAMPLE_PAIRS:
        if (scene := scene_of_pair(model, left, right)) is not None:
            used |= {left, right}
            yield scene
        else:
            say(f"{left} beside {right} are not the best two classes: left out")
    found = tried = 0
    for left, right in pairs(spread()):
        if found == n_pairs:
            break
        if used & {left, right} or not (classified(left) and classified(right)):
            continue
        tried += 1
        if (scene := scene_of_pair(model, left, right, tried)) is not None:
            found += 1
            used |= {left, right}
            yield scene
    say(f"{found} of {tried} pairs have their two classes first and second")


def pairs(order: list[int]) -> Iterator[tuple[int, int]]:
    """Yield each photograph of an even place with every one of an odd place, neighbours first."""
    even, odd = order[::2], order[1::2]
    for shift in range(len(odd)):
        yield from zip(even, odd[shift:] + odd[:shift], strict=True)


def parts_of(model: moxi.Classifier, scene: Scene) -> Iterator[dict[str, Any]]:
    """Yield every explanation of one scene: name of the part, patches, and what the model said."""
    game = moxi.PatchGame(model, scene.pixels, target=scene.target, grid=GRID)
    predicted = moxi.PatchGame(model, scene.pixels, grid=GRID)
    two = explain_class(game)
    yield part("cleared", two.cleared)
    if not set(two.cleared.predictions) <= {game.predicted, game.target}:  # otherwise the same
        yield part("cleared, strictly", explain_class(game, track_leader=False).cleared)
    k = 5  # patches compared where stage 2 was not reached
    if two.highlighted is not None:
        yield part("highlighted", two.highlighted)
        k = len(two.highlighted)
    yield part("predicted class", moxi.explain(predicted, mode="deletion", stop="flip"))
    yield part("one stage", moxi.explain(game, mode="deletion", budget=k))
    yield part("insertion", moxi.explain(game, stop="flip"))
    for method in ("gradcam", "rollout"):
        order = moxi.order_of(moxi.attribute(game, method))[:k]
        yield {"part": method, "patch": order.tolist(), "stop_reason": "budget"}


def part(name: str, ex: moxi.Explanation) -> dict[str, Any]:
    return {
        "part": name,
        "patch": ex.order.tolist(),
        "value": ex.values.tolist(),
        "prediction": ex.predictions.tolist(),
        "confidence": ex.confidences.tolist(),
        "start": [ex.start_value, ex.start_prediction, ex.start_confidence],
        "stop_reason": ex.stop_reason,
        "n_evaluations": ex.n_evaluations,
    }


def study(model: moxi.Classifier, scene: Scene) -> dict[str, Any]:
    return {
        "scene": scene.name,
        "left": scene.left,
        "right": scene.right,
        "drawn": scene.drawn,
        "target": scene.target,
        "predicted": best_two(model, scene.pixels)[0],
        "pixels_sha256": hashlib.sha256(model.display(scene.pixels).tobytes()).hexdigest(),
        "parts": list(parts_of(model, scene)),
    }


def rows_of(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one row a step; step 0 is the state before it, with patch -1."""
    scene = {k: record[k] for k in ("scene", "left", "right", "drawn", "predicted", "target")}
    for each in record["parts"]:
        about = {**scene, "part": each["part"], "stop_reason": each["stop_reason"]}
        if "value" in each:
            yield {**about, "step": 0, "patch": -1, **dict(zip(SAID, each["start"], strict=True))}
        for step, patch in enumerate(each["patch"]):
            said = {name: each[name][step] if name in each else none for name, none in SAID.items()}
            yield {**about, "step": step + 1, "patch": patch, **said}


def collect(model: moxi.Classifier, records: list[dict[str, Any]], n_tried: int) -> None:
    """Join what is finished, the last of it found after so many pairs."""
    table = pd.DataFrame(row for record in records for row in rows_of(record))
    types = dict.fromkeys(("left", "right", "predicted", "target", "step", "patch", "prediction"))
    table = table.astype(dict.fromkeys(types, "int16") | {"value": "f4", "confidence": "f4"})
    provenance = {
        "format": "moxi-lite target classes",
        "command": "python scripts/run_target_class.py",
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "masking": "drop",
        "grid": list(GRID),
        "n_scenes": len(records),
        "n_drawn": sum(each["drawn"] for each in records),
        "n_tried": n_tried,
        "seconds": round(sum(each["seconds"] for each in records), 1),
        "environments": counted(each["environment"] for each in records),
        "scenes": [
            {name: each[name] for name in ("scene", "pixels_sha256", "seconds")} for each in records
        ],
    }
    path = RESULTS / "imagenet" / "target_class.json"
    write_json(path, provenance)
    write_atomically(
        path.with_suffix(".parquet"), table.to_parquet(index=False, compression="zstd")
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=40, help="drawn by the rule (default 40)")
    given = options.parse_args()
    folder = StudyFolder(STUDIES / "target_class")
    with working(given.threads):
        model = moxi.load_model(MODEL, device=given.device)
        facts = {"model": model.name, "weights_sha256": model.weights_sha256, "grid": GRID}
        records, n_tried = [], 0
        with folder.locked():
            folder.adopt_settings(facts)
            for scene in scenes(model, given.pairs):
                path = folder.root / "shards" / f"{scene.name}.json"
                records.append(kept(path, model.device, partial(study, model, scene)))
                n_tried = max(n_tried, scene.tried)
                collect(model, records, n_tried)


if __name__ == "__main__":
    main()
