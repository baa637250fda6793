"""What the scripts share: paths, printing, hashing, running a command with its output in a log."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
LOGS = BUILD / "logs"
HTML = BUILD / "html"
NOTEBOOKS = ROOT / "notebooks"
# Lines of pip that tell nothing about how far it has come.
NOISE = re.compile("WARNING|Attempting uninstall|Found existing|Uninstalling|Successfully uninst")
PROFILES = ("auto", "ci", "cpu", "gpu")


def say(line: str = "") -> None:
    """Print at once, so that progress is seen while it happens."""
    print(line, flush=True)


def fail(message: str) -> NoReturn:
    """End the script with a message on stderr and exit status 1."""
    sys.stdout.flush()
    print(f"\nerror: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def book_profile(environ: Mapping[str, str] = os.environ) -> str:
    """Profile with which `make book` runs the notebooks."""
    return "ci" if environ.get("CI", "").lower() in ("1", "true") else "auto"


def executed_folder(profile: str) -> Path:
    """Folder of the executed notebooks of one profile."""
    return BUILD / "run" / profile / "notebooks"


def digest(parts: Iterable[str | bytes]) -> str:
    """Hash a sequence of strings so that moving a border between two of them changes the hash."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files below a folder in a fixed order, without byte code and hidden files."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(
            part == "__pycache__" or part.startswith(".") for part in path.relative_to(folder).parts
        )
    )


def files_digest(paths: Iterable[Path], base: Path) -> str:
    """Hash the names (relative to `base`) and the contents of files."""
    return digest(
        part for path in paths for part in (path.relative_to(base).as_posix(), path.read_bytes())
    )


def write_text(path: Path, text: str) -> None:
    """Write a file in one move: a reader sees the old or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def processor() -> str:
    """Name of the processor and its number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def run_logged(
    command: Sequence[str], log: Path, *, heartbeat: float = 15.0, cwd: Path = ROOT
) -> int:
    """Run a talkative command with its output in `log`; print a sign of life now and then."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    finished = threading.Event()

    def report() -> None:
        while not finished.wait(heartbeat):
            say(f"      {time.monotonic() - start:4.0f} s  {_last_line(log)[:100]}")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        with log.open("w", encoding="utf-8") as stream:
            return subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd, check=False
            ).returncode
    finally:
        finished.set()
        reporter.join()


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log, indented."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in text[-lines:])


def without_colours(text: str) -> str:
    """Remove terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _last_line(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = without_colours(text).split("\n")
    return next(
        (s for line in reversed(lines) if (s := line.strip(" =")) and not NOISE.match(s)), ""
    )
