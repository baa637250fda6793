"""Studies: resuming, one writer at a time, and refusing a folder of other settings."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest
from tables import assert_same_tables

from moxi_lite.study import run_study, worker

MODES = ["insertion", "deletion"]
N = 16  # patches of tiny_vit
STUDY_SCRIPT = """
import sys
from own_model import slow
from moxi_lite.study import run_study

out, *images = sys.argv[1:]
run_study(images, slow, ["moxi", "random"], ["insertion", "deletion"], out)
"""


@pytest.fixture
def other(own_model, photos, tmp_path):
    """A study in another process, once it has stored two images: the process, its folder."""
    out = tmp_path / "other"
    command = [sys.executable, "-c", STUDY_SCRIPT, str(out), *map(str, photos)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while len(list(out.glob("shards/*.parquet"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        yield process, out
        process.kill()


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
    assert sum(evaluations) == 3 * (N + 1)  # three new images
    part = run_study([photos[3], photos[1]], *arguments)
    assert [name[:7] for name in part.table["image"].unique()] == ["photo_3", "photo_1"]
    assert pd.read_parquet(part.path)["image"].nunique() == 5


@pytest.mark.slow
def test_killed_and_resumed_the_table_is_that_of_an_uninterrupted_run(
    own_model, photos, tmp_path, monkeypatch, other
):
    process, out = other
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
def test_a_second_writer_is_told_who_holds_the_folder(own_model, photos, other):
    process, out = other
    before = sorted(out.rglob("*"))
    with pytest.raises(
        OSError, match=rf"process {process.pid} on {socket.gethostname()} .* since 2"
    ):
        run_study(photos, own_model.tiny(), ["moxi", "random"], MODES, out)
    assert process.poll() is None and set(before) <= set(out.rglob("*"))


def test_the_folder_is_held_for_the_whole_call(tiny_vit, photos, tmp_path, monkeypatch):
    arguments = (photos[:2], tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    evaluate, refused = worker._evaluate, []

    def second(job):
        with pytest.raises(OSError, match=f"in use: process {os.getpid()} on") as error:
            run_study(*arguments)
        refused.append(str(error.value))
        return evaluate(job)

    monkeypatch.setattr(worker, "_evaluate", second)
    assert run_study(*arguments).failed == {} and len(refused) == 2
    monkeypatch.undo()
    run_study(*arguments)  # and let go at its end
    assert not (tmp_path / "out" / "holder.json").exists()


def test_a_folder_of_an_older_version_goes_on(tiny_vit, photos, tmp_path, evaluations):
    """It stored a version among the settings, no evaluations, and locks in a folder."""
    arguments = (tiny_vit, ["moxi", "random"], MODES, tmp_path)
    first = run_study(photos[:2], *arguments, masking="drop", budget=3)
    for path in (tmp_path / "shards").iterdir():
        shard = pq.read_table(path)
        metadata = shard.schema.metadata
        pq.write_table(shard.drop_columns("evaluations").replace_schema_metadata(metadata), path)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"version": "0.0.1"}))
    (tmp_path / "study.lock").unlink()
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "study.lock").touch()
    evaluations.clear()
    table = run_study(photos[:2], *arguments, masking="drop", budget=3).table
    assert evaluations == []
    assert_same_tables(table.drop(columns="evaluations"), first.table.drop(columns="evaluations"))
    known = table["evaluations"].notna()
    assert (known == ((table["method"] == "moxi") & table["exact"] | (table["step"] == 0))).all()
    assert (table["evaluations"][known] == first.table["evaluations"][known]).all()
    assert run_study(photos[:3], *arguments, masking="drop", budget=3).table["image"].nunique() == 3


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


def test_other_weights_are_other_settings(tiny_vit, own_model, photos, tmp_path):
    run_study(photos[:1], tiny_vit, ["random"], MODES, tmp_path)
    with pytest.raises(ValueError, match="weights_sha256 is"):
        run_study(photos[:1], own_model.tiny(), ["random"], MODES, tmp_path)
