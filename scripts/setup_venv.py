"""Set up .venv: once, and again only when what it is made from has changed.

Runs with any Python 3.11 or newer and needs nothing but the standard library and pip.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import time

from _common import LOGS, ROOT, digest, fail, run_logged, say, tail, write_text

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "moxi-lite.stamp"
ADVICE = (
    "Debian, Ubuntu: apt-get install python3-venv; elsewhere: a Python with venv and ensurepip."
)
SOURCES = ("requirements.txt", "constraints.txt", "pyproject.toml")


def key(python: tuple[int, ...] = sys.version_info[:2]) -> str:
    """What the environment is made from: Python, lists of packages, place of the repository."""
    contents = [(ROOT / name).read_bytes() if (ROOT / name).exists() else b"" for name in SOURCES]
    return digest([str(ROOT), repr(tuple(python)), *contents])


def venv_version() -> tuple[int, int] | None:
    """Major and minor version of the Python that .venv was made with; None if that is unknown."""
    settings = VENV / "pyvenv.cfg"
    text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    found = re.search(r"(?m)^version(?:_info)? *= *(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def is_current() -> bool:
    """Tell whether .venv works and was made from today's lists."""
    if not STAMP.exists() or STAMP.read_text() != key():
        return False
    return _works("-c", "from importlib.metadata import version; version('moxi-lite')")


def create() -> None:
    """Make an empty .venv with pip in it."""
    # A repository that was moved takes along an environment that points to its old place.
    old, wanted = venv_version(), sys.version_info[:2]
    if old is not None and old != wanted:
        say(
            f"      .venv was made with Python {old[0]}.{old[1]}: making it anew with the Python "
            f"{wanted[0]}.{wanted[1]} that was asked for"
        )
    elif _works("-m", "pip", "--version") and str(VENV) in (VENV / "pyvenv.cfg").read_text():
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if importlib.util.find_spec("venv") is None:
        fail(f"{sys.executable} has no module venv. {ADVICE}")
    if importlib.util.find_spec("ensurepip") is not None:
        command = [sys.executable, "-m", "venv", str(VENV)]
    else:  # Debian splits ensurepip off: let the pip that is there fill the environment
        command = [sys.executable, "-m", "venv", "--without-pip", str(VENV)]
    _run(command, "could not create .venv")
    if importlib.util.find_spec("ensurepip") is None:
        if importlib.util.find_spec("pip") is None:
            fail(f"{sys.executable} has neither ensurepip nor pip. {ADVICE}")
        _run(
            [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "pip"],
            "could not install pip into .venv",
        )


def install() -> None:
    """Install the requirements, in the recorded versions if possible, then the package itself."""
    pip = [str(PYTHON), "-m", "pip", "install", "--no-input"]
    log = LOGS / "pip.txt"
    wanted = [*pip, "-r", str(ROOT / "requirements.txt")]
    constraints = ROOT / "constraints.txt"
    say("      installing requirements.txt (several GB the first time) ...")
    done = constraints.exists() and run_logged([*wanted, "-c", str(constraints)], log) == 0
    if not done:
        if constraints.exists():
            say(tail(log, 5))
            say(
                "      NOTE: the versions of constraints.txt cannot be installed here "
                f"(Python {sys.version.split()[0]}); trying the ranges of requirements.txt instead."
            )
        if run_logged(wanted, log) != 0:
            where = log.relative_to(ROOT)
            fail(f"pip could not install requirements.txt. The end of {where}:\n{tail(log)}")
    say("      installing moxi-lite itself (editable) ...")
    if run_logged([*pip, "--no-deps", "-e", str(ROOT)], LOGS / "pip-package.txt") != 0:
        fail(f"pip could not install the package itself:\n{tail(LOGS / 'pip-package.txt')}")


def freeze() -> None:
    """Write the exact versions in .venv to constraints.txt: to be done after a green run."""
    command = [str(PYTHON), "-m", "pip", "freeze", "--exclude-editable"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pins = [line for line in done.stdout.splitlines() if "==" in line]
    version = subprocess.run([str(PYTHON), "-V"], capture_output=True, text=True, check=True)
    system = f"{version.stdout.strip().rpartition('.')[0]} on {platform.system()}"
    header = [
        f"# The exact versions of the last green run, with {system} ({platform.machine()}).",
        "# Written by: python scripts/setup_venv.py --freeze",
    ]
    write_text(ROOT / "constraints.txt", "\n".join([*header, *pins, ""]))
    write_text(STAMP, key(venv_version() or sys.version_info[:2]))
    say(f"constraints.txt: {len(pins)} versions")


def main() -> None:
    """Bring .venv up to date."""
    if is_current():
        say("      .venv is up to date")
        return
    start = time.monotonic()
    create()
    install()
    write_text(STAMP, key())
    say(f"      .venv is ready after {time.monotonic() - start:.0f} s")


def _works(*arguments: str) -> bool:
    """Tell whether the Python of .venv is there and runs something without an error."""
    command = [str(PYTHON), *arguments]
    return PYTHON.exists() and subprocess.run(command, capture_output=True).returncode == 0


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        fail(f"{problem}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    freeze() if sys.argv[1:] == ["--freeze"] else main()
