"""``moxi-lite study``: exit codes, folders, and what is told in words for the shell."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from moxi_lite import cli
from moxi_lite.models import WeightsUnavailableError


@pytest.fixture
def study(tiny_vit, monkeypatch):
    """Run ``moxi-lite study``, where every model but "absent" is a tiny one."""

    def load(name, *, device=None):
        if name == "absent":
            raise WeightsUnavailableError("the weights are unavailable.")
        return dataclasses.replace(tiny_vit, name=name)

    monkeypatch.setattr("moxi_lite.study.settings.load_model", load)
    return lambda *arguments: cli.main(["study", *map(str, arguments)])


@pytest.fixture
def command(study, tmp_path):
    """Study images by one quick method."""

    def run(*images, out=tmp_path / "out", options=()):
        quick = ["--model", "tiny", "--methods", "random", "--modes", "insertion"]
        return study(*quick, "--images", *images, "--out", out, *options)

    return run


def test_the_command_writes_the_table(study, photos, tmp_path, capsys):
    options = ["--model", "tiny", "--images", *photos[:2], "--out", tmp_path / "out"]
    options += ["--methods", "moxi,shapley", "--modes", "insertion", "--budget", 4]
    assert study(*options, "--n-samples", "shapley=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "images     2 studied, 0 misclassified and skipped"
    assert lines[1] == f"table      {tmp_path / 'out' / 'tiny.parquet'} (2 images in all)"
    table = pd.read_parquet(tmp_path / "out" / "tiny.parquet")
    assert set(table["method"]) == {"moxi", "shapley"} and set(table["mode"]) == {"insertion"}
    assert not table["exact"].all()
    assert study(*options, "--n-samples", 3) == 2
    assert 'n_samples is {"shapley": 2} there and {"shapley": 3} now' in capsys.readouterr().err


def test_several_numbers_of_samples(study, photos, tmp_path, capsys):
    options = ["--model", "tiny", "--images", photos[0], "--out", tmp_path / "out"]
    options += ["--methods", "shapley,rise", "--modes", "insertion"]
    assert study(*options, "--n-samples", "shapley=1:3,rise=4") == 0
    table = pd.read_parquet(tmp_path / "out" / "tiny.parquet")
    assert set(table["method"]) == {"shapley-1", "shapley-3", "rise"}
    assert study(*options, "--n-samples", "3:1") == 2
    assert "rising numbers, got [3, 1]" in capsys.readouterr().err
    assert study(*options, "--n-samples", "shapley=1:") == 2
    assert "expected a number or NAME=NUMBER" in capsys.readouterr().err


def test_the_command_reports_failures(study, photos, tmp_path, capsys):
    options = ["--model", "tiny", "--methods", "random", "--out", tmp_path / "out", "--images"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert study(*options, photos[0], broken) == 1
    captured = capsys.readouterr()
    assert "1 studied" in captured.out
    assert "failed     broken-" in captured.err and "ValueError" in captured.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--methods", "mxoi"], 2, "Did you mean 'moxi"),
        (["--jobs", "0"], 2, "jobs must be at least 1"),
        (["--images", "9-3"], 2, "--images 9-3 is empty"),
        (["--images", "0-9:0"], 2, "--images 0-9:0 is empty"),
        (["--images", "3"], 2, "5 classes"),
        (["--model", "absent"], 1, "are unavailable"),
    ],
)
def test_the_command_tells_what_is_wrong(study, tmp_path, capsys, options, code, message):
    (tmp_path / "a.png").touch()
    defaults = ["--model", "tiny", "--images", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert study(*defaults, *options) == code
    error = capsys.readouterr().err
    assert error.startswith("moxi-lite: error: ") and message in error and error.count("\n") == 1


def test_numbers_ranges_and_paths_of_images():
    given = ["7", "0-10:5", "cat.jpg", "3-4", "1-2-3"]
    expected = [[7], [0, 5, 10], ["cat.jpg"], [3, 4], ["1-2-3"]]
    assert [list(cli._images(text)) for text in given] == expected
    assert len(cli._images("0-999:50")) == 20


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C as a terminal of Unix does")
def test_an_interrupt_ends_all_processes_without_a_word(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import time\n"
        "from moxi_lite import cli\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with cli._executor(2) as pool:\n"
        "            print(list(pool.map(abs, [1, -2])), flush=True)\n"
        "            [pool.submit(time.sleep, 600) for _ in range(8)][7].result()\n"
        "    except KeyboardInterrupt:\n"
        "        raise SystemExit(130)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == "[1, 2]\n"
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_a_device_that_is_not_there_is_refused_before_work(study, photos, tmp_path, capsys):
    options = ["--model", "tiny", "--methods", "random", "--images", photos[0], "--jobs", 2]
    assert study(*options, "--device", "cuda:99", "--out", tmp_path / "out") == 2
    assert "device 'cuda:99' cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_reader_that_stops_loses_nothing(command, photos, tmp_path, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as closed:
        monkeypatch.setattr("sys.stdout", closed)
        (tmp_path / "broken.png").touch()
        assert command(*photos[:2], tmp_path / "broken.png") == 1, "nor the exit code"
    assert pd.read_parquet(tmp_path / "out" / "tiny.parquet")["image"].nunique() == 2
    assert capsys.readouterr().err.startswith("failed     broken-")


def test_paths_that_cannot_be_images_are_wrong_input(command, photos, tmp_path, capsys):
    assert command(photos[0], tmp_path) == 2
    assert f"{tmp_path} is a folder, expected an image" in capsys.readouterr().err
    assert command(photos[0], tmp_path / "aa.png") == 2
    assert "1 image file does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "no empty folder is left"


def test_a_file_in_the_place_of_the_folder_is_wrong_input(command, photos, capsys):
    assert command(photos[0], out=photos[1]) == 2
    assert "it is a file. Name another folder." in capsys.readouterr().err
    assert command(photos[0], out=photos[1] / "out") == 2
    assert "cannot write into the folder" in capsys.readouterr().err


def test_a_disk_that_gets_full_exits_1(command, photos, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moxi_lite.study.store.write_atomically", full)
    assert command(*photos) == 1
    assert "cannot write into the study folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 1), (RuntimeError("died"), 1)]
)
def test_exit_codes_of_what_ends_a_study(error, code, command, photos, monkeypatch, capsys):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("moxi_lite.study.run_study", fails)
    assert command(*photos) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_messages_of_the_library_are_printed_as_they_are(command, photos, capsys):
    assert command(*photos, options=["--seed", "-1"]) == 2
    said = "moxi-lite: error: random_state must be at least 0, got -1.\n"
    assert capsys.readouterr().err == said
    assert command(*photos, options=["--grid", "9x9", "--masking", "drop"]) == 2
    assert 'for example masking="mean"' in capsys.readouterr().err


def test_a_grid_that_tokens_do_not_fit_is_painted(command, photos):
    assert command(*photos[:1], options=["--grid", "9x9"]) == 0


@pytest.mark.parametrize("kind", ["table", "folders"])
def test_labels_from_a_table_or_folders(study, photos, tmp_path, capsys, kind):
    source = tmp_path / "photos"
    labels = dict(zip(photos[:2], ("class 1", "3"), strict=True))
    for path, label in labels.items():
        (source / label).mkdir(parents=True)
        (source / label / path.name).write_bytes(path.read_bytes())
    if kind == "table":
        rows = [f"{label}/{path.name},{label}" for path, label in labels.items()]
        source = source / "labels.csv"
        source.write_text("\n".join(["image,label", *rows]))
    options = ["--model", "tiny", "--methods", "random", "--modes", "insertion"]
    options += ["--out", tmp_path / "out", "--include-misclassified"]
    assert study(*options, "--labels", source) == 0
    table = pd.read_parquet(tmp_path / "out" / "tiny.parquet")
    assert sorted(table["target"].unique()) == [1, 3]
    assert study(*options) == 2
    assert "pass --images, --labels or both" in capsys.readouterr().err
    assert study(*options, "--labels", tmp_path / "absent.csv") == 2
