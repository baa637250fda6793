"""Studies: images that fail, full disks, damaged folders; nothing is lost or half-written."""

import itertools
import json
import warnings

import pytest

from moxi_lite.study import run_study, store


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
    write, left = store.write_atomically, itertools.count()

    def full_after_two(path, content):
        if next(left) >= 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(store, "write_atomically", full_after_two)
    with pytest.raises(OSError, match=r"cannot write into the study folder .*: No space left"):
        run_study(*arguments)
    shards = list((tmp_path / "out" / "shards").iterdir())
    assert len(shards) == 2 and not list((tmp_path / "out" / "failures").iterdir())
    monkeypatch.undo()
    assert run_study(*arguments).table["image"].nunique() == len(photos)


def test_a_folder_that_cannot_be_written_to(tiny_vit, photos, tmp_path, evaluations):
    with pytest.raises(OSError, match=r"cannot write into the study folder .*: Not a directory"):
        run_study(photos, tiny_vit, ["random"], ["insertion"], photos[0] / "out")
    assert evaluations == []


@pytest.mark.parametrize("damage", [lambda c: c[:100], lambda c: c[:4] + bytes(196) + c[200:]])
def test_a_damaged_shard_is_named(tiny_vit, photos, tmp_path, damage):
    arguments = (photos[:1], tiny_vit, ["random"], ["insertion"], tmp_path / "out")
    run_study(*arguments)
    shard = next((tmp_path / "out" / "shards").iterdir())
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged .* delete it"):
        run_study(*arguments)


@pytest.mark.parametrize(
    ("content", "found"), [(b"[1, 2]", "dictionary"), (b"{", "line 1"), (b"\xff\xfe\xfd", "")]
)
def test_damaged_settings_are_named(tiny_vit, photos, tmp_path, content, found):
    path = tmp_path / "out" / "settings.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"settings\.json is damaged \(.*{found}.*another folder"):
        run_study(photos[:1], tiny_vit, ["random"], ["insertion"], path.parent)
    assert path.read_bytes() == content
