"""Make an executed notebook fit for a static page: no widgets, no paths of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from _common import ROOT
from nbformat import NotebookNode

WIDGET_TYPES = (
    "application/vnd.jupyter.widget-view+json",
    "application/vnd.jupyter.widget-state+json",
)
IMAGE_TYPES = ("image/png", "image/jpeg", "image/svg+xml", "image/gif", "image/webp")
HIDDEN_TAGS = {"remove-output", "remove-cell"}


def tags(cell: NotebookNode) -> set[str]:
    """Tags of a cell."""
    return set(cell.metadata.get("tags", []))


def clean_outputs(notebook: NotebookNode) -> NotebookNode:
    """Drop widgets, which need a kernel, papermill's notes, and paths of this machine."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        if tags(cell) & HIDDEN_TAGS:
            cell.outputs = []
        cell.outputs = [_without_paths(output) for output in cell.outputs if not _is_widget(output)]
    return notebook


def images_without_alt(notebook: NotebookNode) -> list[str]:
    """Name the code cells that show an image but describe none: number (from 1) and first line."""
    missing = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code" or not any(_is_image(output) for output in cell.outputs):
            continue
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if not str(alt).strip():
            first = (cell.source.strip().splitlines() or [""])[0]
            missing.append(f"{number} ({first[:60]})")
    return missing


def _is_widget(output: NotebookNode) -> bool:
    return any(kind in output.get("data", {}) for kind in WIDGET_TYPES)


def _is_image(output: NotebookNode) -> bool:
    return any(kind in output.get("data", {}) for kind in IMAGE_TYPES)


def machine_paths() -> list[tuple[str, str]]:
    """Absolute folders of this machine and what stands for them in the book, longest first."""
    pairs = [(str(ROOT.parent / "shared"), "../shared"), (str(ROOT), ".")]
    home = str(Path.home())
    if len(Path(home).parts) > 1:
        pairs.append((home, "~"))
    for name in ("MOXI_LITE_DATA_DIR", "HF_HUB_CACHE", "HF_HOME"):
        if len(Path(os.environ.get(name, "")).parts) > 2:
            pairs.append((os.environ[name], f"${name}"))
    return sorted(dict(reversed(pairs)).items(), key=lambda pair: -len(pair[0]))


def _without_paths(value: Any) -> Any:
    """Replace absolute paths in every text of an output."""
    if isinstance(value, str):
        for path, name in machine_paths():
            value = value.replace(path, name)
        return value
    if isinstance(value, dict):
        for key in value:
            if key not in IMAGE_TYPES:
                value[key] = _without_paths(value[key])
        return value
    return [_without_paths(item) for item in value] if isinstance(value, list) else value
