"""The script behind the redundancy of first patches: interactions of pairs, by hand."""

import importlib
from pathlib import Path

import pytest

import moxi_lite as moxi


def test_cards_of_one_number_repeat_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    script = importlib.import_module("run_similar_information")
    game = moxi.SetSumGame([5] * 8 + [1, 2, 3, 4, 6, 7, 8, 9])
    found = script.redundancy(game, {"alike": list(range(8)), "mixed": [0, 1, *range(8, 14)]})
    # Two 5s bring 5 and not 10; of 28 pairs of the mixed group one are two 5s.
    assert found == {"alike": -5, "mixed": pytest.approx(-5 / 28, abs=1e-5)}
