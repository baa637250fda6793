"""Photos, a model that other processes can load, and a count of what is evaluated."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moxi_lite.patches import PatchGame

sys.path.insert(0, str(Path(__file__).parent))  # for tables

# A module that other processes import; `slow` makes an image take some 0.2 seconds or more.
MODEL_MODULE = """
import time
import torch
from timm.models.vision_transformer import VisionTransformer
from moxi_lite.models import load_model

torch.set_num_threads(1)

def tiny():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
        )
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return load_model(module, input_size=32, mean=0.5, std=0.5, device="cpu")

def slow():
    model = tiny()
    model.module.norm.register_forward_hook(lambda *_: time.sleep(0.005))
    return model
"""


@pytest.fixture
def photos(tmp_path):
    """Paths of five different images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"photo {number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """Module with the functions `tiny` and `slow`, which other processes can import, too."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_model.py").write_text(MODEL_MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), *sys.path])))
    sys.modules.pop("own_model", None)
    threads = torch.get_num_threads()
    import own_model

    yield own_model
    torch.set_num_threads(threads)
    sys.modules.pop("own_model", None)


@pytest.fixture
def evaluations(monkeypatch):
    """Count the coalitions that any PatchGame evaluates."""
    counts = []
    logits = PatchGame.logits

    def counted(self, coalitions):
        counts.append(len(np.atleast_2d(coalitions)))
        return logits(self, coalitions)

    monkeypatch.setattr(PatchGame, "logits", counted)
    return counts
