"""The images of a study: a name, a label and a fingerprint for each, before any is decoded."""

from __future__ import annotations

import hashlib
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
from moxi_lite.models import Classifier

_IMAGENET_CLASSES = 1000
_LONGEST_STEM = 60
_MOST_NAMED = 5  # missing files in a message


@dataclass(frozen=True, eq=False)
class StudyImage:
    """One image of a study, not decoded yet."""

    name: str  # unique and fit for a file name: of content and label, or of the ImageNet sample
    source: int | str | Image.Image | Tensor = field(repr=False)  # sample, path, URL, pixels
    label: int | None  # the true class
    sha256: str  # of the content; of samples and files that cannot be read, of their name
    origin: str  # the source in words


def listed_images(images: Iterable[Any]) -> list[Any]:
    """List the images given to `run_study`; raises FileNotFoundError for missing files."""
    single = isinstance(images, (str, bytes, os.PathLike, Image.Image, Mapping))
    if single or not isinstance(images, Iterable):
        raise TypeError(
            "images must be a sequence of images, such as [281, 'cat.jpg'] or range(0, 1000, 50), "
            f"not {type(images).__name__}. Of a mapping pass pairs, list(images.items())."
        )
    listed = list(images)
    paths = [
        str(source) for source, _ in map(_pair, listed) if isinstance(source, str | os.PathLike)
    ]
    files = (path for path in dict.fromkeys(paths) if "://" not in path)
    missing = [path for path in files if not os.path.exists(os.path.expanduser(path))]
    if missing:
        more = len(missing) - _MOST_NAMED
        named = ", ".join(map(repr, missing[:_MOST_NAMED])) + (f" and {more} more" * (more > 0))
        raise FileNotFoundError(
            f"{len(missing)} image file{'s do' if len(missing) > 1 else ' does'} not exist: "
            f"{named}. Correct or leave out what is mistyped; nothing new has been computed."
        )
    return listed


def describe_images(images: list[Any], model: Classifier) -> list[StudyImage]:
    """Name and label what `listed_images` returns; raises for unknown kinds, labels and repeats."""
    described: dict[str, StudyImage] = {}
    for position, given in enumerate(images):
        image = _describe(*_pair(given), model)
        if image.name in described:
            raise ValueError(
                f"images {list(described).index(image.name)} and {position} are the same, "
                f"{image.origin}: each image must occur once."
            )
        described[image.name] = image
    if not described:
        raise ValueError("images is empty: a study needs one image or more.")
    return list(described.values())


def open_image(image: StudyImage) -> Image.Image | Tensor:
    """Load the pixels; raises whatever `load_image` and `imagenet_sample` raise."""
    if isinstance(image.source, Tensor):
        return image.source
    if isinstance(image.source, int):
        return imagenet_sample(image.source).image
    return load_image(image.source)


def _pair(given: Any) -> tuple[Any, Any]:
    """Image and label, which may be missing."""
    return given if isinstance(given, tuple) and len(given) == 2 else (given, None)


def _describe(source: Any, label: Any, model: Classifier) -> StudyImage:
    label = None if label is None else model.class_index(label)
    if isinstance(source, ImageNetSample):
        source = source.index
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        index = int(source)
        digest = image_list_sha256([index])
        if label is None and model.n_classes != _IMAGENET_CLASSES:
            raise ValueError(
                f"the number {index} stands for an ImageNet sample and its label, but {model.name} "
                f"has {model.n_classes} classes instead of {_IMAGENET_CLASSES}: pass pairs "
                "(image, label)."
            )
        label = index if label is None else label
        name = f"imagenet-{index:04d}" + f"-as-{label}" * (label != index)
        return StudyImage(name, index, label, digest, f"ImageNet sample {index}")
    stem, kept, content, origin = _identify(source)
    digest = hashlib.sha256(content).hexdigest()
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:_LONGEST_STEM].strip("._-") or "image"
    key = hashlib.sha256(f"{digest} {label}".encode()).hexdigest()[:10]
    return StudyImage(f"{plain}-{key}", kept, label, digest, origin)


def _identify(source: Any) -> tuple[str, str | Image.Image | Tensor, bytes, str]:
    """Return stem of the name, source as kept, what identifies it, and the source in words."""
    if isinstance(source, Tensor):
        flat = source.detach().cpu().contiguous()
        pixels = flat.reshape(-1).view(torch.uint8).numpy().tobytes()
        return "tensor", flat, f"{flat.dtype} {tuple(flat.shape)} ".encode() + pixels, "a tensor"
    if isinstance(source, Image.Image):
        content = f"{source.mode} {source.size} ".encode() + source.tobytes()
        file = getattr(source, "filename", "")
        return Path(file).stem, source, content, file or "a PIL image"
    if isinstance(source, str) and "://" in source:
        stem = source.rpartition("/")[2].partition("?")[0].partition(".")[0]
        return stem, source, source.encode(), source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "an image of a study is the index of an ImageNet sample, a path, a PIL image or a pair "
            f"(image, label), not {type(source).__name__}. Pass arrays through load_image."
        )
    path = Path(source).expanduser().resolve()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected an image file.")
    try:
        content = path.read_bytes()
    except OSError:  # not to be read: it fails when its turn comes
        content = str(path).encode()
    return path.stem, str(path), content, str(path)
