"""Run the ImageNet studies of the book (Sec. 5), and store them under results/imagenet.

    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224
    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --phase insertion --images 60
    python scripts/run_imagenet_study.py --model vit_tiny_patch16_224 --collect

A study consists of phases (see _phases.py), each a resumable study of `moxi_lite.run_study` in
_build/studies/MODEL/PHASE.  Killed and started again, it goes on where it was; started several
times at once, the processes share the images.  A phase leaves out the images of which an earlier
one has all its curves.  With --collect nothing is computed: what is finished is joined into
results/imagenet/MODEL.parquet, with its provenance in MODEL.json, unless the table there holds
curves that are not finished here.  That is also done after each image batch of a run.

On 2 cores the defaults keep to the first steps of the greedy search (--budget); with a GPU pass
--images 1000 --budget all.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from _common import BUILD, ROOT, fail, say
from _phases import BOTH, Phase, phases_of
from filelock import FileLock

import moxi_lite as moxi
from moxi_lite.files import write_atomically
from moxi_lite.study import StudyFolder, concatenate, describe_images, parquet_bytes, provenance_of

STUDIES = BUILD / "studies"
RESULTS = ROOT / "results" / "imagenet"
N_SAMPLES = 1000  # ImageNet sample images, one a class
# Weights of the two models that were put together again from published dumps, layer by layer
RECOVERED = {
    "3f1f07da5e1337265ac1eb0234d13841467caf730b3c4240bd3f98c49bc16a92",
    "b2e17235172c1dcddacb55aa8914e2f8b4b95eb9bb7d7782f333bcbef77151b8",
}
GOLDEN = (5**0.5 - 1) / 2
KEYS = ["image", "method", "mode"]  # of a curve
BATCH = 5  # images between two joins of the table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="as for moxi.load_model")
    parser.add_argument("--phase", action="append", help="only this phase (may be repeated)")
    parser.add_argument(
        "--images",
        type=int,
        help="correctly classified images a phase, from the first (default: those of the phase)",
    )
    parser.add_argument(
        "--budget",
        default="insertion=0.4,deletion=0.2",
        help="greedy steps as shares of the patches (default insertion=0.4,deletion=0.2), or all; "
        "a mode left out has them all",
    )
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default 2)")
    parser.add_argument("--device", help="default: cuda if there is one")
    parser.add_argument("--collect", action="store_true", help="compute nothing, join the tables")
    options = parser.parse_args()
    if options.threads < 1 or (options.images is not None and options.images < 1):
        parser.error("--threads and --images must be 1 or more")
    try:
        options.budget = (
            {}
            if options.budget == "all"
            else {k: float(v) for k, v in (pair.split("=") for pair in options.budget.split(","))}
        )
    except ValueError:
        parser.error("--budget must look like insertion=0.4,deletion=0.2, or be all")
    unknown = set(options.budget) - set(BOTH)
    if unknown or any(not 0 < share <= 1 for share in options.budget.values()):
        parser.error("--budget takes shares in 0..1 for insertion and deletion")
    return options


def spread() -> list[int]:
    """Order the samples so that the first k are spread evenly over the classes, for every k."""
    places = np.floor(np.arange(1, 3 * N_SAMPLES) * GOLDEN % 1 * N_SAMPLES).astype(int)
    order = list(dict.fromkeys(places.tolist()))
    return order + sorted(set(range(N_SAMPLES)) - set(order))


def classifies(model: moxi.Classifier, index: int) -> bool:
    """Whether the model gets a sample right."""
    pixels = model.preprocess(moxi.imagenet_sample(index).image)
    return int(model.logits(pixels[None]).argmax()) == index


def correctly_classified(models: Iterable[moxi.Classifier], n: int) -> list[int]:
    """Return the first n samples, in the order of `spread`, that all models get right."""
    every = tuple(models)
    right = (index for index in spread() if all(classifies(model, index) for model in every))
    return list(islice(right, n))


def collect(model: str) -> Path | None:
    """Join the finished images of all phases; None if there are none.

    Processes that share a study take turns, so that a table never goes back behind a later one,
    nor away from its provenance.
    """
    studies = STUDIES / model
    if not studies.is_dir():
        return None
    with FileLock(studies / "collect.lock"):
        return join(model)


def join(model: str) -> Path | None:
    """Do the work of `collect`."""
    tables, record = [], {}
    joined: set[tuple[str, ...]] = set()
    for name, phase in phases_of(model).items():
        folder = StudyFolder(STUDIES / model / name)
        if not folder.finished():
            continue
        settings = json.loads((folder.root / "settings.json").read_text(encoding="utf-8"))
        shards = [folder.read_shard(image) for image in folder.finished()]
        record[name] = published(provenance_of(settings, shards, folder.failures()))
        whole = renamed(concatenate([shard.table for shard in shards]), dict(phase.rename))
        tables.append(without(whole, joined))
        joined |= curves_in(whole)
    if not tables:
        return None
    whole = sorted_rows(concatenate(tables))
    provenance = {
        "format": "moxi-lite studies, joined",
        "command": f"python scripts/run_imagenet_study.py --model {model}",
        "model": model,
        "phases": record,
        "notes": notes(record),
    }
    brief = {"model": model, "phases": sorted(record)}
    path = RESULTS / f"{model}.parquet"
    missing = curves_in(pq.read_table(path)) - curves_in(whole) if path.is_file() else set()
    if missing:
        path = STUDIES / model / path.name
        say(
            f"results/ holds {len(missing)} curves that are not finished here, so it is left alone "
            f"and {os.path.relpath(path, ROOT)} written. Delete the stored table to replace it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, parquet_bytes(whole, brief))
    text = json.dumps(provenance, indent=1)
    write_atomically(path.with_suffix(".json"), f"{text}\n".encode())
    return path


def notes(record: dict[str, Any]) -> list[str]:
    """Say what is to be known of the images and weights behind a table."""
    found = ["The photographs are probably training images, so this is no validation accuracy."]
    if RECOVERED & {phase["settings"]["weights_sha256"] for phase in record.values()}:
        found.append(
            "The weights were recovered, layer by layer, from dumps of the published checkpoint, "
            "and are not the hub's file byte for byte."
        )
    return found


def curves_in(table: pa.Table) -> set[tuple[str, ...]]:
    """Name the curves of a table: image, method, mode."""
    names = table.select(KEYS).group_by(KEYS)
    return {tuple(row.values()) for row in names.aggregate([]).to_pylist()}


def without(table: pa.Table, curves: set[tuple[str, ...]]) -> pa.Table:
    """Leave out the curves that an earlier phase has."""
    names = zip(*(table.column(key).to_pylist() for key in KEYS), strict=True)
    return table.filter(pa.array([curve not in curves for curve in names], pa.bool_()))


def sorted_rows(table: pa.Table) -> pa.Table:
    """Sort by method, mode, image and step; similar rows side by side also compress well."""
    by = ["method", "mode", "image", "step"]
    keys = pa.table({name: table.column(name) for name in by})
    keys = keys.cast(pa.schema([(name, pa.string()) for name in by[:-1]] + [("step", pa.int16())]))
    return table.take(pc.sort_indices(keys, [(name, "ascending") for name in by]))


def renamed(table: pa.Table, names: dict[str, str]) -> pa.Table:
    """Rename methods."""
    column = table.column("method").combine_chunks()
    old = [names.get(name, name) for name in column.dictionary.to_pylist()]
    new = pa.DictionaryArray.from_arrays(column.indices, pa.array(old, pa.string()))
    return table.set_column(table.schema.get_field_index("method"), table.field("method"), new)


def published(provenance: dict[str, Any]) -> dict[str, Any]:
    """Leave out what concerns the machine alone: host names and paths."""
    environments: dict[str, dict[str, Any]] = {}
    for each in provenance["environments"]:
        facts = {**without_machine(each), "images": 0}
        # two machines that differ in nothing else count as one
        environments.setdefault(json.dumps(facts), facts)["images"] += each["images"]
    wanted = ("image", "sha256", "label", "predicted", "status", "n_evaluations", "seconds")
    images = [{key: image[key] for key in wanted} for image in provenance["images"]]
    return {**provenance, "environments": list(environments.values()), "images": images}


def without_machine(environment: dict[str, Any]) -> dict[str, Any]:
    """Leave out the name of the machine and of its system's build."""
    return {key: value for key, value in environment.items() if key not in ("host", "platform")}


def computed_before(model: str, name: str, shares: dict[str, float], n_patches: int) -> set[str]:
    """Name the images of which an earlier phase has all that a phase would compute."""
    phases = phases_of(model)
    budgets = phases[name].budgets(shares, n_patches)
    earlier = [
        each
        for each in list(phases)[: list(phases).index(name)]
        if phases[each].contains(phases[name], phases[each].budgets(shares, n_patches), budgets)
    ]
    return {image for each in earlier for image in StudyFolder(STUDIES / model / each).finished()}


def run_phase(
    model: moxi.Classifier, name: str, phase: Phase, indices: list[int], options: argparse.Namespace
) -> None:
    """Study the images of one phase, a few at a time, and join the table in between."""
    n_patches = int(np.prod(phase.grid or model.grid))
    had = computed_before(model.name, name, options.budget, n_patches)
    named = zip(indices, describe_images(indices, model), strict=True)
    indices = [index for index, image in named if image.name not in had]
    for start in range(0, len(indices), BATCH):
        result = moxi.run_study(
            indices[start : start + BATCH],
            model,
            phase.methods,
            phase.modes,
            STUDIES / model.name / name,
            budget=phase.budgets(options.budget, n_patches),
            masking=phase.masking,
            grid=phase.grid,
            dtype=phase.dtype,
            n_samples=dict(phase.n_samples) or None,
        )
        for image, reason in result.failed.items():
            say(f"{name}: {image} failed: {reason}")
        seconds = result.provenance["seconds"] / max(result.provenance["n_studied"], 1)
        say(f"{name}: {result.provenance['n_studied']} images stored, {seconds:.0f} s an image")
        collect(model.name)


def main() -> None:
    options = arguments()
    phases = phases_of(options.model)
    for name in options.phase or ():
        if name not in phases:
            fail(f"{options.model} has no phase {name!r}: expected {', '.join(phases)}.")
    if not options.collect:
        torch.set_num_threads(options.threads)
        try:
            model = moxi.load_model(options.model, device=options.device)
        except (OSError, ValueError) as error:
            fail(str(error))
        wanted = {n: p for n, p in phases.items() if not options.phase or n in options.phase}
        chosen = {name: phase.chosen(options.images) for name, phase in wanted.items()}
        try:
            indices = correctly_classified([model], max(part.stop for part in chosen.values()))
            say(f"{len(indices)} correctly classified images, such as {indices[:5]}")
            for name, phase in wanted.items():
                run_phase(model, name, phase, indices[chosen[name]], options)
        except (OSError, ValueError) as error:  # no sample images, other settings, no room
            fail(str(error))
    path = collect(options.model)
    if path is None:
        fail(f"no image of {options.model} is finished yet: run without --collect first.")
    methods = pc.value_counts(pq.read_table(path).column("method")).to_pylist()
    say(f"{path.relative_to(ROOT)}: {path.stat().st_size / 2**20:.2f} MiB, {len(methods)} methods")


if __name__ == "__main__":
    main()
