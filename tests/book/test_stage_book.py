"""What becomes of an executed notebook before it is rendered."""

from __future__ import annotations

import nbformat
import pytest
import stage_book
from _common import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from stage_book import for_the_page


def notebook_with(*outputs: nbformat.NotebookNode, **metadata: object) -> nbformat.NotebookNode:
    cell = new_code_cell("x", outputs=list(outputs), metadata=metadata)
    return new_notebook(cells=[cell], metadata={"widgets": {"state": 1}, "papermill": {"path": 1}})


def test_widgets_and_notes_of_papermill_are_dropped() -> None:
    view = {stage_book.WIDGET: {"model_id": "1"}, "text/plain": "Slider"}
    notebook = notebook_with(
        new_output("display_data", data=view), new_output("stream", text="kept")
    )
    injected = new_code_cell('PROFILE = "ci"', metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(0, injected)
    for_the_page(notebook)
    assert [o.get("text") for o in notebook.cells[0].outputs] == ["kept"]
    assert len(notebook.cells) == 1 and not notebook.metadata


def test_outputs_tagged_for_removal_are_dropped() -> None:
    notebook = notebook_with(new_output("stream", text="live"), tags=["remove-output"])
    for_the_page(notebook)
    assert notebook.cells[0].outputs == []


def test_paths_of_this_machine_do_not_reach_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(ROOT / "cache"))
    text = f"reads {ROOT}/results/a.json and {ROOT}/cache/b"
    html = new_output("display_data", data={"text/html": f"<b>{ROOT}/c</b>"})
    notebook = notebook_with(new_output("stream", text=text), html)
    for_the_page(notebook)
    outputs = notebook.cells[0].outputs
    assert outputs[0].text == "reads results/a.json and $HF_HUB_CACHE/b"
    assert outputs[1].data["text/html"] == "<b>c</b>"


@pytest.mark.parametrize("alt", [None, "  ", "A line."])
def test_a_figure_needs_a_description(alt: str | None) -> None:
    image = new_output("display_data", data={"image/png": "AA=="})
    notebook = notebook_with(image, **({"mystnb": {"image": {"alt": alt}}} if alt else {}))
    if alt == "A line.":
        for_the_page(notebook)
    else:
        with pytest.raises(ValueError, match=r"without alternative text, from this cell:\n\nx"):
            for_the_page(notebook)


def test_badge_and_setup_cells_are_made_for_the_page() -> None:
    badge = new_markdown_cell(f"![b]({stage_book.COLAB_BADGE})")
    install = new_code_cell("x", metadata={"tags": ["install"]})
    for_the_page(new_notebook(cells=[badge, install]))
    assert badge.source == "![b](../book/_static/colab-badge.svg)"
    assert (ROOT / "book" / "_static" / "colab-badge.svg").is_file()
    assert install.metadata["tags"] == ["install", "hide-input"]


def test_the_page_of_execution_times_lists_every_run() -> None:
    page = stage_book.execution_times({"00_a.ipynb": 1.25, "01_b.ipynb": 2.5}, "ci")
    assert "| [00_a](../notebooks/00_a.ipynb) | 1.2 |\n| [01_b]" in page
    assert "**3.8**" in page and "profile `ci`" in page


def test_the_parts_of_mathjax_that_pages_ask_for_are_there() -> None:
    folder = stage_book.MATHJAX
    assert [part for part in stage_book.MATHJAX_PARTS if not (folder / part).exists()] == []
