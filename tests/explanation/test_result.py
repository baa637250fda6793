"""Explanation: heatmap, visible patches, and saving without loss."""

import json
from dataclasses import replace

import numpy as np
import pytest

from moxi_lite.explanation import Explanation


@pytest.fixture
def ex():
    return Explanation(
        order=np.array([3, 0]),
        values=np.array([-1.25, 2.5]),
        f_empty=-3.0,
        f_full=4.0,
        n_players=4,
        n_evaluations=7,
        mode="insertion",
        stop_reason="flip",
        predictions=np.array([7, 1]),
        confidences=np.array([0.25, 0.75]),
        start_prediction=7,
        start_confidence=0.5,
        step_evaluations=np.array([4, 7]),
        target=1,
        grid=(2, 2),
        labels={1: 'a "cat" </script>', 7: "dög"},
        image=np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        model="tiny",
        masking="drop",
        reward="log_odds",
    )


def test_heatmap(ex):
    np.testing.assert_array_equal(ex.heatmap(), [[0.5, np.nan], [np.nan, 1.0]])


def test_summary(ex):
    assert ex.patches_to_flip() == 2
    assert ex.summary() == (
        "2 of 4 patches (50.0 %) inserted; the model then says 'a \"cat\" </script>', "
        "probability 0.750"
    )
    went_on = replace(ex, predictions=np.array([1, 1]))
    assert went_on.summary().endswith(
        "probability 0.750; the prediction turned at 1, to 'a \"cat\" </script>', probability 0.250"
    )
    never = replace(ex, predictions=np.array([7, 8]), confidences=None)
    assert never.summary().endswith("then says 'class 8'; the prediction did not turn")
    already = replace(ex, mode="deletion")
    assert already.summary() == (
        "2 of 4 patches (50.0 %) removed; already with all of them the model says 'dög'"
    )
    assert replace(ex, target=None).summary().endswith("probability 0.750")
    bare = Explanation(ex.order, ex.values, 0, 1, 3, 5, "insertion", "budget")
    assert bare.summary() == "2 of 3 players (66.7 %) inserted"


def test_visible(ex):
    assert ex.visible(0).tolist() == [False] * 4
    assert ex.visible(1).tolist() == [False, False, False, True]
    with pytest.raises(IndexError, match=r"0\.\.2"):
        ex.visible(3)


def test_table_has_a_row_a_step(ex):
    table = ex.table()
    assert table.index.name == "step" and table.index.tolist() == [1, 2]
    assert table.to_dict("list") == {
        "patch": [3, 0],
        "row": [1, 0],
        "column": [1, 0],
        "value": [-1.25, 2.5],
        "class": ["dög", 'a "cat" </script>'],
        "probability": [0.25, 0.75],
        "evaluations": [4, 7],
    }
    bare = Explanation(ex.order, ex.values, 0, 1, 4, 7, "insertion", "budget")
    assert bare.table().columns.tolist() == ["player", "value"]
    none = replace(bare, order=ex.order[:0], values=ex.values[:0])
    assert len(none.table()) == 0


def test_files_of_the_first_version_still_load(ex, tmp_path):
    path = ex.save(tmp_path / "ex.json")
    record = json.loads(path.read_text("utf-8"))
    del record["step_evaluations"]
    path.write_text(json.dumps(record | {"version": 1}), "utf-8")
    old = Explanation.load(path)
    assert old.step_evaluations is None and "evaluations" not in old.table()
    np.testing.assert_array_equal(old.values, ex.values)


def test_save_and_load_keep_everything(ex, tmp_path):
    path = ex.save(tmp_path / "ex.json")
    back = Explanation.load(path)
    for name in vars(ex):
        one, other = getattr(ex, name), getattr(back, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other, name
    assert [file.name for file in tmp_path.iterdir()] == ["ex.json"]


def test_a_failed_save_leaves_the_old_file(ex, tmp_path, monkeypatch):
    path = ex.save(tmp_path / "ex.json")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        ex.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["ex.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "not JSON"),
        ("[]", "not a saved Explanation"),
        ('{"a": 1}', "not a saved Explanation"),
        ('{"format": "moxi-lite explanation", "version": 99}', "version 99"),
        ('{"format": "moxi-lite explanation", "version": 1}', "damaged"),
    ],
)
def test_load_refuses_other_files(tmp_path, content, words):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        Explanation.load(path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("order", "abc", "damaged"),
        ("order", [3, 3], "different players out of 4"),
        ("order", [3.7, 0.2], "Cannot cast array data from dtype.'float64'"),
        ("order", [3, 10**30], "damaged"),
        ("order", [3, 500], "different players out of 4"),
        ("values", [1.0], r"values has shape \(1,\) for 2 steps"),
        ("labels", [1], "damaged"),
        ("image", "bm90IGEgcG5n", "damaged"),
        ("mode", "swap", "its mode is 'swap'"),
        ("grid", [3, 3], "cannot reshape array of size 4"),
    ],
)
def test_load_refuses_damaged_files(ex, tmp_path, field, value, words):
    path = ex.save(tmp_path / "ex.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=words) as told:
        Explanation.load(path)
    assert "ex.json" in str(told.value)


def test_load_refuses_a_photograph(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(bytes([255, 216, 255, 224]))
    with pytest.raises(ValueError, match=r"photo\.jpg is not JSON"):
        Explanation.load(path)


def test_the_file_is_plain_json(ex, tmp_path):
    record = json.loads(ex.save(tmp_path / "ex.json").read_text())
    assert record["order"] == [3, 0] and record["labels"]["7"] == "dög"


def test_one_line_summary(ex):
    assert "2 of 4 players" in repr(ex) and "insertion" in repr(ex)
