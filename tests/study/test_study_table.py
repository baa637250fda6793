"""Studies: the table against curves and explanations, and its provenance."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tables import assert_same_tables, rows

from moxi_lite.attribution import attribute
from moxi_lite.curves import average_curves, deletion_curve, insertion_curve
from moxi_lite.data import load_image
from moxi_lite.patches import PatchGame
from moxi_lite.search import explain, order_of
from moxi_lite.study import run_study, study_curves, study_explanation
from moxi_lite.study.worker import greedy_order

MODES = ["insertion", "deletion"]
N = 16  # patches of tiny_vit


def test_the_table_holds_the_curves_of_every_method(tiny_vit, photos, tmp_path):
    methods = ["moxi", "gradcam", "rollout", "shapley", "moxi-", "random"]
    result = run_study(photos[:2], tiny_vit, methods, MODES, tmp_path / "out", n_samples=2)
    table = result.table
    assert len(table) == 2 * len(methods) * 2 * (N + 1)
    assert not table.duplicated(["image", "method", "mode", "step"]).any()
    for path, name in zip(photos, table["image"].cat.categories, strict=False):
        assert name.startswith(f"{path.stem.replace(' ', '_')}-")
        game = PatchGame(tiny_vit, load_image(path))
        assert set(rows(table, image=name)["target"]) == {game.predicted}
        for mode, draw in zip(MODES, (insertion_curve, deletion_curve), strict=True):
            for method in methods:
                stored = rows(table, image=name, method=method, mode=mode)
                assert stored["step"].tolist() == list(range(N + 1))
                order = stored["patch"].to_numpy()[1:]
                assert stored["patch"].iloc[0] == -1
                curve = draw(game, order)
                np.testing.assert_array_equal(stored["correct"], curve.correct)
                np.testing.assert_allclose(stored["probability"], curve.probability, atol=1e-6)
                np.testing.assert_allclose(stored["log_odds"], curve.log_odds, atol=1e-5)
                if method == "moxi":
                    np.testing.assert_array_equal(order, explain(game, mode).order)
                elif method in ("gradcam", "rollout", "moxi-"):
                    scores = attribute(game, method, mode=mode)
                    np.testing.assert_array_equal(order, order_of(scores))
    # one order for both modes, except for the methods that play for the mode
    by_mode = [rows(table, mode=mode).set_index(["method", "image", "step"]) for mode in MODES]
    alike = (by_mode[0]["patch"] == by_mode[1]["patch"]).groupby("method", observed=True).all()
    assert alike.drop(["moxi", "moxi-"]).all() and not alike["moxi"]
    assert table["exact"].all()
    # and what users do with it in one line
    assert table.pivot_table(index="step", columns="method", values="correct").shape == (N + 1, 6)


def test_names_may_come_from_a_generator(tiny_vit, photos, tmp_path):
    names, modes = (name for name in ["random", "moxi-"]), iter(["insertion"])
    table = run_study(photos[:1], tiny_vit, names, modes, tmp_path).table
    assert set(table["method"]) == {"random", "moxi-"} and set(table["mode"]) == {"insertion"}


def test_several_numbers_of_samples_draw_a_curve_each(tiny_vit, photos, tmp_path):
    methods = ["shapley", "shapley-paper", "random"]
    draws = {"shapley": (1, 3), "shapley-paper": 2}
    result = run_study(photos[:2], tiny_vit, methods, MODES, tmp_path / "a", n_samples=draws)
    assert len(result.table) == 2 * 4 * 2 * (N + 1)
    assert set(result.table["method"]) == {"shapley-1", "shapley-3", "shapley-paper", "random"}
    assert result.provenance["settings"]["n_samples"] == draws
    for n in draws["shapley"]:
        alone = run_study(photos[:2], tiny_vit, methods[:1], MODES, tmp_path / f"{n}", n_samples=n)
        keys = ["image", "mode", "step"]
        one = alone.table.sort_values(keys)
        same = rows(result.table, method=f"shapley-{n}").sort_values(keys)
        np.testing.assert_array_equal(one["patch"], same["patch"])
    again = run_study(photos[:3], tiny_vit, methods, MODES, tmp_path / "a", n_samples=draws)
    assert set(again.table["method"]) == set(result.table["method"])


def test_numbers_of_samples_may_come_from_a_generator_or_a_tensor(tiny_vit, photos, tmp_path):
    draws = {"rise": torch.tensor(4), "shapley-paper": np.int64(2), "shapley": iter((1, 3))}
    result = run_study(photos[:1], tiny_vit, list(draws), MODES, tmp_path, n_samples=draws)
    assert result.failed == {}
    stored = json.loads((tmp_path / "settings.json").read_text())["n_samples"]
    assert stored == {"rise": 4, "shapley-paper": 2, "shapley": [1, 3]}
    both = ["shapley", "shapley-paper"]
    result = run_study(photos[:1], tiny_vit, both, MODES, tmp_path / "b", n_samples=iter((1, 3)))
    assert set(result.table["method"]) == {f"{method}-{n}" for method in both for n in (1, 3)}


def test_the_file_has_compact_types_and_provenance(tiny_vit, photos, tmp_path):
    result = run_study(photos[:2], tiny_vit, ["random"], ["deletion"], tmp_path, random_state=7)
    assert result.path == tmp_path / "VisionTransformer.parquet"
    names = pa.dictionary(pa.int8(), pa.string())
    expected = {
        "image": pa.dictionary(pa.int32(), pa.string()),
        "target": pa.int16(),
        "model": names,
        "method": names,
        "mode": names,
        "step": pa.int16(),
        "patch": pa.int16(),
        "correct": pa.bool_(),
        "probability": pa.float32(),
        "log_odds": pa.float32(),
        "exact": pa.bool_(),
        "evaluations": pa.int32(),
    }
    schema = pq.read_schema(result.path)
    assert dict(zip(schema.names, schema.types, strict=True)) == expected
    assert pq.read_metadata(result.path).row_group(0).column(9).compression == "ZSTD"
    assert_same_tables(pd.read_parquet(result.path), result.table, atol=0)

    stored = json.loads(schema.metadata[b"moxi_lite"])
    record = json.loads((tmp_path / "VisionTransformer.json").read_text())
    assert record == json.loads(json.dumps(result.provenance))
    images = record.pop("images")
    assert stored == record
    assert [image["origin"] for image in images] == [str(path) for path in photos[:2]]
    assert stored["settings"]["weights_sha256"] == tiny_vit.weights_sha256
    assert stored["settings"]["random_state"] == 7
    assert (stored["n_studied"], stored["n_misclassified"], stored["failed"]) == (2, 0, [])
    assert stored["n_evaluations"] == 2 * (N + 1)
    (environment,) = stored["environments"]
    assert environment["images"] == 2 and environment["torch"] == torch.__version__.split("+")[0]
    assert stored["settings"] == json.loads((tmp_path / "settings.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "photos") == [
        "VisionTransformer.json",
        "VisionTransformer.parquet",
        "failures",
        "settings.json",
        "shards",
        "study.lock",
    ]


def test_after_the_budget_patches_are_ranked_and_not_exact(tiny_vit, photos, tmp_path):
    budget = {"insertion": 5, "deletion": 3}
    table = run_study(photos[:1], tiny_vit, ["moxi"], MODES, tmp_path, budget=budget).table
    game = PatchGame(tiny_vit, load_image(photos[0]))
    for mode, k in budget.items():
        stored = rows(table, mode=mode)
        assert stored["exact"].tolist() == [True] * (k + 1) + [False] * (N - k)
        order = stored["patch"].to_numpy()[1:]
        greedy = explain(game, mode).order
        assert order[: k + 1].tolist() == greedy[: k + 1].tolist()
        present = np.full(N, mode == "deletion")
        present[order[:k]] = mode == "insertion"
        rewards = []
        for patch in order[k:]:
            candidate = present.copy()
            candidate[patch] = mode == "insertion"
            rewards.append(float(game(candidate)[0]) * (1 if mode == "insertion" else -1))
        assert (np.diff(rewards) <= 1e-6).all()


@pytest.mark.parametrize(
    ("budget", "n_exact", "n_evaluations"),
    [(None, N, 136), (N, N, 136), (N - 1, N, 135), (N - 2, N - 2, 133 + 2)],
)
def test_the_last_patch_left_is_exact(tiny_vit, photos, budget, n_exact, n_evaluations):
    game = PatchGame(tiny_vit, load_image(photos[0]))
    order, exact, evaluations = greedy_order(game, "insertion", budget)
    assert sorted(order) == list(range(N))
    assert exact.sum() == n_exact
    assert evaluations[:3].tolist() == [N, 2 * N - 1, 3 * N - 3]
    assert evaluations[-1] == n_evaluations == game.n_evaluations - 2  # besides both ends


def test_evaluations_are_those_used_so_far(tiny_vit, photos, tmp_path):
    methods = ["moxi", "gradcam", "shapley", "rise", "moxi-", "random"]
    draws = {"shapley": (1, 3), "rise": 4}
    table = run_study(
        photos[:1], tiny_vit, methods, MODES, tmp_path, budget=5, n_samples=draws
    ).table
    assert (rows(table, step=0)["evaluations"] == 0).all()
    searched = [N, N + 15, N + 29, N + 42, N + 54, *[N + 54 + N - 5] * (N - 5)]
    expected = dict.fromkeys(("gradcam", "random"), 0) | {"rise": 4, "moxi-": N + 1}
    expected |= {"shapley-1": 2 + 2 * 15, "shapley-3": 2 + 6 * 15}
    for mode in MODES:
        assert rows(table, method="moxi", mode=mode)["evaluations"].tolist()[1:] == searched
        for method, n in expected.items():
            assert set(rows(table, method=method, mode=mode)["evaluations"].iloc[1:]) == {n}


def test_curves_come_back_from_the_table(tiny_vit, photos, tmp_path):
    result = run_study(photos, tiny_vit, ["moxi-", "random"], ["insertion"], tmp_path)
    curves = study_curves(pd.read_parquet(result.path), "random", "insertion")
    assert list(curves) == result.table["image"].unique().tolist()
    stored = rows(result.table, method="random")
    expected = stored.groupby("step")["probability"].mean().to_numpy()
    average = average_curves(curves.values(), "probability")
    np.testing.assert_allclose(average.mean, expected, atol=1e-6)
    np.testing.assert_array_equal(average.fraction, np.arange(N + 1) / N)
    with pytest.raises(ValueError, match="Did you mean 'moxi-'"):
        study_curves(result.table, "moxi", "insertion")
    with pytest.raises(ValueError, match="unknown mode 'deletion'"):
        study_curves(result.table, "random", "deletion")


@pytest.mark.parametrize("mode", MODES)
def test_explanations_come_back_from_the_table(tiny_vit, photos, tmp_path, mode):
    table = run_study(photos, tiny_vit, ["moxi"], [mode], tmp_path).table
    image = table["image"].unique()[-1]
    ex = explain(PatchGame(tiny_vit, load_image(photos[-1])), mode)
    stored = study_explanation(table, image, "moxi", mode, class_name="something")
    np.testing.assert_array_equal(stored.order, ex.order)
    np.testing.assert_allclose(stored.values, ex.values, atol=1e-4)
    np.testing.assert_allclose([stored.f_empty, stored.f_full], [ex.f_empty, ex.f_full], atol=1e-4)
    assert (stored.grid, stored.target, stored.mode) == (ex.grid, ex.target, mode)
    assert stored.class_name(stored.target) == "something"
    assert stored.patches_to_flip() == ex.patches_to_flip()
    np.testing.assert_array_equal(stored.step_evaluations, ex.step_evaluations)
    assert stored.n_evaluations == ex.n_evaluations
    first = study_explanation(table, image, "moxi", mode, steps=3)
    np.testing.assert_array_equal(first.order, ex.order[:3])
    assert (len(first), first.stop_reason) == (3, "budget")


def test_explanations_from_a_table_refuse_what_is_not_there(tiny_vit, photos, tmp_path):
    table = run_study(photos[:1], tiny_vit, ["random"], ["insertion"], tmp_path).table
    key = (table["image"].iloc[0], "random", "insertion")
    with pytest.raises(ValueError, match="unknown image 'nowhere'"):
        study_explanation(table, "nowhere", *key[1:])
    with pytest.raises(ValueError, match="pass grid="):
        study_explanation(table, *key, grid=(2, 3))
    with pytest.raises(ValueError, match="steps must be in 0"):
        study_explanation(table, *key, steps=N + 1)


@pytest.mark.parametrize("mixed_up", ["two studies", "some steps", "no order"])
def test_curves_want_whole_runs_of_one_study(tiny_vit, photos, tmp_path, mixed_up):
    other = dataclasses.replace(tiny_vit, name="other")
    table, second = (
        run_study(photos[:2], model, ["moxi"], MODES, tmp_path / model.name, budget=4).table
        for model in (tiny_vit, other)
    )
    image = table["image"].iloc[0]
    whole = study_curves(table, "moxi", "deletion")[image]
    if mixed_up == "no order":
        shuffled = table.sample(frac=1, random_state=0)
        found = study_curves(shuffled, "moxi", "deletion")[image]
        np.testing.assert_array_equal(found.log_odds, whole.log_odds)
        return
    given = pd.concat([table, second]) if mixed_up == "two studies" else table[table["exact"]]
    with pytest.raises(ValueError, match="whole table of one study"):
        study_curves(given, "moxi", "deletion")
    with pytest.raises(ValueError, match="whole table of one study"):
        study_explanation(given, image, "moxi", "deletion")


def test_mixed_precision_is_stored_and_used(tiny_vit, photos, tmp_path):
    result = run_study(photos[:2], tiny_vit, ["moxi"], MODES, tmp_path, dtype="mixed")
    assert result.provenance["settings"]["dtype"] == "mixed"
    for path, name in zip(photos, result.table["image"].unique(), strict=False):
        game = PatchGame(tiny_vit, load_image(path), dtype="mixed")
        order = rows(result.table, image=name, mode="deletion")["patch"].to_numpy()[1:]
        np.testing.assert_array_equal(order, explain(game, "deletion").order)


def test_misclassified_images_are_skipped_and_counted(tiny_vit, photos, tmp_path):
    predicted = [PatchGame(tiny_vit, load_image(path)).predicted for path in photos[:3]]
    labels = [predicted[0], (predicted[1] + 1) % 5, f"class {predicted[2]}"]
    images = list(zip(photos, labels, strict=False))
    result = run_study(images, tiny_vit, ["random"], ["insertion"], tmp_path / "a")
    assert list(result.skipped.values()) == [predicted[1]]
    assert next(iter(result.skipped)).startswith("photo_1-")
    assert result.table["image"].nunique() == 2 and result.provenance["n_misclassified"] == 1
    kept = run_study(
        images, tiny_vit, ["random"], ["insertion"], tmp_path / "b", only_correct=False
    )
    assert kept.skipped == {} and kept.table["image"].nunique() == 3
    targets = kept.table.groupby("image", sort=False, observed=True)["target"].first()
    assert targets.tolist() == [predicted[0], labels[1], predicted[2]]


def test_what_is_drawn_depends_on_seed_and_image_but_not_on_the_order(tiny_vit, photos, tmp_path):
    def study(images, out, seed=0):
        return run_study(
            images, tiny_vit, ["rise", "random"], MODES, tmp_path / out, random_state=seed,
            n_samples={"rise": 8},
        ).table  # fmt: skip

    table = study(photos, "a")
    assert_same_tables(table, study(photos[::-1], "b"))
    orders = rows(table, method="random", mode="insertion").pivot(
        index="image", columns="step", values="patch"
    )
    assert not orders.duplicated().any()
    assert not study(photos, "c", seed=1)["patch"].equals(table["patch"])


def test_pil_images_and_tensors(tiny_vit, photos, tmp_path):
    image = load_image(photos[0])
    images = [photos[0], image, (tiny_vit.preprocess(image), 3)]
    table = run_study(images, tiny_vit, ["moxi"], ["insertion"], tmp_path, only_correct=False).table
    path, pil, tensor = (part for _, part in table.groupby("image", sort=False, observed=True))
    assert path["patch"].tolist() == pil["patch"].tolist()
    assert set(tensor["target"]) == {3}
    assert [name.rpartition("-")[0] for name in table["image"].cat.categories] == [
        "photo_0",
        "image",
        "tensor",
    ]


@pytest.mark.slow
@pytest.mark.hub
def test_imagenet_samples_by_number(tmp_path):
    result = run_study(
        range(280, 284), "vit_tiny_patch16_224", ["moxi", "gradcam"], ["insertion"],
        tmp_path, budget=1, device="cpu",
    )  # fmt: skip
    names = [f"imagenet-{index:04d}" for index in range(280, 284)]
    studied = result.table["image"].unique().tolist()
    assert sorted([*studied, *result.skipped]) == names
    assert all(
        int(name[-4:]) == target for name, target in result.table[["image", "target"]].values
    )
