"""The repository's address stands in _config.yml alone; everything else is derived from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sync_repository
from _common import ROOT
from sync_repository import out_of_step, read_repository, stray_mentions

ELSEWHERE = "https://github.com/somebody/else-where"
WRITTEN = ("README.md", "CITATION.cff", "pyproject.toml")


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A copy of what names the address, after _config.yml has got another one."""
    for name in ("_config.yml", *WRITTEN):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    config = tmp_path / "_config.yml"
    config.write_text(config.read_text().replace(read_repository().url, ELSEWHERE))
    return tmp_path


def test_badges_install_cells_and_links_follow_the_configuration() -> None:
    assert [path.name for path in out_of_step()] == []


def test_nothing_else_names_the_address() -> None:
    assert stray_mentions() == []


def test_a_new_address_reaches_every_place(moved: Path) -> None:
    changes = out_of_step(moved)
    names = {path.relative_to(moved).as_posix() for path in changes}
    notebooks = {p.relative_to(moved).as_posix() for p in moved.rglob("*.ipynb")}
    assert names == notebooks | set(WRITTEN)
    old = read_repository().slug
    for path, text in changes.items():
        assert "somebody/else-where" in text
        assert old not in text
        path.write_text(text)
    assert out_of_step(moved) == {}


def test_a_mention_by_hand_is_found(moved: Path) -> None:
    (moved / "book").mkdir()
    (moved / "book" / "page.md").write_text(f"See {ELSEWHERE}/issues.")
    (moved / "book" / "other.md").write_text(f"See {ELSEWHERE}-not and {{{{ repository_url }}}}.")
    assert stray_mentions(moved) == ["book/page.md"]


def test_the_badge_opens_the_notebook_on_colab() -> None:
    repository = sync_repository.Repository("https://github.com/a/b", "trunk")
    cell = {"cell_type": "markdown", "metadata": {"tags": ["badge"]}, "source": "old"}
    text = json.dumps({"cells": [cell]})
    new = sync_repository.synced_notebook(text, repository, "notebooks/x.ipynb")
    source = "".join(json.loads(new)["cells"][0]["source"])
    assert "(https://colab.research.google.com/github/a/b/blob/trunk/notebooks/x.ipynb)" in source
    assert sync_repository.synced_notebook(new, repository, "notebooks/x.ipynb") == new


def test_an_address_that_colab_cannot_open_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text(
        "repository: {url: 'https://example.org/x', branch: main}"
    )
    with pytest.raises(SystemExit):
        read_repository(tmp_path)
