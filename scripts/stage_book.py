"""Lay out what Jupyter Book renders in _build/stage.

That is _config.yml, _toc.yml, book/ and the notebooks as run_notebooks.py executed them, and what
only a build knows: the table of the ledger, the execution times, and a copy of MathJax.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

import mathjax
import nbformat
from _common import BUILD, PROFILES, ROOT, chapters, fail
from nbformat import NotebookNode

from moxi_lite import ledger

STAGE = BUILD / "stage"
MATHJAX = Path(mathjax.__file__).parent / "static" / "mathjax" / "es5"
MATHJAX_PARTS = ("tex-svg.js", "input/tex/extensions", "a11y", "sre", "ui")
COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
WIDGET = "application/vnd.jupyter.widget-view+json"
CACHES = ("MOXI_LITE_DATA_DIR", "HF_HUB_CACHE", "HF_HOME")


def for_the_page(notebook: NotebookNode, depth: int = 1) -> None:
    """Fit an executed notebook for a static page: no widgets, no paths, no picture from elsewhere.

    Raises
    ------
    ValueError
        If a cell shows a figure without saying what is to be seen on it.
    """
    for key in ("widgets", "papermill", "moxi_lite_key"):
        notebook.metadata.pop(key, None)
    tagged = [(cell, set(cell.metadata.get("tags", []))) for cell in notebook.cells]
    notebook.cells = [cell for cell, tags in tagged if "injected-parameters" not in tags]
    for cell, tags in tagged:
        cell.metadata.pop("papermill", None)
        if cell.cell_type != "code":
            cell.source = cell.source.replace(
                COLAB_BADGE, "../" * depth + "book/_static/colab-badge.svg"
            )
            continue
        if tags & {"install", "parameters"}:  # these matter only to who runs the notebook
            cell.metadata["tags"] = [*tags, "hide-input"]
        removed = tags & {"remove-output", "remove-cell"}
        cell.outputs = [o for o in cell.outputs if not removed and WIDGET not in o.get("data", {})]
        for output in cell.outputs:
            if "text" in output:
                output.text = without_paths(output.text)
            data = output.get("data", {})
            data |= {k: without_paths(v) for k, v in data.items() if k.startswith("text/")}
            described = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip()
            if any(kind.startswith("image/") for kind in data) and not described:
                raise ValueError(
                    f"a figure without alternative text, from this cell:\n\n{cell.source[:400]}\n\n"
                    'Give it the metadata {"mystnb": {"image": {"alt": "what the figure shows"}}}.'
                )


def without_paths(text: str) -> str:
    """Replace absolute folders of this machine."""
    caches = [(f"{os.environ[name]}/", f"${name}/") for name in CACHES if os.environ.get(name)]
    for path, name in [*caches, (f"{ROOT}/", ""), (f"{Path.home()}/", "~/")]:
        text = text.replace(path, name)
    return text


def execution_times(times: dict[str, float], profile: str) -> str:
    """Write the page that lists how long each notebook ran, in seconds."""
    rows = [f"| [{Path(n).stem}](../notebooks/{n}) | {time:.1f} |" for n, time in times.items()]
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "timm", "numpy")]
    return f"""# Execution times

Every chapter of this copy of the book was run from start to end on the machine that built it, with
the profile `{profile}`. Times are wall time and include starting the kernel and loading the model.

| Chapter | Time (s) |
|---|---:|
{chr(10).join(rows)}
| **all chapters** | **{sum(times.values()):.1f}** |

Built with Python {sys.version.split()[0]}, {", ".join(versions)}.
"""


def main() -> None:
    """Stage the book with the notebooks of one profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, required=True)
    profile = parser.parse_args().profile
    run, times, entries = BUILD / "run" / profile, {}, []
    # From scratch: no page that is gone stays, and every warning is given again.
    for old in (STAGE, BUILD / "html", BUILD / ".doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(ROOT / "book", STAGE / "book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, STAGE)
    for name in chapters():
        try:
            notebook = nbformat.read(run / "notebooks" / name, as_version=4)
            times[name.as_posix()] = notebook.metadata.papermill.duration
            for_the_page(notebook, len(name.parts))
        except FileNotFoundError:
            fail(f"{name} has not been run: make notebooks PROFILE={profile}")
        except ValueError as error:
            fail(f"{name}: {error}")
        (STAGE / "notebooks" / name).parent.mkdir(exist_ok=True)
        nbformat.write(notebook, STAGE / "notebooks" / name)
        entries += ledger.read_entries(run / "ledger" / name.with_suffix(""))
    table = ledger.markdown_table(ledger.table(entries))
    (STAGE / "book" / "_ledger_table.md").write_text(table, encoding="utf-8")
    page = execution_times(times, profile)
    (STAGE / "book" / "execution_times.md").write_text(page, encoding="utf-8")
    for part in MATHJAX_PARTS:
        copy = shutil.copytree if (MATHJAX / part).is_dir() else shutil.copy2
        target = STAGE / "_extra" / "mathjax" / "es5" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(MATHJAX / part, target)


if __name__ == "__main__":
    main()
