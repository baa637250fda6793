"""``moxi-lite study``: exit codes, folders, and what is told in words for the shell."""

import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moxi_lite import cli


@pytest.fixture
def photos(tmp_path):
    """Paths of two different images."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


@pytest.fixture
def command(tiny_vit, monkeypatch, tmp_path):
    """Run ``moxi-lite study`` on a tiny model."""

    def load(name, *, device=None):
        return dataclasses.replace(tiny_vit, name=name)

    monkeypatch.setattr("moxi_lite._study_settings.load_model", load)

    def run(*images, out=tmp_path / "out", options=()):
        arguments = ["--model", "tiny", "--methods", "random", "--modes", "insertion"]
        named = ["--images", *map(str, images), "--out", str(out), *options]
        return cli.main(["study", *arguments, *named])

    return run


def test_a_reader_that_stops_loses_nothing(command, photos, tmp_path, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as closed:
        monkeypatch.setattr("sys.stdout", closed)
        (tmp_path / "broken.png").touch()
        assert command(*photos, tmp_path / "broken.png") == 1, "nor the exit code"
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

    monkeypatch.setattr("moxi_lite._study_store.write_atomically", full)
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


def test_advice_names_options(command, photos, capsys):
    assert command(*photos, options=["--seed", "-1"]) == 2
    assert "--seed must be at least 0" in capsys.readouterr().err
    assert command(*photos, options=["--grid", "3x3"]) == 2
    assert "for example --masking mean" in capsys.readouterr().err


def test_missing_samples_are_told_in_words_for_the_shell(command, photos, monkeypatch, capsys):
    def missing(image):
        raise FileNotFoundError("set MOXI_LITE_DATA_DIR; or use sample_photo('chelsea').")

    monkeypatch.setattr("moxi_lite._study_work.open_image", missing)
    assert command(*photos) == 1
    said = capsys.readouterr().err
    assert "or use photographs of your own" in said and "sample_photo" not in said
