"""The script behind results/imagenet: which images, which phases, and how they are joined."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    module = pytest.importorskip("run_imagenet_study")
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
    from moxi_lite._study_settings import check_names

    for model in ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "efficientnet_lite0"):
        for phase in script.phases_of(model).values():
            check_names(phase.methods, phase.modes, phase.masking)
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

    table = pd.read_parquet(script.RESULTS / "tiny.parquet")
    counted = table.groupby(["method", "mode"], observed=True)["image"].nunique().to_dict()
    assert counted == {
        ("moxi", "insertion"): 3,
        ("random", "insertion"): 3,
        ("shapley-paper-2", "insertion"): 2,
        ("shapley-paper-2", "deletion"): 2,
    }
    for _, steps in table.groupby(["image", "method", "mode"], observed=True):
        assert steps["step"].tolist() == list(range(17))
    moxi = table[table["method"] == "moxi"]
    assert moxi.groupby("image", observed=True)["exact"].sum().eq(1 + 4).all()  # a quarter of 16

    record = json.loads((script.RESULTS / "tiny.json").read_text())
    assert record["phases"]["first"]["n_studied"] == 3
    text = json.dumps(record)
    assert '"host"' not in text and str(ROOT) not in text and str(photos[0].parent) not in text
