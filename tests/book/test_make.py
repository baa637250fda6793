"""The commands: what the Makefile offers, how it refuses, and which lists have to agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import setup_venv
import steps
from _common import ROOT


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def test_help_lists_every_target() -> None:
    done = make("help")
    assert done.returncode == 0
    for target in ("book", "test", "notebooks", "clean"):
        assert f"  make {target} " in done.stdout


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_a_missing_or_too_old_python_is_named(python: str) -> None:
    done = make("book", f"PYTHON={python}")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout and python in done.stdout


@pytest.mark.parametrize("target", ["book", "test", "notebooks"])
def test_the_steps_of_a_target_call_scripts_that_exist(target: str) -> None:
    for step in steps.steps_of(target, "ci"):
        assert step.command[0] == "-m" or (ROOT / step.command[0]).is_file()


def test_slow_tests_are_run_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(slow: bool) -> list[str]:
        return next(s.command for s in steps.steps_of("test", "ci", slow) if "pytest" in s.command)

    assert "not slow" in words(False) and "not slow" not in words(True)
    assert "SLOW=1" in make("help").stdout
    for value, wanted in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("SLOW", value)
        assert steps.wants_slow_tests() == wanted


@pytest.mark.parametrize("line", ["version = 3.10.4", "version_info = 3.10.4.final.0"])
def test_another_python_makes_a_new_environment(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\n{line}\ncommand = python -m venv {venv}\n")
    ran: list[list[str]] = []
    monkeypatch.setattr(setup_venv, "VENV", venv)
    monkeypatch.setattr(setup_venv, "_works", lambda *_: True)
    monkeypatch.setattr(setup_venv, "_run", lambda command, _: ran.append(command))
    setup_venv.create()
    assert ran and ran[0][:3] == [sys.executable, "-m", "venv"]
    assert not venv.exists(), "the old one is gone"
    assert "made with Python 3.10" in capsys.readouterr().out

    ran.clear()
    venv.mkdir()
    here = ".".join(map(str, sys.version_info[:3]))
    (venv / "pyvenv.cfg").write_text(f"version = {here}\ncommand = python -m venv {venv}\n")
    setup_venv.create()
    assert ran == [] and capsys.readouterr().out == ""


def test_the_key_of_the_environment_names_the_python() -> None:
    assert setup_venv.key((3, 12)) != setup_venv.key((3, 13))
    assert setup_venv.key() == setup_venv.key(sys.version_info[:2])


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROFILE", raising=False)
    monkeypatch.setenv("CI", "true")
    assert steps.default_profile("book") == "ci"
    monkeypatch.delenv("CI")
    assert steps.default_profile("book") == "auto"
    monkeypatch.setenv("PROFILE", "gpu")
    assert steps.default_profile("book") == "gpu"
    assert steps.default_profile("test") == "ci"


def test_a_failed_step_stops_the_run_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "PYTHON", "false")
    with pytest.raises(SystemExit):
        steps.run_step(steps.Step("trying", ["x"]), "step 2 of 5 of `make test`", {**os.environ})
    error = capsys.readouterr().err
    assert "step 2 of 5 of `make test` failed: trying" in error and "Nothing after it" in error


def requirement_lines() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {line.partition("#")[0].strip() for line in lines} - {""}


def requirement_name(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")


def test_requirements_hold_all_that_the_package_and_its_extras_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = {requirement_name(line) for line in requirement_lines()}
    wanted = {
        requirement_name(r) for r in [*project["dependencies"], *extras["book"], *extras["test"]]
    }
    assert wanted - listed == set()


def test_constraints_are_exact_and_cover_the_requirements() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)] == []
    pinned = {requirement_name(line) for line in pins}
    assert {requirement_name(line) for line in requirement_lines()} - pinned == set()
