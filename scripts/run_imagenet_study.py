"""Run the ImageNet studies of the book (Sec. 5), and store them under results/imagenet.

    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --jobs 2
    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --parts shapley --images 100
    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --collect

A study consists of parts (PARTS below), each a resumable study of `moxi_lite.run_study` in
_build/studies/MODEL/PART.  Killed and started again, it goes on where it was; photographs that
results/imagenet/MODEL.parquet holds already are not computed again, so it also goes on where
another machine was.  After each part, and alone with --collect, what is finished is added to that
table, with its provenance in MODEL.json.  A part's name stands for its definition: who changes
what it computes gives it another name.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _common import ROOT, fail, say
from _results import N_SAMPLES, RESULTS, STUDIES, correctly_classified, parser, positive, working

import moxi_lite as moxi
from moxi_lite.files import write_atomically
from moxi_lite.study import (
    SCHEMA,
    StudyFolder,
    concatenate,
    counted,
    parquet_bytes,
    provenance_of,
    publishable,
    write_json,
)

BOTH = ("insertion", "deletion")
SCORES = ("moxi-", "gradcam", "gradcam-paper", "gradcam++", "gradcam++-paper", "rollout")
# Where curves are read off: each of the first 20 patches (10 %), fewer and fewer after that.
POINTS = (*range(21), 24, 29, 34, 39, 49, 59, 69, 78, 98, 118, 137, 157, 176, 186, 196)
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
    dtype: str = "mixed"
    masking: str = "drop"
    grid: tuple[int, int] | None = None
    points: tuple[int, ...] | None = POINTS


EVERY = slice(None)
# Where two parts have the same curve, the one that was searched further counts, of equal ones the
# first.  A table may hold parts that are not here any more, which earlier versions computed.
PARTS: dict[str, dict[str, Part]] = {
    "vit_tiny_patch16_224": {
        "moxi-insertion": Part(EVERY, ("moxi",), ("insertion",), {"insertion": 20}),
        "scores-insertion": Part(EVERY, (*SCORES, "random"), ("insertion",)),
        "scores-deletion": Part(EVERY, (*SCORES, "random"), ("deletion",)),
        # The first 60 are stored from an earlier version, searched further, and with RISE.
        "moxi-deletion": Part(slice(60, 200), ("moxi",), ("deletion",), {"deletion": 20}),
        "shapley": Part(slice(200), ("shapley",), BOTH, n_samples={"shapley": (10, 20)}),
        "random": Part(slice(200), ("random",), BOTH, n_samples={"random": 20}),
        "rise": Part(slice(60, 200), ("rise",), BOTH, n_samples={"rise": 1000}),
        "shapley-200": Part(
            slice(40, 60), ("shapley-paper",), BOTH, n_samples={"shapley-paper": (10, 50, 200)}
        ),
    },
    "deit_tiny_patch16_224": {
        "moxi-insertion": Part(slice(200), ("moxi",), ("insertion",), {"insertion": 49}),
        "scores": Part(slice(200), (*SCORES, "random"), BOTH),
    },
    "efficientnet_lite0": {
        "moxi": Part(slice(20), ("moxi",), BOTH, None, None, "float32", "zero", (7, 7), None),
        "scores": Part(
            slice(20),
            tuple(method for method in (*SCORES, "random") if method != "rollout"),
            BOTH,
            dtype="float32",
            masking="zero",
            grid=(7, 7),
            points=None,
        ),
    },
}


def run_part(
    model: moxi.Classifier, name: str, part: Part, images: list[Any], jobs: int = 1
) -> None:
    """Study those images of one part that are not stored, and add them to the table."""
    phase = stored(model.name)[1].get(name, {"images": []})
    known = {image["label"] for image in phase["images"]}  # of an ImageNet sample its number
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (1,)) if jobs > 1 else None
    with pool or nullcontext():
        result = moxi.run_study(
            [image for image in images if image not in known],
            model if pool is None else model.name,
            part.methods,
            part.modes,
            STUDIES / model.name / name,
            pool,
            budget=part.budget,
            masking=part.masking,
            grid=part.grid,
            dtype=part.dtype,
            n_samples=part.n_samples,
            points=part.points,
            show_progress=True,
        )
    seconds = result.provenance["seconds"] / max(result.provenance["n_studied"], 1)
    say(f"{name}: {result.provenance['n_studied']} images here, {seconds:.0f} s an image")
    collect(model.name)


def stored(model: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the stored table of a model and the provenance of its parts; empty if there is none."""
    path = RESULTS / "imagenet" / f"{model}.parquet"
    if not path.is_file():
        return plain(SCHEMA.empty_table()), {}
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return plain(pq.read_table(path)), record["phases"]


def collect(model: str) -> Path | None:
    """Add the finished images of all parts to the stored table; None if there are none."""
    before, phases = stored(model)
    tables, record = [], dict(phases)
    for name in PARTS[model]:
        folder = StudyFolder(STUDIES / model / name)
        if not folder.finished():
            continue
        settings = json.loads((folder.root / "settings.json").read_text(encoding="utf-8"))
        shards = [folder.read_shard(image) for image in folder.finished()]
        tables.append(plain(concatenate([shard.table for shard in shards])))
        earlier = {image["image"]: image for image in facts_of(phases.get(name, {"images": []}))}
        facts = earlier | {shard.facts["image"]: shard.facts for shard in shards}
        record[name] = published(settings, list(facts.values()), folder.failures())
    if not record:
        return None
    rows = pd.concat([*tables, before], keys=range(len(tables) + 1), names=["source", None])
    rows = rows.reset_index("source")
    rows["searched"] = rows["step"].where(rows["exact"], 0)
    rows["searched"] = rows.groupby([*KEYS, "source"])["searched"].transform("max")
    for column, end in (("searched", "max"), ("source", "min")):
        rows = rows[rows[column] == rows.groupby(KEYS)[column].transform(end)]
    # similar rows side by side compress well
    rows = rows.sort_values(["method", "mode", "image", "step"])
    path = RESULTS / "imagenet" / f"{model}.parquet"
    provenance = {
        "format": "moxi-lite studies, joined",
        "command": f"python scripts/run_imagenet_study.py --model {model}",
        "model": model,
        "phases": {name: record[name] for name in (*PARTS[model], *phases) if name in record},
        "notes": notes(record),
    }
    write_json(path.with_suffix(".json"), provenance)
    whole = pa.Table.from_pandas(rows, SCHEMA, preserve_index=False)
    brief = {"model": model, "phases": sorted(record)}
    write_atomically(path, parquet_bytes(whole, brief))
    return path


def plain(table: pa.Table) -> pd.DataFrame:
    """Turn a table into one with names as text, which can be joined with others."""
    return table.to_pandas().astype(dict.fromkeys((*KEYS, "model"), str))


def notes(record: dict[str, Any]) -> list[str]:
    """Say what is to be known of the images and weights behind a table."""
    found = ["The photographs are probably training images, so this is no validation accuracy."]
    if RECOVERED & {part["settings"]["weights_sha256"] for part in record.values()}:
        found.append(
            "The weights were recovered, layer by layer, from dumps of the published checkpoint, "
            "and are not the hub's file byte for byte."
        )
    return found


FACTS = ("image", "sha256", "label", "predicted", "status", "n_evaluations", "seconds", "finished")


def published(
    settings: dict[str, Any], facts: list[dict[str, Any]], failures: list[str]
) -> dict[str, Any]:
    """Summarise a part without what concerns the machine alone, host names and paths."""
    machines = [publishable(each["environment"]) for each in facts]
    environments = counted(machines)
    places = [{**each, "images": 0} for each in environments]
    images = [
        {key: each[key] for key in FACTS} | {"environment": places.index({**machine, "images": 0})}
        for each, machine in zip(facts, machines, strict=True)
    ]
    summary = provenance_of(settings, facts, failures)
    return summary | {"environments": environments, "images": images}


def facts_of(phase: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn what `published` made of a part back into the facts of its images."""
    return [
        image | {"environment": phase["environments"][image["environment"]] | {"images": 1}}
        for image in phase["images"]
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=PARTS, default="vit_tiny_patch16_224")
    options.add_argument("--parts", nargs="+", help="only these; by default all, one by one")
    options.add_argument("--images", type=positive, help="of each part, only the first")
    options.add_argument("--jobs", type=positive, default=1, help="processes of one thread each")
    options.add_argument("--collect", action="store_true", help="compute nothing, join the tables")
    given = options.parse_args()
    parts = PARTS[given.model]
    for name in given.parts or ():
        if name not in parts:
            fail(f"no part {name!r} of {given.model}: there are {', '.join(parts)}.")
    with working(given.threads):
        if not given.collect:
            model = moxi.load_model(given.model, device=given.device)
            indices = correctly_classified([model], N_SAMPLES)
            say(f"{len(indices)} correctly classified images, such as {indices[:5]}")
            for name in given.parts or parts:
                chosen = indices[parts[name].images][: given.images]
                run_part(model, name, parts[name], chosen, given.jobs)
        path = collect(given.model)
    if path is None:
        fail(f"no image of {given.model} is finished yet: run without --collect first.")
    say(f"{path.relative_to(ROOT)}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
