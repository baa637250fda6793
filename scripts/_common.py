"""What the scripts share: folders, printing, ending with an error."""

from __future__ import annotations

import os
import platform
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


def processor() -> str:
    """Name of the processor and its number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
