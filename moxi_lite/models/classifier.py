"""Classifier: a network together with all that is needed to show it an image."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import nn

from moxi_lite.errors import index_of, unknown_name

OUTPUTS = ("logits", "probabilities", "binary", "multilabel")
_METHODS = {"forward", "forward_features", "forward_head", "pool", "_pos_embed"}


@dataclass(frozen=True, eq=False)
class Classifier:
    """An image classifier, ready to be explained.

    Attributes
    ----------
    module : torch.nn.Module
        The network; maps float (m, 3, H, W) to what `outputs` says.
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
        Where the module's parameters lie now.
    source : str
        Where the weights came from, for people; says so if a fallback was used.
    weights_sha256 : str
        SHA-256 of the weights file; where there is no single file, of the state dict at loading.
    transform : callable
        PIL RGB image -> float32 tensor (3, H, W), the evaluation transform of the model.
    drop_as : str or None
        The masking that ``masking="drop"`` stands for, where the model's makers say what an absent
        patch looks like to it: ``"zero"``, a blank cell, for the SET-SUM CNNs.  None means the
        deletion of tokens.
    outputs : {"logits", "probabilities", "binary", "multilabel"}
        What the module returns: logits (m, C); their softmax (m, C); the logit of class 1 of two,
        (m, 1) or (m,); or logits (m, C) of labels of which any number may hold.
    """

    module: nn.Module = field(repr=False)
    name: str
    grid: tuple[int, int]
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...] = field(repr=False)
    source: str
    weights_sha256: str
    transform: Callable[[Image.Image], torch.Tensor] = field(repr=False)
    drop_as: str | None = None
    outputs: str = "logits"
    _casts: dict[torch.dtype, tuple[object, nn.Module]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def device(self) -> torch.device:
        """Where the module's parameters lie now; the CPU if it has none."""
        return device_of(self.module)

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    def module_in(self, dtype: torch.dtype) -> nn.Module:
        """Return the module in a precision: itself, or a copy, kept as long as it is faithful.

        ValueError says why no copy can be made.
        """
        if dtype == dtype_of(self.module):
            return self.module
        state, kept = self._casts.get(dtype, (None, self.module))
        if state != state_of(self.module) or not _is_copy(kept, self.module):
            try:
                kept = copy.deepcopy(self.module).to(dtype)
            except (RuntimeError, TypeError) as error:
                raise ValueError(
                    f"no copy of {self.name} in {dtype} can be made: {error}. Play in the module's "
                    f"own precision, dtype={dtype_of(self.module)}; pruned layers can be copied "
                    "after torch.nn.utils.prune.remove."
                ) from error
            self._casts[dtype] = state_of(self.module), kept
        return kept

    def to_logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Make float32 logits (m, C) of what the module returned, (m, ...), as `outputs` says."""
        rows = outputs.float()
        rows = rows[:, None] if rows.ndim == 1 else rows
        if self.outputs == "probabilities":
            return rows.clamp(min=torch.finfo(torch.float32).tiny).log()
        # the log-odds of class 1 against class 0 are the logit
        return torch.cat([torch.zeros_like(rows), rows], 1) if self.outputs == "binary" else rows

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
        with torch.no_grad(), evaluating(self.module):
            return self.to_logits(self.module(batch.to(self.device, dtype_of(self.module))))

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


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode; afterwards every submodule has its own flag again.

    Flags are set, and `nn.Module.train` is not called: adapters merge their weights in it.
    """
    training = [part for module in modules for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def state_of(module: nn.Module) -> object:
    """Return what differs after a change of weights, layers, hooks or patched methods.

    Writes through ``.data``, which torch does not count, plain attributes and buffers escape it.
    """
    parts = [
        (id(part), *part._forward_hooks, "pre", *part._forward_pre_hooks, patched_methods(part))
        for part in module.modules()
    ]
    weights = [
        (id(each), each.data_ptr(), 0 if each.is_inference() else each._version)
        for each in module.parameters()
    ]
    return parts, weights


def patched_methods(part: nn.Module) -> dict[str, int]:
    """Names of the methods that were replaced in this one object, and what by."""
    return {name: id(new) for name, new in vars(part).items() if name in _METHODS}


def _is_copy(copied: nn.Module, module: nn.Module) -> bool:
    """Whether all tensors and plain settings of a copy in another precision are the module's."""
    mine, theirs = ([*each.parameters(), *each.buffers()] for each in (copied, module))
    return (
        len(mine) == len(theirs)
        and list(map(_settings, copied.modules())) == list(map(_settings, module.modules()))
        and all(torch.equal(a, b.to(a.dtype)) for a, b in zip(mine, theirs, strict=True))
    )


def _settings(part: nn.Module) -> dict[str, object]:
    plain = bool | int | float | str | tuple | None
    return {k: v for k, v in vars(part).items() if isinstance(v, plain) and k != "training"}


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter or buffer; the CPU if it has none."""
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's first parameter; float32 if it has none."""
    parameter = next(module.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
