"""Stored results: where they are sought, and what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest

from moxi_lite.data import imagenet_sample, load_image, sample_photo
from moxi_lite.models import load_model
from moxi_lite.patches import PatchGame
from moxi_lite.search import explain
from moxi_lite.study import (
    FOLDER_VARIABLE,
    StoredStudy,
    run_study,
    stored_result,
    stored_study,
    study_curves,
)
from moxi_lite.study import stored as results

ROOT = Path(__file__).resolve().parents[2]


PHASES = {"all": {"settings": {"grid": [4, 4]}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "imagenet").mkdir()
    pd.DataFrame({"image": ["a"], "method": ["moxi"], "step": [0], "exact": [True]}).to_parquet(
        tmp_path / "imagenet" / "tiny.parquet"
    )
    (tmp_path / "imagenet" / "tiny.json").write_text(json.dumps({"phases": PHASES}))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def study(tiny_vit, photos, tmp_path) -> StoredStudy:
    """Stand for a stored study: two photographs, one of them without Shapley (200)."""
    arguments = ([photos[0]], tiny_vit, ["shapley-paper"], ["insertion", "deletion"])
    one = run_study(*arguments, tmp_path / "a", masking="drop", n_samples=2).table
    table = run_study(
        photos[:2], tiny_vit, ["moxi", "shapley-paper", "random"], ["insertion", "deletion"],
        tmp_path / "b", masking="drop", n_samples=1, budget={"insertion": 5, "deletion": 3},
    ).table  # fmt: skip
    named = [
        each.astype({"method": str}).replace({"method": {"shapley-paper": f"shapley-paper-{n}"}})
        for each, n in ((table, 50), (one, 200))
    ]
    return StoredStudy("tiny", pd.concat(named), {"phases": PHASES})


def test_random_orders_are_averaged_and_points_are_kept(tiny_vit, photos, tmp_path) -> None:
    table = run_study(
        photos[:2], tiny_vit, ["moxi", "random"], ["insertion"], tmp_path / "c",
        budget=3, n_samples={"random": 3}, points=[4, 8],
    ).table  # fmt: skip
    assert sorted(table["method"].unique()) == ["moxi", "random-1", "random-2", "random-3"]
    assert sorted(table["step"].unique()) == [0, 1, 4, 8, 16]
    study = StoredStudy("tiny", table, {"phases": PHASES})
    assert list(study.labels.values()) == ["MoXI", "Random"]
    for image, mean in study.curves("insertion")["Random"].items():
        orders = [study_curves(table, f"random-{k}", "insertion")[image] for k in (1, 2, 3)]
        assert len({each.log_odds[2] for each in orders}) == 3
        np.testing.assert_array_equal(mean.fraction, np.array([0, 1, 4, 8, 16]) / 16)
        for metric in ("correct", "probability", "log_odds"):
            of_all = np.mean([getattr(each, metric) for each in orders], axis=0)
            np.testing.assert_allclose(getattr(mean, metric), of_all)
    image = table["image"].iloc[0]
    ex = study.explanation(image, "moxi", "insertion")
    assert len(ex) == 1  # step 2 is not stored
    with pytest.raises(ValueError, match=r"steps must be in 0\.\.1"):
        study.explanation(image, "moxi", "insertion", 4)
    whole = PatchGame(tiny_vit, load_image(photos[0]))
    (found,) = table[
        (table["image"] == image) & (table["method"] == "moxi") & (table["step"] == 1)
    ]["patch"]
    assert found == explain(whole, "insertion", budget=3).order[0]


def test_a_study_is_its_table_and_its_provenance(folder: Path) -> None:
    study = stored_study("tiny")
    assert study.table[["image", "step", "evaluations"]].to_numpy().tolist() == [["a", 0, 0]]
    assert (study.model, study.provenance) == ("tiny", {"phases": PHASES})


def test_curves_by_label(study: StoredStudy) -> None:
    assert study.labels == {
        "moxi": "MoXI", "shapley-paper-200": "Shapley (200)", "shapley-paper-50": "Shapley (50)",
        "random": "Random",
    }  # fmt: skip
    curves = study.curves("deletion")
    assert {label: len(found) for label, found in curves.items()} == {
        "MoXI": 2, "Shapley (200)": 1, "Shapley (50)": 2, "Random": 2, "Shapley": 2
    }  # fmt: skip
    assert study.shapley == "Shapley (50)" and curves["Shapley"] is curves[study.shapley]
    first = next(iter(curves["MoXI"]))
    expected = study_curves(study.table, "moxi", "deletion")[first]
    np.testing.assert_array_equal(curves["MoXI"][first].log_odds, expected.log_odds)
    with pytest.raises(ValueError, match="unknown mode 'del'"):
        study.curves("del")


def test_the_share_that_was_searched(study: StoredStudy) -> None:
    assert (study.searched_share("insertion"), study.searched_share("deletion")) == (5 / 16, 3 / 16)


def test_explanations_by_method_or_label(study: StoredStudy) -> None:
    image = study.table["image"].iloc[0]
    ex = study.explanation(image, "moxi", "insertion", steps=4)
    rows = study.table.query("image == @image and method == 'moxi' and mode == 'insertion'")
    assert ex.order.tolist() == rows["patch"].tolist()[1:5] and ex.grid == (4, 4)
    assert ex.image is None, "no sample image has this name"
    same = study.explanation(image, "MoXI", "insertion", steps=4)
    np.testing.assert_array_equal(same.values, ex.values)
    shapley = [study.explanation(image, name, "deletion") for name in ("Shapley", "Shapley (50)")]
    np.testing.assert_array_equal(shapley[0].order, shapley[1].order)
    with pytest.raises(ValueError, match=r"unknown method 'MoXie'\. Expected one of: 'moxi'"):
        study.explanation(image, "MoXie", "insertion")
    with pytest.raises(ValueError, match="unknown image 'nowhere'"):
        study.explanation("nowhere", "moxi", "insertion")


@pytest.mark.hub
def test_a_stored_photograph_is_what_the_model_sees() -> None:
    model = load_model("vit_tiny_patch16_224", device="cpu")
    ex = stored_study().explanation("imagenet-0026", "Shapley", "insertion")
    seen = model.display(model.preprocess(imagenet_sample(26).image))
    assert ex.image is not None and ex.image.shape == seen.shape
    assert np.abs(ex.image.astype(float) - seen).mean() < 6  # of 255; resampled another way
    assert ex.class_name(ex.target).startswith("common newt")


@pytest.mark.parametrize(
    ("name", "n_images", "shares"),
    [
        ("vit_tiny_patch16_224", 828, (20 / 196, 39 / 196)),
        ("deit_tiny_patch16_224", 20, (78 / 196, 39 / 196)),
        ("efficientnet_lite0", 20, (19 / 49, 9 / 49)),
    ],
)
def test_what_the_book_reads(name: str, n_images: int, shares: tuple[float, float]) -> None:
    study = stored_study(name)
    assert len(study.curves("insertion")["MoXI"]) == n_images
    assert (study.searched_share("insertion"), study.searched_share("deletion")) == shares
    n = int(study.table["step"].max())
    searched = study.table.query("method == 'moxi' and exact and mode == 'deletion'")
    step = searched["step"].astype(int)
    assert (searched["evaluations"] == step * n - step * (step - 1) // 2).all()
    assert study.table.query("method == 'rise' and step > 0")["evaluations"].isna().all()


def test_the_registry_knows_every_stored_file(tmp_path: Path) -> None:
    current = tmp_path / "registry.txt"
    pooch.make_registry(str(ROOT / "results"), str(current))
    stored = ROOT / "moxi_lite" / "study" / "results_registry.txt"
    assert stored.read_text() == current.read_text(), (
        'results/ has changed; write the list anew: python -c "import pooch; '
        "pooch.make_registry('results', 'moxi_lite/study/results_registry.txt')\""
    )


def test_provenance_in_words() -> None:
    def part(modes: list[str], *commits: str | None) -> dict[str, object]:
        return {
            "settings": {
                "modes": modes,
                "dtype": "mixed",
                "masking": "drop",
                "grid": [14, 14],
                "random_state": 0,
                "n_samples": {"rise": 1000, "shapley-paper": [50, 200]},
                "weights_sha256": "3f1f07da5e1337265ac1",
            },
            "environments": [
                {"processor": "Zuse Z3", "device": "cpu", "commit": commit, "images": 2}
                for commit in commits
            ],
            "n_studied": 4,
            "seconds": 50.0,
            "finished": "2026-11-23T02:38:14+00:00",
            "image_list_sha256": "0123456789abcdef",
        }

    commits = ("a" * 40, f"{'b' * 40}-dirty", "a" * 40)
    phases = {"up": part(["insertion"], *commits), "down": part(["deletion"], None)}
    provenance = {"phases": phases, "command": "make study", "notes": ["Be careful."]}
    study = StoredStudy("tiny", pd.DataFrame(), provenance)
    text = study.origin("insertion")
    assert text.splitlines() == [
        "up: 4 images, insertion, 14 x 14 patches, masking 'drop', mixed, seed 0, rise 1000, "
        "shapley-paper [50, 200]",
        "    12 s an image on Zuse Z3 (cpu), until 2026-11-23; weights SHA-256 3f1f07da5e13, list "
        "of images 0123456789ab",
        "    commit aaaaaaaaaa (4 images), bbbbbbbbbb-dirty (2 images)",
        "made by: make study",
        "Be careful.",
        "Commits marked -dirty had changes in the working tree.",
    ]
    assert "commit unknown" in study.origin()
    with pytest.raises(ValueError, match=r"unknown mode 'del'\. .*'deletion'"):
        study.origin("del")


def test_a_mistyped_name_lists_what_is_near(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"imagenet/tiny\.parquet"):
        stored_result("imagenet/tinny.parquet")


@pytest.mark.parametrize("name", ["../secret", "imagenet/../../x", "/etc/passwd"])
def test_names_do_not_leave_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a path below results"):
        stored_result(name)


def test_the_named_folder_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="not a folder"):
        stored_result("imagenet/tiny.parquet")


def test_the_folder_above_a_notebook_is_found(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("repository")
    (home / "notebooks").mkdir()
    folder.rename(home / "results")
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setattr(results, "_HERE", home / "no_checkout" / "results")
    monkeypatch.chdir(home / "notebooks")
    assert stored_result("imagenet/tiny.json").samefile(home / "results/imagenet/tiny.json")


@pytest.fixture
def nowhere(tmp_path, monkeypatch, web):
    """No folder of results anywhere; the repository is a server: yields its files."""
    address, files = web
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(results, "_HERE", tmp_path / "results")
    monkeypatch.setattr(results, "_address", lambda: address)
    monkeypatch.setattr(results.pooch, "os_cache", lambda _: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return files


def test_without_any_folder_the_repository_is_asked(nowhere) -> None:
    content = (ROOT / "results" / "set_sum" / "set_sum_cnn-zero.json").read_bytes()
    nowhere["/set_sum/set_sum_cnn-zero.json"] = content
    path = stored_result("set_sum/set_sum_cnn-zero.json")
    assert path.read_bytes() == content
    path.write_bytes(b"a stale copy")
    assert stored_result("set_sum/set_sum_cnn-zero.json").read_bytes() == content


@pytest.mark.parametrize("served", [None, b"of another version"])
def test_another_file_than_that_of_this_version_is_refused(nowhere, served) -> None:
    if served:
        nowhere["/set_sum/set_sum_cnn-zero.json"] = served
    with pytest.raises(FileNotFoundError, match=rf"could not be fetched.*{FOLDER_VARIABLE}"):
        stored_result("set_sum/set_sum_cnn-zero.json")
    with pytest.raises(FileNotFoundError, match=r"no stored result 'set_sum/.*zero\.json'"):
        stored_result("set_sum/set_sum_cn-zero.json")


@pytest.mark.parametrize("offset, again", [(0.0, False), (0.5, True)])
def test_a_search_of_now_is_held_against_the_stored_one(study, tiny_vit, photos, offset, again):
    name, photo = study.table["image"].iloc[0], photos[0]
    weights = [{"settings": {"grid": [4, 4], "weights_sha256": tiny_vit.weights_sha256}}]
    known = StoredStudy("tiny", study.table, {"phases": dict(enumerate(weights))})
    known.table["log_odds"] += offset
    ex = explain(PatchGame(tiny_vit, load_image(photo), masking="drop"), budget=3)
    if again:
        with pytest.raises(ValueError, match=r"stored log-odds are missed by 0\.500"):
            known.compare(ex, name, tiny_vit)
        return
    steps = known.compare(ex, name, tiny_vit)
    assert (steps["patch"] == steps["stored patch"]).all() and len(steps) == 3
    np.testing.assert_allclose(steps["value"], steps["stored value"], atol=1e-5)
    # Other weights, or another class: nothing to compare with.
    other = {"phases": {"a": {"settings": {"weights_sha256": ""}}}}
    steps = StoredStudy("tiny", study.table, other).compare(ex, name, tiny_vit)
    assert list(steps) == ["patch", "value"]


def test_a_photograph_that_is_unavailable_has_a_stand_in(study, monkeypatch):
    monkeypatch.setattr(results, "imagenet_sample", lambda index: (_ for _ in ()).throw(OSError))
    photo, target = study.photograph("imagenet-0618")
    assert target is None and photo.size == sample_photo("chelsea").size
