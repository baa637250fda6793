"""Make the scripts importable, and tiny notebooks and pages easy to write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a notebook with a parameters cell and the given code cells."""

    def write(*sources: str, tag: str = "parameters") -> Path:
        parameters = nbformat.v4.new_code_cell('PROFILE = "auto"', metadata={"tags": [tag]})
        cells = [nbformat.v4.new_code_cell(code) for code in sources]
        notebook = nbformat.v4.new_notebook(cells=[parameters, *cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        notebook.metadata["language_info"] = {"name": "python"}
        path = tmp_path / "notebooks" / "tiny.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture
def write_page(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an HTML page around the given body."""

    def write(body: str, name: str = "page.html", head: str = "") -> Path:
        path = tmp_path / "html" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>{head}'
            f"</head><body>{body}</body></html>",
            encoding="utf-8",
        )
        return path

    return write
