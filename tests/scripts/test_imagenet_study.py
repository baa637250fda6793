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
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
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


def test_any_number_of_images_is_spread_over_the_classes(script):
    order = script.spread()
    assert sorted(order) == list(range(1000))
    for n in (10, 60, 200):
        ends = sorted([-1, *order[:n], 1000])
        assert np.diff(ends).max() <= 3 * 1000 / n


def test_the_phases_of_a_model_name_known_methods(script):
    from moxi_lite.study import checked_names

    for model in ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "efficientnet_lite0"):
        for phase in script.phases_of(model).values():
            checked_names(phase.methods, phase.modes, phase.masking)
    assert script.phases_of("vit_tiny_patch16_224")["insertion"].images >= 60


def test_phases_are_joined_into_one_table(script, tiny_vit, photos, monkeypatch):
    model = dataclasses.replace(tiny_vit, name="tiny")
    phases = {
        "first": script.Phase(("moxi", "random"), ("insertion",), 3),
        "second": script.Phase(
            ("shapley-paper",),
            ("insertion", "deletion"),
            2,
            n_samples=(("shapley-paper", 2),),
            rename=(("shapley-paper", "shapley-paper-2"),),
        ),
    }
    monkeypatch.setattr(script, "phases_of", lambda name: phases)
    options = Namespace(budget={"insertion": 0.25, "deletion": 0.25})
    assert script.collect("tiny") is None
    for name, phase in phases.items():
        script.run_phase(model, name, phase, photos[: phase.images], options)

    phases["third"] = script.Phase(("moxi", "random"), ("insertion", "deletion"), 1, budget=5)
    phases["fourth"] = script.Phase(("moxi",), ("deletion",), 2)
    phases["fifth"] = script.Phase(("moxi",), ("deletion",), 1, budget=6)
    for name in ("third", "fourth", "fifth"):
        script.run_phase(model, name, phases[name], photos[: phases[name].images], options)
    folders = {name: script.StudyFolder(script.STUDIES / "tiny" / name) for name in phases}
    assert {name: len(folder.finished()) for name, folder in folders.items()} == {
        "first": 3,
        "second": 2,
        "third": 1,
        "fourth": 1,  # the other image is in the third phase
        "fifth": 1,  # which did not search so far
    }

    stored = script.RESULTS / "tiny.parquet"
    table = pd.read_parquet(stored)
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
    assert exact["insertion"].eq(1 + 4).all()  # a quarter of 16: of two phases the first counts
    assert sorted(exact["deletion"]) == [1 + 4, 1 + 5]

    record = json.loads((script.RESULTS / "tiny.json").read_text())
    assert record["phases"]["first"]["n_studied"] == 3
    text = json.dumps(record)
    assert '"host"' not in text and str(ROOT) not in text and str(photos[0].parent) not in text


def test_a_phase_contains_another_of_the_same_settings(script):
    every, some = {"insertion": None, "deletion": None}, {"insertion": 4, "deletion": 4}
    both = script.Phase(("moxi", "rise"), script.BOTH, 1, n_samples=(("rise", 10),))
    one = {"insertion": 4}
    assert both.contains(script.Phase(("moxi",), ("insertion",), 1), some, one)
    assert both.contains(script.Phase(("moxi",), ("insertion",), 1), every, {"insertion": None})
    assert not both.contains(script.Phase(("moxi",), ("insertion",), 1), some, {"insertion": None})
    assert not both.contains(script.Phase(("moxi",), ("insertion",), 1), some, {"insertion": 5})
    rise = script.Phase(("rise",), ("insertion",), 1, n_samples=(("rise", 10),))
    assert both.contains(rise, some, {"insertion": None})  # has no steps to search
    for other in (
        dataclasses.replace(rise, n_samples=(("rise", 20),)),
        dataclasses.replace(rise, dtype="float32"),
        dataclasses.replace(rise, masking="zero"),
        dataclasses.replace(rise, methods=("rise", "random")),
    ):
        assert not both.contains(other, every, one)


def test_two_numbers_of_samples_contain_each(script):
    both = script.Phase(("shapley",), ("insertion",), 1, n_samples=(("shapley", (5, 20)),))
    renamed = dataclasses.replace(both, rename=(("shapley-20", "shapley"),))
    budget = {"insertion": None}
    names = {5: "shapley-5", 20: "shapley-20"}
    for n, name in names.items():
        one = dataclasses.replace(both, n_samples=(("shapley", n),), rename=(("shapley", name),))
        assert both.contains(one, budget, budget)
        assert not one.contains(both, budget, budget)
        assert renamed.contains(one, budget, budget) == (n == 5)


def test_the_stored_numbers_of_shapley_samples_share_their_runs(script):
    phases = script.phases_of("vit_tiny_patch16_224")
    both, one = phases["shapley-200"], phases["shapley-50"]
    assert list(phases).index("shapley-200") < list(phases).index("shapley-50")
    budget = {"insertion": 78, "deletion": 39}
    assert both.contains(one, budget, budget)
    assert both.images >= 20 and both.skip + both.images <= one.images


def test_a_phase_skips_images_unless_a_number_is_asked_for(script):
    phase = script.Phase(("random",), ("insertion",), 20, skip=40)
    photos = range(100)
    assert list(photos[phase.chosen(None)]) == list(range(40, 60))
    assert list(photos[phase.chosen(70)]) == list(range(70))


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


def test_samples_are_those_that_all_models_get_right(script, monkeypatch):
    order = script.spread()
    right = {"even": lambda index: index % 2 == 0, "low": lambda index: index < 500}
    monkeypatch.setattr(script, "classifies", lambda model, index: right[model](index))
    wanted = [index for index in order if index % 2 == 0 and index < 500]
    assert script.correctly_classified(["even", "low"], 7) == wanted[:7]
    assert script.correctly_classified(["even", "low"], 1000) == wanted


def test_masks_and_models_stores_whole_lines_and_where_they_were_computed(
    script, monkeypatch, tmp_path
):
    masks = importlib.import_module("run_masks_and_models")
    model = Namespace(weights_sha256="0")
    for image in (3, 1):
        masks.store(tmp_path, "masks", {"image": image, "environment": {"cores": 2}})
    masks.store(tmp_path, "models", {"image": 3})  # of an earlier version of the script
    masks.collect(tmp_path, tmp_path / "out.json", {"vit": model})
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["masks"] == [{"image": 3}, {"image": 1}]
    assert record["environments"] == [{"commit": None, "images": 1}, {"cores": 2, "images": 2}]
