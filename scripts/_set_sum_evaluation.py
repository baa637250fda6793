"""What is measured of a SET-SUM model: accuracy with intervals, calibration, absent cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from moxi_lite.curves import wilson
from moxi_lite.data import SetSumComposites, set_sum_composites, set_sum_labels
from moxi_lite.games import all_coalitions

BATCH = 250
BINS = 15
SEED = 20240617


def evaluate(network: nn.Module, n: int, source: str) -> dict[str, Any]:
    """Accuracy and calibration on `n` composites of test digits, and on parts of some of them.

    The Wilson interval takes the composites as independent draws. They share a limited number of
    source digits, so a second interval resamples those digits (bootstrap, 1,000 times).
    """
    composites = set_sum_composites(n, "test", seed=SEED, source=source)
    logits = predict(network, composites.images)
    right = logits.argmax(dim=1).numpy() == composites.labels
    n_distinct = np.array([len(np.unique(row)) for row in composites.digits])
    by_distinct = {}
    for count in range(1, 5):
        some = right[n_distinct == count]
        if len(some):
            by_distinct[str(count)] = {
                "composites": len(some),
                "accuracy": round(float(some.mean()), 4),
                "accuracy_interval": interval(int(some.sum()), len(some)),
            }
    return {
        "composites": n,
        "seed": SEED,
        "accuracy": round(float(right.mean()), 4),
        "accuracy_interval": interval(int(right.sum()), n),
        "accuracy_interval_over_digits": digit_bootstrap(right, composites.ids),
        "by_distinct_digits": by_distinct,
        "calibration_error": calibration_error(logits, composites.labels),
        "calibration_bins": BINS,
        "absent_cells": absent_cells(network, composites),
    }


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits, float (n, 31), in batches."""
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in images.split(BATCH)])


def interval(successes: int, n: int) -> list[float]:
    """95 % score interval of a proportion (Wilson, 1927)."""
    _, low, high = wilson(successes, n)
    return [round(low, 4), round(high, 4)]


def digit_bootstrap(
    right: npt.NDArray[np.bool_], ids: npt.NDArray[np.int64], repeats: int = 1000
) -> list[float]:
    """95 % interval of the accuracy when the source digits are drawn anew, with replacement."""
    rng = np.random.default_rng(0)
    digits, position = np.unique(ids, return_inverse=True)
    position = position.reshape(ids.shape)
    accuracies = []
    for _ in range(repeats):
        times = rng.multinomial(len(digits), np.full(len(digits), 1 / len(digits)))
        weights = times[position].prod(axis=1)
        accuracies.append(float((weights * right).sum() / weights.sum()))
    return [round(float(q), 4) for q in np.quantile(accuracies, [0.025, 0.975])]


def calibration_error(logits: Tensor, labels: npt.NDArray[np.int64]) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over bins of confidence."""
    confidence, predicted = (x.numpy() for x in logits.softmax(dim=1).max(dim=1))
    right = predicted == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((confidence - right)[bins == b].sum()) for b in range(BINS)]
    return round(float(sum(gaps) / len(labels)), 4)


def absent_cells(network: nn.Module, composites: SetSumComposites, n: int = 1000) -> dict[str, Any]:
    """How often the prediction is the sum of the visible digits, and how often the full label.

    All coalitions of the four cells, by number of visible cells, on the first `n` composites; an
    absent cell is black, or, for the ViT, its tokens are deleted.
    """
    images, digits = composites.images[:n], composites.digits[:n]
    ways = ["black", "deleted"] if isinstance(network, VisionTransformer) else ["black"]
    report: dict[str, Any] = {}
    for way in ways:
        shares = np.zeros((5, 3))
        for visible in all_coalitions(4):
            predicted = part_logits(network, images, visible, way).argmax(dim=1).numpy()
            seen = predicted == set_sum_labels(digits, np.broadcast_to(visible, digits.shape))
            full = predicted == composites.labels[:n]
            shares[visible.sum()] += seen.mean(), full.mean(), 1
        report[way] = {
            f"{k} visible": {"sum_of_visible": round(s / c, 4), "full_label": round(f / c, 4)}
            for k, (s, f, c) in enumerate(shares.tolist())
        }
    return {"composites": min(n, len(images)), **report}


def part_logits(
    network: nn.Module, images: Tensor, visible: npt.NDArray[np.bool_], way: str
) -> Tensor:
    """Logits of images of which only some cells, bool (4,), are visible."""
    side = images.shape[-1]
    half = np.arange(side) * 2 // side
    pixels = torch.from_numpy(visible[half[:, None] * 2 + half])
    if way == "black" or not isinstance(network, VisionTransformer):
        return predict(network, images * pixels)
    patch = network.patch_embed.patch_size[0]
    kept = torch.nonzero(pixels[::patch, ::patch].flatten())[:, 0]
    with torch.inference_mode():
        parts = []
        for batch in images.split(BATCH):
            tokens = network._pos_embed(network.patch_embed(batch))
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:][:, kept]], dim=1)
            parts.append(network.forward_head(network.norm(network.blocks(tokens))))
        return torch.cat(parts)
