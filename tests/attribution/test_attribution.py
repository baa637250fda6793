"""Attribution against small independent implementations; what it leaves behind; bad input."""

import copy
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moxi_lite.attribution import METHODS, attention_weights, attribute, rollout
from moxi_lite.attribution.gradcam import _as_map, _default_layer
from moxi_lite.curves import deletion_curve, insertion_curve
from moxi_lite.data import imagenet_sample
from moxi_lite.games import (
    CountingGame,
    SetSumGame,
    as_game,
    full_context_shapley,
    self_context_shapley,
)
from moxi_lite.models import load_model
from moxi_lite.patches import PatchGame
from moxi_lite.search import order_of

GRADCAMS = [method for method in METHODS if method.startswith("gradcam")]


def needs_gradcam():
    pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")


def seeded(make):
    """A module with random weights of a size that makes every parameter matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make()
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
            else:
                nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    module.eval().requires_grad_(False)
    return load_model(module, input_size=32, mean=0, std=1, device="cpu")


def small_vit(kind=VisionTransformer, **options):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    return seeded(lambda: kind(**sizes, num_classes=5, **options))


@pytest.fixture(scope="module")
def relu_cnn():
    """A CNN whose activations work in place: each overwrites what the layer before it gave."""

    def make():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(4),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 5),
        )

    return replace(seeded(make), grid=(8, 8))


@pytest.fixture
def pixels():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5))


def gradcam_by_hand(activations, gradients):
    """Grad-CAM from (cells, channels), straight from its definition, before the cut at 0."""
    weights = gradients.mean(dim=0)
    return (activations * weights).sum(dim=1).numpy()


def gradcam_plus_plus_by_hand(activations, gradients):
    """Grad-CAM++: Eq. 19 of Chattopadhay et al., with the epsilon of pytorch-grad-cam."""
    cells, channels = activations.shape
    scores = np.zeros(cells)
    for channel in range(channels):
        total, weight = float(activations[:, channel].sum()), 0.0
        for g in gradients[:, channel].tolist():
            alpha = g**2 / (2 * g**2 + total * g**3 + 1e-6) if g else 0.0
            weight += alpha * max(g, 0)
        scores += weight * activations[:, channel].numpy()
    return scores


BY_HAND = {"gradcam": gradcam_by_hand, "gradcam++": gradcam_plus_plus_by_hand}


def vit_layer(module, pixels, target):
    """Patch tokens after the last norm1 and the gradients of the logit, (cells, channels)."""
    tokens = module._pos_embed(module.patch_embed(pixels[None]))
    for block in module.blocks[:-1]:
        tokens = block(tokens)
    last = module.blocks[-1]
    normed = last.norm1(tokens).detach().requires_grad_()
    x = tokens + last.attn(normed)
    x = x + last.mlp(last.norm2(x))
    logit = module.forward_head(module.norm(x))[0, target]
    (gradient,) = torch.autograd.grad(logit, normed)
    prefix = module.num_prefix_tokens
    return normed.detach()[0, prefix:], gradient[0, prefix:]


def cnn_layer(module, pixels, target, number):
    """Output of layer `number` of a Sequential and the gradients, (cells, channels)."""
    output = module[: number + 1](pixels[None]).detach().clone().requires_grad_()
    logit = module[number + 1 :](output.clone())[0, target]
    (gradient,) = torch.autograd.grad(logit, output)
    return output.detach()[0].flatten(1).T, gradient[0].flatten(1).T


@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize("target", [0, 3])
def test_gradcam_on_a_vit(tiny_vit, pixels, method, target):
    needs_gradcam()
    scores = attribute(PatchGame(tiny_vit, pixels, target=target), method)
    expected = BY_HAND[method](*vit_layer(tiny_vit.module, pixels, target))
    assert expected.max() > 0
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"reg_tokens": 3}, {"kind": VisionTransformerDistilled}])
def test_gradcam_drops_register_and_distillation_tokens(pixels, options):
    needs_gradcam()
    model = small_vit(**options)
    scores = attribute(PatchGame(model, pixels, target=1), "gradcam")
    expected = gradcam_by_hand(*vit_layer(model.module, pixels, 1))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize(("layer", "number"), [(None, 4), ("3", 3), ("4", 4)])
def test_gradcam_on_a_cnn(relu_cnn, pixels, method, layer, number):
    needs_gradcam()
    game = PatchGame(relu_cnn, pixels, target=2, masking="mean")
    scores = attribute(game, method, target_layer=layer)
    expected = BY_HAND[method](*cnn_layer(relu_cnn.module, pixels, 2, number))
    assert expected.max() > 0
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


def test_gradcam_of_linear_colours(tiny_cnn):
    # The map of class "red" is 10 * red, its weight 1 / 1024 at every pixel.
    needs_gradcam()
    red = torch.linspace(-1, 1, 32).expand(32, 32)
    image = torch.stack([red, torch.ones(32, 32), -torch.ones(32, 32)])
    scores = attribute(PatchGame(tiny_cnn, image, target="red", masking="zero"), "gradcam")
    columns = (10 * red / 1024).reshape(4, 8, 4, 8).mean(dim=(1, 3))
    np.testing.assert_allclose(scores, columns.ravel(), atol=1e-8)


def test_layer_by_module_and_own_reshape(tiny_vit, pixels):
    needs_gradcam()
    game = PatchGame(tiny_vit, pixels, target=0)
    layer = tiny_vit.module.blocks[1].norm1

    def reshape(tokens):
        return tokens[:, 1:].transpose(1, 2).reshape(1, 16, 4, 4)

    expected = attribute(game, "gradcam")
    for options in ({"target_layer": layer}, {"target_layer": layer, "reshape": reshape}):
        np.testing.assert_array_equal(attribute(game, "gradcam", **options), expected)
    other = attribute(game, "gradcam", target_layer="blocks.0.norm1")
    assert not np.allclose(other, expected)


def test_channels_last_stages_are_found(pixels):
    needs_gradcam()
    model = seeded(
        lambda: SwinTransformer(
            img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 2),
            num_classes=3,
        )
    )  # fmt: skip
    game = PatchGame(model, pixels, target=1, masking="mean", grid=(4, 4))
    module = model.module
    output = module.forward_features(pixels[None]).requires_grad_()
    (gradient,) = torch.autograd.grad(module.forward_head(output)[0, 1], output)
    expected = gradcam_by_hand(output.detach().reshape(16, 16), gradient.reshape(16, 16))
    np.testing.assert_allclose(attribute(game, "gradcam"), expected, rtol=1e-4, atol=1e-6)


def test_eigen_smoothing_has_the_sign_of_the_plain_map(tiny_vit, pixels, monkeypatch):
    needs_gradcam()
    import pytorch_grad_cam.base_cam as library

    game = PatchGame(tiny_vit, pixels, target=0)
    eigen = attribute(game, "gradcam-eigen")
    assert np.corrcoef(eigen, attribute(game, "gradcam"))[0, 1] > 0
    assert not np.allclose(eigen, attribute(game, "gradcam"))
    project = library.get_2d_projection
    monkeypatch.setattr(library, "get_2d_projection", lambda batch: -project(batch))
    np.testing.assert_array_equal(attribute(game, "gradcam-eigen"), eigen)


@pytest.mark.parametrize("method", BY_HAND)
def test_augmented_smoothing_is_the_mean_of_six_maps(tiny_vit, pixels, method):
    needs_gradcam()
    uncut = []
    for mirrored in (False, True):
        for contrast in (0.9, 1, 1.1):
            image = contrast * (pixels.flip(2) if mirrored else pixels)
            cam = attribute(PatchGame(tiny_vit, image, target=0), f"{method}-eigen").reshape(4, 4)
            uncut.append(cam[:, ::-1] if mirrored else cam)
    cut = [np.maximum(cam, 0) for cam in uncut]
    scaled = np.mean([(cam - cam.min()) / (cam.max() - cam.min()) for cam in cut], axis=0).ravel()
    scores = attribute(PatchGame(tiny_vit, pixels, target=0), f"{method}-paper")
    np.testing.assert_allclose(np.maximum(scores, 0), scaled, rtol=1e-4, atol=1e-5)
    # What all six cut away is ranked by what it was before.
    dark = scaled == 0
    assert dark.any()
    below = np.mean(uncut, axis=0).ravel()[dark]
    np.testing.assert_allclose(scores[dark], below, rtol=1e-4, atol=1e-5)
    assert len(np.unique(scores[dark])) == dark.sum()


def blocks_mean(fine, rows, columns):
    """Mean of the map as it is published, cut at 0; where nothing is left, of what was cut."""

    def averaged(cells):
        sides = (rows, cells.shape[0] // rows, columns, cells.shape[1] // columns)
        return cells.reshape(sides).mean(axis=(1, 3)).ravel()

    above = averaged(np.maximum(fine, 0))
    return np.where(above > 0, above, averaged(np.minimum(fine, 0)))


def test_maps_are_averaged_over_the_game_grid(tiny_vit, pixels):
    needs_gradcam()
    own = attribute(PatchGame(tiny_vit, pixels, target=0), "gradcam").reshape(4, 4)

    def at(*grid):
        game = PatchGame(tiny_vit, pixels, target=0, masking="mean", grid=grid)
        return attribute(game, "gradcam")

    np.testing.assert_allclose(at(2, 4), blocks_mean(own, 2, 4))
    np.testing.assert_allclose(at(3, 1), blocks_mean(np.repeat(own, 3, axis=0), 3, 1))
    stack = torch.from_numpy(np.stack([np.maximum(own, 0), np.minimum(own, 0)]))[None]
    above, below = nn.functional.interpolate(stack, (32, 32), mode="bilinear")[0].numpy()
    above, below = blocks_mean(above, 8, 4), blocks_mean(below, 8, 4)
    np.testing.assert_allclose(at(8, 4), np.where(above > 0, above, below))


@pytest.mark.parametrize("method", [*GRADCAMS, "rollout"])
def test_the_module_is_left_as_found(tiny_vit, pixels, method):
    if method in GRADCAMS:
        needs_gradcam()
    module = copy.deepcopy(tiny_vit.module)
    module.blocks[0].mlp.train()
    module.head.weight.requires_grad_(True)
    module.head.weight.grad = torch.full_like(module.head.weight, 7.0)
    game = PatchGame(replace(tiny_vit, module=module), pixels, target=0)

    def state():
        return (
            [part.training for part in module.modules()],
            [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()],
            [parameter.requires_grad for parameter in module.parameters()],
            [parameter.grad is None for parameter in module.parameters()],
        )

    before, weights = state(), copy.deepcopy(module.state_dict())
    attribute(game, method)
    with torch.inference_mode():
        attribute(game, method)
    if method in GRADCAMS:
        with pytest.raises(ValueError, match="feature map"):
            attribute(game, method, target_layer="head")
    assert state() == before
    assert bool((module.head.weight.grad == 7).all())
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert not game.pixels.requires_grad and torch.equal(game.pixels, pixels)


def rollout_by_hand(module, pixels):
    """Run a ViT with an explicit softmax; its logits and the product of its attentions."""
    x = module._pos_embed(module.patch_embed(pixels[None]))[0]
    product = torch.eye(len(x))
    for block in module.blocks:
        attention, inner = block.attn, block.norm1(x)
        width = attention.qkv.in_features
        head = width // attention.num_heads
        mixed, mean = [], torch.zeros(len(x), len(x))
        q, k, v = attention.qkv(inner).split(width, dim=1)
        for start in range(0, width, head):
            part = slice(start, start + head)
            query, key = attention.q_norm(q[:, part]), attention.k_norm(k[:, part])
            weights = torch.exp(query @ key.T / head**0.5)
            weights = weights / weights.sum(dim=1, keepdim=True)
            mixed.append(weights @ v[:, part])
            mean += weights / attention.num_heads
        x = x + attention.proj(torch.cat(mixed, dim=1))
        x = x + block.mlp(block.norm2(x))
        step = mean + torch.eye(len(x))
        product = (step / step.sum(dim=1, keepdim=True)) @ product
    return module.forward_head(module.norm(x[None])), product.numpy()


@pytest.mark.parametrize(
    "options",
    [{}, {"qk_norm": True}, {"reg_tokens": 2}, {"kind": VisionTransformerDistilled}],
    ids=["plain", "qk_norm", "registers", "distilled"],
)
def test_rollout_against_a_loop_with_explicit_softmax(pixels, options):
    model = small_vit(**options)
    logits, product = rollout_by_hand(model.module, pixels)
    torch.testing.assert_close(logits, model.module(pixels[None]), rtol=1e-4, atol=1e-4)
    scores = attribute(PatchGame(model, pixels), "rollout")
    np.testing.assert_allclose(scores, product[0, model.module.num_prefix_tokens :], rtol=1e-4)


def test_rows_of_rollout_sum_to_one(tiny_vit, pixels):
    weights = attention_weights(tiny_vit.module, pixels[None])
    assert [tuple(layer.shape) for layer in weights] == [(2, 17, 17)] * 2
    for layer in weights:
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(2, 17))
    for depth in (1, 2):
        np.testing.assert_allclose(rollout(weights[:depth]).sum(axis=1), 1)


@pytest.mark.parametrize("method", ["rollout", "gradcam"])
def test_a_vit_fed_with_another_size_than_it_was_built_for(method):
    if method in GRADCAMS:
        needs_gradcam()
    module = small_vit(dynamic_img_size=True).module
    model = load_model(module, input_size=(48, 32))
    game = PatchGame(model, torch.randn(3, 48, 32, generator=torch.Generator().manual_seed(0)))
    scores = attribute(game, method)
    assert (game.grid, scores.shape) == ((6, 4), (24,))
    assert np.isfinite(scores).all() and scores.std() > 0


def test_rollout_of_two_layers_by_hand():
    first = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    second = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    # (A + I) / 2: [[1/2, 1/2], [1/2, 1/2]]; mean over heads [[1, 0], [1/2, 1/2]]
    np.testing.assert_allclose(rollout([first, second]), [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(rollout([second]), [[1, 0], [0.25, 0.75]])


def test_rollout_of_an_own_transformer(tiny_vit, pixels):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_vit.module

        def forward(self, images):
            return self.inner(images)

    own = load_model(Own(), input_size=32, grid=4, device="cpu")
    game = PatchGame(own, pixels, masking="mean")
    with pytest.raises(ValueError, match=r"Own is not a plain.*attention="):
        attribute(game, "rollout")

    def attention(module, images):
        return [layer[None] for layer in attention_weights(module.inner, images)]

    expected = attribute(PatchGame(tiny_vit, pixels), "rollout")
    np.testing.assert_allclose(attribute(game, "rollout", attention=attention), expected)
    with pytest.raises(ValueError, match=r"17 tokens.*expected 18"):
        attribute(game, "rollout", attention=attention, n_prefix_tokens=2)
    for bad, words in (
        (lambda module, images: [], "got none"),
        (lambda module, images: [torch.ones(17, 17)], r"shape \(17, 17\)"),
        (lambda module, images: [torch.full((1, 17, 17), torch.nan)], "layer 0 are negative or"),
    ):
        with pytest.raises(ValueError, match=words):
            attribute(game, "rollout", attention=bad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_token": False, "global_pool": "avg"}, "no class token"),
        ({"global_pool": "avg"}, "global_pool='avg'"),
    ],
)
def test_rollout_refuses_models_that_do_not_read_a_class_token(pixels, options, words):
    game = PatchGame(small_vit(**options), pixels)
    with pytest.raises(ValueError, match=words):
        attribute(game, "rollout")


def test_rollout_refuses_models_without_attention(tiny_cnn, pixels):
    with pytest.raises(ValueError, match=r"Sequential is not a plain.*'gradcam'"):
        attribute(PatchGame(tiny_cnn, pixels, masking="mean"), "rollout")


def test_rise_ranks_the_weights_of_a_sum():
    weights = np.array([0.0, 3.0, -2.0, 1.0, 5.0])
    game = as_game(lambda coalitions: coalitions @ weights, 5)
    scores = attribute(game, "rise", random_state=0)
    assert order_of(scores).tolist() == [4, 1, 3, 0, 2]
    # Half of all weights is there on average, and the patch's other half on top.
    np.testing.assert_allclose(scores, (weights.sum() + weights) / 2, atol=0.2)


def test_rise_shows_each_patch_in_half_of_the_masks():
    rows = []

    def remember(coalitions):
        rows.append(coalitions)
        return np.full(len(coalitions), 2.0)

    scores = attribute(as_game(remember, 7), "rise", n_samples=50, random_state=1)
    masks = np.concatenate(rows)
    assert masks.shape == (50, 7)
    np.testing.assert_array_equal(masks.sum(axis=0), 25)
    np.testing.assert_array_equal(scores, 2.0)


@pytest.mark.parametrize(
    ("method", "n_samples", "n_evaluations"),
    [
        ("shapley-paper", None, 2 * 200 * 6),
        ("shapley", None, 2 + 2 * 239 * 5),  # 2392; one more pair would cost 2402
        ("shapley", 3, 2 + 2 * 3 * 5),
        ("shapley-paper", 3, 2 * 3 * 6),
        ("rise", 10, 10),
        ("rise", None, 4000),
        ("moxi-", None, 7),
        ("random", None, 0),
    ],
)
def test_what_the_methods_cost(method, n_samples, n_evaluations):
    game = CountingGame(SetSumGame([1, 2, 2, 4, 8, 16]))
    attribute(game, method, n_samples=n_samples, random_state=0)
    assert game.n_evaluations == n_evaluations


def test_shapley_is_close_to_the_exact_values():
    game = SetSumGame([2, 2, 1])
    np.testing.assert_allclose(attribute(game, "shapley", random_state=0), [1, 1, 1], atol=0.1)


@pytest.mark.parametrize("method", ["shapley", "shapley-paper", "rise"])
def test_sampling_in_bfloat16_differs_by_less_than_a_seed_does(tiny_vit, pixels, method):
    def scores(dtype, seed):
        game = PatchGame(tiny_vit, pixels, target=1, dtype=dtype)
        found = attribute(game, method, n_samples=20, random_state=seed)
        return found, game.n_evaluations

    exact, n_exact = scores(None, 0)
    mixed, n_mixed = scores("mixed", 0)
    other, _ = scores(None, 1)
    rounding, sampling = np.abs(mixed - exact).max(), np.abs(other - exact).max()
    assert n_mixed == n_exact
    assert 0 < rounding < sampling / 3


def test_moxi_without_interactions_follows_the_mode(tiny_vit, pixels):
    game = PatchGame(tiny_vit, pixels)
    np.testing.assert_array_equal(attribute(game, "moxi-"), self_context_shapley(game))
    deletion = attribute(game, "moxi-", mode="deletion")
    np.testing.assert_array_equal(deletion, full_context_shapley(game))
    assert order_of(deletion).tolist() != order_of(attribute(game, "moxi-")).tolist()


@pytest.mark.parametrize("method", ["random", "rise", "shapley", "shapley-paper"])
def test_seeds_repeat(method):
    game = SetSumGame([1, 1, 1, 2])
    first, again, other = (attribute(game, method, random_state=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_one_number_a_patch(tiny_vit, pixels, method):
    if method in GRADCAMS:
        needs_gradcam()
    n_samples = 2 if method in ("rise", "shapley", "shapley-paper") else None
    scores = attribute(PatchGame(tiny_vit, pixels), method, n_samples=n_samples)
    assert scores.shape == (16,) and scores.dtype == np.float64
    assert sorted(order_of(scores).tolist()) == list(range(16))


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("gradcamm", {}, "Did you mean 'gradcam'"),
        ("moxi", {}, "explain"),
        ("random", {"mode": "insert"}, "Did you mean 'insertion'"),
        ("random", {"n_samples": 5}, "takes no n_samples"),
        ("rollout", {"target_layer": "head"}, "takes no target_layer"),
        ("gradcam", {"attention": len}, "takes no attention"),
        ("rise", {"n_samples": 3}, "even"),
        ("rise", {"n_samples": 0}, "at least 2"),
        ("shapley", {"n_samples": 0}, "at least 1"),
        ("gradcam", {"target_layer": "blocks.1.norm"}, "Did you mean .*'blocks.1.norm1'"),
        ("gradcam", {"target_layer": nn.Identity()}, "not part of this model"),
        ("gradcam", {"target_layer": "head"}, r"shape \(1, 5\).*reshape="),
        ("gradcam", {"target_layer": "blocks.1.attn.proj", "reshape": torch.sum}, "feature map"),
        ("gradcam", {"target_layer": ""}, "unknown target_layer ''"),
    ],
)
def test_bad_arguments(tiny_vit, pixels, method, options, words):
    if method in GRADCAMS:
        needs_gradcam()
    with pytest.raises(ValueError, match=words):
        attribute(PatchGame(tiny_vit, pixels), method, **options)


def test_a_layer_of_the_wrong_type(tiny_vit, pixels):
    needs_gradcam()
    with pytest.raises(TypeError, match="dotted name, not int"):
        attribute(PatchGame(tiny_vit, pixels), "gradcam", target_layer=3)


@pytest.mark.parametrize("method", ["gradcam", "rollout"])
def test_methods_that_look_inside_need_a_patch_game(method):
    with pytest.raises(TypeError, match=r"needs a PatchGame, not SetSumGame.*'rise'"):
        attribute(SetSumGame([1, 2]), method)


class Tokens(nn.Module):
    """Embeds patches by a convolution: its map is no feature map of a CNN."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 8, 8)
        self.mix = nn.Linear(4, 2)
        self.unused = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return self.mix(self.embed(images).flatten(2).transpose(1, 2)).mean(dim=1)


def test_averaged_tokens(pixels):
    needs_gradcam()
    game = PatchGame(seeded(Tokens), pixels, target=1, masking="mean", grid=4)
    module = game.model.module
    tokens = module.mix(module.embed(pixels[None]).flatten(2).transpose(1, 2))[0]
    # Channel 1 has the gradient 1 / 16 everywhere, channel 0 none.
    expected = tokens[:, 1].numpy() / 16
    assert expected.max() > 0
    np.testing.assert_allclose(attribute(game, "gradcam"), expected, rtol=1e-5, atol=1e-7)


def test_a_layer_that_runs_twice_is_passed_over(pixels):
    needs_gradcam()

    class Shared(nn.Module):
        """A CNN as many write it: pytorch-grad-cam would look at the ReLU's first run."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2)
            self.relu = nn.ReLU()

        def forward(self, images):
            return self.relu(self.second(self.relu(self.first(images)))).mean(dim=(2, 3))

    game = PatchGame(seeded(Shared), pixels, masking="mean", grid=4)
    np.testing.assert_array_equal(
        attribute(game, "gradcam"), attribute(game, "gradcam", target_layer="second")
    )


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_a_map_whose_channels_come_last(size):
    needs_gradcam()  # timm's NesT says nothing of it, as its Swin does

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 12, 8, 8), nn.LayerNorm(12)
            self.head = nn.Linear(12, 3)

        def forward(self, images):
            return self.head(self.norm(self.conv(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))

    module = seeded(ChannelsLast).module
    model = load_model(module, input_size=size, mean=0, std=1, grid=(size[0] // 8, size[1] // 8))
    image = torch.randn(3, *size, generator=torch.Generator().manual_seed(6))
    game = PatchGame(model, image, target=1, masking="mean")
    cells = module.norm(module.conv(image[None]).permute(0, 2, 3, 1)).flatten(0, 2)
    weights = module.head.weight[1] / len(cells)  # the gradient is the same at every cell
    expected = (cells @ weights).numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(attribute(game, "gradcam"), expected, rtol=1e-4, atol=1e-6)


def test_a_map_of_other_proportions_than_the_image_is_refused(pixels):
    needs_gradcam()
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 4, 4),
            nn.Flatten(2),
            nn.Unflatten(2, (2, 32)),
            nn.Flatten(),
            nn.Linear(256, 3),
        )
    )
    game = PatchGame(model, pixels, masking="mean", grid=4)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 2, 32\).*reshape="):
        attribute(game, "gradcam", target_layer="2")
    own = attribute(
        game, "gradcam", target_layer="2", reshape=lambda each: each.reshape(1, 4, 8, 8)
    )
    np.testing.assert_allclose(own, attribute(game, "gradcam"))


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, torch.compile])
def test_a_network_in_training_is_left_as_it_is(wrap, pixels):
    needs_gradcam()

    class Adapter(nn.Conv2d):
        """Merges its weights when it is told to evaluate, as LoRA's do."""

        def train(self, mode=True):
            self.weight.data.mul_(1 if mode else 2)
            return super().train(mode)

    module = nn.Sequential(
        Adapter(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(384, 4),
    )  # fmt: skip
    module[0].weight.requires_grad_(False)
    module.train()
    module[5].weight.grad = torch.ones_like(module[5].weight)
    model = load_model(wrap(module), input_size=32, mean=0, std=1, grid=4)
    before = copy.deepcopy(module.state_dict())
    game = PatchGame(model, pixels, target=1, masking="mean")
    scores = attribute(game, "gradcam", target_layer="2")
    assert all(torch.equal(each, before[key]) for key, each in module.state_dict().items())
    assert all(part.training for part in module.modules())
    assert [p.requires_grad for p in module.parameters()] == [False, *[True] * 5]
    assert [p.grad is None for p in module.parameters()] == [*[True] * 4, False, True]
    assert bool((module[5].weight.grad == 1).all())
    for part in module.modules():
        part.training = False
    module.requires_grad_(False)
    hidden = module[:3](pixels[None])
    expected = gradcam_by_hand(hidden[0].flatten(1).T, module[5].weight[1].view(6, 64).T)
    assert expected.max() > 0
    np.testing.assert_allclose(scores, blocks_mean(expected.reshape(8, 8), 4, 4), rtol=1e-4)


@pytest.mark.parametrize("target", [0, 1])
def test_gradcam_of_one_logit_is_that_of_two(pixels, target):
    needs_gradcam()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.Flatten(), nn.Linear(96, 1))
    module.requires_grad_(False)
    options = {"input_size": 32, "mean": 0, "std": 1, "grid": 4}
    model = load_model(module, outputs="binary", **options)
    scores = attribute(PatchGame(model, pixels, target=target), "gradcam")
    weights = module[2].weight.view(6, 16).T * target  # class 0 has the logit 0
    expected = gradcam_by_hand(module[0](pixels[None])[0].flatten(1).T, weights)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("cait_xxs24_224", "blocks.23.norm1"),
        ("coat_lite_tiny", "serial_blocks4.1.norm1"),
        ("crossvit_tiny_240", "blocks.2.fusion.1.norm1"),
        ("efficientformer_l1", "norm"),
        ("gmlp_ti16_224", "norm"),
        ("hiera_tiny_224", "blocks.11.norm2"),
        ("mixer_s32_224", "norm"),
        ("mvitv2_tiny", "norm"),
        ("naflexvit_base_patch16_gap", "blocks.11.norm1"),
        ("nest_tiny_jx", "norm"),
        ("pit_ti_224", "transformers.2.blocks.3.norm1"),
        ("resmlp_12_224", "norm"),
        ("resnet18", "layer4"),
        ("resnet50_clip", "final_conv"),
        ("swin_tiny_patch4_window7_224", "norm"),
        ("tnt_s_legacy_patch16_224", "blocks.11.norm_out"),
        ("twins_pcpvt_small", "norm"),
        ("volo_d1_224", "norm"),
        ("xcit_nano_12_p16_224", "blocks.11.norm1"),
    ],
)
def test_default_layers_show_where_the_image_was_changed(name, layer):
    torch.manual_seed(0)
    model = load_model(timm.create_model(name, pretrained=False, num_classes=5))
    height, width = model.input_size
    image = torch.randn(1, 3, height, width)
    with torch.enable_grad():
        found = _default_layer(model, image, 0)
    assert found is model.module.get_submodule(layer)
    changed = image.clone()
    changed[..., height * 5 // 8 : height * 6 // 8, width // 8 : width * 2 // 8] += 3
    maps = []
    with found.register_forward_hook(lambda _, __, output: maps.append(_as_map(model, output))):
        model.logits(image), model.logits(changed)
    change = (maps[1] - maps[0])[0].norm(dim=0)
    row, column = np.unravel_index(int(change.argmax()), change.shape)
    assert (row + 0.5) / change.shape[0] == pytest.approx(5.5 / 8, abs=0.11)
    assert (column + 0.5) / change.shape[1] == pytest.approx(1.5 / 8, abs=0.11)


def test_no_layer_for_gradcam(pixels):
    needs_gradcam()

    class NoPlace(Tokens):
        """What follows the embedding has no place, and of the embedding itself a row is cut off."""

        def forward(self, images):
            return self.mix(self.embed(images)[:, :, 1:].flatten(2).mean(dim=2))

    class Embedding(nn.Conv2d):
        def forward(self, images):
            return super().forward(images)[:, :, 2:]

    module = NoPlace()
    module.embed = Embedding(3, 4, 8, 8)
    game = PatchGame(load_model(module, input_size=32, mean=0, std=1), pixels, masking="mean")
    with pytest.raises(
        ValueError,
        match=r"no layer .* is found in NoPlace.*target_layer=.*embed \(1, 4, 2, 4\)",
    ):
        attribute(game, "gradcam")
    game = PatchGame(load_model(Tokens(), input_size=32, mean=0, std=1), pixels, masking="mean")
    assert attribute(game, "gradcam", target_layer="embed").shape == (game.n_players,)
    with pytest.raises(ValueError, match="not run"):
        attribute(game, "gradcam", target_layer="unused")

    class Bare(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    game = PatchGame(load_model(Bare(), input_size=32, mean=0, std=1), pixels, masking="mean")
    with pytest.raises(ValueError, match="no parameters"):
        attribute(game, "gradcam")


def test_gradients_that_do_not_arrive(pixels):
    needs_gradcam()

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images):
            return self.conv(images).detach().mean(dim=(2, 3))

    game = PatchGame(load_model(Detached(), input_size=32, mean=0, std=1), pixels, masking="mean")
    with pytest.raises(ValueError, match="no gradient"):
        attribute(game, "gradcam")


@pytest.mark.filterwarnings("ignore:quantized")
def test_a_quantised_network_has_no_gradients(tiny_vit, pixels):
    needs_gradcam()
    eager = copy.deepcopy(tiny_vit.module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        int8 = torch.ao.quantization.quantize_dynamic(eager, {nn.Linear}, dtype=torch.qint8)
    game = PatchGame(replace(tiny_vit, module=int8), pixels, masking="mean")
    with pytest.raises(ValueError, match=r"LayerNorm, it is None.*int8.*'shapley'"):
        attribute(game, "gradcam")


def test_an_error_of_the_users_own_reshape_is_raised(tiny_vit, pixels):
    needs_gradcam()  # its "with" statement prints an IndexError and goes on

    def reshape(tokens):
        raise IndexError("no token 99")

    with pytest.raises(IndexError, match="no token 99"):
        attribute(PatchGame(tiny_vit, pixels), "gradcam", reshape=reshape)
    assert not tiny_vit.module.blocks[-1].norm1._forward_hooks


def test_without_pytorch_grad_cam_the_error_says_what_to_install(tiny_vit, pixels, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError, match="pip install"):
        attribute(PatchGame(tiny_vit, pixels), "gradcam")


@pytest.mark.hub
@pytest.mark.slow
def test_rise_beats_random_on_a_photograph():
    game = PatchGame(load_model("vit_tiny_patch16_224"), imagenet_sample(282).image, grid=(7, 7))
    rise = order_of(attribute(game, "rise", n_samples=128, random_state=0))
    random = order_of(attribute(game, "random", random_state=0))
    assert insertion_curve(game, rise).auc() > insertion_curve(game, random).auc() + 0.05
    assert deletion_curve(game, rise).auc() < deletion_curve(game, random).auc() - 0.05
