"""The command line: results, messages, exit codes."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import moxi_lite
from moxi_lite import cli
from moxi_lite.explanation import Explanation
from moxi_lite.files import write_atomically
from moxi_lite.models import WeightsUnavailableError, available_models, load_model, set_sum
from moxi_lite.models.load import check_model_name
from moxi_lite.patches import MASKINGS

NAMES = ("tabby, tabby cat", "dog", "owl")


def tiny_vit():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3
    )


def tiny_cnn():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / "my cat.v2.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def tiny(monkeypatch):
    """Any known model name loads a tiny ViT, or a tiny CNN for efficientnet_lite0."""
    calls = []

    def load(name, *, fallback=None, device=None):
        check_model_name(name)
        calls.append({"name": name, "fallback": fallback})
        module = tiny_cnn() if name == "efficientnet_lite0" else tiny_vit()
        grid = (4, 4)
        return load_model(module, input_size=32, class_names=NAMES, grid=grid, device=device)

    monkeypatch.setattr("moxi_lite.models.load_model", load)
    return calls


def error_of(capsys):
    """The one line on stderr."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("moxi-lite: error: ")
    return lines[0]


def test_explain_writes_three_files(photo, tiny, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    arguments = ["explain", str(photo), "--stop", "none", "--budget", "3", "--out", str(out)]
    assert cli.main([*arguments, "--target", "tabby"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "my_cat.v2-insertion.html",
        "my_cat.v2-insertion.json",
        "my_cat.v2-insertion.png",
    ]
    ex = Explanation.load(out / "my_cat.v2-insertion.json")
    assert len(ex) == 3 and ex.target == 0 and ex.masking == "drop"
    with Image.open(out / "my_cat.v2-insertion.png") as picture:
        assert picture.format == "PNG" and picture.width > 400
    assert (out / "my_cat.v2-insertion.html").read_text().startswith("<!DOCTYPE html>")
    captured = capsys.readouterr()
    assert "3 of 16 patches (18.8 %) inserted" in captured.out
    assert "probability 0." in captured.out and "SHA-256" in captured.out
    assert str(out / "my_cat.v2-insertion.png") in captured.out
    assert captured.err == "", "no progress bar unless a terminal shows it"
    assert tiny == [{"name": cli.DEFAULT_MODEL, "fallback": "efficientnet_lite0"}]


@pytest.mark.parametrize("mode", ["insertion", "deletion"])
def test_explain_stops_at_the_flip_by_default(mode, photo, tiny, tmp_path):
    assert cli.main(["explain", str(photo), "--mode", mode, "--out", str(tmp_path)]) == 0
    ex = Explanation.load(tmp_path / f"my_cat.v2-{mode}.json")
    assert ex.mode == mode
    assert ex.stop_reason == "flip" or len(ex) == 16


def test_target_already_lost_needs_no_step(photo, tiny, tmp_path, capsys):
    """Deleting until the model no longer says a class that it never said."""
    sees = Explanation.load
    assert cli.main(["explain", str(photo), "--out", str(tmp_path), "--budget", "1"]) == 0
    predicted = sees(tmp_path / "my_cat.v2-insertion.json").target
    other = str((predicted + 1) % 3)
    capsys.readouterr()
    arguments = ["--mode", "deletion", "--target", other, "--out", str(tmp_path)]
    assert cli.main(["explain", str(photo), *arguments]) == 0
    assert "0 of 16 patches" in capsys.readouterr().out
    assert len(sees(tmp_path / "my_cat.v2-deletion.json")) == 0


def test_masking_is_chosen_and_said(photo, tiny, tmp_path, capsys):
    common = ["explain", str(photo), "--budget", "1", "--out", str(tmp_path)]
    assert cli.main([*common, "--model", "efficientnet_lite0"]) == 0
    assert "mean colour instead of token deletion: Sequential is not" in capsys.readouterr().out
    assert tiny[-1] == {"name": "efficientnet_lite0", "fallback": None}
    assert cli.main([*common, "--grid", "2x5"]) == 0
    assert "the grid 2x5 is finer than its tokens, 4x4" in capsys.readouterr().out
    assert Explanation.load(tmp_path / "my_cat.v2-insertion.json").grid == (2, 5)
    assert cli.main([*common, "--masking", "blur"]) == 0
    assert "masking blur" in capsys.readouterr().out


def test_maskings_in_the_help_are_all_there_are(capsys):
    assert cli.main(["explain", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in MASKINGS)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--model", "vit_tinny_patch16_224"], "'vit_tiny_patch16_224'"),
        (["--masking", "blurr"], "'blur'"),
        (["--target", "tabbby"], "'tabby'"),
        (["--target", "3"], "0 to 2"),
        (["--budget", "0"], "in 1..16, got 0"),
        (["--budget", "17"], "in 1..16, got 17"),
        (["--budget", "few"], "invalid int value"),
        (["--mode", "both"], "invalid choice"),
        (["--grid", "14"], "14x14"),
        (["--grid", "0x4"], "grid must be one positive whole number or two"),
        (["--grid", "99x99"], "grid"),
        (["--grid", "9x9", "--masking", "drop"], "finer than its tokens"),
        (["--device", "warp9"], "warp9"),
        (["--device", "cuda:99"], "Available: cpu"),
    ],
)
def test_bad_options_exit_2(extra, said, photo, tiny, tmp_path, capsys):
    assert cli.main(["explain", str(photo), "--out", str(tmp_path / "out"), *extra]) == 2
    assert said in error_of(capsys)
    assert not (tmp_path / "out").exists(), "no empty folder is left"


def test_bad_photos_and_folders_exit_2(photo, tiny, tmp_path, capsys):
    assert cli.main(["explain", str(tmp_path / "none.jpg"), "--out", str(tmp_path / "o")]) == 2
    assert "none.jpg" in error_of(capsys)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a photo")
    assert cli.main(["explain", str(broken), "--out", str(tmp_path / "o")]) == 2
    error_of(capsys)
    assert cli.main(["explain", str(photo), "--out", str(photo)]) == 2
    assert "cannot write into the folder" in error_of(capsys)
    assert not (tmp_path / "o").exists()
    assert tiny == [], "no model is loaded for input that is wrong"


def test_usage_errors_exit_2(capsys):
    for arguments in ([], ["explain"], ["explian"], ["explain", "a.jpg", "--bogus"]):
        assert cli.main(arguments) == 2
        assert "--help" in error_of(capsys)


def test_missing_weights_exit_1_in_one_line(photo, monkeypatch, tmp_path, capsys):
    def load(name, **_):
        raise WeightsUnavailableError("the weights are unavailable.\nSought: here.")

    monkeypatch.setattr("moxi_lite.models.load_model", load)
    assert cli.main(["explain", str(photo), "--out", str(tmp_path)]) == 1
    assert "are unavailable. Sought: here." in error_of(capsys)


def test_ctrl_c_exits_130(photo, tiny, monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("moxi_lite.search.explain", interrupted)
    assert cli.main(["explain", str(photo), "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "moxi-lite: stopped\n"


def test_full_disk_exits_1(photo, tiny, monkeypatch, tmp_path, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moxi_lite.files.write_atomically", full)
    assert cli.main(["explain", str(photo), "--budget", "1", "--out", str(tmp_path)]) == 1
    assert "No space left" in error_of(capsys)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA error:\nout of memory"), "CUDA error: out of memory"),
        (ValueError("the reward of coalition 3 is NaN"), "coalition 3 is NaN"),
    ],
)
def test_failures_during_the_search_exit_1(error, said, photo, tiny, monkeypatch, tmp_path, capsys):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("moxi_lite.search.explain", fails)
    out = tmp_path / "new" / "folder"
    assert cli.main(["explain", str(photo), "--out", str(out)]) == 1
    assert said in error_of(capsys)
    assert not (tmp_path / "new").exists()


def test_a_lack_of_memory_while_loading_exits_1(photo, monkeypatch, tmp_path, capsys):
    def load(name, **_):
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr("moxi_lite.models.load_model", load)
    assert cli.main(["explain", str(photo), "--out", str(tmp_path)]) == 1
    assert "CUDA out of memory." in error_of(capsys)


def test_an_empty_folder_that_was_there_stays(tmp_path):
    assert cli.main(["explain", str(tmp_path / "none.jpg"), "--out", str(tmp_path)]) == 2
    assert tmp_path.is_dir()


def test_a_long_name_of_a_photo_is_cut(photo, tiny, tmp_path):
    long = photo.rename(photo.with_name("猫" * 80 + ".png"))
    out = tmp_path / "out"
    assert cli.main(["explain", str(long), "--budget", "1", "--out", str(out)]) == 0
    assert (out / f"{'猫' * 26}-insertion.json").exists()


def test_a_folder_in_the_place_of_a_result_is_told_before_work(photo, tiny, tmp_path, capsys):
    (tmp_path / "my_cat.v2-insertion.html").mkdir()
    assert cli.main(["explain", str(photo), "--out", str(tmp_path)]) == 2
    said = error_of(capsys)
    assert "my_cat.v2-insertion.html is a folder, but the slider" in said and "--out" in said
    assert tiny == [] and not list(tmp_path.glob("*insertion.png"))


def test_files_that_are_replaced_are_named(photo, tiny, tmp_path, capsys):
    common = ["--budget", "1", "--out", str(tmp_path / "out")]
    assert cli.main(["explain", str(photo), *common]) == 0
    assert "replaces" not in capsys.readouterr().out
    (tmp_path / "out" / "my_cat.v2-insertion.json").unlink()
    with Image.open(photo) as image:
        image.save(photo.with_suffix(".bmp"))
    assert cli.main(["explain", str(photo.with_suffix(".bmp")), *common]) == 0
    said = "replaces   my_cat.v2-insertion.png, my_cat.v2-insertion.html\n"
    assert said in capsys.readouterr().out


def test_errors_of_writing_name_the_file(tmp_path):
    (tmp_path / "a.png").mkdir()
    for name, reason in [("a.png", IsADirectoryError), ("x" * 300, OSError)]:
        with pytest.raises(reason) as caught:
            write_atomically(tmp_path / name, b"")
        assert caught.value.filename == str(tmp_path / name)
        assert str(caught.value).endswith(f"{str(tmp_path / name)!r}"), "not the temporary file"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_reader_that_stops_loses_no_file(photo, tiny, monkeypatch, tmp_path, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert cli.main(["explain", str(photo), "--budget", "1", "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("my_cat.v2-insertion.*"))) == 3
    assert capsys.readouterr().err == ""


def test_the_picture_shows_all_steps_after_the_flip(photo, tiny, tmp_path):
    arguments = ["--stop", "none", "--budget", "5", "--out", str(tmp_path)]
    assert cli.main(["explain", str(photo), *arguments]) == 0
    ex = Explanation.load(tmp_path / "my_cat.v2-insertion.json")
    other = (ex.target + 1) % 3
    turned = np.array([other, *[ex.target] * 4])
    ex = dataclasses.replace(ex, start_prediction=other, predictions=turned)
    assert ex.patches_to_flip() == 2
    ax, bar = cli._figure(ex).axes
    assert ax.get_title() == "5 of 16 patches inserted; the prediction turned at 2"
    assert bar.get_ylim() == (5.5, 0.5)
    whole = dataclasses.replace(ex, predictions=np.full(5, other))
    assert cli._figure(whole).axes[0].get_title() == "5 of 16 patches inserted"


@pytest.mark.parametrize("name", set_sum.SET_SUM_MODELS)
def test_shipped_models_can_be_explained(name, photo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(set_sum, "WEIGHTS_FOLDER", tmp_path)
    torch.manual_seed(0)
    card = {"data": {"source": "nothing"}}
    set_sum.save_set_sum(name, set_sum.build_set_sum(name), card, tmp_path)
    out = tmp_path / "out"
    arguments = ["--model", name, "--stop", "none", "--device", "cpu", "--out", str(out)]
    assert cli.main(["explain", str(photo), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 patches" in printed and "instead of token deletion" not in printed
    assert cli.main(["explain", str(photo), *arguments, "--grid", "4x4", "--budget", "1"]) == 0
    assert "instead of token deletion" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("photo", "stem"),
    [
        ("a/b/cat.jpg", "cat"),
        ("https://example.org/x/my%20cat.jpeg?size=3", "my_cat"),
        ("https://example.org/", "photo"),
        ("x" * 300 + ".png", "x" * 80),
        ("猫" * 80 + ".jpg", "猫" * 26),
        ("ü" * 80 + ".jpg", "ü" * 40),
    ],
)
def test_file_names(photo, stem):
    assert cli._stem(photo) == stem


def test_models_are_listed(capsys):
    assert cli.main(["models"]) == 0
    note, *names = capsys.readouterr().out.splitlines()
    assert note.startswith(f"{len(names)} models. Tokens of absent patches")
    assert [name.strip() for name in names] == available_models()
    assert cli.main(["models", "resnet1?"]) == 0
    assert "  resnet18" in capsys.readouterr().out.splitlines()
    assert cli.main(["models", "VIT_tiny_patch16"]) == 0
    assert "  vit_tiny_patch16_224" in capsys.readouterr().out.splitlines()
    assert cli.main(["models", "resnett18"]) == 2
    assert "resnet18" in error_of(capsys)


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"moxi-lite {moxi_lite.__version__}\n"
    assert cli.main(["explain", "--help"]) == 0
    assert "--masking" in capsys.readouterr().out


def test_nothing_heavy_is_imported_for_the_help():
    program = (
        "import contextlib, sys\n"
        "from moxi_lite.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "print(sorted({'torch', 'timm', 'numpy', 'matplotlib', 'pandas'} & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "moxi_lite.cli", "models"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def closed_pipe():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        yield stream


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_device_is_told_in_one_line(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert cli.main(["models", "vit_tiny"]) == 1
    said = "moxi-lite: error: cannot write to the standard output: No space left on device.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("options", [["models", "vit_tiny"], ["--help"], ["--version"]])
def test_a_reader_that_stops_is_no_error(options, monkeypatch, closed_pipe, capsys):
    monkeypatch.setattr("sys.stdout", closed_pipe)
    assert cli.main(options) == 0
    assert capsys.readouterr().err == ""


def test_the_exit_code_of_an_error_outlives_the_reader(monkeypatch, closed_pipe):
    monkeypatch.setattr("sys.stderr", closed_pipe)
    assert cli.main(["models", "vitt_tiny"]) == 2


def test_a_closed_standard_output_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert cli.main(["models", "vit_tiny"]) == 0
    assert capsys.readouterr().err == ""


def test_without_an_error_stream_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    assert cli.main(["models", "vitt_tiny"]) == 2
    assert capsys.readouterr().out == ""


def test_errors_of_the_system_name_the_file_first(photo, tiny, monkeypatch, tmp_path, capsys):
    def forbidden(_):
        raise PermissionError(13, "Permission denied", "cat.png")

    monkeypatch.setattr("moxi_lite.data.load_image", forbidden)
    assert cli.main(["explain", str(photo), "--out", str(tmp_path)]) == 2
    assert error_of(capsys) == "moxi-lite: error: cat.png: Permission denied"


def test_what_the_encoding_lacks_is_escaped(photo, tiny, monkeypatch, tmp_path):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    photo = photo.rename(photo.with_name("\u732b.png"))
    out = str(tmp_path / "out")
    assert cli.main(["explain", str(photo), "--budget", "1", "--out", out]) == 0
    assert rb"\u732b.png" in raw.getvalue()


@pytest.mark.hub
def test_explain_with_real_weights(tmp_path, capsys):
    photo = tmp_path / "cat.png"
    moxi_lite.sample_photo("chelsea").save(photo)
    arguments = ["--model", "efficientnet_lite0", "--grid", "2x2", "--budget", "1"]
    assert cli.main(["explain", str(photo), *arguments, "--out", str(tmp_path)]) == 0
    assert "(class 28" in capsys.readouterr().out, "one of the domestic cats, 281 to 285"
    record = json.loads((tmp_path / "cat-insertion.json").read_text())
    assert record["model"] == "efficientnet_lite0" and len(record["order"]) <= 1


def test_curves_writes_a_curve_and_a_strip(photo, tiny, tmp_path, capsys):
    common = ["curves", str(photo), "--corruption", "fog", "--level", "5", "--out", str(tmp_path)]
    for method in ("moxi", "random"):
        assert cli.main([*common, "--method", method, "--budget", "3"]) == 0
        told = json.loads((tmp_path / f"my_cat.v2-{method}-fog-5.json").read_text())
        assert sorted(told["order"]) == list(range(16)) and len(told["probability"]) == 17
        assert (told["corruption"], told["level"], told["fraction"][-1]) == ("fog", 5, 1.0)
        with Image.open(tmp_path / f"my_cat.v2-{method}-fog-5.png") as picture:
            assert picture.width > 1000
    assert "class lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--corruption", "fogg"], "unknown corruption 'fogg'. Did you mean 'fog'"),
        (["--method", "gradcamm"], "unknown method 'gradcamm'"),
        (["--level", "6"], "level must be in 0..5, got 6"),
        (["--budget", "17"], "budget must be in 1..16"),
    ],
)
def test_curves_refuses_wrong_input_before_work(extra, said, photo, tiny, tmp_path, capsys):
    assert cli.main(["curves", str(photo), "--out", str(tmp_path / "new"), *extra]) == 2
    assert said in error_of(capsys)
    assert not (tmp_path / "new").exists()
