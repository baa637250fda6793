"""The script behind the montages of chapter 12: which pairs of photographs are tried."""

from __future__ import annotations

import importlib
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    module = importlib.import_module("run_target_class")
    monkeypatch.setattr(module, "PHOTOS", {})
    return module


def test_neighbours_come_first_and_every_combination_once(script):
    found = list(script.pairs([5, 3, 1, 0, 4, 2]))
    assert found[:3] == [(5, 3), (1, 0), (4, 2)]
    assert len(found) == 9 and set(found) == set(product([5, 1, 4], [3, 0, 2]))


def test_no_photograph_is_in_two_pairs_and_only_right_ones_count(script, tiny_vit, monkeypatch):
    wrong, unfit = {2}, {(0, 1), (243, 282)}
    asked = []

    def classifies(model, index):
        asked.append(index)
        return index not in wrong

    monkeypatch.setattr(script, "spread", lambda: list(range(6)))
    monkeypatch.setattr(script, "classifies", classifies)
    monkeypatch.setattr(script, "side_by_side", lambda model, *pair: torch.tensor(pair))
    monkeypatch.setattr(
        script,
        "best_two",
        lambda model, pair: [9, 9] if tuple(pair.tolist()) in unfit else pair.tolist(),
    )
    found = [(scene.left, scene.right, scene.tried) for scene in script.scenes(tiny_vit, 5)]
    # in this order: 0-1 does not fit, 2 is misclassified, 4-5 fits, 0-3 fits, no two are left
    assert found == [(4, 5, 2), (0, 3, 3)]
    assert len(asked) == len(set(asked))


def test_as_many_pairs_as_asked_for(script, tiny_vit, monkeypatch):
    monkeypatch.setattr(script, "classifies", lambda model, index: True)
    monkeypatch.setattr(script, "side_by_side", lambda model, *pair: torch.tensor(pair))
    monkeypatch.setattr(script, "best_two", lambda model, pair: pair.tolist())
    scenes = list(script.scenes(tiny_vit, 3))
    examples = [scene for scene in scenes if not scene.drawn]
    assert [(scene.left, scene.right) for scene in examples] == list(script.EXAMPLE_PAIRS)
    assert len(scenes) == len(examples) + 3
    assert len({index for scene in scenes for index in (scene.left, scene.right)}) == 8
