"""Studies: the table against curves, resuming, sharing a folder, failures, executors, bad input."""

import argparse
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from moxi_lite import _cli_study, _study_store, _study_work
from moxi_lite._study_settings import METHODS
from moxi_lite._study_work import greedy_order
from moxi_lite.attribution import attribute, order_of
from moxi_lite.averages import average_curves
from moxi_lite.curves import deletion_curve, insertion_curve
from moxi_lite.data import load_image
from moxi_lite.models import WeightsUnavailableError, load_model
from moxi_lite.patch_game import PatchGame
from moxi_lite.search import explain
from moxi_lite.study import run_study
from moxi_lite.study_tables import study_curves, study_explanation

MODES = ["insertion", "deletion"]
N = 16  # patches of tiny_vit

# A module that other processes import; `slow` makes an image take some 0.2 seconds or more.
MODEL_MODULE = """
import time
import torch
from timm.models.vision_transformer import VisionTransformer
from moxi_lite.models import load_model

torch.set_num_threads(1)

def tiny():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
        )
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return load_model(module, input_size=32, mean=0.5, std=0.5, device="cpu")

def slow():
    model = tiny()
    model.module.norm.register_forward_hook(lambda *_: time.sleep(0.005))
    return model
"""
STUDY_SCRIPT = """
import sys
from own_model import slow
from moxi_lite import _study_work
from moxi_lite.study import run_study

evaluate = _study_work._evaluate
def told(job):
    shard = evaluate(job)
    print(job.image.name, flush=True)
    return shard
_study_work._evaluate = told
out, *images = sys.argv[1:]
run_study(images, slow, ["moxi", "random"], ["insertion", "deletion"], out)
"""


@pytest.fixture
def photos(tmp_path):
    """Paths of five different images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"photo {number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """Module with the functions `tiny` and `slow`, which other processes can import, too."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_model.py").write_text(MODEL_MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), *sys.path])))
    sys.modules.pop("own_model", None)
    threads = torch.get_num_threads()
    import own_model

    yield own_model
    torch.set_num_threads(threads)
    sys.modules.pop("own_model", None)


@pytest.fixture
def evaluations(monkeypatch):
    """Count the coalitions that any PatchGame evaluates."""
    counts = []
    logits = PatchGame.logits

    def counted(self, coalitions):
        counts.append(len(np.atleast_2d(coalitions)))
        return logits(self, coalitions)

    monkeypatch.setattr(PatchGame, "logits", counted)
    return counts


def start_study(out, photos):
    command = [sys.executable, "-c", STUDY_SCRIPT, str(out), *map(str, photos)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def rows(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def assert_same_tables(a, b, **tolerance):
    """Equal up to the order of the rows and the rounding of float32."""

    def plain(table):
        table = table.astype(dict.fromkeys(["image", "model", "method", "mode"], str))
        keys = ["image", "method", "mode", "step"]
        return table.sort_values(keys, ignore_index=True)

    pd.testing.assert_frame_equal(plain(a), plain(b), **({"rtol": 0, "atol": 1e-6} | tolerance))


# The table


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
        "locks",
        "settings.json",
        "shards",
    ]
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["study.lock"]


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


@pytest.mark.parametrize(("budget", "n_exact"), [(None, N), (N, N), (N - 1, N), (N - 2, N - 2)])
def test_the_last_patch_left_is_exact(tiny_vit, photos, budget, n_exact):
    order, exact = greedy_order(PatchGame(tiny_vit, load_image(photos[0])), "insertion", budget)
    assert sorted(order) == list(range(N))
    assert exact.sum() == n_exact


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


# Resuming and sharing


def test_a_second_run_evaluates_nothing(tiny_vit, photos, tmp_path, evaluations):
    arguments = (tiny_vit, ["moxi", "gradcam"], MODES, tmp_path)
    first = run_study(photos, *arguments)
    before = first.path.read_bytes()
    evaluations.clear()
    second = run_study(photos, *arguments)
    assert evaluations == []
    assert_same_tables(first.table, second.table, atol=0)
    assert second.path.read_bytes() == before


def test_images_can_be_added_and_a_part_can_be_asked_for(tiny_vit, photos, tmp_path, evaluations):
    arguments = (tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    run_study(photos[:2], *arguments)
    evaluations.clear()
    run_study(photos, *arguments)
    assert sum(evaluations) == 1 + 3 * (1 + N + 1)  # a rehearsal, then three new images
    part = run_study([photos[3], photos[1]], *arguments)
    assert [name[:7] for name in part.table["image"].unique()] == ["photo_3", "photo_1"]
    assert pd.read_parquet(part.path)["image"].nunique() == 5


@pytest.mark.slow
def test_killed_and_resumed_the_table_is_that_of_an_uninterrupted_run(
    own_model, photos, tmp_path, monkeypatch
):
    out = tmp_path / "killed"
    process = start_study(out, photos)
    deadline = time.monotonic() + 120
    while len(list(out.glob("shards/*.parquet"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/*.parquet")}
    assert 2 <= len(left) < len(photos)
    assert not list(out.glob("*.parquet"))

    computed = []
    evaluate = _study_work._evaluate
    monkeypatch.setattr(
        _study_work, "_evaluate", lambda job: computed.append(job.image.name) or evaluate(job)
    )
    arguments = (own_model.tiny(), ["moxi", "random"], MODES)
    resumed = run_study(photos, *arguments, out)
    assert len(computed) == len(photos) - len(left)
    assert {f"{name}.parquet" for name in computed}.isdisjoint(left)
    assert all((out / "shards" / name).stat().st_mtime_ns == left[name] for name in left)
    assert_same_tables(resumed.table, run_study(photos, *arguments, tmp_path / "whole").table)


@pytest.mark.slow
def test_two_processes_share_a_folder(own_model, photos, tmp_path):
    out = tmp_path / "shared"
    processes = [start_study(out, photos) for _ in range(2)]
    names = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(set(names[0] + names[1])) == len(names[0] + names[1]) == len(photos)
    whole = run_study(photos, own_model.tiny, ["moxi", "random"], MODES, tmp_path / "whole")
    assert_same_tables(pd.read_parquet(out / whole.path.name), whole.table)


def test_two_runs_at_once_share_the_images(tiny_vit, photos, tmp_path, monkeypatch):
    computed, results = [], []
    evaluate = _study_work._evaluate
    both_started = threading.Barrier(2, timeout=60)

    def counted(job):
        if len(computed) < 2:
            computed.append(job.image.name)
            both_started.wait()  # so that either has a first image of its own
        else:
            computed.append(job.image.name)
        return evaluate(job)

    monkeypatch.setattr(_study_work, "_evaluate", counted)
    models = [tiny_vit, dataclasses.replace(tiny_vit)]
    threads = [
        threading.Thread(
            target=lambda model=model: results.append(
                run_study(photos, model, ["random"], ["insertion"], tmp_path / "out")
            )
        )
        for model in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == sorted(set(computed)) and len(computed) == len(photos)
    assert_same_tables(results[0].table, results[1].table, atol=0)


def test_an_image_claimed_elsewhere_is_waited_for(tiny_vit, photos, tmp_path):
    arguments = (tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    done = run_study(photos[:1], *arguments)
    shard = next((tmp_path / "out" / "shards").glob("*.parquet"))
    content = shard.read_bytes()
    shard.unlink()
    folder = _study_store.StudyFolder(tmp_path / "out")
    with folder.claim(shard.stem) as mine:
        assert mine
        with folder.claim(shard.stem) as again:
            assert not again
        timer = threading.Timer(0.3, shard.write_bytes, [content])
        timer.start()
        waited = run_study(photos[:1], *arguments)
        timer.join()
    assert_same_tables(done.table, waited.table, atol=0)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"budget": 4}, r'budget is \{"insertion": 3\} there and \{"insertion": 4\} now'),
        ({"methods": ["moxi", "rise"]}, 'methods is .*"random"'),
        ({"modes": ["deletion"], "budget": None}, "modes is"),
        ({"masking": "mean"}, 'masking is "drop" there and "mean" now'),
        ({"grid": (2, 2)}, r"grid is \[4, 4\] there and \[2, 2\] now"),
        ({"dtype": "bfloat16"}, 'dtype is "float32"'),
        ({"random_state": 1}, "random_state is 0 there and 1 now"),
        ({"only_correct": False}, "only_correct is true there and false now"),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    tiny_vit, photos, tmp_path, change, difference, evaluations
):
    settings = {"methods": ["moxi", "random"], "modes": ["insertion"], "budget": 3}
    folder = tmp_path / "out"
    run_study(photos[:1], tiny_vit, out=folder, **settings)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    evaluations.clear()
    with pytest.raises(ValueError, match=difference) as error:
        run_study(photos, tiny_vit, out=folder, **(settings | change))
    assert str(folder) in str(error.value) and "version" not in str(error.value)
    assert evaluations == []
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_settings_are_compared_again_when_they_are_adopted(tmp_path):
    folder = _study_store.StudyFolder(tmp_path)
    folder.check_settings({"grid": (2, 3)})
    folder.prepare()
    folder.adopt_settings({"grid": (2, 3)})
    folder.adopt_settings({"grid": (2, 3)})
    with pytest.raises(ValueError, match=r"grid is \[2, 3\] there and \[3, 2\] now"):
        folder.adopt_settings({"grid": (3, 2)})


def test_other_weights_are_other_settings(tiny_vit, own_model, photos, tmp_path):
    run_study(photos[:1], tiny_vit, ["random"], MODES, tmp_path)
    with pytest.raises(ValueError, match="weights_sha256 is"):
        run_study(photos[:1], own_model.tiny(), ["random"], MODES, tmp_path)


# Failures


def test_images_that_fail_are_reported_and_do_not_stop_the_rest(tiny_vit, photos, tmp_path):
    empty, broken = tmp_path / "empty.png", tmp_path / "broken.png"
    empty.touch()
    broken.write_bytes(photos[0].read_bytes()[:60])
    images = [empty, photos[0], broken, photos[1]]
    arguments = (tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    with pytest.warns(RuntimeWarning, match=r"2 of 4 images failed, such as empty-"):
        result = run_study(images, *arguments)
    assert result.table["image"].nunique() == 2
    reasons = {name.rpartition("-")[0]: reason for name, reason in result.failed.items()}
    assert reasons.keys() == {"empty", "broken"}
    assert reasons["empty"].startswith("ValueError: ")
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/failures").iterdir()]
    assert {record["origin"] for record in records} == {str(empty), str(broken)}
    assert all("Traceback" in record["traceback"] for record in records)
    assert sorted(result.provenance["failed"]) == sorted(result.failed)

    empty.write_bytes(photos[2].read_bytes())
    broken.write_bytes(photos[3].read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mended = run_study(images, *arguments)
    assert mended.failed == {} and mended.table["image"].nunique() == 4
    assert mended.provenance["failed"] == []


def test_missing_files_are_named_before_any_work(tiny_vit, photos, tmp_path, evaluations):
    arguments = (tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    lost = photos[0].with_name("foto.png")
    with pytest.raises(FileNotFoundError, match=r"1 image file does not exist: .* mistyped") as one:
        run_study([photos[0], lost, "http://localhost:9/a.png"], *arguments)
    assert repr(str(lost)) in str(one.value) and str(photos[0]) not in str(one.value)
    many = [photos[0] / "below_a_file.png", *(tmp_path / f"{number}.png" for number in range(7))]
    with pytest.raises(FileNotFoundError, match="8 image files do not exist") as several:
        run_study([*many, *((path, 1) for path in many), photos[0]], *arguments)
    named = [path for path in many if repr(str(path)) in str(several.value)]
    assert named == many[:5] and " and 3 more. " in str(several.value)
    assert evaluations == [] and not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_study_and_leaves_nothing_half_written(
    tiny_vit, photos, tmp_path, monkeypatch
):
    arguments = (photos, tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    write, left = _study_store.write_atomically, itertools.count()

    def full_after_three(path, content):
        if next(left) >= 3:  # settings and two shards
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(_study_store, "write_atomically", full_after_three)
    with pytest.raises(OSError, match=r"cannot write into the study folder .*: No space left"):
        run_study(*arguments)
    shards = list((tmp_path / "out" / "shards").iterdir())
    assert len(shards) == 2 and not list((tmp_path / "out" / "failures").iterdir())
    monkeypatch.undo()
    assert run_study(*arguments).table["image"].nunique() == len(photos)


def test_too_little_space_is_told_before_work(tiny_vit, photos, tmp_path, monkeypatch, evaluations):
    monkeypatch.setattr("shutil.disk_usage", lambda path: argparse.Namespace(free=1000))
    with pytest.raises(OSError, match=r"up to \d+ MiB, 0 are free"):
        run_study(photos, tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    assert evaluations == [] and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to(tiny_vit, photos, tmp_path, evaluations):
    with pytest.raises(OSError, match=r"cannot write into the study folder .*: Not a directory"):
        run_study(photos, tiny_vit, ["random"], ["insertion"], photos[0] / "out")
    assert evaluations == []


def test_a_damaged_shard_is_named(tiny_vit, photos, tmp_path):
    arguments = (photos[:1], tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    run_study(*arguments)
    shard = next((tmp_path / "out" / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged .* delete it"):
        run_study(*arguments)


@pytest.mark.parametrize(
    ("content", "found"), [(b"[1, 2]", "found a list"), (b"{", "line 1"), (b"\xff\xfe\xfd", "")]
)
def test_damaged_settings_are_named(tiny_vit, photos, tmp_path, content, found):
    path = tmp_path / "out" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"settings\.json is damaged \(.*{found}.*another folder"):
        run_study(photos[:1], tiny_vit, ["random"], ["insertion"], path.parent)
    assert path.read_bytes() == content


def test_what_killed_writers_left_is_tidied_up(tiny_vit, photos, tmp_path):
    arguments = (photos[:1], tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    run_study(*arguments)
    old, new = (tmp_path / "out" / "shards" / f".a.parquet.{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    run_study(*arguments)
    assert not old.exists() and new.exists()


# Executors


def test_threads_give_the_same_table(tiny_vit, photos, tmp_path):
    methods = ["moxi", "gradcam", "rollout", "random"]  # two of them hook into the model
    expected = run_study(photos, tiny_vit, methods, MODES, tmp_path / "a").table
    with ThreadPoolExecutor(2) as executor:
        table = run_study(photos, tiny_vit, methods, MODES, tmp_path / "b", executor).table
    assert_same_tables(table, expected)


@pytest.mark.slow
def test_processes_give_the_same_table(own_model, photos, tmp_path):
    methods = ["moxi", "random"]
    expected = run_study(photos, own_model.tiny, methods, MODES, tmp_path / "a").table
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        with pytest.warns(RuntimeWarning, match="1 of 6 images failed"):
            result = run_study(
                [broken, *photos], own_model.tiny, methods, MODES, tmp_path / "b", executor
            )
    assert_same_tables(result.table, expected)


@pytest.mark.slow
def test_a_local_dask_cluster_gives_the_same_table(own_model, photos, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    methods = ["moxi", "random"]
    expected = run_study(photos, own_model.tiny, methods, MODES, tmp_path / "a").table
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        executor = client.get_executor()
        table = run_study(photos, own_model.tiny, methods, MODES, tmp_path / "b", executor).table
        # again, into another folder: Dask must not answer from memory
        arguments = (own_model.tiny, methods, MODES, tmp_path / "c", executor)
        again = run_study(photos, *arguments).table
    assert_same_tables(table, expected)
    assert_same_tables(again, expected)


@pytest.mark.slow
def test_a_worker_that_dies_is_told(own_model, photos, tmp_path):
    code = "import os\ndef deadly():\n    import own_model\n    model = own_model.tiny()\n"
    code += "    if os.environ.get('DEADLY') != str(os.getpid()):\n        os._exit(3)\n"
    code += "    return model\n"
    (Path(own_model.__file__).parent / "deadly_model.py").write_text(code)
    import deadly_model

    os.environ["DEADLY"] = str(os.getpid())
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            with pytest.raises(RuntimeError, match="a worker process died"):
                run_study(
                    photos, deadly_model.deadly, ["random"], MODES, tmp_path / "out", executor
                )
    finally:
        del os.environ["DEADLY"]


def test_processes_need_a_model_that_travels(tiny_vit, photos, tmp_path):
    arguments = (["random"], ["insertion"], tmp_path / "out")
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        with pytest.raises(TypeError, match="pass its name, or a function that returns it"):
            run_study(photos, tiny_vit, *arguments, executor)
        with pytest.raises(TypeError, match="as a Classifier, not the VisionTransformer itself"):
            run_study(photos, tiny_vit.module, *arguments, executor)
        with pytest.raises(TypeError, match="define it at the top of a module"):
            run_study(photos, lambda: tiny_vit, *arguments, executor)
    with ProcessPoolExecutor(1, get_context("fork")) as executor:
        with pytest.raises(ValueError, match="spawn"):
            run_study(photos, "vit_tiny_patch16_224", *arguments, executor)


class Inline:
    """An executor of no known kind that runs jobs at once."""

    def submit(self, function, job):
        future = Future()
        future.set_result(function(job))
        return future


def test_other_weights_on_a_worker_are_a_failure(photos, tmp_path, own_model, monkeypatch):
    here = own_model.tiny()
    elsewhere = dataclasses.replace(here, weights_sha256="0" * 64)
    models = iter([here, elsewhere])  # what the caller looks at, then what the worker loads
    load = lambda name, device: next(models)  # noqa: E731
    monkeypatch.setattr("moxi_lite._study_settings.load_model", load)
    with pytest.warns(RuntimeWarning, match="has other weights here"):
        run_study(photos[:1], "any name", ["random"], MODES, tmp_path / "out", Inline())


# Bad input


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"methods": ["mxoi"]}, ValueError, "unknown method 'mxoi'. Did you mean 'moxi"),
        ({"methods": ["grad-cam"]}, ValueError, "Did you mean 'gradcam"),
        ({"methods": "moxi"}, TypeError, r"write \['moxi'\]"),
        ({"methods": []}, ValueError, "methods is empty"),
        ({"methods": None}, TypeError, r"methods must be a sequence .* \['moxi'\], not None"),
        ({"modes": 3}, TypeError, r"modes must be a sequence of names.* not 3"),
        ({"methods": ["moxi", "moxi"]}, ValueError, "'moxi' is listed twice"),
        ({"modes": ["insert"]}, ValueError, "unknown mode 'insert'. Did you mean 'insertion'"),
        ({"masking": "men"}, ValueError, "unknown masking 'men'. Did you mean 'mean'"),
    ],
)
def test_unknown_names_are_refused_before_the_model_is_loaded(
    photos, tmp_path, arguments, kind, message
):
    def load():
        pytest.fail("the model was loaded")

    settings = {"methods": ["moxi"], "modes": ["insertion"]} | arguments
    with pytest.raises(kind, match=message):
        run_study(photos, load, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"budget": 0}, ValueError, r"budget for insertion must be in 1\.\.16, got 0"),
        ({"budget": {"insertion": 17}}, ValueError, r"in 1\.\.16, got 17"),
        ({"budget": {"deletion": 3}}, ValueError, "unknown mode of budget 'deletion'"),
        ({"budget": 0.04}, TypeError, "budget for insertion must be a whole number, got 0.04"),
        ({"budget": {"insertion": "all"}}, TypeError, "budget for insertion .* got 'all'"),
        ({"n_samples": 10}, ValueError, r"n_samples=10 is for shapley"),
        ({"n_samples": {"rise": (8, 16)}}, TypeError, r"n_samples of rise must be a whole"),
        (
            {"n_samples": {"shapley": (9, 3)}, "methods": ["shapley"]},
            ValueError,
            r"n_samples of shapley must be one or more rising numbers, got \[9, 3\]",
        ),
        ({"n_samples": {"rise": 7}}, ValueError, "n_samples of rise must be even, not 7"),
        ({"n_samples": {"rise": 0}}, ValueError, "n_samples of rise must be at least 2, got 0"),
        ({"n_samples": {"rise": 8.0}}, TypeError, "n_samples of rise must be a whole .* got 8.0"),
        (
            {"n_samples": 10.5, "methods": ["shapley"]},
            TypeError,
            "n_samples of shapley must be a whole number, got 10.5",
        ),
        ({"n_samples": {"rice": 8}}, ValueError, "unknown method .* 'rice'. Did you mean 'rise'"),
        ({"grid": (4, 0)}, ValueError, "grid must be one positive whole number or two"),
        ({"grid": (2, 2, 2)}, ValueError, "grid must be one positive whole number or two"),
        ({"grid": 3.5}, ValueError, r"grid must be .* not 3\.5"),
        ({"grid": "4x4"}, ValueError, "grid must be .* not '4x4'"),
        ({"grid": 3}, ValueError, "3x3 does not"),
        ({"grid": (3, 3)}, ValueError, "does not"),
        ({"dtype": "float31"}, ValueError, "unknown dtype 'float31'. Did you mean 'float32'"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
        ({"random_state": None}, TypeError, "random_state must be a whole number, got None"),
        ({"device": "cpu"}, ValueError, "device is for models given by name"),
        ({"images": []}, ValueError, "images is empty"),
        ({"images": "cat.jpg"}, TypeError, "images must be a sequence"),
        ({"images": [3.5]}, TypeError, "not float"),
        ({"images": [281]}, ValueError, "has 5 classes instead of 1000: pass pairs"),
        ({"images": [("a.png", 7)]}, IndexError, "class index 7 is out of range"),
        ({"images": [("a.png", "clas 3")]}, ValueError, "unknown class 'clas 3'. Did you mean"),
        ({"images": [("a.png", 1.5)]}, TypeError, "label of an image must be a class .* not 1.5"),
        ({"images": [(1234, 2)]}, IndexError, "ImageNet class 1234 is out of range"),
        ({"images": ["a.png", "b.png", "a.png"]}, ValueError, "images 0 and 2 are the same"),
        ({"images": ["."]}, IsADirectoryError, "is a folder, expected an image file"),
    ],
)
def test_bad_arguments_are_refused_before_work(
    tiny_vit, photos, tmp_path, monkeypatch, arguments, kind, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Path(name).write_text(name)
    settings = {"images": photos, "methods": ["moxi", "rise"], "modes": ["insertion"]}
    with pytest.raises(kind, match=message):
        run_study(model=tiny_vit, out=tmp_path / "out", **(settings | arguments))
    assert not (tmp_path / "out").exists()


def test_one_number_is_a_square_grid(tiny_vit, photos, tmp_path):
    arguments = (photos[:1], tiny_vit, ["random"], ["insertion"], tmp_path)
    table = run_study(*arguments, grid=2).table
    assert table["step"].tolist() == [0, 1, 2, 3, 4]
    assert json.loads((tmp_path / "settings.json").read_text())["grid"] == [2, 2]
    assert_same_tables(run_study(*arguments, grid=(2, 2)).table, table, atol=0)


def test_methods_that_the_model_does_not_allow_are_refused_before_work(
    tiny_cnn, photos, tmp_path, evaluations
):
    with pytest.raises(ValueError, match='masking="mean"'):
        run_study(photos, tiny_cnn, ["moxi"], MODES, tmp_path / "a")
    with pytest.raises(ValueError, match=r"[Rr]ollout"):
        run_study(photos, tiny_cnn, ["rollout"], MODES, tmp_path / "b", masking="mean")
    assert sum(evaluations) <= 1


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"masking": "drop"}, "not defined for this model"),
        ({"grid": (33, 1)}, "does not fit"),
        (
            {"methods": ["random", "rollout"]},
            r"^rollout is not defined for Sequential: .* Leave 'rollout' out of methods= "
            r"\(--methods\), which leaves random\.$",
        ),
        ({"methods": ["rollout"]}, "out of methods= .*, and choose others"),
        ({"methods": METHODS}, "Leave 'rollout' out .* leaves moxi,gradcam,.*,random"),
    ],
)
def test_a_folder_is_not_bound_to_settings_that_were_refused(
    tiny_cnn, photos, tmp_path, refused, message
):
    settings = {"methods": ["random"], "modes": ["insertion"], "masking": "mean", "grid": 2}
    with pytest.raises(ValueError, match=message) as error:
        run_study(photos[:1], tiny_cnn, out=tmp_path / "out", **(settings | refused))
    assert "attention=" not in str(error.value)
    assert not (tmp_path / "out").exists()
    corrected = run_study(photos[:1], tiny_cnn, out=tmp_path / "out", **settings)
    assert len(corrected.table) == 5


def test_gradcam_without_a_layer_is_left_out_of_a_study(photos, tmp_path):
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    model = load_model(flat, input_size=32, device="cpu")
    methods = ["gradcam", "gradcam++-aug", "rollout", "random"]
    with pytest.raises(ValueError, match=r"no layer for Grad-CAM .*; rollout is not") as error:
        run_study(photos, model, methods, MODES, tmp_path / "out", masking="mean")
    assert "'gradcam', 'gradcam++-aug', 'rollout' out" in str(error.value)
    assert "target_layer" not in str(error.value)


def test_a_module_is_not_a_model(tiny_vit, photos, tmp_path):
    with pytest.raises(TypeError, match="returns a Classifier"):
        run_study(photos, 3, ["moxi"], MODES, tmp_path)
    for model in (tiny_vit.module, lambda: tiny_vit.module):
        with pytest.raises(TypeError, match=r"got VisionTransformer\. load_model wraps"):
            run_study(photos, model, ["moxi"], MODES, tmp_path)


# The command line


@pytest.fixture
def command(tiny_vit, monkeypatch):
    """Run ``moxi-lite study`` on a tiny model of that name."""
    asked = []

    def load(name, *, device=None):
        asked.append((name, device))
        if name == "absent":
            raise WeightsUnavailableError("the weights are not to be had.")
        return dataclasses.replace(tiny_vit, name=name)

    monkeypatch.setattr("moxi_lite._study_settings.load_model", load)
    parser = argparse.ArgumentParser(prog="moxi-lite")
    _cli_study.add_parser(parser.add_subparsers(required=True))

    def run(*arguments):
        options = vars(parser.parse_args(["study", *map(str, arguments)]))
        return options.pop("command")(**options)

    return run


def test_the_command_writes_the_table(command, photos, tmp_path, capsys):
    options = ["--model", "tiny", "--images", *photos[:2], "--out", tmp_path / "out"]
    options += ["--methods", "moxi,shapley", "--modes", "insertion", "--budget", 4]
    assert command(*options, "--n-samples", "shapley=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images     2 studied, 0 misclassified and skipped"
    assert lines[1] == f"table      {tmp_path / 'out' / 'tiny.parquet'} (2 images in all)"
    table = pd.read_parquet(tmp_path / "out" / "tiny.parquet")
    assert set(table["method"]) == {"moxi", "shapley"} and set(table["mode"]) == {"insertion"}
    assert not table["exact"].all()
    assert command(*options, "--n-samples", 3) == 2
    assert 'n_samples is {"shapley": 2} there and {"shapley": 3} now' in capsys.readouterr().err


def test_the_command_reports_failures(command, photos, tmp_path, capsys):
    options = ["--model", "tiny", "--methods", "random", "--out", tmp_path / "out", "--images"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert command(*options, photos[0], broken) == 1
    captured = capsys.readouterr()
    assert "1 studied" in captured.out
    assert "failed     broken-" in captured.err and "ValueError" in captured.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--methods", "mxoi"], 2, "Did you mean 'moxi"),
        (["--jobs", "0"], 2, "--jobs must be at least 1"),
        (["--images", "9-3"], 2, "--images 9-3 is empty"),
        (["--images", "0-9:0"], 2, "--images 0-9:0 is empty"),
        (["--images", "3"], 2, "5 classes"),
        (["--model", "absent"], 1, "not to be had"),
    ],
)
def test_the_command_tells_what_is_wrong(command, tmp_path, capsys, options, code, message):
    (tmp_path / "a.png").touch()
    defaults = ["--model", "tiny", "--images", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert command(*defaults, *options) == code
    error = capsys.readouterr().err
    assert error.startswith("moxi-lite: error: ") and message in error and error.count("\n") == 1


def test_images_of_the_command():
    assert _cli_study._images(["7", "0-10:5", "cat.jpg", "3-4"]) == [7, 0, 5, 10, "cat.jpg", 3, 4]
    assert len(_cli_study._images(["0-999:50"])) == 20


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
