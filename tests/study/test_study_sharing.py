"""Studies: resuming, sharing a folder, and refusing one of other settings."""

import dataclasses
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from tables import assert_same_tables

from moxi_lite.study import run_study, store, worker

MODES = ["insertion", "deletion"]
N = 16  # patches of tiny_vit
STUDY_SCRIPT = """
import sys
from own_model import slow
from moxi_lite.study import worker
from moxi_lite.study import run_study

evaluate = worker._evaluate
def told(job):
    shard = evaluate(job)
    print(job.image.name, flush=True)
    return shard
worker._evaluate = told
out, *images = sys.argv[1:]
run_study(images, slow, ["moxi", "random"], ["insertion", "deletion"], out)
"""


def start_study(out, photos):
    command = [sys.executable, "-c", STUDY_SCRIPT, str(out), *map(str, photos)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


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
    evaluate = worker._evaluate
    monkeypatch.setattr(
        worker, "_evaluate", lambda job: computed.append(job.image.name) or evaluate(job)
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
    evaluate = worker._evaluate
    both_started = threading.Barrier(2, timeout=60)

    def counted(job):
        if len(computed) < 2:
            computed.append(job.image.name)
            both_started.wait()  # so that either has a first image of its own
        else:
            computed.append(job.image.name)
        return evaluate(job)

    monkeypatch.setattr(worker, "_evaluate", counted)
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
    folder = store.StudyFolder(tmp_path / "out")
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
    folder = store.StudyFolder(tmp_path)
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
