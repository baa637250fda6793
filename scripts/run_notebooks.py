"""Run notebooks with papermill, each again only if something that it depends on has changed.

    python scripts/run_notebooks.py --profile ci
    python scripts/run_notebooks.py notebooks/01_set_sum.ipynb -p PROFILE=cpu

The copies in _build/run/PROFILE/notebooks are what the book shows, and what the notebooks recorded
with moxi_lite.ledger lies in _build/run/PROFILE/ledger.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
from _common import BUILD, NOTEBOOKS, PROFILES, ROOT, chapters, fail, say
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from papermill.exceptions import PapermillExecutionError

CELL_TIMEOUT = 15 * 60  # seconds
# Variables on which what a notebook prints may depend.
VARIABLES = ("MOXI_LITE_DATA_DIR", "MOXI_LITE_RESULTS_DIR", "HF_", "CUDA_VISIBLE_DEVICES")

# The settings of the kernel, which IPython runs as Python when it starts.
KERNEL = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, *more):
        return None if name in HIDDEN else super().find_spec(name, *more)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
get_config().InlineBackend.figure_formats = {"retina"}
"""


def check_parameters(notebook: Path, parameters: Mapping[str, str]) -> None:
    """Refuse parameters that the notebook does not declare: papermill would only log them."""
    declared = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            known = ", ".join(declared) or "nothing: no cell has the tag 'parameters'"
            fail(f"unknown parameter {name!r} for {notebook.name}.{hint} It declares {known}.")


def shared_key(root: Path = ROOT) -> bytes:
    """Hash what all notebooks depend on: package, results, this script, versions, variables."""
    files = [p for folder in ("moxi_lite", "results") for p in (root / folder).rglob("*")]
    files = sorted(p for p in files if p.is_file() and "__pycache__" not in p.parts)
    total = hashlib.sha256(sys.version.encode())
    for path in (*files, Path(__file__)):
        total.update(f"{os.path.relpath(path, root)}\0".encode() + path.read_bytes())
    versions = {f"{d.name}=={d.version}" for d in metadata.distributions()}
    variables = {f"{k}={v}" for k, v in os.environ.items() if k.startswith(VARIABLES)}
    gpu = str(Path("/dev/nvidia0").exists())
    total.update("\0".join([*sorted(versions), *sorted(variables), gpu]).encode())
    return total.digest()


def beyond_the_package(root: Path = ROOT) -> list[str]:
    """Modules that are here for the book and its tests only, which a kernel does not find.

    A notebook must do with what the package requires, as on Colab. The two exceptions are the
    kernel and the digits for those whom MNIST's server does not answer.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    todo, needed = [*project["dependencies"], "moxi-lite", "ipykernel", "mlxtend"], set()
    while todo:
        asked = Requirement(todo.pop())
        name = canonicalize_name(asked.name)
        if name in needed or (asked.marker and not asked.marker.evaluate({"extra": ""})):
            continue
        needed.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            todo += metadata.requires(name) or []
    owners = metadata.packages_distributions().items()
    return sorted(m for m, of in owners if needed.isdisjoint(map(canonicalize_name, of)))


def run(
    notebook: Path,
    copy: Path,
    ledger: Path,
    parameters: Mapping[str, str],
    *,
    key: bytes = b"",
    timeout: int = CELL_TIMEOUT,
) -> tuple[float, bool]:
    """Run a notebook to `copy`; its time in seconds, and whether the copy there was up to date."""
    check_parameters(notebook, parameters)
    own = repr(sorted(parameters.items())).encode()
    whole = hashlib.sha256(key + own + notebook.read_bytes()).hexdigest()
    if copy.exists():
        old = nbformat.read(copy, as_version=4).metadata
        if old.get("moxi_lite_key") == whole:
            return old.papermill.duration, True
    shutil.rmtree(ledger, ignore_errors=True)
    ledger.mkdir(parents=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    os.environ["MOXI_LITE_LEDGER_DIR"] = str(ledger)
    unfinished = copy.with_suffix(".unfinished.ipynb")
    try:
        executed = papermill.execute_notebook(
            str(notebook),
            str(unfinished),
            dict(parameters),
            kernel_name="python3",  # of the environment that this script runs in
            cwd=str(copy.parent),
            progress_bar=sys.stderr.isatty(),
            execution_timeout=timeout,
            extra_arguments=["--log-level=ERROR"],
        )
    except PapermillExecutionError as error:
        cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells]
        place = f"cell {cells.index(error.source) + 1} of {len(cells)}"
        fail(f"{notebook.name} failed in {place}.{error}")
    except CellTimeoutError as error:
        fail(f"{notebook.name}: a cell ran for over {timeout} s and was stopped.\n{error}")
    except DeadKernelError as error:
        fail(f"{notebook.name}: the kernel died, for want of memory perhaps. {error}")
    executed.metadata["moxi_lite_key"] = whole
    nbformat.write(executed, unfinished)
    unfinished.replace(copy)
    return executed.metadata.papermill.duration, False


def main() -> None:
    """Run the notebooks named on the command line, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--profile", choices=PROFILES, default="ci", help="default: %(default)s")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    names = [path.resolve().relative_to(NOTEBOOKS) for path in given.notebooks] or chapters()
    parameters = {"PROFILE": given.profile}
    parameters |= dict(item.split("=", 1) for item in given.parameter)
    for name in names:
        check_parameters(NOTEBOOKS / name, parameters)
    # The kernel is that of this environment and knows nothing of the user's settings.
    os.environ |= {"JUPYTER_PATH": "", "IPYTHONDIR": str(BUILD / "ipython"), "PYTHONHASHSEED": "0"}
    settings = BUILD / "ipython" / "profile_default" / "ipython_kernel_config.py"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(KERNEL.replace("HIDDEN", repr({*beyond_the_package()})))
    os.environ.pop("MPLBACKEND", None)
    folder = BUILD / "run" / given.profile
    total, key = 0.0, shared_key()
    for number, name in enumerate(names, 1):
        say(f"  ({number}/{len(names)}) {name} ...")
        ledger = folder / "ledger" / name.with_suffix("")
        seconds, known = run(
            NOTEBOOKS / name, folder / "notebooks" / name, ledger, parameters, key=key
        )
        say(f"        {'unchanged since a run of' if known else 'ran for'} {seconds:.1f} s")
        total += seconds
    say(f"  {len(names)} notebooks, {total:.0f} s of running time")


if __name__ == "__main__":
    main()
