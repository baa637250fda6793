"""Models of the Hugging Face hub, with random weights saved in folders: no network is needed."""

import json

import numpy as np
import pytest
import timm
import torch

import moxi_lite as moxi
from moxi_lite.models import WeightsUnavailableError

transformers = pytest.importorskip("transformers", reason="pip install '.[hf]'")

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "image_size": 32, "patch_size": 8}
LABELS = ["ant", "bee", "cat", "dog", "eel"]
KINDS = {
    "ViT": VIT,
    "DeiT": VIT,
    "Swin": {
        "image_size": 32,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
    "ConvNext": {"image_size": 32, "hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2},
}
TOKEN_MODELS = ["ViT", "DeiT", "DeiT...WithTeacher"]


def network(kind):
    """An image classifier of transformers with random weights of a size that matters."""
    name, _, rest = kind.partition("...")
    config = getattr(transformers, f"{name}Config")(
        **KINDS[name], id2label=dict(enumerate(LABELS)), label2id={}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = getattr(transformers, f"{name}ForImageClassification{rest}")(config).eval()
        for label, parameter in made.named_parameters():
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in label), std=0.3)
    return made


def processor(kind):
    size = {"shortest_edge": 32} if kind == "ConvNext" else {"height": 32, "width": 32}
    kind = "ViT" if kind == "Swin" else kind.partition("...")[0]
    more = {"crop_size": {"height": 32, "width": 32}} if kind == "DeiT" else {}
    return getattr(transformers, f"{kind}ImageProcessor")(
        size=size, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4], **more
    )


@pytest.fixture
def saved(tmp_path):
    """Save a model with its processor: the name by which load_model finds it."""

    def save(kind):
        network(kind).save_pretrained(tmp_path)
        processor(kind).save_pretrained(tmp_path)
        return f"local-dir:{tmp_path}"

    return save


@pytest.mark.parametrize("kind", [*KINDS, "DeiT...WithTeacher"])
def test_by_name_and_as_a_module(kind, saved, gradient_image):
    own, prepare = network(kind), processor(kind)
    pixels = prepare(images=gradient_image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = own(pixel_values=pixels).logits
    by_module = moxi.load_model(own, transform=prepare)
    models = [by_module] if "..." in kind else [by_module, moxi.load_model(saved(kind))]
    for model in models:
        assert model.class_names == tuple(LABELS) and model.input_size == (32, 32)
        assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        torch.testing.assert_close(model.preprocess(gradient_image)[None], pixels)
        torch.testing.assert_close(model.logits(pixels), expected)
        game = moxi.PatchGame(model, gradient_image, grid=2)
        assert game.masking == ("drop" if kind in TOKEN_MODELS else "mean")
        np.testing.assert_allclose(game.logits(np.ones(4, bool)), expected, rtol=1e-4, atol=1e-5)
        assert np.isfinite(moxi.attribute(game, "gradcam")).all()
        assert sorted(moxi.explain(game).order) == [0, 1, 2, 3]


def by_masking_keys(model, pixels, coalition, monkeypatch):
    """Logits where the keys of absent patches are masked in every attention layer."""
    own, layers = model.module.network, []
    base = own.vit if hasattr(own, "vit") else own.deit
    n_prefix = base.embeddings.position_embeddings.shape[1] - 16
    keep = torch.cat([torch.ones(n_prefix, dtype=torch.bool), torch.from_numpy(coalition)])

    def attend(queries, keys, values, *_, **__):
        layers.append(keys.shape)
        products = queries @ keys.mT / keys.shape[-1] ** 0.5
        return products.masked_fill(~keep, -torch.inf).softmax(dim=-1) @ values

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        logits = own(pixel_values=pixels[None]).logits[0]
    assert len(layers) == 2
    return logits


@pytest.mark.parametrize("kind", TOKEN_MODELS)
@pytest.mark.parametrize("size", [0, 1, 7, 15, 16])
def test_deleting_tokens_equals_masking_their_keys(kind, size, monkeypatch):
    model = moxi.load_model(network(kind), transform=processor(kind))
    pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(2))
    game = moxi.PatchGame(model, pixels)
    assert game.masking == "drop" and game.grid == (4, 4)
    coalition = np.random.default_rng(size).permutation(16) < size
    expected = by_masking_keys(model, pixels, coalition, monkeypatch)
    np.testing.assert_allclose(game.logits(coalition)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", TOKEN_MODELS)
def test_gradcam_looks_where_it_does_in_timms_vit(kind, gradient_image):
    model = moxi.load_model(network(kind), transform=processor(kind))
    names = [name for name, _ in model.module.named_modules() if name.endswith("layernorm_before")]
    games = [moxi.PatchGame(model, gradient_image, target=target) for target in range(5)]
    expected = [moxi.attribute(game, "gradcam", target_layer=names[-1]) for game in games]
    assert np.std(expected) > 0
    np.testing.assert_array_equal([moxi.attribute(game, "gradcam") for game in games], expected)


def test_a_checkpoint_of_timm_brings_its_preprocessing_and_labels(tmp_path, gradient_image):
    made = timm.create_model("test_vit", pretrained=False, num_classes=5).eval()
    config = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    saved = {"label_names": LABELS, "pretrained_cfg": config}
    timm.models.save_for_hf(made, tmp_path, model_config=saved, safe_serialization=True)
    model = moxi.load_model(f"local-dir:{tmp_path}", device="cpu")
    assert model.class_names == tuple(LABELS)
    assert (model.mean, model.std) == (config["mean"], config["std"])
    pixels = model.preprocess(gradient_image)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(pixels), made(pixels))


def test_placeholder_labels_are_not_taken_for_names(tmp_path):
    own = network("ViT")
    own.config.id2label = {i: f"LABEL_{i}" for i in range(5)}
    assert moxi.load_model(own, transform=processor("ViT")).class_names[0] == "class 0"


def test_a_checkpoint_without_a_trained_head_is_refused(tmp_path):
    network("ViT").vit.save_pretrained(tmp_path)
    processor("ViT").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no trained classification head.*classifier"):
        moxi.load_model(f"local-dir:{tmp_path}")


def test_a_repository_in_the_cache_needs_no_network(tmp_path, monkeypatch):
    commit = "0" * 40
    repository = tmp_path / "models--user--ants"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    network("ViT").save_pretrained(repository / "snapshots" / commit)
    processor("ViT").save_pretrained(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("moxi_lite.models.hugging_face.why_unreachable", lambda _: "no network")
    for name in ("hf-hub:user/ants", "hf-hub:user/ants@main"):
        model = moxi.load_model(name)
        assert model.name == name and name in model.source and len(model.weights_sha256) == 64
        assert not model.module.training
    with pytest.raises(WeightsUnavailableError, match="unavailable: no network"):
        moxi.load_model("hf-hub:user/bees")
    with pytest.raises(ValueError, match="brings its preprocessing"):
        moxi.load_model("hf-hub:user/ants", mean=0.5)


def test_folders_and_repositories_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(WeightsUnavailableError, match="does not hold a"):
        moxi.load_model(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsUnavailableError, match=r"\*\.safetensors.*save_pretrained"):
        moxi.load_model(f"local-dir:{tmp_path}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE is set"):
        moxi.load_model("hf-hub:nobody/nothing")
    with pytest.raises(ValueError, match="hf-hub:nobody/nothing"):
        moxi.load_model("nobody/nothing")


def test_without_transformers_the_error_says_what_to_install(saved, monkeypatch):
    name = saved("ViT")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        moxi.load_model(name)
