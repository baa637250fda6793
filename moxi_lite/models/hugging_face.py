"""The Hugging Face hub: checkpoints of timm and image classifiers of transformers, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants as hub
import timm
import torch
from PIL import Image
from torch import nn

from moxi_lite.models.weights import (
    WeightsUnavailableError,
    file_sha256,
    state_sha256,
    why_unreachable,
)

HUB_SOURCES = ("hf-hub:", "local-dir:")
_VITS = {  # name of the transformer inside, and its tokens that are no patches
    "ViTForImageClassification": ("vit", 1),
    "DeiTForImageClassification": ("deit", 2),
    "DeiTForImageClassificationWithTeacher": ("deit", 2),
}


class TransformersClassifier(nn.Module):
    """Returns the logits alone of an image classifier of transformers, its only child `network`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (m, 3, H, W) to logits (m, C)."""
        return self.network(pixel_values=images).logits


@dataclass(frozen=True)
class Processed:
    """An image processor of transformers as a transform: PIL RGB image -> float (3, H, W)."""

    processor: Any

    @property
    def mean(self) -> Any:
        """Per-channel mean that is subtracted of pixels in 0..1."""
        return self.processor.image_mean if self.processor.do_normalize else 0.0

    @property
    def std(self) -> Any:
        """Per-channel standard deviation that they are divided by."""
        return self.processor.image_std if self.processor.do_normalize else 1.0

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize, crop and normalise as the processor does."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class TransformersViT:
    """The parts of a ViT or DeiT of transformers, under the names that timm has for them."""

    patch_embed: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module
    num_prefix_tokens: int
    embed_dim: int
    patch_size: tuple[int, int]
    attn_pool: None = None
    pool_include_prefix: bool = True

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens for images of (H, W)."""
        return size[0] // self.patch_size[0], size[1] // self.patch_size[1]


def adapted(module: nn.Module, transform: Any) -> tuple[nn.Module, Any]:
    """Wrap an image classifier and a processor of transformers; leave others, or None, as is."""
    return (
        TransformersClassifier(module) if _labels(module) is not None else module,
        Processed(transform) if hasattr(transform, "image_mean") else transform,
    )


def built_for(module: nn.Module) -> Any:
    """Size of image that a network was built for, where timm or transformers made it and say so."""
    config = getattr(getattr(module, "network", None), "config", None)
    timms = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return getattr(config, "image_size", timms)


def label_names(module: nn.Module, n_classes: int) -> list[str] | None:
    """Names of the classes that come with a checkpoint of transformers or timm, if any do."""
    network = module.network if isinstance(module, TransformersClassifier) else module
    labels = _labels(network) or {}
    names = [labels.get(index, labels.get(str(index))) for index in range(n_classes)]
    if not labels:
        names = list((getattr(network, "pretrained_cfg", None) or {}).get("label_names") or [])
    placeholders = [f"LABEL_{index}" for index in range(n_classes)]
    known = len(names) == n_classes and None not in names and names != placeholders
    return [str(name) for name in names] if known else None


def transformers_vits(module: nn.Module) -> list[TransformersViT]:
    """List the ViTs and DeiTs of transformers in a network, itself included."""
    found = []
    for part in module.modules():
        names = {kind.__name__ for kind in type(part).__mro__} & _VITS.keys()
        if not names or not hasattr(part, "config"):
            continue
        attribute, n_prefix = _VITS[names.pop()]
        vit: Any = getattr(part, attribute)
        embed = vit.embeddings.patch_embeddings
        found.append(
            TransformersViT(
                patch_embed=embed,
                # transformers 4 and 5
                blocks=vit.encoder.layer if hasattr(vit, "encoder") else vit.layers,
                norm=vit.layernorm,
                num_prefix_tokens=n_prefix,
                embed_dim=vit.config.hidden_size,
                patch_size=tuple(embed.projection.stride),
            )
        )
    return found


def load_from_hub(name: str) -> tuple[nn.Module, Processed | None, str, str]:
    """Load ``"hf-hub:user/model"`` or ``"local-dir:folder"``, on the CPU.

    Returned are module, transform (None where timm knows it), source for people, SHA-256.
    Checkpoints of timm and of transformers are told apart by their ``config.json``.
    """
    source, _, where = name.partition(":")
    folder = _download(name, where) if source == "hf-hub" else Path(where).expanduser()
    if not _is_whole(folder):
        raise WeightsUnavailableError(
            f"the weights of {name!r} are unavailable: {folder} does not hold a config.json and "
            "weights in *.safetensors. Older formats may run code when they are read: save the "
            "model again with save_pretrained or timm.models.save_for_hf, or pass it as a module."
        )
    if "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        module, transform = _from_transformers(name, folder)
    else:
        module, transform = timm.create_model(f"local-dir:{folder}", pretrained=True), None
    kind = type(getattr(module, "network", module))
    origin = f"{kind.__module__.partition('.')[0]} {kind.__name__}"
    files = list(folder.glob("*.safetensors"))
    digest = file_sha256(files[0]) if len(files) == 1 else state_sha256(module)
    return module, transform, f"{origin}, weights from {name}", digest


def _from_transformers(name: str, folder: Path) -> tuple[nn.Module, Processed | None]:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{name} is a model of transformers, which cannot be imported ({error}). Install it "
            "with: pip install transformers"
        ) from error
    network, report = transformers.AutoModelForImageClassification.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name} has no trained classification head, or lacks other weights: "
            f"{', '.join(missing[:3])}. Choose a fine-tuned checkpoint."
        )
    return TransformersClassifier(network), Processed(
        transformers.AutoImageProcessor.from_pretrained(folder)
    )


def _labels(module: nn.Module) -> dict[Any, str] | None:
    """Return the ``id2label`` of a model of transformers; None for all others."""
    return getattr(getattr(module, "config", None), "id2label", None)


def _is_whole(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _download(name: str, where: str) -> Path:
    """Find the files of a repository, ``user/model`` or ``user/model@revision``, here or there."""
    repo, _, revision = where.partition("@")
    options: dict[str, Any] = {"revision": revision or None, "cache_dir": hub.HF_HUB_CACHE}
    options["allow_patterns"] = ["*.json", "*.safetensors"]
    try:
        folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True, **options))
        if _is_whole(folder):
            return folder
    except huggingface_hub.errors.LocalEntryNotFoundError:
        pass
    why = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else why_unreachable(hub.ENDPOINT)
    try:
        if why is None:
            return Path(huggingface_hub.snapshot_download(repo, **options))
    except OSError as error:  # no such repository, no permission, no network
        why = f"{type(error).__name__}: {error}"
    raise WeightsUnavailableError(
        f"the weights of {name!r} are unavailable: {' '.join(why.split())}.\n"
        f"Nor does the cache folder {hub.HF_HUB_CACHE} hold its config.json and *.safetensors."
    )
