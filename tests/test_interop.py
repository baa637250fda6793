"""The recipes of book/interop.md run as printed, and agree with our own values."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import moxi_lite as moxi
from moxi_lite.patches import patch_map

PAGE = Path(__file__).parent.parent / "book" / "interop.md"
WHY = "pip install '.[interop]' to test the recipes of book/interop.md"


def recipes(section):
    """Python blocks of the section whose title starts with a word."""
    text = PAGE.read_text(encoding="utf-8")
    body = next(part for part in text.split("\n## ")[1:] if part.startswith(section))
    return re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)


@pytest.fixture
def names(tiny_vit):
    """What the page defines at its top, with a tiny model."""
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(3))
    game = moxi.PatchGame(tiny_vit, image, grid=(2, 2))
    return {"moxi": moxi, "np": np, "model": tiny_vit, "image": image, "game": game}


def run(blocks, names):
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)


def test_shapiq(names):
    pytest.importorskip("shapiq", reason=WHY)
    run(recipes("shapiq"), names)
    game = names["game"]
    np.testing.assert_allclose(names["shapley"], moxi.shapley_values(game), atol=1e-4)
    ours = moxi.interaction_matrix(game)
    np.fill_diagonal(ours, 0)
    np.testing.assert_allclose(names["pairs"], ours, atol=1e-4)
    assert names["explanation"].order.tolist() == moxi.explain(game).order.tolist()
    assert names["explanation"].f_empty == pytest.approx(0)


def test_captum(names):
    pytest.importorskip("captum", reason=WHY)
    blocks = recipes("Captum")
    run(blocks, names)
    values = names["sampled"][0].numpy()
    game = names["game"]
    # permutations are efficient whatever is drawn; single values are sampled
    ends = game(np.array([[False] * 4, [True] * 4]))
    assert values.sum() == pytest.approx(ends[1] - ends[0], abs=1e-3)
    exact = moxi.shapley_values(game)
    assert np.abs(values - exact).max() < 0.5 * np.ptp(exact)


def test_captum_over_pixels_is_the_game_of_zero_baseline(names):
    pytest.importorskip("captum", reason=WHY)
    names["game"] = moxi.PatchGame(names["model"], names["image"], grid=(2, 2), masking="zero")
    maps, masks = recipes("Captum")
    torch.manual_seed(0)
    run([maps], names)
    torch.manual_seed(0)  # the same permutations
    run([masks], names)
    of_pixels = names["by_pixels"][0, 0].numpy()
    cells = patch_map(32, 32, (2, 2))
    for player, value in enumerate(names["sampled"][0].tolist()):
        np.testing.assert_allclose(of_pixels[cells == player], value, atol=1e-3)


def test_quantus(names):
    pytest.importorskip("quantus", reason=WHY)
    names |= {"patch_map": patch_map, "height": 32, "width": 32}
    run(recipes("Quantus"), names)
    probability = names["curve"].probability
    assert len(names["falls"]) == 16
    np.testing.assert_allclose(names["falls"], probability[0] - probability[1:], atol=1e-5)
    assert np.ptp(probability) > 0.05  # something happened
