"""Writing files so that a crash never leaves half of one, and folders for them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all: into a temporary file, then rename.

    Parameters
    ----------
    path : Path
        Where to; the folder must exist.
    content : bytes

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    OSError
        If the file cannot be written; it names `path`, not the temporary file.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path.name}: there is no folder {str(path.parent)!r}. Make it first, or "
            "name another one."
        )
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None:  # not of the operating system
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


class UnusableFolderError(OSError):
    """Raised when a folder for results cannot be made or written into."""


@contextlib.contextmanager
def folder_for_results(out: Path) -> Iterator[None]:
    """Make a folder before long work starts, and see whether files can be written into it.

    At the end, folders that were made here are removed again if they are still empty.

    Parameters
    ----------
    out : Path
        The folder; may exist.

    Raises
    ------
    UnusableFolderError
        If it cannot be made or written into.
    """
    new: list[Path] = []
    try:
        try:
            new = [folder for folder in (out, *out.parents) if not folder.exists()]
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out):
                pass
        except OSError as error:
            reason = "it is a file" if out.is_file() else error.strerror or str(error)
            raise UnusableFolderError(
                f"cannot write into the folder {str(out)!r}: {reason}. Name another folder."
            ) from None
        yield
    finally:
        for folder in new:  # the innermost first
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
