"""What a training step of the SET-SUM networks draws: covered cells and their labels."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from moxi_lite.data import DigitPool
from moxi_lite.models import SetSumResNet

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def training(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    return importlib.import_module("_set_sum_training")


@pytest.fixture
def sampler(training):
    """Digits 0 to 9, each a picture of one grey value: (d + 1) / 10."""
    images = torch.arange(1, 11, dtype=torch.uint8)[:, None, None].expand(10, 28, 28) * 25
    pool = DigitPool(images.numpy(), torch.arange(10).numpy(), None, "train", "made up", "")
    return training.DigitSampler(pool, 0.0, torch.Generator().manual_seed(0))


def test_only_visible_digits_occur(training):
    digits = torch.tensor([[2, 2, 1, 5]] * 4)
    visible = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=bool)
    occurs = training.occurring(digits, visible)
    assert (occurs @ torch.arange(10)).tolist() == [8, 2, 3, 0]
    assert [row.nonzero()[:, 0].tolist() for row in occurs] == [[1, 2, 5], [2], [1, 2], []]


def test_cells_are_covered_as_often_as_the_odds_say(training):
    trainee = training.CnnTrainee(SetSumResNet((4, 4), 1), training.RECIPES["cnn"])
    visible = trainee.visible(20_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(visible.sum(dim=1), minlength=5) / len(visible)
    torch.testing.assert_close(shares, torch.tensor(trainee.visible_odds), atol=0.015, rtol=0)
    of_two = visible[visible.sum(dim=1) == 2].float().mean(dim=0)
    torch.testing.assert_close(of_two, torch.full((4,), 0.5), atol=0.03, rtol=0)  # any cells


@pytest.mark.parametrize("name", ["CnnTrainee", "PlainCnnTrainee"])
def test_the_label_is_the_sum_of_what_the_picture_shows(name, training, sampler, monkeypatch):
    trainee = getattr(training, name)(SetSumResNet((4, 4), 1), training.RECIPES["cnn"])
    seen, cross_entropy, black = [], training.F.cross_entropy, 0

    def features(images):
        seen.append([images])
        return torch.zeros(len(images), 4)

    def spy(logits, labels):
        seen[-1].append(labels)
        return cross_entropy(logits, labels)

    trainee.network.features = features
    monkeypatch.setattr(training.F, "cross_entropy", spy)
    for step in (0, 1000):  # single digits, then composites
        trainee.loss(sampler, step)
        images, labels = seen[-1]
        for image, label in zip(images, labels.tolist(), strict=True):
            greys = image[0, 14::28, 14::28].flatten() * 255 / 25  # in the middle of each cell
            assert label == sum({round(grey) - 1 for grey in greys.tolist()} - {-1})
            black += int((greys == 0).sum())
    assert [tuple(images.shape) for images, _ in seen] == [(256, 3, 28, 28), (128, 3, 56, 56)]
    assert (black > 60) == (name == "CnnTrainee") and (black == 0) == (name == "PlainCnnTrainee")
