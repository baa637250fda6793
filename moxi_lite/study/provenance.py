"""Where a stored result comes from: hardware, software, commit, and the records made of them."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import moxi_lite
from moxi_lite.files import write_atomically

_PACKAGES = ("numpy", "torch", "timm", "pyarrow", "grad-cam")
_OF_ONE_MACHINE = ("host", "platform")


def now() -> str:
    """Coordinated universal time to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def processor() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor()


@functools.cache
def commit() -> str | None:
    """Commit of this package if it runs from its repository; "-dirty" if files are changed."""
    here = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ("git", "-C", here, *arguments), capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def environment(device: str | torch.device) -> dict[str, Any]:
    """Describe the hardware and software that a result on a device is computed with."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "moxi-lite": moxi_lite.__version__,
        "commit": commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def publishable(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the names of the machine and of its system's build."""
    return {key: value for key, value in environment.items() if key not in _OF_ONE_MACHINE}


def counted(environments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the different environments, each with its number of images."""
    found: dict[str, dict[str, Any]] = {}
    for each in environments:
        facts = {**each, "images": 0}
        found.setdefault(json.dumps(facts), facts)["images"] += each.get("images", 1)
    return list(found.values())


def provenance_of(
    settings: Mapping[str, Any], facts: Sequence[Mapping[str, Any]], failures: list[str]
) -> dict[str, Any]:
    """Summarise a study's settings, the facts of each finished image, and names of failures."""
    images = [{key: each[key] for key in each if key != "environment"} for each in facts]
    lines = "".join(f"{image['image']} {image['sha256']} {image['label']}\n" for image in images)
    statuses = [image["status"] for image in images]
    return {
        "format": "moxi-lite study",
        "settings": dict(settings),
        "n_studied": statuses.count("studied"),
        "n_misclassified": statuses.count("misclassified"),
        "failed": failures,
        "image_list_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "seconds": round(sum(image["seconds"] for image in images), 3),
        "n_evaluations": sum(image["n_evaluations"] for image in images),
        "finished": max((image["finished"] for image in images), default=None),
        "environments": counted(each["environment"] for each in facts),
        "images": images,
    }


def write_json(path: Path, record: Any) -> None:
    """Write a record completely or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{json.dumps(record, indent=1)}\n".encode())
