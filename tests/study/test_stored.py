"""Stored results: where they are sought, and what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from moxi_lite.study import FOLDER_VARIABLE, provenance_text, stored_result, stored_study
from moxi_lite.study import stored as results


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "imagenet").mkdir()
    pd.DataFrame({"image": ["a"], "step": [0]}).to_parquet(tmp_path / "imagenet" / "tiny.parquet")
    (tmp_path / "imagenet" / "tiny.json").write_text(json.dumps({"model": "tiny"}))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_study_is_its_table_and_its_provenance(folder: Path) -> None:
    table, provenance = stored_study("tiny")
    assert table.to_dict("list") == {"image": ["a"], "step": [0]}
    assert provenance == {"model": "tiny"}


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
    text = provenance_text(provenance, "insertion")
    assert text.splitlines() == [
        "up: 4 images, insertion, 14 x 14 patches, masking 'drop', mixed, seed 0, rise 1000, "
        "shapley-paper 50 and 200",
        "    12 s an image on Zuse Z3 (cpu), until 2026-11-23; weights SHA-256 3f1f07da5e13, list "
        "of images 0123456789ab",
        "    commit aaaaaaaaaa (4 images), bbbbbbbbbb-dirty (2 images)",
        "made by: make study",
        "Be careful.",
        "Commits marked -dirty had changes in the working tree, not yet committed.",
    ]
    assert "commit unknown" in provenance_text(provenance)
    with pytest.raises(ValueError, match=r"unknown mode 'del'\. .*'deletion'"):
        provenance_text(provenance, "del")


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


def test_without_any_folder_the_repository_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def retrieve(url: str, **options: object) -> str:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(results, "_HERE", tmp_path / "results")
    monkeypatch.setattr(results, "_address", lambda: "https://example.org/results")
    monkeypatch.setattr(results.pooch, "retrieve", retrieve)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no network.*{FOLDER_VARIABLE}"):
        stored_result("imagenet/tiny.json")
    assert asked == ["https://example.org/results/imagenet/tiny.json"]
