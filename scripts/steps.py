"""The steps of `make book`, `test`, `notebooks`, `bench` and `study`, up to the first failure."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import environment
import setup_venv
from _common import BUILD, HTML, LOGS, PROFILES, ROOT, book_profile, fail, say

PYTHON = str(setup_venv.PYTHON)
STUDIED = ("vit_tiny_patch16_224", "deit_tiny_patch16_224", "efficientnet_lite0")


@dataclass(frozen=True)
class Step:
    """One command of a target."""

    title: str
    command: list[str]
    log: str | None = None  # name of a file under _build/logs that also gets the output


def steps_of(target: str, profile: str, slow: bool = False) -> list[Step]:
    """List the steps of a target, after that of setting up .venv; `slow` adds the slow tests."""
    chosen = [] if slow else ["-m", "not slow"]
    notebooks = Step(
        f"running the notebooks (profile {profile})",
        ["scripts/run_notebooks.py", "--profile", profile],
    )
    return {
        "notebooks": [notebooks],
        "bench": [Step("measuring speed (about 5 minutes)", ["-m", "benchmarks.bench"])],
        "study": [
            *(
                Step(
                    f"studying ImageNet samples with {model}",
                    ["scripts/run_imagenet_study.py", "--model", model],
                )
                for model in STUDIED
            ),
            Step("comparing masks and models", ["scripts/run_masks_and_models.py"]),
            Step("explaining classes that are not predicted", ["scripts/run_target_class.py"]),
        ],
        "test": [
            Step("linting (ruff)", ["-m", "ruff", "check", "."]),
            Step("checking types (mypy)", ["-m", "mypy"]),
            Step(
                f"unit tests (pytest{', the slow ones too' if slow else ''})",
                ["-m", "pytest", *chosen, "-rs"],
                log="pytest.txt",
            ),
            notebooks,
        ],
        "book": [
            notebooks,
            Step(
                "rendering the book (Jupyter Book)", ["scripts/build_book.py", "--profile", profile]
            ),
            Step("checking the rendered pages", ["scripts/check_book.py"]),
            Step("packing the book as one zip", ["scripts/build_book.py", "--zip-only"]),
        ],
    }[target]


def default_profile(target: str) -> str:
    """`make test` is quick; `make book` fits the machine, and is quick on CI."""
    return "ci" if target == "test" else os.environ.get("PROFILE", book_profile())


def wants_slow_tests() -> bool:
    """`make test SLOW=1` runs all tests."""
    return os.environ.get("SLOW", "") not in ("", "0")


def main() -> None:
    """Run one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("book", "test", "notebooks", "bench", "study"))
    target = parser.parse_args().target
    profile = default_profile(target)
    if profile not in PROFILES:
        fail(f"PROFILE is {profile!r}; expected one of {', '.join(PROFILES)}.")
    steps = steps_of(target, profile, wants_slow_tests())
    total = len(steps) + 1
    start = time.monotonic()

    say(f"[1/{total}] setting up .venv")
    setup_venv.main()
    added, lines = environment.describe(os.environ, ROOT.parent / "shared")
    for line in lines:
        say(f"      {line}")
    # On a busy machine OpenMP's threads lose minutes by spinning while they wait for each other.
    patient = {} if target == "bench" else {"OMP_WAIT_POLICY": "PASSIVE"}
    variables = {**patient, **os.environ, **added, "PYTHONUNBUFFERED": "1"}
    for number, step in enumerate(steps, start=2):
        say(f"[{number}/{total}] {step.title}")
        run_step(step, f"step {number} of {total} of `make {target}`", variables)
    say(f"\nmake {target}: all {total} steps passed in {time.monotonic() - start:.0f} s")
    if target == "book":
        say(f"The book:    {HTML / 'index.html'}")
        say(f"In one file: {BUILD / 'moxi-lite-book.zip'}")


def run_step(step: Step, place: str, variables: dict[str, str]) -> None:
    """Run a step with its output shown (and logged, where the step says so)."""
    start = time.monotonic()
    command = [PYTHON, *step.command]
    if step.log is None:
        status = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
    else:
        status = run_and_copy(command, LOGS / step.log, variables)
    if status != 0:
        shown = " ".join([os.path.relpath(PYTHON, ROOT), *step.command])
        fail(f"{place} failed: {step.title}.\nThe command was: {shown}\nNothing after it was run.")
    say(f"      done in {time.monotonic() - start:.0f} s")


def run_and_copy(command: list[str], log: Path, variables: dict[str, str]) -> int:
    """Run a command; its output goes to the terminal and to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as copy,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            copy.write(line)
    return process.returncode


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted")
