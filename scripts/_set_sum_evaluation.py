"""What is measured of a SET-SUM model: its games, accuracy with intervals, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import moxi_lite as moxi
from moxi_lite.data import SetSumComposites, set_sum_composites, set_sum_labels
from moxi_lite.patches import deletion_problem, outcomes

BATCH = 250
BINS = 15
SEED = 20240617


def play(
    model: moxi.Classifier, composites: SetSumComposites, masking: str, n: int | None = None
) -> pd.DataFrame:
    """Evaluate every coalition of the first n composites; one row a composite.

    Columns: composite (its number among those drawn), label, n_distinct; digits and ids, 4 each;
    log_odds of the label and prediction, 16 each, in the order of `all_coalitions`.
    """
    every, rows = moxi.all_coalitions(4), []
    n = len(composites.labels) if n is None else min(n, len(composites.labels))
    for start in tqdm(range(0, n, BATCH), unit="batch"):
        numbers = range(start, min(start + BATCH, n))
        games = [
            moxi.PatchGame(
                model,
                composites.images[i],
                target=int(composites.labels[i]),
                masking=masking,
                grid=(2, 2),
            )
            for i in numbers
        ]
        for i, outcome in zip(numbers, outcomes([(game, every) for game in games]), strict=True):
            rows.append(
                {
                    "composite": i,
                    "label": int(composites.labels[i]),
                    "n_distinct": len(np.unique(composites.digits[i])),
                    "digits": composites.digits[i].astype(np.int8),
                    "ids": composites.ids[i].astype(np.int32),
                    "log_odds": outcome.rewards.astype(np.float32),
                    "prediction": outcome.predictions.astype(np.int8),
                }
            )
    return pd.DataFrame(rows).astype({"label": np.int8, "n_distinct": np.int8, "composite": int})


def evaluate(network: nn.Module, n: int, source: str) -> dict[str, Any]:
    """Accuracy and calibration on `n` composites of test digits, and on parts of some of them.

    The Wilson interval takes the composites as independent draws. They share a limited number of
    source digits, so a second interval resamples those digits (bootstrap, 1,000 times).
    """
    model = moxi.load_model(network, mean=0, std=1, input_size=56, device="cpu")
    composites = set_sum_composites(n, "test", seed=SEED, source=source)
    logits = torch.cat([model.logits(batch) for batch in composites.images.split(BATCH)])
    right = logits.argmax(dim=1).numpy() == composites.labels
    n_distinct = np.array([len(np.unique(row)) for row in composites.digits])
    by_distinct = {}
    for count in range(1, 5):
        some = right[n_distinct == count]
        if len(some):
            by_distinct[str(count)] = {
                "composites": len(some),
                "accuracy": round(float(some.mean()), 4),
                "accuracy_interval": ends(moxi.wilson(int(some.sum()), len(some))),
            }
    over_digits = moxi.bootstrap(right, clusters=composites.ids, n_resamples=1000)
    return {
        "composites": n,
        "seed": SEED,
        "accuracy": round(float(right.mean()), 4),
        "accuracy_interval": ends(moxi.wilson(int(right.sum()), n)),
        "accuracy_interval_over_digits": ends(over_digits),
        "by_distinct_digits": by_distinct,
        "calibration_error": calibration_error(logits, composites.labels),
        "calibration_bins": BINS,
        "absent_cells": absent_cells(model, composites),
    }


def ends(estimate: moxi.Estimate) -> list[float]:
    """Return a 95 % interval as it is stored."""
    return [round(estimate.low, 4), round(estimate.high, 4)]


def calibration_error(logits: Tensor, labels: npt.NDArray[np.int64]) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over bins of confidence."""
    confidence, predicted = (x.numpy() for x in logits.softmax(dim=1).max(dim=1))
    right = predicted == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((confidence - right)[bins == b].sum()) for b in range(BINS)]
    return round(float(sum(gaps) / len(labels)), 4)


def absent_cells(
    model: moxi.Classifier, composites: SetSumComposites, n: int = 1000
) -> dict[str, Any]:
    """How often the prediction is the sum of the visible digits, and how often the full label.

    All coalitions of the four cells, by number of visible cells, on the first `n` composites; an
    absent cell is black, or, for the ViT, its tokens are deleted.
    """
    every = moxi.all_coalitions(4)
    n_visible = every.sum(axis=1)
    ways = {"black": "zero"}
    if deletion_problem(model.module) is None:
        ways["deleted"] = "drop"
    report: dict[str, Any] = {}
    for way, masking in ways.items():
        games = play(model, composites, masking, n)
        predicted, digits = np.stack(games["prediction"]), np.stack(games["digits"])
        seen = np.stack(
            [set_sum_labels(digits, np.broadcast_to(row, digits.shape)) for row in every], axis=1
        )
        sums, full = predicted == seen, predicted == games["label"].to_numpy()[:, None]
        report[way] = {
            f"{k} visible": {
                "sum_of_visible": round(float(sums[:, n_visible == k].mean()), 4),
                "full_label": round(float(full[:, n_visible == k].mean()), 4),
            }
            for k in range(5)
        }
    return {"composites": min(n, len(composites.labels)), **report}
