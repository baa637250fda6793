"""The notebook runner: parameters, failures, and what is run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import run_notebooks
from run_notebooks import run

NotebookWriter = Callable[..., Path]
CI = {"PROFILE": "ci"}


@pytest.fixture(autouse=True)
def own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOXI_LITE_LEDGER_DIR", "")  # set by each run; put back after the test
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def outputs(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_an_unknown_parameter_fails_and_names_the_near_one(
    write_notebook: NotebookWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_notebooks.check_parameters(write_notebook("1"), {"PROFIL": "ci"})
    message = capsys.readouterr().err
    assert "unknown parameter 'PROFIL' for tiny.ipynb. Did you mean PROFILE?" in message


def test_a_notebook_without_parameters_cell_fails(
    write_notebook: NotebookWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_notebooks.check_parameters(write_notebook("1", tag="other"), CI)
    assert "no cell has the tag 'parameters'" in capsys.readouterr().err


def test_it_runs_once_and_again_only_after_a_change(
    write_notebook: NotebookWriter, tmp_path: Path
) -> None:
    code = "import os; print(PROFILE, os.environ['MOXI_LITE_LEDGER_DIR'])"
    source, target, ledger = write_notebook(code), tmp_path / "out" / "tiny.ipynb", tmp_path / "led"
    seconds, known = run(source, target, ledger, CI, key=b"1")
    assert seconds > 0 and not known
    assert outputs(target) == f"ci {ledger}\n"
    (ledger / "entry.json").touch()
    assert run(source, target, ledger, CI, key=b"1") == (seconds, True)
    assert (ledger / "entry.json").exists()
    assert not run(source, target, ledger, {"PROFILE": "cpu"}, key=b"1")[1]
    assert not (ledger / "entry.json").exists(), "what an earlier run recorded is gone"
    assert not run(source, target, ledger, {"PROFILE": "cpu"}, key=b"2")[1]
    write_notebook("print(PROFILE * 2)")
    assert not run(source, target, ledger, {"PROFILE": "cpu"}, key=b"2")[1]
    assert outputs(target) == "cpucpu\n"


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        (
            "b = 1\nraise ValueError('not like this')",
            ("failed in cell 2 of 2", "b = 1", "not like this"),
        ),
        ("import os; os._exit(1)", ("the kernel died",)),
        ("import time; time.sleep(60)", ("over 1 s",)),
    ],
)
def test_a_failure_says_where_and_leaves_no_copy(
    write_notebook: NotebookWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    messages: tuple[str, ...],
) -> None:
    target = tmp_path / "out.ipynb"
    with pytest.raises(SystemExit):
        run(write_notebook(code), target, tmp_path / "ledger", CI, timeout=1)
    error = capsys.readouterr().err
    assert "WARNING" not in error
    assert "tiny.ipynb" in error and all(message in error for message in messages)
    assert not target.exists()


def test_the_key_follows_package_results_and_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("moxi_lite/a.py", "results/a.json")
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    keys = [run_notebooks.shared_key(tmp_path)]
    for name in names:
        (tmp_path / name).write_text("2")
        keys.append(run_notebooks.shared_key(tmp_path))
    monkeypatch.setenv("EDITOR", "vi")
    assert run_notebooks.shared_key(tmp_path) == keys[-1]
    monkeypatch.setenv("HF_HUB_CACHE", os.fspath(tmp_path))
    assert run_notebooks.shared_key(tmp_path) not in keys and len(set(keys)) == 3


def test_a_kernel_sees_only_what_the_package_requires(
    write_notebook: NotebookWriter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    beyond = run_notebooks.beyond_the_package()
    assert {"sphinx", "jupyter_book", "papermill", "nbformat", "bs4", "tabulate"} <= {*beyond}
    assert {"torch", "pytorch_grad_cam", "cv2", "ipykernel", "mlxtend"}.isdisjoint(beyond)
    source = write_notebook(
        "import numpy, pytorch_grad_cam, pandas.io.formats.style", "import sphinx.util"
    )
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", source.parent)
    monkeypatch.setattr(run_notebooks, "BUILD", tmp_path / "build")
    monkeypatch.setattr("sys.argv", ["run_notebooks.py", str(source)])
    with pytest.raises(SystemExit):
        run_notebooks.main()
    assert "No module named 'sphinx'" in capsys.readouterr().err
