"""Patches that are corrupted in place: what stays, what changes, and the curves drawn from it."""

import numpy as np
import pytest
import torch
from PIL import Image

from moxi_lite.corruption import corrupt, corrupted_curves, corrupted_game, damage_strip
from moxi_lite.patches import PatchGame, patch_map


@pytest.fixture(params=["vit", "cnn"])
def game(request, tiny_vit, tiny_cnn, gradient_image):
    model = tiny_vit if request.param == "vit" else tiny_cnn
    return PatchGame(model, gradient_image.resize((32, 32)))


def seen(game, coalition):
    """The image (3, H, W) that the network is shown."""
    return game._masking.inputs(torch.from_numpy(coalition)[None])[0]


@pytest.mark.parametrize("name", ["gaussian_noise", "fog", "motion_blur", "jpeg_compression"])
def test_patches_are_pasted_from_the_corrupted_whole(game, name):
    damaged = corrupted_game(game, name, 5, random_state=3)
    present = np.random.default_rng(0).random(16) < 0.5
    inside = torch.from_numpy(present[patch_map(32, 32, (4, 4))])
    shown = seen(damaged, present)
    assert torch.equal(shown[:, inside], game.pixels[:, inside]), "unchanged patches: bit-equal"
    whole = game.model.preprocess(Image.fromarray(corrupt(game.display, name, 5, 3)))
    assert torch.allclose(shown[:, ~inside], whole[:, ~inside], atol=1e-6)
    assert (game.model.display(shown)[~inside.numpy()] == game.model.display(whole)[~inside]).all()
    assert (damaged.target, damaged.grid, damaged.reward) == (game.target, (4, 4), "log_odds")


def test_curves_equal_a_plain_loop(game):
    order = np.random.default_rng(1).permutation(16)
    curve = corrupted_curves(game, {"x": order}, "gaussian_noise", 5, random_state=2)["x"]
    whole = game.model.preprocess(Image.fromarray(corrupt(game.display, "gaussian_noise", 5, 2)))
    cells = torch.from_numpy(patch_map(32, 32, (4, 4)))
    image = game.pixels.clone()
    for count in range(17):
        if count:
            here = cells == order[count - 1]
            image[:, here] = whole[:, here]
        p = game.model.logits(image[None]).softmax(1)[0]
        assert curve.probability[count] == pytest.approx(float(p[game.target]), abs=1e-5)
        assert curve.correct[count] == (int(p.argmax()) == game.target)
    assert curve.mode == "deletion" and curve.fraction.tolist() == (np.arange(17) / 16).tolist()


def test_points_and_names(game):
    orders = {"a": np.arange(16), "b": np.arange(16)[::-1]}
    curves = corrupted_curves(game, orders, "fog", 5, points=[4])
    assert list(curves) == ["a", "b"] and curves["a"].fraction.tolist() == [0, 1 / 16, 1 / 4, 1]
    whole = corrupted_curves(game, orders, "fog", 5)["b"]
    assert curves["b"].log_odds == pytest.approx(whole.log_odds[[0, 1, 4, 16]], abs=1e-4)


def test_level_0_changes_nothing_even_off_the_grid_of_bytes(tiny_vit):
    pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    game = PatchGame(tiny_vit, pixels)
    damaged = corrupted_game(game, "fog", 0)
    assert torch.equal(seen(damaged, np.zeros(16, bool)), pixels)
    curve = corrupted_curves(game, {"x": np.arange(16)}, "fog", 0)["x"]
    assert np.ptp(curve.log_odds) < 1e-4


def test_bad_input_is_refused(game):
    with pytest.raises(ValueError, match="mine repeats"):
        corrupted_curves(game, {"mine": [0] * 16}, "fog", 5)
    with pytest.raises(ValueError, match="unknown corruption 'fgo'"):
        corrupted_curves(game, {"mine": np.arange(16)}, "fgo", 5)
    with pytest.raises(ValueError, match="shares"):
        damage_strip(game, np.arange(16), "fog", 5, shares=(0, 2))


def test_strip_shows_rising_damage(game):
    figure = damage_strip(game, np.arange(16), "fog", 5, shares=(0, 0.25, 1))
    first, some, all_of_it = (ax.images[0].get_array() for ax in figure.axes)
    assert [ax.get_title() for ax in figure.axes] == ["0 of 16", "4 of 16", "16 of 16"]
    fog = corrupt(game.display, "fog", 5)
    assert (first == game.display).all() and (all_of_it == fog).all()
    assert (some[:8] == fog[:8]).all() and (some[8:] == game.display[8:]).all()
    probability = game.outcome(np.ones(16, bool)).confidences[0]
    assert f"{probability:.2f}" in figure.axes[0].get_xlabel()
