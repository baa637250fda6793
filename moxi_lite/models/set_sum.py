"""Networks for the visual SET-SUM task: a small ResNet, a small ViT, and their shipped weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from moxi_lite.errors import unknown_name
from moxi_lite.files import write_atomically
from moxi_lite.models.weights import WeightsUnavailableError, file_sha256

SET_SUM_MODELS = ("set_sum_cnn", "set_sum_cnn_plain", "set_sum_vit")
N_LABELS = 31
IMAGE_SIDE = 56
_PLAIN_WIDTHS = (32, 64, 96, 128)  # of set_sum_cnn_plain, the first to be trained
WEIGHTS_FOLDER = Path(__file__).with_name("shipped")


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SetSumResNet(nn.Module):
    """A ResNet-18 in miniature (He et al., 2016), with `blocks` residual blocks a stage.

    It reads a whole composite image at once; nothing in it knows of cells or digits. `widths` are
    the channels of the stages, of which each but the first halves the resolution.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 112),
        blocks: int = 2,
        n_labels: int = N_LABELS,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages, n_in = [], widths[0]
        for number, width in enumerate(widths):
            for block in range(blocks):
                stages.append(_Block(n_in, width, 2 if number > 0 and block == 0 else 1))
                n_in = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(n_in, n_labels)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float (m, 3, H, W) in 0..1, to logits (m, C)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Map images, float (m, 3, H, W), to the pooled channels of the last stage (m, c)."""
        return self.stages(self.stem(images)).mean(dim=(2, 3))


def set_sum_vit(
    patch: int = 14, width: int = 128, depth: int = 6, heads: int = 4, n_labels: int = N_LABELS
) -> VisionTransformer:
    """Build a small plain Vision Transformer for composite images of 56 x 56 pixels.

    Tokens can be deleted from it exactly. The side of a patch must divide the 28 pixels of a digit
    cell, so that no token holds parts of two digits; ValueError says that it does not.
    """
    if patch < 1 or (IMAGE_SIDE // 2) % patch:
        raise ValueError(
            f"patches of {patch} pixels do not divide a digit cell of {IMAGE_SIDE // 2} pixels: "
            "use 4, 7, 14 or 28."
        )
    return VisionTransformer(
        img_size=IMAGE_SIDE,
        patch_size=patch,
        num_classes=n_labels,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
    )


def build_set_sum(name: str) -> nn.Module:
    """Build one of `SET_SUM_MODELS`, with random weights.

    It maps float (m, 3, 56, 56) in 0..1 to logits (m, 31), one per sum 0..30.  ValueError lists
    near matches of an unknown name.
    """
    if name not in SET_SUM_MODELS:
        raise unknown_name("SET-SUM model", name, SET_SUM_MODELS)
    if name == "set_sum_vit":
        return set_sum_vit()
    return SetSumResNet() if name == "set_sum_cnn" else SetSumResNet(_PLAIN_WIDTHS)


def load_set_sum(name: str, folder: Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Load a shipped model and its model card.

    Parameters
    ----------
    name : {"set_sum_cnn", "set_sum_cnn_plain", "set_sum_vit"}
    folder : Path, optional
        Holds ``<name>.safetensors`` and ``<name>.json``; by default the package's own folder.

    Returns
    -------
    module : torch.nn.Module
        In evaluation mode, float32, on the CPU; takes float (m, 3, 56, 56) in 0..1.
    card : dict
        Data, command, seed, accuracy, calibration, ``"sha256"`` of the weights file.

    Raises
    ------
    ValueError
        If the name is unknown, or the weights belong to another architecture.
    WeightsUnavailableError
        If a file is missing or damaged.
    """
    module = build_set_sum(name)
    folder = WEIGHTS_FOLDER if folder is None else folder
    weights, card_path = folder / f"{name}.safetensors", folder / f"{name}.json"
    advice = f"Reinstall moxi-lite, or train it: python scripts/train_set_sum.py --model {name[8:]}"
    for path in (weights, card_path):
        if not path.is_file():
            raise WeightsUnavailableError(f"{path} does not exist. {advice}")
    card: dict[str, Any] = json.loads(card_path.read_text(encoding="utf-8"))
    if file_sha256(weights) != card["sha256"]:
        raise WeightsUnavailableError(
            f"{weights} has another SHA-256 than its model card says: the file is damaged, or the "
            f"two are not from one training run. {advice}"
        )
    try:
        stored = load_file(weights)
    except SafetensorError as error:
        raise WeightsUnavailableError(f"{weights} cannot be read: {error}. {advice}") from error
    _check_architecture(name, stored, module.state_dict())
    module.load_state_dict({key: tensor.float() for key, tensor in stored.items()}, strict=False)
    return module.eval().requires_grad_(False), card


def save_set_sum(name: str, module: nn.Module, card: Mapping[str, Any], folder: Path) -> None:
    """Write the weights in half precision and the model card, with the SHA-256 of the weights.

    The counters of batch normalisation are left out: only training needs them.
    """
    tensors = {
        key: tensor.detach().cpu().to(torch.float16).contiguous()
        for key, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    write_atomically(path, save(tensors, metadata={"model": name}))
    text = json.dumps({**card, "sha256": file_sha256(path)}, indent=2, ensure_ascii=False)
    write_atomically(folder / f"{name}.json", f"{text}\n".encode())


def _check_architecture(
    name: str, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    needed = {key: tuple(t.shape) for key, t in wanted.items() if t.is_floating_point()}
    given = {key: tuple(t.shape) for key, t in stored.items()}
    problems = [f"{key} is missing" for key in needed if key not in given]
    problems += [f"{key} is unknown to the model" for key in given if key not in needed]
    problems += [
        f"{key} is {given[key]}, not {shape}"
        for key, shape in needed.items()
        if given.get(key, shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"the weights belong to another architecture than {name!r}: "
            f"{'; '.join(problems[:3])}{more}. Expected {len(needed)} tensors as scripts/"
            "train_set_sum.py writes them."
        )
