"""The script behind results/imagenet: which images, which phases, and how they are joined."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moxi_lite.study import checked_names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    return importlib.import_module("_results")


@pytest.fixture
def script(shared, monkeypatch, tmp_path):
    module = importlib.import_module("run_imagenet_study")
    monkeypatch.setattr(module, "STUDIES", tmp_path / "studies")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"photo_{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    return paths


def test_any_number_of_images_is_spread_over_the_classes(shared):
    order = shared.spread()
    assert sorted(order) == list(range(1000))
    for n in (10, 60, 200):
        ends = sorted([-1, *order[:n], 1000])
        assert np.diff(ends).max() <= 3 * 1000 / n


def test_the_table_of_parts_is_what_is_stored(script):
    """Names, modes and numbers of samples, so that `make study` goes on where it was."""
    for model, parts in script.PARTS.items():
        record = json.loads((ROOT / "results" / "imagenet" / f"{model}.json").read_text())
        for name, part in parts.items():
            if name not in record["phases"]:  # still to come
                continue
            stored, settings = record["phases"][name], record["phases"][name]["settings"]
            methods, modes = checked_names(part.methods, part.modes, part.masking)
            assert settings["methods"] == list(methods) and settings["modes"] == list(modes)
            assert stored["n_studied"] <= len(range(*part.images.indices(1000)))
            assert settings["n_samples"] == json.loads(json.dumps(part.n_samples or {}))
            assert (settings["dtype"], settings["masking"]) == (part.dtype, part.masking)
            assert settings["grid"] == list(part.grid or (14, 14))
            if "moxi" in methods:
                assert settings["budget"] == (part.budget or dict.fromkeys(modes))


def counted(table):
    found = table.groupby(["method", "mode"], observed=True)["image"].nunique()
    return found[found > 0].to_dict()


def test_parts_are_added_to_one_table(script, tiny_vit, photos, monkeypatch):
    model = dataclasses.replace(tiny_vit, name="tiny")
    few = (2, 4, 8)
    parts = {
        "first": script.Part(
            slice(3), ("moxi", "random"), ("insertion",), {"insertion": 4}, points=few
        ),
        "second": script.Part(
            slice(2), ("shapley-paper",), script.BOTH, n_samples={"shapley-paper": (1, 2)},
            points=few,
        ),
        "third": script.Part(
            slice(1), ("moxi", "random"), script.BOTH, {"insertion": 5, "deletion": 5}, points=None
        ),
        "fourth": script.Part(slice(1, 2), ("moxi",), ("deletion",), {"deletion": 4}, points=few),
    }  # fmt: skip
    monkeypatch.setitem(script.PARTS, "tiny", parts)
    assert script.collect("tiny") is None
    for name, part in parts.items():
        script.run_part(model, name, part, photos[part.images])

    path = script.RESULTS / "imagenet" / "tiny.parquet"
    table = pd.read_parquet(path)
    assert pq.read_schema(path).remove_metadata() == script.SCHEMA
    assert counted(table) == {
        ("moxi", "insertion"): 3,
        ("random", "insertion"): 3,
        ("moxi", "deletion"): 2,
        ("random", "deletion"): 1,
        **{(f"shapley-paper-{k}", mode): 2 for k in (1, 2) for mode in script.BOTH},
    }
    # Of two parts with the same curve the one searched further counts, of equal ones the first,
    # and wholly so.
    points = [0, 1, *few, 16]
    whole = {("moxi", "deletion"), ("random", "deletion")}
    for (_, method, mode), steps in table.groupby(["image", "method", "mode"], observed=True):
        long = steps["exact"].sum() == 6 if method == "moxi" else (method, mode) in whole
        assert steps["step"].tolist() == (list(range(17)) if long else points)
    moxi = table[(table["method"] == "moxi") & (table["mode"] == "insertion")]
    assert sorted(moxi.groupby("image", observed=True).size()) == [len(points)] * 2 + [17]

    record = json.loads(path.with_suffix(".json").read_text())
    assert list(record["phases"]) == list(parts)
    assert record["phases"]["first"]["n_studied"] == 3
    text = json.dumps(record)
    assert '"host"' not in text and str(ROOT) not in text and str(photos[0].parent) not in text


def test_another_machine_goes_on_with_what_is_stored(script, tiny_vit, photos, monkeypatch):
    model = dataclasses.replace(tiny_vit, name="tiny")
    part = script.Part(slice(3), ("random",), ("insertion",), points=None)
    earlier = script.Part(slice(1), ("moxi",), ("insertion",), {"insertion": 2}, points=None)
    monkeypatch.setitem(script.PARTS, "tiny", {"part": part, "earlier": earlier})
    script.run_part(model, "earlier", earlier, photos[:1])
    script.run_part(model, "part", part, photos[:2])
    monkeypatch.setitem(script.PARTS, "tiny", {"part": part})  # a later version of the script
    monkeypatch.setattr(script, "STUDIES", script.STUDIES.with_name("elsewhere"))
    path = script.RESULTS / "imagenet" / "tiny.parquet"
    before, record = pd.read_parquet(path), json.loads(path.with_suffix(".json").read_text())
    script.run_part(model, "part", part, photos[2:])
    table, after = pd.read_parquet(path), json.loads(path.with_suffix(".json").read_text())
    assert counted(table) == {("moxi", "insertion"): 1, ("random", "insertion"): 3}
    assert after["phases"]["earlier"] == record["phases"]["earlier"]
    found = after["phases"]["part"]
    assert found["n_studied"] == len(found["images"]) == 3
    assert sum(each["images"] for each in found["environments"]) == 3
    assert found["images"][:2] == record["phases"]["part"]["images"]
    kept = table.merge(before, on=["image", "method", "mode", "step"], suffixes=("", " before"))
    assert len(kept) == len(before) and (kept["log_odds"] == kept["log_odds before"]).all()


def test_stored_photographs_are_not_computed_again(script, tiny_vit, monkeypatch):
    phases = {"part": {"images": [{"label": 3}, {"label": 5}]}}
    monkeypatch.setattr(script, "stored", lambda model: (None, phases))
    asked = []

    def study(images, *_, **__):
        asked.extend(images)
        return Namespace(provenance={"seconds": 0, "n_studied": 0})

    monkeypatch.setattr(script.moxi, "run_study", study)
    monkeypatch.setattr(script, "collect", lambda model: None)
    part = script.Part(slice(9), ("random",), ("insertion",))
    script.run_part(tiny_vit, "part", part, [5, 4, 3, 2])
    assert asked == [4, 2]


def test_recovered_weights_are_named(script):
    def phase(weights):
        return {"settings": {"weights_sha256": weights}}

    (recovered, _) = sorted(script.RECOVERED)
    assert len(script.notes({"a": phase("0" * 64)})) == 1
    assert "recovered" in script.notes({"a": phase("0" * 64), "b": phase(recovered)})[1]


def test_machines_that_differ_in_name_alone_are_counted_together(script):
    def image(**machine):
        return {**dict.fromkeys(script.FACTS, 0), "status": "studied", "finished": "now",
                "image": str(machine), "origin": "/home", "environment": machine}  # fmt: skip

    facts = [
        image(host="a", platform="x", cores=2), image(host="b", platform="y", cores=2),
        image(host="a", platform="x", cores=4),
    ]  # fmt: skip
    found = script.published({}, facts, [])
    assert found["environments"] == [{"cores": 2, "images": 2}, {"cores": 4, "images": 1}]
    assert [each["environment"] for each in found["images"]] == [0, 0, 1]
    assert set(found["images"][0]) == {*script.FACTS, "environment"}
    assert script.published({}, script.facts_of(found), []) == found


def test_samples_are_those_that_all_models_get_right(shared, monkeypatch):
    order = shared.spread()
    right = {"even": lambda index: index % 2 == 0, "low": lambda index: index < 500}
    monkeypatch.setattr(shared, "classifies", lambda model, index: right[model](index))
    wanted = [index for index in order if index % 2 == 0 and index < 500]
    assert shared.correctly_classified(["even", "low"], 7) == wanted[:7]
    assert shared.correctly_classified(["even", "low"], 1000) == wanted


def test_a_record_is_computed_once_and_says_where(shared, tmp_path):
    path = tmp_path / "shards" / "masks-3.json"
    first = shared.kept(path, "cpu", lambda: {"image": 3})
    assert first["image"] == 3 and first["environment"]["cores"] and "host" not in str(first)
    assert shared.kept(path, "cpu", lambda: pytest.fail("computed again")) == first


def test_masks_and_models_joins_parts_and_environments(shared):
    masks = importlib.import_module("run_masks_and_models")
    parts = {
        "masks": [{"image": image, "environment": {"cores": 2}} for image in (3, 1)],
        "models": [{"image": 3, "environment": {"cores": 4}}],
    }
    record = masks.joined(parts, {"vit": Namespace(weights_sha256="0")})
    assert record["masks"] == [{"image": 3}, {"image": 1}]
    assert record["environments"] == [{"cores": 2, "images": 2}, {"cores": 4, "images": 1}]


def test_a_swap_mends_a_group(shared):
    masks = importlib.import_module("run_masks_and_models")
    worth = np.array([1.0, 5, 2, 4])
    members, value = masks.mended(
        lambda rows: np.atleast_2d(rows) @ worth, np.array([1, 0, 1, 0], bool)
    )
    assert members.tolist() == [False, True, False, True] and value == 9
