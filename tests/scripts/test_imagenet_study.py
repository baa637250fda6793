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
    """Names, images, modes and numbers of samples, so that `make study` goes on where it was."""
    for model, parts in script.PARTS.items():
        record = json.loads((ROOT / "results" / "imagenet" / f"{model}.json").read_text())
        assert sorted(record["phases"]) == sorted(parts)
        for name, part in parts.items():
            stored, settings = record["phases"][name], record["phases"][name]["settings"]
            methods, modes = checked_names(part.methods, part.modes, part.masking)
            assert settings["methods"] == list(methods) and settings["modes"] == list(modes)
            assert stored["n_studied"] == len(range(*part.images.indices(1000)))
            assert settings["n_samples"] == json.loads(json.dumps(part.n_samples or {}))
            assert (settings["dtype"], settings["masking"]) == (part.dtype, part.masking)
            assert settings["grid"] == list(part.grid or (14, 14))
            if "moxi" in methods:
                assert settings["budget"] == part.budget


def test_parts_are_joined_into_one_table(script, tiny_vit, photos, monkeypatch):
    model = dataclasses.replace(tiny_vit, name="tiny")
    quarter = {"insertion": 4}
    parts = {
        "first": script.Part(slice(3), ("moxi", "random"), ("insertion",), quarter),
        "second": script.Part(
            slice(2),
            ("shapley-paper",),
            script.BOTH,
            n_samples={"shapley-paper": 2},
            rename={"shapley-paper": "shapley-paper-2"},
        ),
        "third": script.Part(
            slice(1), ("moxi", "random"), script.BOTH, {"insertion": 5, "deletion": 5}
        ),
        "fourth": script.Part(slice(1, 2), ("moxi",), ("deletion",), {"deletion": 4}),
    }
    monkeypatch.setitem(script.PARTS, "tiny", parts)
    assert script.collect("tiny") is None
    for name, part in parts.items():
        script.run_part(model, name, part, photos[part.images])

    stored = script.RESULTS / "imagenet" / "tiny.parquet"
    table = pd.read_parquet(stored)
    assert pq.read_schema(stored).remove_metadata() == script.SCHEMA
    before = stored.read_bytes()
    for shard in (script.STUDIES / "tiny" / "second" / "shards").glob("*.parquet"):
        shard.unlink()
    assert script.collect("tiny") == script.STUDIES / "tiny" / "tiny.parquet"
    assert stored.read_bytes() == before  # a table never loses curves
    counted = table.groupby(["method", "mode"], observed=True)["image"].nunique().to_dict()
    assert counted == {
        ("moxi", "insertion"): 3,
        ("random", "insertion"): 3,
        ("moxi", "deletion"): 2,
        ("random", "deletion"): 1,
        ("shapley-paper-2", "insertion"): 2,
        ("shapley-paper-2", "deletion"): 2,
    }
    for _, steps in table.groupby(["image", "method", "mode"], observed=True):
        assert steps["step"].tolist() == list(range(17))
    moxi = table[table["method"] == "moxi"]
    exact = moxi.groupby(["mode", "image"], observed=True)["exact"].sum()
    assert exact["insertion"].eq(1 + 4).all()  # a quarter of 16: of two parts the first counts
    assert sorted(exact["deletion"]) == [1 + 4, 1 + 5]

    record = json.loads(stored.with_suffix(".json").read_text())
    assert record["phases"]["first"]["n_studied"] == 3
    text = json.dumps(record)
    assert '"host"' not in text and str(ROOT) not in text and str(photos[0].parent) not in text


def test_recovered_weights_are_named(script):
    def phase(weights):
        return {"settings": {"weights_sha256": weights}}

    (recovered, _) = sorted(script.RECOVERED)
    assert len(script.notes({"a": phase("0" * 64)})) == 1
    assert "recovered" in script.notes({"a": phase("0" * 64), "b": phase(recovered)})[1]


def test_machines_that_differ_in_name_alone_are_counted_together(script):
    wanted = ("image", "sha256", "label", "predicted", "status", "n_evaluations", "seconds")
    image = dict.fromkeys((*wanted, "origin"), 0)
    machines = [
        {"host": "a", "platform": "x", "cores": 2, "images": 3},
        {"host": "b", "platform": "y", "cores": 2, "images": 1},
        {"host": "a", "platform": "x", "cores": 4, "images": 1},
    ]
    found = script.published({"environments": machines, "images": [image]})
    assert found["environments"] == [{"cores": 2, "images": 4}, {"cores": 4, "images": 1}]
    assert set(found["images"][0]) == set(wanted)


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
