"""Token deletion against attention masking; pixel masking against images masked by hand."""

import numpy as np
import pytest
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.resnet import resnet18
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from moxi_lite.models import load_model
from moxi_lite.patches import (
    BASELINES,
    MASKINGS,
    PixelMasking,
    TokenDeletion,
    deletion_problem,
    patch_map,
    resolve_masking,
)
from moxi_lite.patches.masking import make_masking


def logits(masking, coalitions):
    return masking.forward(masking.inputs(coalitions))


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def seeded(make, **options):
    torch.manual_seed(0)
    module = make(num_classes=5, **{**SMALL, **options}).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module


@pytest.fixture
def image():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))


class OwnBlock(Block):
    """Not timm's own: it must be run as it is."""


def own_first_block():
    module = seeded(VisionTransformer)
    module.blocks[0].__class__ = OwnBlock
    return module


def random_coalitions(size, m=6, n=16):
    rng = np.random.default_rng(size)
    rows = np.zeros((m, n), dtype=bool)
    for row in rows:
        row[rng.choice(n, size, replace=False)] = True
    return torch.from_numpy(rows)


def logits_by_attention_masking(module, image, coalition):
    """All tokens stay; keys of absent ones get no attention.  Written out, no timm forward."""
    p, heads = module.num_prefix_tokens, SMALL["num_heads"]
    x = module._pos_embed(module.patch_embed(image[None]))[0]
    keep = torch.cat([torch.ones(p, dtype=torch.bool), coalition])
    for block in module.blocks:
        qkv = block.attn.qkv(block.norm1(x)).reshape(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        q, k, v = qkv
        scores = q @ k.transpose(1, 2) / np.sqrt(q.shape[-1])
        weights = scores.masked_fill(~keep, -torch.inf).softmax(dim=-1)
        x = x + block.attn.proj((weights @ v).transpose(0, 1).flatten(1))
        x = x + block.mlp(block.norm2(x))
    x = module.norm(x)
    if isinstance(module, VisionTransformerDistilled):
        return (module.head(x[0]) + module.head_dist(x[1])) / 2
    pooled = x[0] if module.global_pool == "token" else x[p:][coalition].mean(dim=0)
    return module.head(module.fc_norm(pooled))


VITS = {
    "class token": lambda: seeded(VisionTransformer),
    "register tokens": lambda: seeded(VisionTransformer, reg_tokens=2, no_embed_class=True),
    "average pool": lambda: seeded(VisionTransformer, global_pool="avg"),
    "average pool without class token": lambda: seeded(
        VisionTransformer, global_pool="avg", class_token=False
    ),
    "distilled": lambda: seeded(VisionTransformerDistilled),
    "one block": lambda: seeded(VisionTransformer, depth=1),
    "own first block": lambda: own_first_block(),
}


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("size", [1, 7, 16])
def test_deletion_equals_attention_masking(kind, size, image):
    module = VITS[kind]()
    coalitions = random_coalitions(size)
    expected = torch.stack([logits_by_attention_masking(module, image, c) for c in coalitions])
    torch.testing.assert_close(
        logits(TokenDeletion(module, image), coalitions), expected, rtol=0, atol=1e-5
    )


def test_the_first_projection_is_made_once_an_image(image):
    module = VITS["class token"]()
    deletion = TokenDeletion(module, image)
    assert deletion.dense
    shapes = []
    module.blocks[0].attn.qkv.register_forward_hook(lambda *call: shapes.append(call[2].shape))
    for size in (3, 5):
        logits(deletion, random_coalitions(size))
    assert shapes == []


def test_a_model_that_takes_images_of_any_size_shows_all_their_tokens():
    module = seeded(VisionTransformer, dynamic_img_size=True)
    image = torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(2))
    deletion = TokenDeletion(module, image)
    assert deletion.n_players == 6 * 8
    everything = torch.ones(1, 48, dtype=torch.bool)
    torch.testing.assert_close(logits(deletion, everything), module(image[None]))


def test_a_coarse_patch_deletes_all_its_tokens(image):
    module = VITS["class token"]()
    fine = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0] + [1] * 8], dtype=torch.bool)
    coarse = torch.tensor([[1, 0, 1, 1]], dtype=torch.bool)
    torch.testing.assert_close(
        logits(TokenDeletion(module, image, (2, 2)), coarse),
        logits(TokenDeletion(module, image), fine),
    )


@pytest.mark.parametrize("kind", ["class token", "register tokens", "distilled"])
def test_empty_image_is_what_the_prefix_tokens_say(kind, image):
    module = VITS[kind]()
    nothing = torch.zeros(1, 16, dtype=torch.bool)
    expected = logits_by_attention_masking(module, image, nothing[0])
    torch.testing.assert_close(logits(TokenDeletion(module, image), nothing)[0], expected)


@pytest.mark.parametrize("kind", ["average pool", "average pool without class token"])
def test_mean_over_no_token_is_the_zero_vector(kind, image):
    module = VITS[kind]()
    out = logits(TokenDeletion(module, image), torch.zeros(2, 16, dtype=torch.bool))
    expected = module.head(module.fc_norm(torch.zeros(16)))
    torch.testing.assert_close(out, expected.expand(2, -1))


def test_everything_present_is_the_model_itself(image):
    for make in VITS.values():
        module = make()
        out = logits(TokenDeletion(module, image), torch.ones(1, 16, dtype=torch.bool))
        torch.testing.assert_close(out, module(image[None]))


def test_deleting_is_not_setting_embeddings_to_zero(image):
    module = VITS["class token"]()
    coalition = random_coalitions(5, m=1)
    tokens = module._pos_embed(module.patch_embed(image[None]))
    tokens[:, 1:][~coalition] = 0
    zeroed = module.forward_head(module.norm(module.blocks(tokens)))
    deleted = logits(TokenDeletion(module, image), coalition)
    assert (zeroed - deleted).abs().max() > 0.01


REFUSED = {
    "relative positions": (lambda: VisionTransformerRelPos(**SMALL), "VisionTransformerRelPos"),
    "relative bias": (lambda: Beit(**SMALL), "Beit"),
    "rotary positions": (lambda: Eva(**SMALL, use_rot_pos_emb=True), "Eva"),
    "convolutions": (lambda: resnet18(num_classes=5), "ResNet"),
    "attention pool": (
        lambda: VisionTransformer(**SMALL, global_pool="map", class_token=False),
        "pools patch tokens by attention",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_without_a_defined_deletion_are_refused(kind, image):
    make, words = REFUSED[kind]
    module = make().eval()
    assert words in deletion_problem(module)
    with pytest.raises(ValueError, match='masking="mean"'):
        TokenDeletion(module, image)


def test_a_convolutional_stem_is_refused():
    class Stem(torch.nn.Module):
        grid_size, num_patches = (4, 4), 16

        def __init__(self, **_):
            super().__init__()

    module = VisionTransformer(**SMALL, embed_layer=Stem)
    assert "Stem" in deletion_problem(module)


def test_patch_map_by_hand():
    assert patch_map(4, 4, (2, 2)).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]
    # 5 pixels over 2 patches: 3 and 2
    assert patch_map(1, 5, (1, 2)).tolist() == [[0, 0, 0, 1, 1]]
    with pytest.raises(ValueError, match=r"1\.\.4 rows"):
        patch_map(4, 4, (5, 1))


@pytest.mark.parametrize("masking", BASELINES)
def test_pixel_masking_equals_painting_by_hand(masking, image):
    seen = []

    def module(batch):
        seen.append(batch)
        return batch.mean(dim=(2, 3))

    coalitions = random_coalitions(3, n=4, m=2)
    baseline = BASELINES[masking](image)
    logits(PixelMasking(module, image, baseline, (2, 2)), coalitions)
    for coalition, shown in zip(coalitions, seen[0], strict=True):
        expected = image.clone()
        for patch in range(4):
            if not coalition[patch]:
                y, x = 16 * (patch // 2), 16 * (patch % 2)
                expected[:, y : y + 16, x : x + 16] = baseline[:, y : y + 16, x : x + 16]
        assert torch.equal(shown, expected)


def test_baselines(image):
    assert BASELINES["zero"](image).abs().max() == 0
    torch.testing.assert_close(BASELINES["mean"](image)[:, 5, 7], image.mean(dim=(1, 2)))
    assert BASELINES["blur"](image).std() < image.std() / 3
    noise = BASELINES["noise"](image)
    assert torch.equal(noise, BASELINES["noise"](image)) and not torch.equal(noise, image)
    torch.testing.assert_close(noise.std(), image.std(), rtol=0.1, atol=0)


def test_own_baselines(image):
    model = load_model(nn.Flatten(), input_size=32, mean=0, std=1, outputs="logits")
    for masking in (torch.ones_like(image), lambda picture: picture * 0 + 1):
        game = make_masking(model, image, masking, (2, 2))
        assert (logits(game, torch.zeros(1, 4, dtype=torch.bool)) == 1).all()
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\)"):
        PixelMasking(torch.nn.Identity(), image, torch.zeros(3, 2, 2), (2, 2))


def test_bad_names_and_grids(image, tiny_vit):
    with pytest.raises(ValueError, match="Did you mean 'blur'"):
        make_masking(tiny_vit, image, "blurr", (4, 4))
    with pytest.raises(ValueError, match="grid 5x4 is finer than its tokens, 4x4"):
        make_masking(tiny_vit, image, "drop", (5, 4))


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_masking_of_a_model_has_one_name(masking, tiny_vit, tiny_cnn):
    for model, auto in ((tiny_vit, "drop"), (tiny_cnn, "mean")):
        if (model, masking) != (tiny_cnn, "drop"):
            expected = auto if masking == "auto" else masking
            assert resolve_masking(model, masking, (4, 4)) == expected
