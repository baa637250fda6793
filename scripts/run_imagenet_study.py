"""Run the ImageNet studies of the book (Sec. 5), and store them under results/imagenet.

    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224
    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --images 100
    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --collect

A study consists of parts (PARTS below), each a resumable study of `moxi_lite.run_study` in
_build/studies/MODEL/PART.  Killed and started again, it goes on where it was.  After each part,
and alone with --collect, what is finished is joined into results/imagenet/MODEL.parquet, with its
provenance in MODEL.json, unless the table there holds curves that are not finished here.

On 2 cores the parts keep to the first steps of the greedy search; with a GPU pass --images 1000
--all-steps.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from _common import ROOT, fail, say
from _results import RESULTS, STUDIES, correctly_classified, parser, positive, working

import moxi_lite as moxi
from moxi_lite.files import write_atomically
from moxi_lite.study import (
    SCHEMA,
    STUDY_METHODS,
    StudyFolder,
    concatenate,
    counted,
    parquet_bytes,
    provenance_of,
    publishable,
    write_json,
)

BOTH = ("insertion", "deletion")
SCORES = ("moxi-", "gradcam", "gradcam-eigen", "gradcam++", "gradcam++-eigen", "rollout", "rise")
ALWAYS = ("moxi", *SCORES, "random")
# Weights of the two models that were put together again from published dumps, layer by layer
RECOVERED = {
    "3f1f07da5e1337265ac1eb0234d13841467caf730b3c4240bd3f98c49bc16a92",
    "b2e17235172c1dcddacb55aa8914e2f8b4b95eb9bb7d7782f333bcbef77151b8",
}
KEYS = ["image", "method", "mode"]  # of a curve


@dataclass(frozen=True)
class Part:
    """One part of a study: which correctly classified images, and arguments of `run_study`."""

    images: slice
    methods: tuple[str, ...]
    modes: tuple[str, ...]
    budget: dict[str, int] | None = None
    n_samples: dict[str, int | tuple[int, ...]] | None = None
    rename: dict[str, str] | None = None  # methods in the joined table
    dtype: str = "mixed"
    masking: str = "drop"
    grid: tuple[int, int] | None = None


def usual(mode: str, budget: int, images: slice) -> Part:
    """Compare all methods but those that cost most, in one mode, on a ViT."""
    return Part(images, ALWAYS, (mode,), {mode: budget}, {"rise": 1000})


# Where two parts have the same curve, the first counts.
PARTS: dict[str, dict[str, Part]] = {
    "vit_tiny_patch16_224": {
        "insertion": usual("insertion", 78, slice(60)),
        "all-methods": Part(
            slice(20),
            STUDY_METHODS,
            BOTH,
            {"insertion": 40, "deletion": 40},
            {"shapley": 10, "shapley-paper": 10, "rise": 1000},
            {"shapley": "shapley-10", "shapley-paper": "shapley-paper-10"},
        ),
        "deletion": usual("deletion", 39, slice(20, 60)),
        "shapley-200": Part(
            slice(40, 60),
            ("shapley-paper",),
            BOTH,
            n_samples={"shapley-paper": (10, 50, 200)},
            rename={"shapley-paper-200": "shapley-paper"},
        ),
        "shapley-50": Part(
            slice(40),
            ("shapley-paper",),
            BOTH,
            n_samples={"shapley-paper": 50},
            rename={"shapley-paper": "shapley-paper-50"},
        ),
    },
    "deit_tiny_patch16_224": {
        "insertion": usual("insertion", 78, slice(20)),
        "deletion": usual("deletion", 39, slice(20)),
    },
    "efficientnet_lite0": {
        "zero": Part(
            slice(20),
            tuple(method for method in ALWAYS if method != "rollout"),
            BOTH,
            {"insertion": 19, "deletion": 9},
            {"rise": 1000},
            dtype="float32",
            masking="zero",
            grid=(7, 7),
        )
    },
}


def run_part(model: moxi.Classifier, name: str, part: Part, images: list[Any]) -> None:
    """Study the images of one part, and join the table."""
    result = moxi.run_study(
        images,
        model,
        part.methods,
        part.modes,
        STUDIES / model.name / name,
        budget=part.budget,
        masking=part.masking,
        grid=part.grid,
        dtype=part.dtype,
        n_samples=part.n_samples,
        show_progress=True,
    )
    seconds = result.provenance["seconds"] / max(result.provenance["n_studied"], 1)
    say(f"{name}: {result.provenance['n_studied']} images stored, {seconds:.0f} s an image")
    collect(model.name)


def collect(model: str) -> Path | None:
    """Join the finished images of all parts; None if there are none."""
    tables, record = [], {}
    for name, part in PARTS[model].items():
        folder = StudyFolder(STUDIES / model / name)
        if not folder.finished():
            continue
        settings = json.loads((folder.root / "settings.json").read_text(encoding="utf-8"))
        shards = [folder.read_shard(image) for image in folder.finished()]
        facts = [shard.facts for shard in shards]
        record[name] = published(provenance_of(settings, facts, folder.failures()))
        table = concatenate([shard.table for shard in shards]).to_pandas()
        table = table.astype(dict.fromkeys((*KEYS, "model"), str))
        tables.append(table.replace({"method": part.rename or {}}))
    if not tables:
        return None
    # similar rows side by side compress well
    rows = pd.concat(tables).drop_duplicates([*KEYS, "step"])  # keeps the first
    rows = rows.sort_values(["method", "mode", "image", "step"])
    path = RESULTS / "imagenet" / f"{model}.parquet"
    missing = curves_in(pd.read_parquet(path)) - curves_in(rows) if path.is_file() else set()
    if missing:
        path = STUDIES / model / path.name
        say(
            f"results/ holds {len(missing)} curves that are not finished here, so it is left alone "
            f"and {os.path.relpath(path, ROOT)} written. Delete the stored table to replace it."
        )
    provenance = {
        "format": "moxi-lite studies, joined",
        "command": f"python scripts/run_imagenet_study.py --model {model}",
        "model": model,
        "phases": record,
        "notes": notes(record),
    }
    write_json(path.with_suffix(".json"), provenance)
    whole = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
    brief = {"model": model, "phases": sorted(record)}
    write_atomically(path, parquet_bytes(whole, brief))
    return path


def notes(record: dict[str, Any]) -> list[str]:
    """Say what is to be known of the images and weights behind a table."""
    found = ["The photographs are probably training images, so this is no validation accuracy."]
    if RECOVERED & {part["settings"]["weights_sha256"] for part in record.values()}:
        found.append(
            "The weights were recovered, layer by layer, from dumps of the published checkpoint, "
            "and are not the hub's file byte for byte."
        )
    return found


def curves_in(table: pd.DataFrame) -> set[tuple[str, ...]]:
    """Name the curves of a table: image, method, mode."""
    return set(table[KEYS].drop_duplicates().itertuples(index=False, name=None))


def published(provenance: dict[str, Any]) -> dict[str, Any]:
    """Leave out what concerns the machine alone: host names and paths."""
    wanted = ("image", "sha256", "label", "predicted", "status", "n_evaluations", "seconds")
    return {
        **provenance,
        "environments": counted(map(publishable, provenance["environments"])),
        "images": [{key: image[key] for key in wanted} for image in provenance["images"]],
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=PARTS, default="vit_tiny_patch16_224")
    options.add_argument(
        "--images", type=positive, help="correctly classified images of each part, from the first"
    )
    options.add_argument("--all-steps", action="store_true", help="search all steps greedily")
    options.add_argument("--collect", action="store_true", help="compute nothing, join the tables")
    given = options.parse_args()
    parts = PARTS[given.model]
    with working(given.threads):
        if not given.collect:
            model = moxi.load_model(given.model, device=given.device)
            most = given.images or max(part.images.stop for part in parts.values())
            indices = correctly_classified([model], most)
            say(f"{len(indices)} correctly classified images, such as {indices[:5]}")
            for name, part in parts.items():
                chosen = indices if given.images else indices[part.images]
                budget = None if given.all_steps else part.budget
                run_part(model, name, replace(part, budget=budget), chosen)
        path = collect(given.model)
    if path is None:
        fail(f"no image of {given.model} is finished yet: run without --collect first.")
    say(f"{path.relative_to(ROOT)}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
