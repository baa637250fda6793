"""The images of a study: a name, a label and a fingerprint for each, before any is decoded."""

from __future__ import annotations

import hashlib
import operator
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moxi_lite.data import ImageNetSample, image_list_sha256, imagenet_sample, load_image
from moxi_lite.models import Classifier, file_sha256

_IMAGENET_CLASSES = 1000
_LONGEST_STEM = 60
_MOST_NAMED = 5  # missing files in a message


@dataclass(frozen=True, eq=False)
class StudyImage:
    """One image of a study, not decoded yet.

    Attributes
    ----------
    name : str
        Tells it from all other images, and is fit for a file name: ``imagenet-0281`` for an
        ImageNet sample with its own label, otherwise the file's stem and ten digits of a hash
        of content and label.
    source : int, str, PIL.Image.Image or Tensor
        ImageNet sample, absolute path or URL, image, or preprocessed image (3, H, W).
    label : int or None
        The true class; None where it is not known.
    sha256 : str
        Of the content; of ImageNet samples and of files that cannot be read, of their name.
    origin : str
        The source in words.
    """

    name: str
    source: int | str | Image.Image | Tensor = field(repr=False)
    label: int | None
    sha256: str
    origin: str


def listed_images(images: Iterable[Any]) -> list[Any]:
    """List the images given to `run_study`; raises FileNotFoundError for missing files."""
    if isinstance(images, Mapping):
        raise TypeError(
            "images must be a sequence, not a mapping: pass pairs, list(images.items())."
        )
    single = isinstance(images, (str, bytes, os.PathLike, Image.Image))
    if single or not isinstance(images, Iterable):
        raise TypeError(
            "images must be a sequence of images, such as [281, 'cat.jpg'] or range(0, 1000, 50), "
            f"not {type(images).__name__}."
        )
    listed = list(images)
    paths = (image[0] if _is_labelled(image) else image for image in listed)
    missing = list(dict.fromkeys(str(path) for path in paths if _is_missing(path)))
    if missing:
        more = len(missing) - _MOST_NAMED
        named = ", ".join(map(repr, missing[:_MOST_NAMED])) + (f" and {more} more" * (more > 0))
        raise FileNotFoundError(
            f"{len(missing)} image file{'s do' if len(missing) > 1 else ' does'} not exist: "
            f"{named}. Correct or leave out what is mistyped; nothing new has been computed."
        )
    return listed


def _is_labelled(image: Any) -> bool:
    return isinstance(image, tuple) and len(image) == 2


def _is_missing(source: Any) -> bool:
    if not isinstance(source, str | os.PathLike) or "://" in str(source):
        return False
    try:
        os.stat(Path(source).expanduser())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError, RuntimeError):  # it may exist: it fails when its turn comes
        pass
    return False


def describe_images(images: list[Any], model: Classifier) -> list[StudyImage]:
    """Name and label what `listed_images` returns; raises for unknown kinds, labels and repeats."""
    described = [_describe(image, model) for image in images]
    if not described:
        raise ValueError("images is empty: a study needs one image or more.")
    positions: dict[str, int] = {}
    for position, image in enumerate(described):
        if image.name in positions:
            raise ValueError(
                f"images {positions[image.name]} and {position} are the same, {image.origin}: "
                "each image must occur once."
            )
        positions[image.name] = position
    return described


def open_image(image: StudyImage) -> Image.Image | Tensor:
    """Load the pixels; raises whatever `load_image` and `imagenet_sample` raise."""
    if isinstance(image.source, Tensor):
        return image.source
    if isinstance(image.source, int):
        return imagenet_sample(image.source).image
    return load_image(image.source)


def _describe(image: Any, model: Classifier) -> StudyImage:
    source, label = image if _is_labelled(image) else (image, None)
    given = None if label is None else _class_of(label, model)
    if isinstance(source, ImageNetSample):
        source = source.index
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return _imagenet(operator.index(source), given, model)
    stem, kept, digest, origin = _identify(source)
    key = hashlib.sha256(f"{digest} {given}".encode()).hexdigest()[:10]
    return StudyImage(f"{_plain(stem)}-{key}", kept, given, digest, origin)


def _class_of(label: Any, model: Classifier) -> int:
    try:
        return model.class_index(label)
    except TypeError:
        raise TypeError(
            f"the label of an image must be a class by index or name, not {label!r} "
            f"({type(label).__name__})."
        ) from None


def _imagenet(index: int, given: int | None, model: Classifier) -> StudyImage:
    digest, origin = image_list_sha256([index]), f"ImageNet sample {index}"
    name = f"imagenet-{index:04d}"
    if given is not None and given != index:
        return StudyImage(f"{name}-as-{given}", index, given, digest, origin)
    if model.n_classes != _IMAGENET_CLASSES:
        raise ValueError(
            f"the number {index} stands for an ImageNet sample and its label, but {model.name} has "
            f"{model.n_classes} classes instead of {_IMAGENET_CLASSES}: pass pairs (image, label)."
        )
    return StudyImage(name, index, index, digest, origin)


def _identify(source: Any) -> tuple[str, str | Image.Image | Tensor, str, str]:
    """Return stem of the name, source as kept, SHA-256 and the source in words."""
    if isinstance(source, Tensor):
        flat = source.detach().cpu().contiguous()
        content = f"{flat.dtype} {tuple(flat.shape)} ".encode()
        content += flat.reshape(-1).view(torch.uint8).numpy().tobytes()
        return "tensor", flat, hashlib.sha256(content).hexdigest(), "a tensor"
    if isinstance(source, Image.Image):
        content = f"{source.mode} {source.size} ".encode() + source.tobytes()
        file = getattr(source, "filename", "")
        return Path(file).stem, source, hashlib.sha256(content).hexdigest(), file or "a PIL image"
    if isinstance(source, str) and "://" in source:
        stem = source.rpartition("/")[2].partition("?")[0].partition(".")[0]
        return stem, source, hashlib.sha256(source.encode()).hexdigest(), source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "an image of a study is the index of an ImageNet sample, a path, a PIL image or a pair "
            f"(image, label), not {type(source).__name__}. Pass arrays through load_image."
        )
    path = Path(source).expanduser().resolve()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an image file.")
    try:
        digest = file_sha256(path)
    except OSError:  # not to be read: it fails when its turn comes
        digest = hashlib.sha256(str(path).encode()).hexdigest()
    return path.stem, str(path), digest, str(path)


def _plain(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:_LONGEST_STEM].strip("._-") or "image"
