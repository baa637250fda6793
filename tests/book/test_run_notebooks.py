"""The notebook runner: parameters, failures, figures without text, and what is run again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import run_notebooks
from run_notebooks import NotebookError, check_parameters, run_notebook

NotebookWriter = Callable[..., Path]
PARAMETERS = {"PROFILE": "ci"}


def outputs(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_an_unknown_parameter_fails_and_names_the_near_one(write_notebook: NotebookWriter) -> None:
    with pytest.raises(NotebookError, match=r"unknown parameter 'PROFIL'.*Did you mean PROFILE"):
        check_parameters(write_notebook("1"), {"PROFIL": "ci"})


def test_a_notebook_without_parameters_cell_fails(tmp_path: Path) -> None:
    path = tmp_path / "bare.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    nbformat.write(notebook, path)
    with pytest.raises(NotebookError, match="no cell tagged 'parameters'"):
        check_parameters(path, PARAMETERS)


def test_it_runs_once_and_again_only_after_a_change(
    write_notebook: NotebookWriter, tmp_path: Path
) -> None:
    code = "import os; print(PROFILE, os.environ['MOXI_LITE_LEDGER_DIR'])"
    source, target, ledger = write_notebook(code), tmp_path / "out" / "tiny.ipynb", tmp_path / "led"
    first = run_notebook(source, target, PARAMETERS, ledger=ledger, key="package 1")
    assert not first.reused and first.seconds > 0
    assert outputs(target).startswith("ci ") and "led" in outputs(target)
    assert "MOXI_LITE_LEDGER_DIR" not in os.environ
    record = json.loads(target.with_suffix(".run.json").read_text())
    assert record["PROFILE"] == "ci" and record["seconds"] == first.seconds

    again = run_notebook(source, target, PARAMETERS, ledger=ledger, key="package 1")
    assert again.reused and again.seconds == first.seconds
    # Broken now, so that a run shows by its failure: a new key means a new run.
    source.write_text(source.read_text().replace("print(PROFILE", "print(1/0"))
    with pytest.raises(NotebookError, match="ZeroDivisionError"):
        run_notebook(source, target, PARAMETERS, ledger=ledger, key="package 1")
    # A failed run is not taken for a finished one.
    with pytest.raises(NotebookError, match="ZeroDivisionError"):
        run_notebook(source, target, PARAMETERS, ledger=ledger, key="package 1")


def test_a_failure_says_where(write_notebook: NotebookWriter, tmp_path: Path) -> None:
    source = write_notebook("a = 1", "b = a\nraise ValueError('not like this')", "c = 2")
    with pytest.raises(NotebookError) as caught:
        run_notebook(source, tmp_path / "out.ipynb", PARAMETERS, ledger=tmp_path / "ledger")
    message = str(caught.value)
    assert "tiny.ipynb failed in cell 3 of 4" in message
    assert "    b = a\n" in message and "not like this" in message


def test_a_figure_needs_alternative_text(write_notebook: NotebookWriter, tmp_path: Path) -> None:
    pixel = (
        "import base64\nfrom IPython.display import Image, display\n"
        "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42m"
        "NkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=')))"
    )
    target, ledger = tmp_path / "out" / "tiny.ipynb", tmp_path / "ledger"
    with pytest.raises(NotebookError, match=r"without alternative text.*2 \(import base64\)"):
        run_notebook(write_notebook(pixel), target, PARAMETERS, ledger=ledger)
    described = write_notebook(pixel, metadata={"mystnb": {"image": {"alt": "One pixel."}}})
    assert not run_notebook(described, target, PARAMETERS, ledger=ledger).reused


def test_a_dead_kernel_and_a_slow_cell_are_reported(
    write_notebook: NotebookWriter, tmp_path: Path
) -> None:
    target, ledger = tmp_path / "out.ipynb", tmp_path / "ledger"
    with pytest.raises(NotebookError, match="the kernel died"):
        run_notebook(write_notebook("import os; os._exit(1)"), target, PARAMETERS, ledger=ledger)
    slow = write_notebook("import time; time.sleep(60)")
    with pytest.raises(NotebookError, match="over 1 s"):
        run_notebook(slow, target, PARAMETERS, ledger=ledger, timeout=1)


def test_copies_of_notebooks_that_are_gone_are_removed(
    write_notebook: NotebookWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write_notebook("1", name="kept")
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", kept.parent)
    folder = tmp_path / "run" / "notebooks"
    (folder.parent / "ledger" / "gone").mkdir(parents=True)
    folder.mkdir()
    for name in ("kept", "gone"):
        (folder / f"{name}.ipynb").touch()
        (folder / f"{name}.run.json").touch()
    run_notebooks.remove_stale(folder, [kept])
    assert sorted(p.name for p in folder.iterdir()) == ["kept.ipynb", "kept.run.json"]
    assert not (folder.parent / "ledger" / "gone").exists()


def test_the_key_follows_package_and_results(tmp_path: Path) -> None:
    for name in ("moxi_lite/a.py", "results/a.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    keys = {run_notebooks.shared_key(tmp_path, {})}
    for name in ("moxi_lite/a.py", "results/a.json"):
        (tmp_path / name).write_text("2")
        keys.add(run_notebooks.shared_key(tmp_path, {}))
    keys.add(run_notebooks.shared_key(tmp_path, {"HF_HUB_OFFLINE": "1"}))
    assert len(keys) == 4
    assert run_notebooks.shared_key(tmp_path, {"EDITOR": "vi"}) in keys
