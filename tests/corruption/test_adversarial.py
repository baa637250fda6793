"""Attacks against closed forms of a linear network, finite differences, and their limits."""

import numpy as np
import pytest
import torch
from torch import nn

from moxi_lite.corruption import ATTACKS, adversarial_curves, attack
from moxi_lite.corruption.adversarial import pixel_gradient
from moxi_lite.models import load_model
from moxi_lite.patches import PatchGame, log_odds, patch_map

STD = torch.tensor([0.2, 0.5, 0.3])[:, None, None]
MEAN = torch.tensor([0.4, 0.5, 0.6])[:, None, None]


@pytest.fixture
def linear():
    """A game of a linear network of two classes: 2 x 2 patches of 2 x 2 pixels."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(48, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 48, generator=generator))
    model = load_model(
        nn.Sequential(nn.Flatten(), layer),
        input_size=4,
        mean=MEAN.ravel().tolist(),
        std=STD.ravel().tolist(),
        grid=2,
        device="cpu",
    )
    shown = torch.rand(3, 4, 4, generator=generator)
    shown[0, 0, 0], shown[1, 0, 0] = 0.0, 1.0  # at the edges of the image's range
    return PatchGame(model, (shown - MEAN) / STD, target=1)


def shown(images):
    return images * STD + MEAN


@pytest.mark.parametrize("method", ATTACKS)
def test_linear_networks_have_a_closed_form(linear, method):
    """The log-odds are linear in the pixels: the best point of the ball is a corner of it."""
    weights = linear.model.module[1].weight.detach()
    slope = (weights[1] - weights[0]).reshape(3, 4, 4)
    chosen = np.array([[True, False, False, True], [False, True, False, False]])
    images = attack(linear, chosen, method, epsilon=0.1)
    for image, coalition in zip(images, chosen, strict=True):
        inside = torch.from_numpy(coalition[patch_map(4, 4, (2, 2))])
        corner = (shown(linear.pixels) - 0.1 * slope.sign()).clamp(0, 1)
        assert torch.allclose(shown(image)[:, inside], corner[:, inside], atol=1e-6)
        assert torch.equal(image[:, ~inside], linear.pixels[:, ~inside])


def test_gradients_equal_finite_differences(tiny_vit):
    generator = torch.Generator().manual_seed(1)
    game = PatchGame(tiny_vit, torch.randn(3, 32, 32, generator=generator), target=2)
    direction = torch.randn(4, 3, 32, 32, generator=generator)
    gradient = pixel_gradient(game, game.pixels[None])[0]
    # float32: the fourth-order formula allows steps that rounding does not drown
    step = 2e-2
    ahead = torch.stack([game.pixels + k * step * direction for k in (-2, -1, 1, 2)])
    values = log_odds(tiny_vit.logits(ahead.flatten(0, 1)), 2).double().reshape(4, 4)
    differences = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    expected = (gradient * direction).sum((1, 2, 3)).double()
    assert differences.numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", ATTACKS)
def test_inside_the_ball_and_the_image(tiny_vit, gradient_image, method):
    game = PatchGame(tiny_vit, gradient_image)
    epsilon = 8 / 255
    images = attack(game, np.ones(16, bool), method, epsilon=epsilon, steps=4) * 0.5 + 0.5
    assert images.shape == (1, 3, 32, 32) and images.dtype == torch.float32
    change = images - (game.pixels * 0.5 + 0.5)
    assert (
        change.abs().max() <= epsilon + 1e-6 and images.min() >= -1e-6 and images.max() <= 1 + 1e-6
    )
    assert change.abs().max() > 0.9 * epsilon
    assert torch.equal(attack(game, np.ones(16, bool), method, epsilon=0)[0], game.pixels)


def test_more_steps_lower_the_log_odds_further(tiny_vit, gradient_image):
    game = PatchGame(tiny_vit, gradient_image)
    everywhere = np.ones(16, bool)
    before = game(everywhere)[0]
    after = {
        method: float(log_odds(tiny_vit.logits(attack(game, everywhere, method)), game.target))
        for method in ATTACKS
    }
    assert all(value < before for value in after.values())
    assert after["i-fgsm"] < after["fgsm"] and after["pgd"] < after["fgsm"]


def test_seeds_and_batches(linear, tiny_vit, gradient_image):
    game = PatchGame(tiny_vit, gradient_image)
    sets = np.tri(5, 16, 4, dtype=bool)
    together = attack(game, sets, steps=2)
    alone = torch.cat([attack(game, row, steps=2, batch_size=1) for row in sets])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(together, attack(game, sets, steps=2, random_state=0))
    assert not torch.equal(together, attack(game, sets, steps=2, random_state=1))


def test_curves_evaluate_what_attack_makes(tiny_vit, gradient_image):
    game = PatchGame(tiny_vit, gradient_image)
    orders = {"a": np.arange(16), "b": np.arange(16)[::-1]}
    curve = adversarial_curves(game, orders, "i-fgsm", points=[3], steps=3)["b"]
    assert curve.fraction.tolist() == [0, 1 / 16, 3 / 16, 1] and curve.mode == "deletion"
    chosen = np.arange(16) >= 13
    image = attack(game, chosen, "i-fgsm", steps=3)
    p = tiny_vit.logits(image).softmax(1)[0]
    assert curve.probability[2] == pytest.approx(float(p[game.target]), abs=1e-4)
    assert curve.log_odds[0] == pytest.approx(game(np.ones(16, bool))[0], abs=1e-3)


def test_the_callers_network_is_left_as_found(linear):
    module = linear.model.module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.inference_mode():
        attack(linear, np.ones(4, bool), steps=2)
    assert all(part.training for part in module.modules())
    assert all(each.grad is None and each.requires_grad for each in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Detached(nn.Module):
    """What a quantised network does to gradients."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 2)

    def forward(self, x):
        return self.layer(x.flatten(1)).detach()


def test_bad_input_is_refused(linear):
    everywhere = np.ones(4, bool)
    with pytest.raises(ValueError, match="unknown attack 'pgdd'"):
        attack(linear, everywhere, "pgdd")
    for epsilon in (-0.1, 8, float("nan")):
        with pytest.raises(ValueError, match=r"epsilon must be in 0\.\.1"):
            attack(linear, everywhere, epsilon=epsilon)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        attack(linear, everywhere, steps=0)
    with pytest.raises(TypeError, match="boolean"):
        attack(linear, np.arange(4))
    with pytest.raises(ValueError, match="mine repeats"):
        adversarial_curves(linear, {"mine": [0, 0, 1, 2]})
    model = load_model(Detached(), input_size=4, mean=0, std=1, grid=2, device="cpu")
    with pytest.raises(ValueError, match="int8"):
        attack(PatchGame(model, linear.pixels), everywhere)
