"""Classifier: a network together with all that is needed to show it an image."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import nn

from moxi_lite.errors import index_of, unknown_name


@dataclass(frozen=True, eq=False)
class Classifier:
    """An image classifier, ready to be explained.

    Attributes
    ----------
    module : torch.nn.Module
        The network in evaluation mode, parameters frozen; maps float (m, 3, H, W) to logits (m, C).
    name : str
        The name it was loaded by; for an own module, the name of its class.
    grid : tuple of int
        Natural grid of patches, (rows, columns).
    input_size : tuple of int
        (H, W) in pixels.
    mean, std : tuple of float
        Per-channel normalisation, for pixels in 0..1.
    class_names : tuple of str
        One name per class, length C.
    device : torch.device
        Where the module's parameters lie.
    source : str
        Where the weights came from, for people; says so if a fallback was used.
    weights_sha256 : str
        SHA-256 of the weights file; where there is no single file, of the state dict.
    transform : callable
        PIL RGB image -> float32 tensor (3, H, W), the evaluation transform of the model.
    drop_as : str or None
        The masking that ``masking="drop"`` stands for, where the model's makers say what an absent
        patch looks like to it: ``"zero"``, a blank cell, for ``"set_sum_cnn"``.  None means the
        deletion of tokens.
    """

    module: nn.Module = field(repr=False)
    name: str
    grid: tuple[int, int]
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...] = field(repr=False)
    device: torch.device
    source: str
    weights_sha256: str
    transform: Callable[[Image.Image], torch.Tensor] = field(repr=False)
    drop_as: str | None = None
    _casts: dict[torch.dtype, nn.Module] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    def module_in(self, dtype: torch.dtype) -> nn.Module:
        """Return the module in a precision; another one than its own is copied once and kept."""
        if dtype == dtype_of(self.module):
            return self.module
        if dtype not in self._casts:
            self._casts[dtype] = copy.deepcopy(self.module).to(dtype)
        return self._casts[dtype]

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn upright as EXIF says, resize, crop and normalise an RGB image: float32 (3, H, W).

        Raises
        ------
        TypeError, ValueError
            If `image` is not a PIL image, or not in mode RGB.
        """
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"preprocess expects a PIL image, got {type(image).__name__}; "
                "moxi_lite.load_image makes one from a path, a URL, bytes or an array."
            )
        if image.mode != "RGB":
            raise ValueError(
                f"preprocess expects a PIL image in mode RGB, got {image.mode}; "
                "moxi_lite.load_image(image) converts it."
            )
        return self.transform(ImageOps.exif_transpose(image)).to(torch.float32)

    def display(self, tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
        """Undo the normalisation of one input, float (3, H, W), for looking at: uint8 (H, W, 3)."""
        if tensor.ndim != 3 or tensor.shape[0] != 3:
            raise ValueError(f"display expects a tensor (3, H, W), got {tuple(tensor.shape)}.")
        pixels = tensor.detach().cpu().to(torch.float32).permute(1, 2, 0).numpy()
        pixels = pixels * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Evaluate preprocessed images: float (m, 3, H, W) to float32 (m, C), on `device`."""
        expected = (3, *self.input_size)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != expected:
            raise ValueError(
                f"logits expects a batch of shape (m, {', '.join(map(str, expected))}), "
                f"got {tuple(batch.shape)}."
            )
        with torch.no_grad():
            out = self.module(batch.to(self.device, dtype_of(self.module)))
        return out.to(torch.float32)

    def class_name(self, index: int) -> str:
        """Name of a class; raises IndexError if `index` is outside 0..C-1."""
        return self.class_names[self.class_index(int(index))]

    def class_index(self, name_or_index: str | int) -> int:
        """Index of a class, given by its index, its name or one of its synonyms.

        Such as 281, ``"281"``, ``"tabby"`` or ``"tabby, tabby cat"``; case and underscores do not
        matter.  IndexError says that an index is outside 0..C-1, ValueError that no class has the
        name (near matches are listed) or several have.
        """
        if isinstance(name_or_index, str):
            wanted = _plain(name_or_index)
            synonyms = [[_plain(part) for part in name.split(",")] for name in self.class_names]
            found = [i for i, name in enumerate(self.class_names) if _plain(name) == wanted]
            found = found or [i for i, parts in enumerate(synonyms) if wanted in parts]
            if len(found) == 1:
                return found[0]
            if found:
                options = "; ".join(f"{i} ({self.class_names[i]})" for i in found)
                raise ValueError(
                    f"class name {name_or_index!r} is ambiguous: {options}. Pass the index instead."
                )
            if not wanted.removeprefix("-").isdecimal():
                allowed = [part for parts in synonyms for part in parts]
                raise unknown_name("class", name_or_index, dict.fromkeys(allowed))
            name_or_index = int(wanted)
        try:
            index = index_of(name_or_index)
        except TypeError:
            raise TypeError(f"a class is its name or its index, not {name_or_index!r}.") from None
        if not 0 <= index < self.n_classes:
            raise IndexError(
                f"class index {index} is out of range: {self.name} has {self.n_classes} classes, "
                f"0 to {self.n_classes - 1}."
            )
        return index


def device_of(module: nn.Module, default: torch.device | None = None) -> torch.device:
    """Return the device of a module's first parameter; `default`, or the CPU, if it has none."""
    parameter = next(module.parameters(), None)
    return (default or torch.device("cpu")) if parameter is None else parameter.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's first parameter; float32 if it has none."""
    parameter = next(module.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
