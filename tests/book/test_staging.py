"""What is taken out of an executed notebook before it becomes a page."""

from __future__ import annotations

import _staging
import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output


def notebook_with(*outputs: nbformat.NotebookNode, **metadata: object) -> nbformat.NotebookNode:
    cell = new_code_cell("x", outputs=list(outputs), metadata=metadata)
    return new_notebook(cells=[cell], metadata={"widgets": {"state": 1}, "papermill": {"path": 1}})


def test_widgets_and_notes_of_papermill_are_dropped() -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Slider"}
    notebook = notebook_with(
        new_output("display_data", data=view), new_output("stream", text="kept")
    )
    injected = new_code_cell('PROFILE = "ci"', metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(0, injected)
    cleaned = _staging.clean_outputs(notebook)
    assert [o.get("text") for o in cleaned.cells[0].outputs] == ["kept"]
    assert len(cleaned.cells) == 1
    assert set(cleaned.metadata) == {"kernelspec"}


def test_outputs_tagged_for_removal_are_dropped() -> None:
    notebook = notebook_with(new_output("stream", text="live"), tags=["remove-output"])
    assert _staging.clean_outputs(notebook).cells[0].outputs == []


def test_paths_of_this_machine_do_not_reach_the_page() -> None:
    text = f"reads {_staging.ROOT}/results/a.json"
    html = new_output("display_data", data={"text/html": f"<b>{_staging.ROOT}</b>"})
    cell = _staging.clean_outputs(notebook_with(new_output("stream", text=text), html)).cells[0]
    assert cell.outputs[0].text == "reads ./results/a.json"
    assert cell.outputs[1].data["text/html"] == "<b>.</b>"


def test_images_without_alt_are_found_by_cell() -> None:
    image = new_output("display_data", data={"image/png": "AA=="})
    assert _staging.images_without_alt(notebook_with(image)) == ["1 (x)"]
    described = notebook_with(image, mystnb={"image": {"alt": "A line."}})
    assert _staging.images_without_alt(described) == []
    blank = notebook_with(image, mystnb={"image": {"alt": "  "}})
    assert _staging.images_without_alt(blank) == ["1 (x)"]
