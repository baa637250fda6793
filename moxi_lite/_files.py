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
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path.name}: there is no folder {str(path.parent)!r}. Make it first, or "
            "name another one."
        )
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    OSError
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
            reason = error.strerror or str(error)
            raise OSError(f"cannot write into the folder {str(out)!r}: {reason}.") from None
        yield
    finally:
        for folder in new:  # the innermost first
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
