"""Fixtures shared by all tests: tiny seeded models, a small image, and the reasons for skipping."""

from __future__ import annotations

import http.server
import threading

import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moxi_lite.data import photos as data
from moxi_lite.models import load_model, why_unreachable
from moxi_lite.models.weights import cached_weights

# First calls import libraries, and machines are shared: no time limit for a single example.
settings.register_profile("moxi-lite", deadline=None)
settings.load_profile("moxi-lite")
torch.set_num_threads(min(2, torch.get_num_threads()))
HUB_MODEL = "vit_tiny_patch16_224"
_hub_reason = pytest.StashKey[str]()


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


def pytest_runtest_setup(item):
    if not item.get_closest_marker("hub"):
        return
    stash = item.config.stash  # the network is probed once a session at most
    if _hub_reason not in stash:
        stash[_hub_reason] = _why_no_hub()
    if stash[_hub_reason]:
        pytest.skip(stash[_hub_reason])


def _why_no_hub() -> str:
    """Reason why real weights and images are unavailable; empty if they are."""
    if cached_weights(HUB_MODEL) is None:
        where = f"{HUB_MODEL} is not in the cache {hub.HF_HUB_CACHE}"
        if hub.HF_HUB_OFFLINE:
            return f"{where}, and HF_HUB_OFFLINE is set"
        if why := why_unreachable(hub.ENDPOINT):
            return f"{where}, and {hub.ENDPOINT} cannot be reached ({why})"
    if not data.imagenet_folder().is_dir() and (why := why_unreachable(data.IMAGENET_URL)):
        return f"no images in {data.imagenet_folder()}, and GitHub cannot be reached ({why})"
    return ""


@pytest.fixture(scope="session")
def tiny_vit():
    """Classifier: a plain ViT with random weights, 4 x 4 patches of 8 pixels, 5 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
        )
        # timm starts with a nearly constant network; every parameter should matter in tests.
        for name, parameter in module.named_parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.1
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=scale)
        nn.init.normal_(module.pos_embed)
        nn.init.normal_(module.cls_token)
    module.eval().requires_grad_(False)
    return load_model(module, input_size=32, mean=0.5, std=0.5, device="cpu")


@pytest.fixture(scope="session")
def tiny_cnn():
    """Classifier whose logits are 10 x the mean of red, green, blue (of the normalised image).

    Input 32 x 32, mean 0.5 and std 0.5: pure red is (10, -10, -10), mid grey (0, 0, 0).
    """
    convolution = nn.Conv2d(3, 3, kernel_size=1, bias=False)
    nn.init.zeros_(convolution.weight)
    for channel in range(3):
        nn.init.constant_(convolution.weight[channel, channel], 10.0)
    module = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.eval().requires_grad_(False)
    names = ("red", "green", "blue")
    return load_model(
        module, input_size=32, mean=0.5, std=0.5, grid=4, class_names=names, device="cpu"
    )


@pytest.fixture(scope="session")
def gradient_image():
    """RGB image, 40 rows x 48 columns: red grows with columns, green with rows, blue is 128."""
    rows, columns = np.mgrid[0:40, 0:48]
    pixels = np.stack([columns * 5, rows * 6, np.full((40, 48), 128)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def web(monkeypatch):
    """Serve a dict of path -> bytes on this machine: yields (base address, the dict)."""
    monkeypatch.setenv("NO_PROXY", "*")
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"nothing here")

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", files
    server.shutdown()
    server.server_close()
