"""What the command line prints when nobody reads it, and errors in words for the shell."""

import io
import os
import sys
from pathlib import Path

import pytest
import timm
import torch

from moxi_lite import cli, load_model
from moxi_lite.cli_output import PatientOutput, fail, in_shell_words, shows_progress
from moxi_lite.data import photos as data
from moxi_lite.models import weights as weights_module
from moxi_lite.patches import make_masking
from moxi_lite.study import StudyFolder, make_settings, run_study


@pytest.fixture
def closed_pipe():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        yield stream


def full_device():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    return open("/dev/full", "w")


def test_output_goes_through_until_the_reader_goes(capsys, closed_pipe):
    with open(os.devnull, "w") as stream:
        output = PatientOutput(stream)
        assert output.write("four") == 4 and output.problem is None
        assert output.fileno() == stream.fileno() and not output.isatty()
    output = PatientOutput(closed_pipe)
    print("lost", file=output, flush=True)
    assert isinstance(output.problem, BrokenPipeError)
    print("lost, too", file=output, flush=True)
    closed_pipe.flush()  # as Python does on exit


def test_a_closed_standard_output_is_none():
    output = PatientOutput(None)
    print("lost", file=output, flush=True)
    assert output.problem is None


def test_a_full_device_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", full_device())
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


def test_errors_of_the_system_name_the_file_first(capsys):
    assert fail(PermissionError(13, "Permission denied", "a.png"), 2) == 2
    assert capsys.readouterr().err == "moxi-lite: error: a.png: Permission denied\n"


def asked(**changed):
    """Arguments of `make_settings`, wrong where they are changed."""
    plain = {"budget": None, "masking": "mean", "grid": None, "dtype": None, "n_samples": None}
    plain |= {"random_state": 0, "only_correct": True, "methods": ["rise"], "modes": ["insertion"]}
    return plain | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"random_state": -1}, "--seed must be at least 0"),
        ({"n_samples": 3}, "--n-samples 3 is for shapley and shapley-paper"),
        ({"n_samples": 3}, "name the method, as in --n-samples rise=1000."),
        ({"n_samples": {"rise": 3}}, "--n-samples of rise must be even"),
        ({"n_samples": {"moxi": 3}}, "method of --n-samples among those that draw"),
    ],
)
def test_settings_are_named_as_options(changed, words, tiny_vit):
    with pytest.raises(ValueError) as caught:
        make_settings(tiny_vit, **asked(**changed))
    assert words in in_shell_words(str(caught.value))


def test_differing_settings_are_named_as_options(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.prepare()
    folder.adopt_settings({"random_state": 0, "only_correct": True})
    with pytest.raises(ValueError) as caught:
        folder.adopt_settings({"random_state": 1, "only_correct": False})
    said = in_shell_words(str(caught.value))
    assert "--seed is 0 there and 1 now" in said
    assert "only_correct (the opposite of --include-misclassified) is true there" in said


def test_advice_of_the_library_becomes_advice_for_the_shell(monkeypatch, tmp_path, tiny_cnn):
    """The real messages, so that the table is noticed to be stale when they change."""
    monkeypatch.setattr(weights_module.hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights_module, "cached_weights", lambda *_: None)
    with pytest.raises(weights_module.WeightsUnavailableError) as weights:
        load_model("vit_tiny_patch16_224")
    said = in_shell_words(str(weights.value))
    assert "or use --model efficientnet_lite0, whose" in said and "load_model" not in said

    monkeypatch.setenv("MOXI_LITE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(data, "why_unreachable", lambda *_: "no network")
    with pytest.raises(data.ImagesUnavailableError) as image:
        data.imagenet_sample(281)
    said = in_shell_words(str(image.value))
    assert said.endswith("; or use photographs of your own, by path or address.")

    with pytest.raises(ValueError) as masking:
        make_masking(tiny_cnn.module, torch.zeros(3, 32, 32), "drop", (4, 4))
    assert in_shell_words(str(masking.value)).endswith("for example --masking mean.")

    arguments = (
        [data.sample_photo("chelsea")],
        tiny_cnn,
        ["rollout", "random"],
        ["insertion"],
        tmp_path / "out",
    )
    with pytest.raises(ValueError) as method:
        run_study(*arguments, masking="mean")
    assert "Leave 'rollout' out of --methods, which" in in_shell_words(str(method.value))

    unpublished = set(timm.list_models()) - set(timm.list_pretrained())
    unpublished -= {name.partition(".")[0] for name in timm.list_pretrained()}
    with pytest.raises(ValueError) as name:
        weights_module.check_name(min(unpublished))
    assert "choose one that `moxi-lite models` lists" in in_shell_words(str(name.value))


def test_what_the_encoding_lacks_is_escaped():
    raw = io.BytesIO()
    output = PatientOutput(io.TextIOWrapper(raw, encoding="ascii"))
    output.write("\u732b.png")
    output.flush()
    assert raw.getvalue() == rb"\u732b.png" and output.problem is None


def test_a_closed_stream_drops_everything():
    stream = io.StringIO()
    stream.close()
    output = PatientOutput(stream)
    assert output.write("text") == 4
    output.flush()
    assert output.problem is None


def test_without_an_error_stream_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert not shows_progress()
    assert fail(ValueError("wrong"), 2) == 2
    assert capsys.readouterr().out == ""
