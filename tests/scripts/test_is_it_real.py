"""The script behind chapter 16: wrong classes, groups judged elsewhere, disjoint and shuffled."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import moxi_lite as moxi

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    return importlib.import_module("run_is_it_real")


@pytest.fixture
def game(tiny_vit, gradient_image):
    return moxi.PatchGame(tiny_vit, gradient_image)


def test_wrong_classes_are_wrong_different_and_always_the_same(script):
    for index in (0, 7, 999):
        drawn = script.wrong_classes(index, 1000)
        assert index not in drawn and len(set(drawn)) == script.N_WRONG
        assert drawn == script.wrong_classes(index, 1000)
    assert sorted(script.wrong_classes(2, 5)) == [0, 1, 3, 4]


def test_a_class_is_explained_as_by_a_game_of_its_own(script, game, tiny_vit, gradient_image):
    for found in script.insertions(game, range(5)):
        target = found["class"]
        ex = moxi.explain(moxi.PatchGame(tiny_vit, gradient_image, target=target), budget=8)
        assert found["order"] == ex.order.tolist()
        assert found["log_odds"] == pytest.approx(ex.values, abs=1e-3)
        assert [bool(each) for each in found["correct"]] == (ex.predictions == target).tolist()


def test_what_judges_say_is_the_curve_of_an_order(script, game):
    order = moxi.order_of(moxi.attribute(game, "moxi-"))
    curve = moxi.insertion_curve(game, order)
    said = script.judged(game, {"MoXI(-)": order})
    sizes = [size for size in script.SIZES if size < 16]
    assert said["methods"]["MoXI(-)"]["log_odds"] == pytest.approx(curve.log_odds[sizes], abs=1e-3)
    assert said["methods"]["MoXI(-)"]["correct"] == curve.correct[sizes].astype(int).tolist()
    assert said["empty and whole"]["log_odds"] == pytest.approx(curve.log_odds[[0, -1]], abs=1e-3)


def test_a_gain_is_counted_from_the_empty_image(script, game):
    found = script.insertions(game, [1, 3])
    said = script.gains(game, found)
    for each, gain in zip(found, said["gain"], strict=True):
        empty = script.retargeted(game, each["class"])(np.zeros(16, dtype=bool))[0]
        assert gain == pytest.approx(each["log_odds"][-1] - empty, abs=2e-3)
    assert said["correct"] == [each["correct"][-1] for each in found]


@pytest.mark.parametrize("dtype", [None, "mixed"])
def test_groups_are_disjoint_enough_and_the_first_is_moxis(script, tiny_vit, gradient_image, dtype):
    game = moxi.PatchGame(tiny_vit, gradient_image, dtype=dtype)
    single = game(np.eye(16, dtype=bool))
    best = moxi.order_of(single)
    level = single[best[1:3]].mean()  # two patches are enough, each alone
    groups = script.disjoint_groups(game, lambda value, predicted: value >= level)
    assert groups[:2] == [[best[0]], [best[1]]]
    assert all(len(group) > 1 for group in groups[2:])
    assert len(set().union(*groups)) == sum(map(len, groups))
    assert (game(script.members(16, groups)) >= level - 1e-5).all()


def test_no_group_is_found_where_none_is_enough(script, game):
    assert script.disjoint_groups(game, lambda value, predicted: False) == []
    every = script.disjoint_groups(game, lambda value, predicted: True)
    assert len(every) == script.MOST_SETS and {len(group) for group in every} == {1}


def test_shuffling_goes_from_the_head_down_and_keeps_each_layers_weights(
    script, tiny_vit, monkeypatch
):
    monkeypatch.setattr(script, "BLOCKS", (1, 2))
    before = {name: weight.clone() for name, weight in tiny_vit.module.named_parameters()}
    changed, values = [], []
    for _, network in script.shuffled(tiny_vit, seed=0):
        now = dict(network.module.named_parameters())
        changed.append({name for name in before if not torch.equal(before[name], now[name])})
        values.append(now["head.weight"].clone())
        for name, weight in before.items():
            assert torch.equal(weight.flatten().sort()[0], now[name].flatten().sort()[0])
    assert all(name.startswith("head.") for name in changed[0])
    assert {name.split(".")[1] for name in changed[1] if "blocks" in name} == {"1"}
    assert {name.split(".")[1] for name in changed[2] if "blocks" in name} == {"0", "1"}
    assert {"pos_embed", "patch_embed.proj.weight"} <= changed[3] - changed[2]
    assert all(torch.equal(values[0], later) for later in values)
    assert all(torch.equal(before[n], w) for n, w in tiny_vit.module.named_parameters())


def test_likeness_counts_ranks_and_first_patches(script):
    scores = {"moxi": (np.arange(20) < 8).astype(float), "rise": np.arange(20.0)}
    assert script.likeness(scores, scores) == {"moxi": [None, 8], "rise": [1.0, 8]}
    turned = {name: values[::-1] for name, values in scores.items()}
    assert script.likeness(scores, turned) == {"moxi": [None, 0], "rise": [-1.0, 0]}
    nothing = {"rise": np.zeros(20)}
    assert script.likeness({"rise": scores["rise"]}, nothing)["rise"][0] is None


def test_patches_are_taken_away_for_the_best_of_a_class(
    script, tiny_vit, gradient_image, monkeypatch
):
    monkeypatch.setattr(script, "COARSE", (4, 4))
    monkeypatch.setattr(
        script.moxi, "imagenet_sample", lambda index: SimpleNamespace(image=gradient_image)
    )
    found = script.removals(tiny_vit, 0)
    assert [len(each["log_odds"]) for each in (found["right"], *found["wrong"])] == [6] * 4
    for each in found["wrong"]:
        game = moxi.PatchGame(tiny_vit, gradient_image, target=each["class"])
        best = max(game(~np.eye(16, dtype=bool)))
        assert each["log_odds"][1] == pytest.approx(best, abs=0.05)  # chosen in bfloat16


def test_what_is_finished_is_joined_without_the_scores(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    (tmp_path / "imagenet").mkdir()
    made = {"seconds": 2.0, "environment": {"device": "cpu"}}
    first = script.spread()[:3]
    scores = [{"rise": list(map(float, order))} for order in (range(20), range(20, 0, -1))]
    parts = {
        "attacks": [{"image": index, **made} for index in (first[0], first[2])],
        "randomised": [
            {"image": index, "stages": {}, "scores": of_image, **made}
            for index, of_image in zip(first, scores, strict=False)
        ],
    }
    script.collect({"budget": 8}, parts)
    script.collect({"budget": 8}, parts)  # again, after the next photograph
    record = json.loads((tmp_path / "imagenet" / "is_it_real.json").read_text(encoding="utf-8"))
    assert record["seconds"] == 8.0 and record["environments"] == [{"device": "cpu", "images": 4}]
    assert "the first 2 " in record["selection"] and "of 3 " in record["selection"]
    for each in record["randomised"]:
        assert "scores" not in each
        assert each["stages"]["another photograph"]["rise"] == [-1.0, 0]
