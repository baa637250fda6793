"""Pieces of the build: pages written by it, what it reads from Sphinx, MathJax, the zip."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import build_book
import pytest
import yaml
from _common import ROOT


def test_the_page_of_execution_times_lists_every_run() -> None:
    runs = [
        ("notebooks/00_a", {"seconds": 1.25, "finished": "2026-01-02 03:04"}),
        ("notebooks/01_b", {"seconds": 2.5, "finished": "2026-01-02 03:05"}),
    ]
    page = build_book.execution_times_page(runs, "ci")
    assert "| [00_a](../notebooks/00_a.ipynb) | 1.2 | 2026-01-02 03:04 |" in page
    assert "**3.8**" in page and "profile `ci`" in page


def test_the_ledger_lists_all_claims_without_any_run(tmp_path: Path) -> None:
    from moxi_lite import ledger

    table = build_book.ledger_table(tmp_path / "ledger")
    assert table.count("\n|") == len(ledger.CLAIMS) + 2  # and two lines of heading


def test_badge_and_setup_cells_are_made_for_the_page() -> None:
    badge = {"cell_type": "markdown", "metadata": {}, "source": [f"![b]({build_book.COLAB_BADGE})"]}
    install = {"cell_type": "code", "metadata": {"tags": ["install"]}, "source": "x"}
    cells = build_book.for_the_page({"cells": [badge, install]}, 1)["cells"]
    assert cells[0]["source"] == "![b](../book/_static/colab-badge.svg)"
    assert (ROOT / "book" / "_static" / "colab-badge.svg").is_file()
    assert cells[1]["metadata"]["tags"] == ["install", "hide-input"]


def test_warnings_are_read_from_coloured_output() -> None:
    log = f"\x1b[91m{build_book.STAGE}/book/a.md:3: WARNING: no such thing\x1b[0m\nwriting done\n"
    assert build_book.warnings_in(log) == ["book/a.md:3: WARNING: no such thing"]


def test_mathjax_comes_from_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_book, "STAGE", tmp_path)
    config = (ROOT / "_config.yml").read_text()
    assert build_book.stage_mathjax(config) == config
    path = yaml.safe_load(config)["sphinx"]["config"]["mathjax_path"]
    assert (tmp_path / "_extra" / path.removeprefix("../")).is_file()


def test_without_package_and_npm_the_cdn_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_book, "STAGE", tmp_path)
    monkeypatch.setattr(build_book.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build_book.shutil, "which", lambda name: None)
    config = build_book.stage_mathjax((ROOT / "_config.yml").read_text())
    settings = yaml.safe_load(config)["sphinx"]["config"]
    assert settings["mathjax_path"] == build_book.MATHJAX_CDN
    assert "NOTICE" in capsys.readouterr().out


def test_of_an_archive_only_plain_files_of_mathjax_are_written(tmp_path: Path) -> None:
    archive = tmp_path / "mathjax.tgz"
    with tarfile.open(archive, "w:gz") as members:
        for name in ("package/es5/a/b.js", "package/es5/../../evil.js", "package/c.js", "/d.js"):
            member = tarfile.TarInfo(name)
            member.size = 1
            members.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo("package/es5/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        members.addfile(link)
    folder = tmp_path / "out" / "in"
    assert build_book.unpack_es5(archive, folder) == folder / "package" / "es5"
    files = [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()]
    assert files == [folder / "package" / "es5" / "a" / "b.js"]


def test_the_zip_has_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "html" / "book").mkdir(parents=True)
    for name in ("index.html", "book/page.html"):
        (tmp_path / "html" / name).write_text("x")
    monkeypatch.setattr(build_book, "HTML", tmp_path / "html")
    monkeypatch.setattr(build_book, "ROOT", tmp_path)
    monkeypatch.setattr(build_book, "ZIP", tmp_path / "book.zip")
    build_book.pack()
    with zipfile.ZipFile(tmp_path / "book.zip") as archive:
        names = archive.namelist()
    assert names == ["moxi-lite-book/book/page.html", "moxi-lite-book/index.html"]
