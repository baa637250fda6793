"""What the scripts share: folders, printing, ending with an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
NOTEBOOKS = ROOT / "notebooks"
PROFILES = ("auto", "ci", "cpu", "gpu")


def say(line: str = "") -> None:
    """Print at once, so that progress is seen while it happens."""
    print(line, flush=True)


def fail(message: str) -> NoReturn:
    """End the script with a message on stderr and exit status 1."""
    sys.stdout.flush()
    print(f"\nerror: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def chapters(folder: Path = NOTEBOOKS) -> list[Path]:
    """All notebooks below a folder, as relative paths in the order of their names."""
    found = (path.relative_to(folder) for path in folder.rglob("*.ipynb"))
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)
