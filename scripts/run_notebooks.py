"""Run the notebooks with papermill into _build/run/<profile>/notebooks/, again only if need be.

    python scripts/run_notebooks.py --profile ci
    python scripts/run_notebooks.py notebooks/01_set_sum.ipynb -p PROFILE=cpu

The executed copies are what the book renders. Beside NAME.ipynb lies NAME.run.json (time, profile,
hash of everything that the run depended on); what the notebook recorded with moxi_lite.ledger lies
in ../ledger/NAME/.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
from _common import (
    BUILD,
    NOTEBOOKS,
    PROFILES,
    ROOT,
    digest,
    executed_folder,
    fail,
    files_below,
    files_digest,
    say,
    write_text,
)
from _staging import clean_outputs, images_without_alt
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

KERNEL = "moxi_lite_venv"
CELL_TIMEOUT = 15 * 60  # seconds
# Variables on which what a notebook prints may depend.
VARIABLES = ("MOXI_LITE_", "HF_HUB_", "HF_HOME", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES")


class NotebookError(Exception):
    """A notebook that cannot be run or did not finish; the message is meant for people."""


@dataclass(frozen=True)
class Run:
    """One executed notebook: wall time in seconds, and whether it was taken from an earlier run."""

    name: str
    output: Path
    seconds: float
    reused: bool


def find_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """All notebooks below a folder, in the order of their names."""
    return sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not declare: papermill would only log them."""
    declared = sorted(papermill.inspect_notebook(str(notebook)))
    for name in parameters:
        if name in declared:
            continue
        if not declared:
            raise NotebookError(
                f"{notebook.name} has no cell tagged 'parameters', so it cannot be given {name}."
            )
        near = difflib.get_close_matches(name, declared, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise NotebookError(
            f"unknown parameter {name!r} for {notebook.name}.{hint} "
            f"It declares: {', '.join(declared)}."
        )


def shared_key(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> str:
    """Hash what all notebooks depend on: package, results, installed versions, variables."""
    folders = [root / "moxi_lite", root / "results"]
    files = [path for folder in folders if folder.is_dir() for path in files_below(folder)]
    own = [Path(__file__), Path(__file__).with_name("_staging.py")]
    installed = sorted({f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions()})
    variables = [
        f"{k}={v}"
        for k, v in sorted(environ.items())
        if k.startswith(VARIABLES) and k != "MOXI_LITE_LEDGER_DIR"
    ]
    gpu = str(Path("/dev/nvidia0").exists())
    return digest(
        [
            sys.version,
            gpu,
            *installed,
            *variables,
            files_digest(files, root),
            files_digest(own, own[0].parent),
        ]
    )


def run_notebook(
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    *,
    ledger: Path,
    key: str = "",
    timeout: int = CELL_TIMEOUT,
) -> Run:
    """Run one notebook to `target`, or reuse the copy there if nothing it depends on has changed.

    Raises
    ------
    NotebookError
        For an unknown parameter, a failing cell, a cell over `timeout` seconds, a kernel that dies,
        or a figure without alternative text.
    """
    check_parameters(source, parameters)
    key = digest([key, source.read_bytes(), json.dumps(dict(parameters), sort_keys=True)])
    record = target.with_suffix(".run.json")
    if target.exists() and record.exists():
        old = json.loads(record.read_text(encoding="utf-8"))
        if old["key"] == key:
            return Run(source.stem, target, old["seconds"], reused=True)

    record.unlink(missing_ok=True)
    shutil.rmtree(ledger, ignore_errors=True)
    ledger.mkdir(parents=True)
    half_done = target.with_suffix(".unfinished.ipynb")
    start = time.monotonic()
    with _kernel_environment(ledger):
        _execute(source, half_done, parameters, timeout)
    seconds = time.monotonic() - start

    executed = clean_outputs(nbformat.read(half_done, as_version=4))
    missing = images_without_alt(executed)
    if missing:
        raise NotebookError(
            f"{source.name}: figures without alternative text, from the cells "
            + "; ".join(missing)
            + ".\nGive each of these cells the metadata "
            + '{"mystnb": {"image": {"alt": "what the figure shows"}}}.'
        )
    write_text(target, nbformat.writes(executed))
    half_done.unlink()
    finished = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    write_text(
        record,
        json.dumps({"key": key, "seconds": seconds, "finished": finished, **parameters}, indent=1),
    )
    return Run(source.stem, target, seconds, reused=False)


def _execute(source: Path, output: Path, parameters: Mapping[str, Any], timeout: int) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(output),
            parameters=dict(parameters),
            kernel_name=KERNEL,
            language="python",
            cwd=str(output.parent),
            progress_bar=sys.stderr.isatty(),
            execution_timeout=timeout,
        )
    except PapermillExecutionError as error:
        raise NotebookError(_describe_failure(source, error)) from None
    except CellTimeoutError as error:
        raise NotebookError(
            f"{source.name}: a cell ran for over {timeout} s and was stopped.\n{error}"
        ) from None
    except DeadKernelError as error:
        raise NotebookError(
            f"{source.name}: the kernel died ({error}). Too little memory is the usual cause.\n"
            f"What had been run until then: {os.path.relpath(output, ROOT)}"
        ) from None


def _describe_failure(source: Path, error: PapermillExecutionError) -> str:
    """Say where it failed: number of the cell (from 1, as written), its source, the error."""
    cells = nbformat.read(source, as_version=4).cells
    number = next((i for i, cell in enumerate(cells, 1) if cell.source == error.source), None)
    place = f"cell {number} of {len(cells)}" if number else "a cell that papermill added"
    code = "\n".join(f"    {line}" for line in error.source.splitlines())
    traceback = "\n".join(error.traceback).splitlines() or [f"{error.ename}: {error.evalue}"]
    return f"{source.name} failed in {place}:\n\n{code}\n\nThe end of the traceback:\n" + "\n".join(
        traceback[-25:]
    )


def _mirror_repository(folder: Path) -> None:
    """Lay links to results/ and book/ beside the folder of executed notebooks.

    Kernels work in that folder: relative paths mean the same there as in notebooks/, and what a
    notebook writes stays out of notebooks/.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("results", "book"):
        link = folder.parent / name
        if (ROOT / name).is_dir() and not link.is_symlink():
            link.symlink_to(ROOT / name, target_is_directory=True)


@contextmanager
def _kernel_environment(ledger: Path) -> Iterator[None]:
    """Run the kernel with this Python, away from the user's kernels and IPython settings."""
    jupyter = BUILD / "jupyter"
    spec = {
        "argv": [
            sys.executable,
            *("-m", "ipykernel_launcher", "--log-level=ERROR", "-f", "{connection_file}"),
        ],
        "display_name": "Python 3 (.venv)",
        "language": "python",
    }
    write_text(jupyter / "kernels" / KERNEL / "kernel.json", json.dumps(spec))
    changed = {
        "JUPYTER_PATH": str(jupyter),
        "IPYTHONDIR": str(BUILD / "ipython"),
        "MOXI_LITE_LEDGER_DIR": str(ledger),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": None,  # the inline backend is the kernel's default
    }
    before = {name: os.environ.get(name) for name in changed}
    _set_variables(changed)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def run_all(notebooks: Sequence[Path], folder: Path, parameters: Mapping[str, Any]) -> list[Run]:
    """Run notebooks one after another, saying how far it has come."""
    for notebook in notebooks:
        check_parameters(notebook, parameters)
    _mirror_repository(folder)
    key = shared_key()
    runs = []
    for number, notebook in enumerate(notebooks, 1):
        relative = (
            notebook.relative_to(NOTEBOOKS)
            if notebook.is_relative_to(NOTEBOOKS)
            else Path(notebook.name)
        )
        say(f"      ({number}/{len(notebooks)}) {relative} ...")
        ledger = folder.parent / "ledger" / relative.with_suffix("")
        run = run_notebook(notebook, folder / relative, parameters, ledger=ledger, key=key)
        how = "unchanged since a run of" if run.reused else "ran for"
        say(f"            {how} {run.seconds:.1f} s")
        runs.append(run)
    return runs


def remove_stale(folder: Path, notebooks: Sequence[Path]) -> None:
    """Delete executed copies of notebooks that are no longer there."""
    wanted = {folder / notebook.relative_to(NOTEBOOKS) for notebook in notebooks}
    for record in folder.rglob("*.run.json"):
        copy = record.with_name(record.name.removesuffix(".run.json") + ".ipynb")
        if copy not in wanted:
            record.unlink()
            copy.unlink(missing_ok=True)
            ledger = folder.parent / "ledger" / copy.relative_to(folder).with_suffix("")
            shutil.rmtree(ledger, ignore_errors=True)


def main() -> None:
    """Run the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument(
        "--profile", choices=PROFILES, default="ci", help="value of PROFILE (default: %(default)s)"
    )
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="further parameter",
    )
    arguments = parser.parse_args()
    notebooks = [path.resolve() for path in arguments.notebooks] or find_notebooks()
    for path in notebooks:
        if not path.is_file():
            fail(f"there is no notebook {path}.")
    if not notebooks:
        fail(f"there are no notebooks in {NOTEBOOKS}.")
    parameters: dict[str, Any] = {"PROFILE": arguments.profile}
    for item in arguments.parameter:
        name, equals, value = item.partition("=")
        if not equals:
            parser.error(f"expected NAME=VALUE, got {item!r}")
        parameters[name] = value
    folder = executed_folder(arguments.profile)
    if not arguments.notebooks:
        remove_stale(folder, notebooks)
    try:
        runs = run_all(notebooks, folder, parameters)
    except NotebookError as error:
        fail(str(error))
    total = sum(run.seconds for run in runs)
    reused = sum(run.reused for run in runs)
    say(f"      {len(runs)} notebooks, {reused} of them unchanged; {total:.0f} s of running time")


if __name__ == "__main__":
    main()
