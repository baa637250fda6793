"""Screening in bfloat16 on real weights: does it choose what float32 chooses?"""

import numpy as np
import pytest

from moxi_lite.data import sample_photo
from moxi_lite.models import load_model
from moxi_lite.patches import PatchGame
from moxi_lite.search import explain

STEPS = {"insertion": 25, "deletion": 4}


@pytest.mark.hub
def test_mixed_steps_are_those_of_float32():
    model = load_model("vit_tiny_patch16_224", device="cpu")
    photo = sample_photo("coffee")
    exact = PatchGame(model, photo, grid=7)
    same, losses = [], []
    for mode, budget in STEPS.items():
        sign = 1 if mode == "insertion" else -1
        mixed = explain(PatchGame(model, photo, grid=7, dtype="mixed"), mode, budget=budget)
        for step, player in enumerate(mixed.order):
            # all candidates in float32, after the steps that the mixed search has taken
            present = mixed.visible(step)
            left = np.flatnonzero(present == (mode == "deletion"))
            rows = np.repeat(present[None], len(left), axis=0)
            rows[np.arange(len(left)), left] = mode == "insertion"
            merit = sign * exact(rows)
            chosen = int(np.flatnonzero(left == player)[0])
            same.append(chosen == int(merit.argmax()))
            losses.append(float(merit.max() - merit[chosen]))
    assert len(same) == sum(STEPS.values())
    assert np.mean(same) >= 0.95
    assert max(losses) <= 0.01
