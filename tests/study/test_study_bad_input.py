"""Studies: wrong arguments are refused before work."""

import json
from pathlib import Path

import pytest
import torch
from tables import assert_same_tables

from moxi_lite.models import load_model
from moxi_lite.study import STUDY_METHODS, run_study

MODES = ["insertion", "deletion"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"methods": ["mxoi"]}, ValueError, "unknown method 'mxoi'. Did you mean 'moxi"),
        ({"methods": ["grad-cam"]}, ValueError, "Did you mean 'gradcam"),
        ({"methods": "moxi"}, TypeError, r"such as \['moxi'\], not 'moxi'"),
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
        ({"n_samples": "50", "methods": ["shapley"]}, TypeError, r"rising numbers, .* got '50'"),
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
        ({"grid": 9, "masking": "drop"}, ValueError, "9x9 is finer"),
        ({"grid": (9, 9), "masking": "drop"}, ValueError, "is finer"),
        ({"dtype": "float31"}, ValueError, "unknown dtype 'float31'. Did you mean 'float32'"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
        ({"random_state": None}, TypeError, "random_state must be a whole number, got None"),
        ({"device": "cpu"}, ValueError, "device is for models given by name"),
        ({"images": []}, ValueError, "images is empty"),
        ({"images": {"a.png": 2}}, TypeError, r"pass pairs, list\(images.items\(\)\)"),
        (
            {"executor": 2},
            TypeError,
            "executor must be a concurrent.futures.Executor or None, not 2",
        ),
        ({"images": "cat.jpg"}, TypeError, "images must be a sequence"),
        ({"images": [3.5]}, TypeError, "not float"),
        ({"images": [281]}, ValueError, "has 5 classes instead of 1000: pass pairs"),
        ({"images": [("a.png", 7)]}, IndexError, "class index 7 is out of range"),
        ({"images": [("a.png", "clas 3")]}, ValueError, "unknown class 'clas 3'. Did you mean"),
        ({"images": [("a.png", 1.5)]}, TypeError, "a class is its name or its index, not 1.5"),
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


def test_the_masking_that_auto_stands_for_is_stored(tiny_vit, tiny_cnn, photos, tmp_path):
    for model, grid, masking in (
        (tiny_vit, 2, "drop"),
        (tiny_vit, 9, "mean"),
        (tiny_cnn, 2, "mean"),
    ):
        out = tmp_path / f"{model.name}-{grid}"
        result = run_study(photos[:1], model, ["random"], ["insertion"], out, grid=grid)
        assert result.provenance["settings"]["masking"] == masking


def test_methods_that_the_model_does_not_allow_are_refused_before_work(
    tiny_cnn, photos, tmp_path, evaluations
):
    with pytest.raises(ValueError, match='masking="mean"'):
        run_study(photos, tiny_cnn, ["moxi"], MODES, tmp_path / "a", masking="drop")
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
            r"^rollout is not defined for Sequential: .*: leave 'rollout' out of the methods\.$",
        ),
        ({"methods": STUDY_METHODS}, "leave 'rollout' out of the methods"),
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
    methods = ["gradcam", "gradcam++-paper", "rollout", "random"]
    with pytest.raises(ValueError, match=r"no layer for Grad-CAM .* leave 'gradcam' out") as error:
        run_study(photos, model, methods, MODES, tmp_path / "out", masking="mean")
    assert "target_layer" not in str(error.value)


def test_a_module_is_not_a_model(tiny_vit, photos, tmp_path):
    with pytest.raises(TypeError, match="returns a Classifier"):
        run_study(photos, 3, ["moxi"], MODES, tmp_path)
    for model in (tiny_vit.module, lambda: tiny_vit.module):
        with pytest.raises(TypeError, match=r"got VisionTransformer\. load_model wraps"):
            run_study(photos, model, ["moxi"], MODES, tmp_path)
