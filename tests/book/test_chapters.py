"""The chapters as committed: first cells, no outputs, plain Markdown; the table of contents."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from _common import ROOT
from build_book import GENERATED_PAGES, missing_documents, toc_entries
from run_notebooks import find_notebooks

NOTEBOOKS = find_notebooks()
MYST = re.compile(
    r"^\s*(?:`{3,}|:{3,})\{|\{(?:ref|eq|doc|cite|numref|term|prf:ref)(?::\w+)?\}`|^\([\w-]+\)=",
    re.M,
)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def cell_tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestChapter:
    def test_it_is_a_valid_notebook_with_cell_ids(self, path: Path) -> None:
        notebook = read(path)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)

    def test_it_has_no_outputs_and_no_widget_state(self, path: Path) -> None:
        notebook = read(path)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert "widgets" not in notebook.metadata

    def test_it_begins_with_title_badge_install_and_parameters(self, path: Path) -> None:
        title, badge, install, parameters = read(path).cells[:4]
        assert title.cell_type == "markdown" and title.source.startswith("# ")
        assert badge.cell_type == "markdown" and cell_tags(badge) == ["badge"]
        assert install.cell_type == "code" and "install" in cell_tags(install)
        assert parameters.cell_type == "code" and "parameters" in cell_tags(parameters)
        assert 'PROFILE = "auto"' in parameters.source

    def test_its_markdown_is_plain(self, path: Path) -> None:
        texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
        assert [found[0] for text in texts if (found := MYST.search(text))] == []

    def test_hidden_answers_can_hold_markdown(self, path: Path) -> None:
        # Without the blank lines, Jupyter and Colab show the Markdown inside as it is written.
        for cell in read(path).cells:
            if cell.cell_type == "markdown" and "<details>" in cell.source:
                assert re.search(r"</summary>\s*\n\s*\n", cell.source), cell.source[:80]
                assert re.search(r"\n\s*\n</details>", cell.source), cell.source[-80:]


def test_myst_is_recognised() -> None:
    assert all(
        MYST.search(text) for text in ("```{note}\n", ":::{tip}", "see {eq}`a`", "(here)=\n")
    )
    assert not any(MYST.search(text) for text in ("```python\n{1}", "$f(N)=1$", "a set {1, 2}"))


def test_the_table_of_contents_names_what_is_there() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    assert missing_documents(toc, ROOT) == []
    assert missing_documents({"root": "book/nowhere"}, ROOT) == ["book/nowhere"]


def test_every_page_and_chapter_is_in_the_table_of_contents() -> None:
    listed = toc_entries(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    pages = [p for p in (ROOT / "book").rglob("*.md") if not p.name.startswith("_")]
    there = {p.relative_to(ROOT).with_suffix("").as_posix() for p in [*pages, *NOTEBOOKS]}
    assert sorted(there | set(GENERATED_PAGES)) == sorted(listed)
    assert len(listed) == len(set(listed))
