"""The Makefile: what it offers and refuses, when it installs; lists that have to agree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from _common import ROOT
from packaging.specifiers import SpecifierSet

# Stands for Python: makes a .venv whose python says what it was asked for, and fails on request.
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) [ -z "$OLD" ]; exit ;;
  -V) echo Python 3.12.1 ;;
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *) echo "$*" >> calls.txt; echo "Downloading torch-2.0.whl (800.1 MB)"; echo "noise"
     case "$*" in *"$FAIL"*) echo "ERROR: no such version"; exit 1 ;; esac ;;
esac
"""
INSTALL = "-m pip install --no-input -r requirements.txt"
ITSELF = "-m pip install --no-input -q --no-deps -e ."
NOTEBOOKS = "-u scripts/run_notebooks.py --profile"


def make(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "CI"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=cwd,
        env={**kept, "FAIL": "nothing", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, what it installs from, and a stand-in for Python."""
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def notebooks(
    checkout: Path, *arguments: str, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `make notebooks`; what the stand-in was asked for meanwhile, too."""
    python = f"PYTHON={checkout / 'python'}"
    done = make("notebooks", python, *arguments, cwd=checkout, **variables)
    calls = checkout / "calls.txt"
    asked = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return done, asked


def test_help_lists_every_target() -> None:
    done = make("help")
    for target in ("book", "test", "notebooks", "bench", "study", "freeze", "clean"):
        assert f"  make {target} " in done.stdout
    assert "SLOW=1" in done.stdout and "PROFILE=ci" in done.stdout


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_a_missing_or_too_old_python_is_named(checkout: Path, python: str) -> None:
    done = make("book", f"PYTHON={python}", cwd=checkout)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout and python in done.stdout


def test_the_environment_is_made_once_and_again_after_a_change(checkout: Path) -> None:
    done, asked = notebooks(checkout)
    assert asked == [f"{INSTALL} -c constraints.txt", ITSELF, f"{NOTEBOOKS} auto"]
    assert "making it with Python 3.12.1" in done.stdout
    assert done.stdout.count("Downloading torch") == len(asked)
    assert done.stdout.count("noise") == len(asked) - 1, "of the long installation only the news"
    assert notebooks(checkout)[1] == [f"{NOTEBOOKS} auto"]
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml"):
        later = (checkout / name).stat().st_mtime + 60
        os.utime(checkout / name, (later, later))
        assert len(notebooks(checkout)[1]) == 3
        os.utime(checkout / name, (0, 0))
    moved = checkout.rename(checkout.with_name("moved"))
    assert len(notebooks(moved)[1]) == 3
    (moved / ".venv" / "old").touch()
    (moved / "python").write_text(PYTHON.replace('[ -z "$OLD" ]', "echo 3.13; true"))
    assert len(notebooks(moved)[1]) == 3 and not (moved / ".venv" / "old").exists()


def test_where_the_recorded_versions_do_not_install_the_ranges_are_tried(checkout: Path) -> None:
    done, asked = notebooks(checkout, FAIL="constraints.txt")
    assert done.returncode == 0 and "NOTE: the versions of constraints.txt" in done.stdout
    assert asked[:2] == [f"{INSTALL} -c constraints.txt", INSTALL]


def test_a_failed_installation_is_shown_and_tried_again(checkout: Path) -> None:
    done, asked = notebooks(checkout, FAIL="requirements.txt")
    assert done.returncode != 0 and len(asked) == 2
    assert "ERROR: no such version" in done.stdout
    assert "pip could not install requirements.txt" in done.stdout
    assert len(notebooks(checkout)[1]) == 3


def test_a_failed_step_stops_the_run_and_is_named(checkout: Path) -> None:
    done, _ = notebooks(checkout, FAIL="run_notebooks")
    assert done.returncode != 0
    assert "make notebooks stopped at this step: running the notebooks" in done.stderr
    done = make("test", f"PYTHON={checkout / 'python'}", cwd=checkout, FAIL="pytest")
    assert done.returncode != 0 and "stopped at this step: unit tests" in done.stderr
    asked = (checkout / "calls.txt").read_text()
    assert "mypy" in asked and "run_notebooks" not in asked, "nothing after it was run"


def test_profiles_and_slow_tests(checkout: Path) -> None:
    assert notebooks(checkout, CI="true")[1][-1] == f"{NOTEBOOKS} ci"
    assert notebooks(checkout, CI="true", PROFILE="gpu")[1][-1] == f"{NOTEBOOKS} gpu"
    assert notebooks(checkout, "PROFILE=cpu")[1][-1] == f"{NOTEBOOKS} cpu"
    for slow, marks in (("", "-m not slow"), ("0", "-m not slow"), ("1", "")):
        make("test", f"PYTHON={checkout / 'python'}", "PROFILE=gpu", cwd=checkout, SLOW=slow)
        asked = (checkout / "calls.txt").read_text()
        assert f"-u -m pytest -rs {marks}".rstrip() + "\n" in asked
        assert f"{NOTEBOOKS} ci\n" in asked, "make test is always quick"
        (checkout / "calls.txt").unlink()


def test_the_scripts_that_it_calls_exist() -> None:
    names = set(re.findall(r"scripts/\w+\.py", (ROOT / "Makefile").read_text()))
    assert len(names) >= 7 and all((ROOT / name).is_file() for name in names)


def requirement_lines() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {line.partition("#")[0].strip() for line in lines} - {""}


def requirement_name(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")


def test_requirements_are_those_of_the_package_and_its_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [line for name in ("book", "test", "dask", "hf") for line in extras[name]]
    assert requirement_lines() == {*project["dependencies"], *asked}


def test_constraints_are_exact_and_cover_the_requirements() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.!+]+", line)] == []
    pinned = {requirement_name(line) for line in pins}
    assert {requirement_name(line) for line in requirement_lines()} - pinned == set()


def test_constraints_admit_the_first_python_3_11_of_a_stable_distribution() -> None:
    """Debian 12 has Python 3.11.2; what an installed package of the pinned version asks for."""
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    versions = {requirement_name(pin[0]): pin[1] for pin in pins if len(pin) == 2}
    refusing = [
        f"{each.name}=={each.version}"
        for each in metadata.distributions()
        if versions.get(requirement_name(each.name)) == each.version
        and "3.11.2" not in SpecifierSet(each.metadata["Requires-Python"] or "")
    ]
    assert refusing == []
