"""Files of known content: in the data folder, or downloaded to there at first use."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

from moxi_lite.models import file_sha256, why_unreachable

_TIMEOUT_SECONDS = 60.0


class ImagesUnavailableError(OSError):
    """Raised when neither a file nor its server has an image."""


def data_folder(name: str) -> Path:
    """Folder ``<data>/name``, where data is ``MOXI_LITE_DATA_DIR`` or the user's cache folder."""
    root = os.environ.get("MOXI_LITE_DATA_DIR") or pooch.os_cache("moxi-lite")
    return Path(root).expanduser() / name


def fetch(files: pooch.Pooch, name: str, what: str, advice: str) -> Path:
    """Path of a file whose SHA-256 is right; a missing or damaged one is downloaded.

    Raises ImagesUnavailableError within seconds if that is impossible; its message begins with
    `what`, the thing that is missing, and ends with `advice`.
    """
    path = Path(files.abspath, name)
    exists = path.is_file()
    if exists and file_sha256(path) == files.registry[name]:
        return path
    here = "is there, but with a wrong SHA-256," if exists else "is not there,"
    why = why_unreachable(files.base_url)
    problem: Exception | None = None
    if why is None:
        try:
            downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)
            return Path(files.fetch(name, downloader=downloader))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            problem, why = error, f"{type(error).__name__}: {error}"
    raise ImagesUnavailableError(
        f"{what} is unavailable: {name} {here} and its server cannot help "
        f"({' '.join(why.split())}).\n"
        f"Sought: {path}, and {files.get_url(name)}.\n"
        f"To supply it: connect to the internet once; or {advice}"
    ) from problem
