"""The chapters as committed: first cells, no outputs, plain Markdown, short visible code."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from _common import NOTEBOOKS, ROOT, chapters

HIDDEN = {"hide-input", "remove-input", "hide-cell", "remove-cell", "install", "parameters"}
MYST = re.compile(
    r"^\s*(?:`{3,}|:{3,})\{|\{(?:ref|eq|doc|cite|numref|term|prf:ref)(?::\w+)?\}`|^\([\w-]+\)=",
    re.M,
)
WRITTEN_BY_THE_BUILD = "book/execution_times"


def read(name: Path) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def visible_code(name: Path) -> list[list[str]]:
    cells = [c for c in read(name).cells if c.cell_type == "code" and not tags(c) & HIDDEN]
    return [cell.source.splitlines() for cell in cells]


@pytest.mark.parametrize("name", chapters(), ids=str)
class TestChapter:
    def test_it_is_a_valid_notebook_with_cell_ids(self, name: Path) -> None:
        notebook = read(name)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)

    def test_it_has_no_outputs_and_no_widget_state(self, name: Path) -> None:
        notebook = read(name)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert "widgets" not in notebook.metadata

    def test_it_begins_with_title_badge_install_and_parameters(self, name: Path) -> None:
        title, badge, install, parameters = read(name).cells[:4]
        assert title.cell_type == "markdown" and title.source.startswith("# ")
        assert badge.cell_type == "markdown" and tags(badge) == {"badge"}
        assert install.cell_type == "code" and "install" in tags(install)
        assert parameters.cell_type == "code" and "parameters" in tags(parameters)
        assert 'PROFILE = "auto"' in parameters.source

    def test_its_markdown_is_plain(self, name: Path) -> None:
        texts = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
        assert [found[0] for text in texts if (found := MYST.search(text))] == []

    def test_hidden_answers_can_hold_markdown(self, name: Path) -> None:
        # Without the blank lines, Jupyter and Colab show the Markdown inside as it is written.
        for cell in read(name).cells:
            if cell.cell_type == "markdown" and "<details>" in cell.source:
                assert re.search(r"</summary>\s*\n\s*\n", cell.source), cell.source[:80]
                assert re.search(r"\n\s*\n</details>", cell.source), cell.source[-80:]


@pytest.mark.parametrize("name", chapters(), ids=str)
class TestLesson:
    def test_its_title_has_the_number_by_which_the_prose_calls_it(self, name: Path) -> None:
        # The sidebar shows the title: "08 · Rival explanations" is what "Chapter 08" refers to.
        assert re.match(rf"# {name.stem[:2]} · \S", read(name).cells[0].source)

    def test_no_visible_line_of_code_is_wider_than_its_box(self, name: Path) -> None:
        assert [line for cell in visible_code(name) for line in cell if len(line) > 79] == []

    def test_no_visible_cell_is_longer_than_an_idea(self, name: Path) -> None:
        assert [cell[0] for cell in visible_code(name) if len(cell) > 20] == []


def test_every_page_and_chapter_is_in_the_table_of_contents() -> None:
    text = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    listed = [yaml.safe_load(text)["root"], *re.findall(r"file: (\S+)", text)]
    pages = [p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.glob("book/**/*.md")]
    there = [*pages, *(f"notebooks/{name.with_suffix('')}" for name in chapters())]
    assert sorted([*there, WRITTEN_BY_THE_BUILD]) == sorted(listed)
