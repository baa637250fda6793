"""What is measured: a ViT-Ti, with real weights where they are available, and images."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import Tensor

from moxi_lite.data import SAMPLE_PHOTOS, imagenet_sample, sample_photo
from moxi_lite.models import Classifier, load_model

MODEL = "vit_tiny_patch16_224"


@dataclass(frozen=True)
class Subject:
    """A classifier and preprocessed images, with a line that says what they are."""

    model: Classifier
    images: list[Tensor]
    real: bool  # trained weights and photographs
    description: str


def random_vit(img_size: int = 224, device: str | None = None) -> Classifier:
    """ViT-Ti with seeded random weights: the speed of the real one, and no sense."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(MODEL, pretrained=False, img_size=img_size)
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.05)
            elif "norm" not in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return load_model(module, input_size=img_size, mean=0.5, std=0.5, device=device)


def noise_image(size: int, seed: int = 0) -> Tensor:
    """Preprocessed image of seeded noise, (3, size, size)."""
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))


def find_subject(n_images: int, device: str | None, random_weights: bool) -> Subject:
    """Take the real model and photographs, or random weights and noise."""
    why = "as asked"
    if not random_weights:
        try:
            model = load_model(MODEL, device=device)
        except OSError as error:
            why = f"because its weights are unavailable: {error}"
        else:
            images, what = _photographs(n_images)
            return Subject(
                model=model,
                images=[model.preprocess(image) for image in images],
                real=True,
                description=f"{MODEL}, trained ({model.source}); {what}",
            )
    return Subject(
        model=random_vit(device=device),
        images=[noise_image(224, seed) for seed in range(n_images)],
        real=False,
        description=f"{MODEL} with random weights (seed 0), {why}; {n_images} images of noise",
    )


def _photographs(n_images: int):
    try:
        samples = [imagenet_sample(10 * number) for number in range(n_images)]
    except OSError:
        names = list(SAMPLE_PHOTOS)[:n_images]
        return [sample_photo(name) for name in names], f"photographs {', '.join(names)}"
    names = ", ".join(sample.name for sample in samples)
    return [sample.image for sample in samples], f"ImageNet samples: {names}"
