"""The user's own network: hooked, adapted, wrapped, in training, reloaded. Explained as it is."""

import copy
import re
import types
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrizations, prune

from moxi_lite.curves import insertion_curve
from moxi_lite.models import evaluating, load_model
from moxi_lite.patches import PatchGame, deletion_problem
from moxi_lite.search import explain, explain_class, explain_many

IMAGE = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
ALL = np.ones(16, bool)


def vit(seed=0, **options):
    torch.manual_seed(seed)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    module = VisionTransformer(**{**size, "num_classes": 5, **options}).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = float("norm" in name and name.endswith("weight"))
            parameter.copy_(torch.randn_like(parameter) * 0.3 + gain)
    return module


def loaded(module, **options):
    own = {"mean": 0, "std": 1, "input_size": 32, "outputs": "logits", "grid": 4}
    return load_model(module, **{**own, **options})


def game_of(module, masking="drop", **options):
    return PatchGame(loaded(module), IMAGE, masking=masking, **options)


def said_by(module):
    with torch.no_grad(), evaluating(module):
        return module(IMAGE[None])[0].numpy()


def by_attention_masking(module, coalition):
    """All tokens stay and the blocks run as they are; keys of absent tokens get no attention."""
    prefix = torch.ones(module.num_prefix_tokens, dtype=torch.bool)
    keep = torch.cat([prefix, torch.from_numpy(coalition)])
    with torch.no_grad(), evaluating(module):
        tokens = module._pos_embed(module.patch_embed(IMAGE[None]))
        tokens = module.norm_pre(module.patch_drop(tokens))
        for block in module.blocks:
            tokens = block(tokens, attn_mask=keep.expand(len(keep), -1))
        return module.forward_head(module.norm(tokens)[:, keep])[0].numpy()


def halves(seed=0, m=4):
    rows = np.random.default_rng(seed).random((m, 16)) < 0.5
    rows[:, 3] = True
    return rows


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def state_of(module):
    """Whatever a caller could find changed."""
    parts = [
        (part.training, list(part._forward_hooks), list(part._forward_pre_hooks), set(vars(part)))
        for part in module.modules()
    ]
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = [(each.requires_grad, each.grad) for each in module.parameters()]
    return parts, tensors, gradients


def assert_untouched(module, before):
    parts, tensors, gradients = state_of(module)
    assert parts == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in tensors.items())
    for (needed, gradient), (was_needed, was) in zip(gradients, before[2], strict=True):
        assert needed == was_needed and gradient is was


# --- hooks, adapters, replaced methods --------------------------------------------------------


class LoRALinear(nn.Linear):
    """As in loralib and many adaptations of DINOv2: a Linear with another forward."""

    def __init__(self, linear, rank=4):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) * 0.3)
        self.b = nn.Parameter(torch.randn(linear.out_features, rank) * 0.3)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.a), self.b)


class Adapter(nn.Module):
    """As in peft: around a layer."""

    def __init__(self, inner, width):
        super().__init__()
        self.inner, self.extra = inner, nn.Linear(width, width)

    def forward(self, x, **options):
        out = self.inner(x, **options)
        return out + (self.extra(out) if out.shape[-1] == self.extra.in_features else 0)


def lora(module):
    for block in module.blocks:
        block.attn.qkv = LoRALinear(block.attn.qkv)


def adapters(module):
    for number, block in enumerate(module.blocks):
        module.blocks[number] = Adapter(block, 16)


def ablated_attention(module):
    inner = module.blocks[1].attn.forward
    module.blocks[1].attn.forward = lambda x, **options: inner(x, **options) * 0


def own_head(module):
    """DINOv2's linear head reads the class token and the mean of the patches."""
    module.linear = nn.Linear(32, 5)

    def forward_head(self, x, pre_logits=False):
        patches = x[:, self.num_prefix_tokens :].mean(1)
        return self.linear(torch.cat([x[:, 0], patches], 1))

    module.forward_head = types.MethodType(forward_head, module)


def own_forward(module):
    inner = module.forward
    module.forward = lambda x: inner(x) * 0.5 + 1


TAMPERED = {
    "LoRA on qkv": lora,
    "LoRA on the MLP": lambda m: setattr(m.blocks[0].mlp, "fc1", LoRALinear(m.blocks[0].mlp.fc1)),
    "adapters around blocks": adapters,
    "adapter around qkv": lambda m: setattr(
        m.blocks[2].attn, "qkv", Adapter(m.blocks[2].attn.qkv, 48)
    ),
    "attn.forward replaced": ablated_attention,
    "own head": own_head,
    "forward replaced": own_forward,
    "spectral norm": lambda m: parametrizations.spectral_norm(m.blocks[0].attn.qkv),
    "pruned": lambda m: prune.random_unstructured(m.blocks[0].attn.qkv, "weight", 0.5),
    "checkpointing": lambda m: m.set_grad_checkpointing(True),
    "unfused attention": lambda m: [setattr(b.attn, "fused_attn", False) for b in m.blocks],
}


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("kind", TAMPERED)
def test_a_tampered_network_is_run_as_it_is(kind, pool):
    module = vit(global_pool=pool)
    TAMPERED[kind](module)
    game = game_of(module)
    assert_same(game.logits(ALL)[0], said_by(module))
    assert np.isfinite(game.logits(~ALL)).all()
    if kind != "forward replaced":
        for row, coalition in zip(game.logits(halves()), halves(), strict=True):
            assert_same(row, by_attention_masking(module, coalition))


PLACES = [name for name, part in vit().named_modules() if name not in ("blocks.1", "blocks.2")]


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_a_hook_at_any_place_is_honoured(place, pre):
    module = vit()
    part = module.get_submodule(place)
    if pre:
        part.register_forward_pre_hook(lambda _, given: (given[0] * 0.6, *given[1:]))
    else:
        part.register_forward_hook(lambda _, given, out: out * 0.6)
    game = game_of(module)
    assert_same(game.logits(ALL)[0], said_by(module))
    if place not in ("", "blocks"):
        assert_same(game.logits(halves(1, 1))[0], by_attention_masking(module, halves(1, 1)[0]))


def test_a_head_that_averages_patches_finds_a_zero_vector_where_none_is_left():
    module = vit()
    own_head(module)
    game = game_of(module)
    prefix = vit_prefix(module)
    expected = module.linear(torch.cat([prefix, torch.zeros(1, 16)], 1))[0].detach().numpy()
    assert_same(game.logits(~ALL)[0], expected)


def vit_prefix(module):
    """What the class token becomes alone."""
    with torch.no_grad():
        tokens = module._pos_embed(module.patch_embed(IMAGE[None]))[:, :1]
        return module.norm(module.blocks(tokens))[:, 0]


def steer_token_5(_, given, out):
    out = out.clone()
    out[:, 5, :8] += 3  # not in all channels: a norm would not see it
    return out


def mix_tokens(_, given, out):
    return out - out.mean(dim=1, keepdim=True)


def few_fail(_, given):
    assert given[0].shape[1] == 17, "all tokens are expected"


@pytest.mark.parametrize("hook", [steer_token_5, mix_tokens, few_fail])
def test_what_deletion_does_not_compute_is_refused_by_name(hook):
    module = vit()
    part = module.blocks[1]
    add = part.register_forward_pre_hook if hook is few_fail else part.register_forward_hook
    add(hook)
    for dtype in (None, torch.bfloat16):
        with pytest.raises(ValueError, match=r"(?s)a hook on 'blocks\.1'.*masking=\"mean\""):
            game_of(module, dtype=dtype)
    with pytest.warns(UserWarning, match='"auto" is "mean" here'):
        game = game_of(module, "auto")
    assert game.masking == "mean"
    assert_same(game.logits(ALL)[0], said_by(module))


def test_a_network_that_moves_the_picture_is_refused():
    module = vit()
    module.register_forward_pre_hook(lambda _, given: (given[0].flip(3),))
    with pytest.raises(ValueError, match="moved or changed on its way"):
        game_of(module)
    normalised = nn.Sequential(torchvision.transforms.Normalize([0.5] * 3, [0.2] * 3), vit())
    assert_same(game_of(normalised).logits(ALL)[0], said_by(normalised))
    with pytest.raises(ValueError, match="holds 2 Vision Transformers"):
        game_of(
            Ends(vit(num_classes=3 * 32 * 32), nn.Sequential(nn.Unflatten(1, (3, 32, 32)), vit()))
        )


def test_only_an_untouched_network_takes_the_short_way():
    game = game_of(vit())
    assert game._masking.dense
    module = vit()
    module.blocks[1].register_forward_hook(lambda *_: None)
    assert not game_of(module)._masking.dense


@pytest.mark.parametrize("dtype", [torch.bfloat16, "mixed"])
def test_hooks_hold_in_every_precision(dtype):
    plain, module = vit(), vit()
    module.blocks[1].attn.register_forward_hook(lambda _, given, out: out * 0)
    games = [game_of(each, dtype=dtype) for each in (plain, module)]
    rows = halves()
    exact = game_of(module)(rows)
    assert np.abs(games[1](rows) - exact).max() < 0.2
    assert np.abs(games[0](rows) - exact).max() > 0.5


# --- all of timm's plain Vision Transformers --------------------------------------------------


def plain_names():
    homes = ("timm.models.vision_transformer", "timm.models.deit")
    return [n for n in timm.list_models() if timm.model_entrypoint(n).__module__ in homes]


@pytest.mark.slow
def test_every_plain_vit_of_timm():
    """At depth 2 and 4 x 4 tokens, with random weights; what is wider than ViT-B is left out."""
    tried = 0
    for name in plain_names():
        named = re.search(r"patch(\d+)", name)
        patch = int(named[1]) if named else 16
        module = timm.create_model(
            name, depth=2, img_size=4 * patch, num_classes=5, device="meta"
        ).eval()
        if sum(each.numel() for each in module.parameters()) > 16e6:
            continue
        module.to_empty(device="cpu")
        torch.manual_seed(0)
        with torch.no_grad():
            for each in module.parameters():
                each.normal_(std=each.shape[-1] ** -0.5 if each.ndim > 1 else 0.5)
        image = torch.randn(3, 4 * patch, 4 * patch)
        model = load_model(module, outputs="logits")
        if deletion_problem(module) is not None:
            assert module.attn_pool is not None, name
            continue
        game = PatchGame(model, image, masking="drop")
        with torch.no_grad():
            assert_same(game.logits(ALL)[0], module(image[None])[0].numpy())
            rows = halves(2, 1)
            keep = np.concatenate([np.ones(module.num_prefix_tokens, bool), rows[0]])
            mask = torch.from_numpy(keep).expand(len(keep), -1)
            features = module.forward_features(image[None], attn_mask=mask)[:, mask[0]]
            assert_same(game.logits(rows)[0], module.forward_head(features)[0].numpy())
            if not module.num_prefix_tokens:
                nothing = module.head(module.fc_norm(torch.zeros(1, module.embed_dim)))
                assert_same(game.logits(~ALL), nothing.numpy())
        assert np.isfinite(game(~ALL)).all(), name
        tried += 1
    assert tried > 60


# --- flags, gradients, buffers ----------------------------------------------------------------


def trained_cnn():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)
    module = nn.Sequential(*layers, nn.Linear(128, 5))
    module.train()
    module(torch.randn(4, 3, 32, 32)).sum().backward()
    module[4].eval()
    module[0].weight.requires_grad_(False)
    return module


def trained_vit():
    module = vit(drop_path_rate=0.5, proj_drop_rate=0.5).train()
    module.blocks[1].eval()
    module(IMAGE[None]).sum().backward()
    return module


CALLS = {
    "load_model": lambda module: loaded(module),
    "logits": lambda module: loaded(module).logits(IMAGE[None]),
    "outcome": lambda module: game_of(module, "auto").outcome(halves()),
    "explain": lambda module: explain(game_of(module, "auto"), budget=2),
    "explain_many": lambda module: explain_many([game_of(module, m) for m in ("auto", "zero")]),
    "curve": lambda module: insertion_curve(game_of(module, "auto"), np.arange(16)),
    "mixed": lambda module: explain(game_of(module, "auto", dtype="mixed"), budget=2),
    "a bad target": lambda module: game_of(module, "auto", target=99),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", [trained_cnn, trained_vit])
def test_a_network_in_training_is_evaluated_and_left_as_it_is(make, call):
    module = make()
    before = state_of(module)
    try:
        CALLS[call](module)
    except IndexError:
        assert call == "a bad target"
    assert_untouched(module, before)
    expected = copy.deepcopy(module).eval()
    assert_same(game_of(module, "auto").logits(ALL)[0], said_by(expected))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("make", [trained_cnn, trained_vit])
def test_whatever_stops_a_call_flags_are_put_back(make, error):
    module = make()
    for masking in ("auto", "mean"):
        game = game_of(module, masking)
        before = state_of(module)
        layer = list(module.modules())[-1]
        layer.forward = Mock(side_effect=error)
        game._state = None  # it would be refused
        with pytest.raises((error, RuntimeError)):
            game(ALL)
        with pytest.raises((error, ValueError)):
            loaded(module)
        assert layer.forward.called
        del layer.forward
        assert_untouched(module, before)


def test_evaluating_puts_each_flag_back():
    module = trained_vit()
    flags = [part.training for part in module.modules()]
    with pytest.raises(KeyboardInterrupt), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise KeyboardInterrupt
    assert [part.training for part in module.modules()] == flags
    assert True in flags and False in flags


# --- current weights ---------------------------------------------------------------------------


def new_state(module):
    module.load_state_dict(vit(7).state_dict())


def one_step(module):
    module.zero_grad()
    module(IMAGE[None].to(next(module.parameters()).dtype)).square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.05).step()


def through_data(module):
    for parameter in module.parameters():
        parameter.data.mul_(0.7)


def other_setting(module):
    module.global_pool = "avg"


CHANGES = {
    "load_state_dict": new_state,
    "an optimiser's step": one_step,
    "writing through .data": through_data,
    "a new head": lambda m: setattr(m, "head", nn.Linear(16, 5).to(m.head.weight.dtype)),
    "a hook": lambda m: m.blocks[0].register_forward_hook(lambda _, given, out: out * 0.1),
    "a setting": other_setting,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", ["mixed", torch.bfloat16, None])
@pytest.mark.parametrize("half", [False, True])
def test_games_explain_the_present_network(change, dtype, half):
    module = vit().half() if half else vit()
    model = loaded(module)
    rows = halves()
    old = PatchGame(model, IMAGE, dtype=dtype)
    before = old(rows)
    CHANGES[change](module)
    found = PatchGame(model, IMAGE, dtype=dtype)(rows)
    np.testing.assert_array_equal(found, PatchGame(loaded(module), IMAGE, dtype=dtype)(rows))
    assert np.abs(found - before).max() > 0.01
    if change not in ("writing through .data", "a setting"):
        with pytest.raises(RuntimeError, match="has changed since this game was made"):
            old(rows)


def test_a_network_that_moves_is_found_where_it_is():
    module = vit()
    model = loaded(module)
    game = PatchGame(model, IMAGE)
    module.to(torch.float64)
    with pytest.raises(RuntimeError, match="has changed"):
        game(ALL)
    assert_same(PatchGame(model, IMAGE).logits(ALL)[0], game.model.logits(IMAGE[None])[0].numpy())


def test_games_of_one_unchanged_network_share_its_copy():
    model = loaded(vit())
    first, second = (PatchGame(model, IMAGE * k, dtype=torch.bfloat16) for k in (1, 2))
    assert first._masking.module is second._masking.module


def test_without_weights_or_without_a_copy_there_is_a_sentence():
    with pytest.raises(ValueError, match="on the device 'meta'"):
        loaded(vit().to("meta"))

    class Uncopied(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.derived = self.scale * 2  # no leaf: torch refuses to copy it

        def forward(self, x):
            return x.mean((2, 3)) * self.derived

    with pytest.raises(ValueError, match=r"no copy of Uncopied in torch\.bfloat16"):
        game_of(Uncopied(), "mean", dtype=torch.bfloat16)


# --- compiled and wrapped ----------------------------------------------------------------------


class Lightning(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel, lambda m: m]
)
def test_wrappers_that_change_nothing_are_taken_off(wrap):
    network = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3).eval()
    model = load_model(wrap(network), outputs="logits")
    assert model.module is network
    assert (model.mean, model.input_size, model.grid) == ((0.5,) * 3, (32, 32), (2, 2))
    game = PatchGame(model, IMAGE)
    assert game.masking == "drop" and game._masking.dense


@pytest.mark.parametrize("wrap", [Lightning, lambda m: nn.Sequential(nn.Identity(), m)])
def test_tokens_are_deleted_inside_other_wrappers(wrap):
    network = vit()
    with pytest.warns(UserWarning, match=r"pixels in 0\.\.1 as they are.*mean=, std= and crop="):
        model = load_model(wrap(network), input_size=32, outputs="logits", grid=4)
    rows = halves()
    expected = game_of(network).logits(rows)
    np.testing.assert_allclose(PatchGame(model, IMAGE).logits(rows), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:Warning")
def test_a_traced_network_is_explained_by_pixels():
    traced = torch.jit.trace(vit(), IMAGE[None])
    game = PatchGame(loaded(traced, grid=4), IMAGE)
    assert game.masking == "mean"
    assert_same(game.logits(ALL)[0], said_by(traced))


def test_torchvisions_transforms_are_recognised(gradient_image):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    module = torchvision.models.resnet18(num_classes=5)
    model = load_model(module, transform=weights.transforms(), outputs="logits")
    assert (model.input_size, model.mean) == ((224, 224), (0.485, 0.456, 0.406))
    expected = weights.transforms()(gradient_image)
    torch.testing.assert_close(model.preprocess(gradient_image), expected)
    own = torchvision.transforms.v2.Compose(
        [
            torchvision.transforms.v2.Resize((32, 64)),
            torchvision.transforms.v2.ToImage(),
            torchvision.transforms.v2.ToDtype(torch.float32, scale=True),
            torchvision.transforms.v2.Normalize([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
        ]
    )
    model = load_model(module, transform=own, outputs="logits")
    assert (model.input_size, model.mean, model.std[2]) == ((32, 64), (0.1, 0.2, 0.3), 0.6)
    with pytest.raises(ValueError, match="drop input_size= and crop="):
        load_model(module, transform=own, crop=0.9)
    with pytest.raises(ValueError, match="transform must make a tensor"):
        load_model(module, transform=np.asarray)


def test_crop(gradient_image):
    model = loaded(vit(), crop=0.5)
    whole = gradient_image.resize((77, 64), 3)
    shown = model.display(model.preprocess(gradient_image)).astype(int)
    box = np.asarray(whole)[16:48, 22:54].astype(int)
    assert np.abs(shown - box).max() <= 3
    with pytest.raises(ValueError, match="crop must be above 0"):
        loaded(vit(), crop=1.5)


# --- outputs that are no logits ----------------------------------------------------------------


class Ends(nn.Module):
    def __init__(self, network, end):
        super().__init__()
        self.network, self.end = network, end

    def forward(self, x):
        return self.end(self.network(x))


def test_probabilities_are_noticed_and_give_the_same_game():
    plain, soft = vit(), Ends(vit(), nn.Softmax(dim=1))
    for outputs in (None, "multilabel"):
        with pytest.raises(ValueError, match='outputs="probabilities"'):
            loaded(soft, outputs=outputs)
    rows = halves()
    games = [
        PatchGame(loaded(plain), IMAGE),
        PatchGame(loaded(soft, outputs="probabilities", grid=4), IMAGE),
    ]
    first, second = (game.outcome(rows) for game in games)
    assert games[0].masking == games[1].masking == "drop"
    np.testing.assert_allclose(first.rewards, second.rewards, atol=1e-4)
    np.testing.assert_allclose(first.confidences, second.confidences, atol=1e-5)
    np.testing.assert_array_equal(first.predictions, second.predictions)
    areas = [insertion_curve(game, np.arange(16)).auc("log_odds") for game in games]
    assert areas[0] == pytest.approx(areas[1], abs=1e-4)
    with pytest.raises(ValueError, match="do not sum to 1"):
        loaded(plain, outputs="probabilities")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_sigmoid_at_the_end_is_noticed(n):
    sigmoid = Ends(vit(num_classes=n), nn.Sigmoid())
    for outputs in ("binary",) if n == 1 else (None, "multilabel"):
        with pytest.raises(ValueError, match="seems to end in a sigmoid"):
            loaded(sigmoid, outputs=outputs)


def test_logits_between_0_and_1_are_logits():
    between = Ends(nn.Flatten(), lambda x: 0.5 + 0.01 * torch.tanh(x[:, :3]))
    assert load_model(between, input_size=32, mean=0, std=1).outputs == "logits"


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_the_log_odds_of_a_single_logit_are_the_logit(shape):
    module = Ends(vit(num_classes=1), lambda z: z.reshape(shape))
    with pytest.raises(ValueError, match='outputs="binary"'):
        loaded(module, outputs=None)
    model = loaded(module, outputs="binary", class_names=["no", "yes"], grid=4)
    rows = halves()
    for masking in ("drop", "mean"):
        yes = PatchGame(model, IMAGE, "yes", masking=masking)
        no = PatchGame(model, IMAGE, "no", masking=masking)
        np.testing.assert_allclose(yes(rows), -no(rows), atol=1e-6)
        with torch.no_grad():
            z = float(module(IMAGE[None]))
        assert yes(ALL)[0] == pytest.approx(z, abs=1e-5)
        assert yes.predicted == int(z > 0)
        said = yes.outcome(rows)
        np.testing.assert_array_equal(said.predictions, (said.rewards > 0).astype(int))
        p = 1 / (1 + np.exp(-np.abs(said.rewards)))
        np.testing.assert_allclose(said.confidences, p, rtol=1e-5)


def test_labels_of_which_any_number_may_hold():
    module = vit()
    model = loaded(module, outputs="multilabel")
    rows = halves(m=40)
    for target in range(5):
        game = PatchGame(model, IMAGE, target)
        z, said = game.logits(rows), game.outcome(rows)
        np.testing.assert_allclose(said.rewards, z[:, target], rtol=1e-6)
        np.testing.assert_array_equal(said.predictions == target, z[:, target] > 0)
        of = z[np.arange(40), said.predictions]
        np.testing.assert_allclose(said.confidences, 1 / (1 + np.exp(-of)), rtol=1e-5)
        ex = explain(game, stop="flip")
        assert (ex.stop_reason == "flip") == bool(ex.values.size and ex.values[-1] > 0) or (
            ex.start_prediction == target
        )
    chances = PatchGame(model, IMAGE, 2, reward="probability")(rows)
    logits = PatchGame(model, IMAGE, 2).logits(rows)[:, 2]
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    curve = insertion_curve(PatchGame(model, IMAGE, 2), np.arange(16))
    along = np.tri(17, 16, -1, dtype=bool)
    z = PatchGame(model, IMAGE, 2).logits(along)[:, 2]
    np.testing.assert_allclose(curve.log_odds, z, atol=1e-6)
    np.testing.assert_array_equal(curve.correct, z > 0)
    np.testing.assert_allclose(curve.probability, 1 / (1 + np.exp(-curve.log_odds)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"do not compete: use explain"):
        explain_class(PatchGame(model, IMAGE, 2))


def test_features_and_unknown_outputs_are_refused():
    with pytest.raises(ValueError, match="num_classes=0"):
        load_model(timm.create_model("resnet10t", num_classes=0))
    with pytest.raises(ValueError, match="Did you mean 'logits'"):
        loaded(vit(), outputs="logit")
    with pytest.raises(ValueError, match="one logit"):
        loaded(vit(), outputs="binary")


# --- sizes -------------------------------------------------------------------------------------


def test_a_network_is_shown_the_size_it_was_built_for():
    options = {"depth": 1, "num_classes": 3}
    for size, dynamic in (((160, 320), False), ((384, 384), True)):
        module = timm.create_model(
            "vit_tiny_patch16_224", img_size=size, dynamic_img_size=dynamic, **options
        )
        model = load_model(module, outputs="logits")
        assert model.input_size == size
        assert model.grid == (size[0] // 16, size[1] // 16)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        depths=(1, 1, 1, 1),
        num_classes=3,
        strict_img_size=False,
    )
    assert load_model(swin, outputs="logits").grid == (14, 14)
    assert load_model(swin, input_size=448, outputs="logits").grid == (14, 14)


def test_coarse_patches_of_a_prime_grid_are_unequal_blocks_of_tokens():
    module = vit(img_size=56)  # 7 x 7 tokens
    image = torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(1))
    model = loaded(module, input_size=None, grid=None)
    coarse = PatchGame(model, image, grid=3)
    assert (coarse.masking, coarse.n_players) == ("drop", 9)
    blocks = np.arange(7) * 3 // 7
    players = blocks[:, None] * 3 + blocks
    assert np.ptp(np.bincount(players.ravel(), minlength=9)) <= 5  # 2 x 2 to 3 x 3
    fine = PatchGame(model, image)
    rows = np.random.default_rng(0).random((12, 9)) < np.linspace(0, 1, 12)[:, None]
    expected = fine.logits(rows[:, players.ravel()])
    np.testing.assert_allclose(coarse.logits(rows), expected, atol=1e-5)


# --- the property ------------------------------------------------------------------------------

HOOKS = {
    "scale": lambda _, given, out: out * 0.5,
    "record": lambda _, given, out: None,
    "position": lambda _, given, out: torch.cat([out[:, :2], out[:, 2:3] * 2, out[:, 3:]], 1),
    "mean": lambda _, given, out: out + out.mean(1, keepdim=True),
    "clip": lambda _, given, out: out.clamp(max=1.5),
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_never_a_silent_difference(data):
    draw = data.draw
    pool = draw(st.sampled_from(["token", "avg"]))
    module = vit(
        seed=draw(st.integers(0, 99)),
        depth=draw(st.integers(1, 3)),
        global_pool=pool,
        class_token=pool == "token" or draw(st.booleans()),
        reg_tokens=draw(st.integers(0, 2)),
        init_values=draw(st.sampled_from([None, 0.5])),
        qk_norm=draw(st.booleans()),
        drop_path_rate=0.2,
    )
    names = [name for name, _ in module.named_modules() if name not in ("", "blocks")]
    hooks = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from([*HOOKS])), max_size=3))
    for place, kind in hooks:
        module.get_submodule(place).register_forward_hook(HOOKS[kind])
    kinds = draw(st.lists(st.sampled_from(["LoRA on qkv", "own head", "pruned"]), max_size=1))
    for kind in kinds:
        if kind != "own head" or module.num_prefix_tokens:
            TAMPERED[kind](module)
    for part in module.modules():
        part.training = draw(st.booleans())
    module(IMAGE[None])  # pruned weights are made anew with every pass
    before = state_of(module)
    rows = halves(draw(st.integers(0, 99)), m=2)
    try:
        game = game_of(module)
    except ValueError as error:
        assert hooks, "an untouched network is not refused"
        assert "a hook on" in str(error)
    else:
        assert_same(game.logits(ALL)[0], said_by(module))
        for row, coalition in zip(game.logits(rows), rows, strict=True):
            assert_same(row, by_attention_masking(module, coalition))
    assert_untouched(module, before)
