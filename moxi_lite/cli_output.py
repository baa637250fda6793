"""What the command line prints: results that outlive their reader, and errors in its own words."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any, TextIO

# The library's messages give advice in Python; a shell needs the options of the command.
_IN_SHELL_WORDS = (
    (r"load_model\(\.\.\., fallback='(\w+)'\)", r"--model \1"),
    (r"sample_photo\('chelsea'\)", "photographs of your own, by path or address"),
    (r"pass pairs \(image, label\)", "name images by path or address"),
    (r"moxi_lite\.available_models\(\) lists", "`moxi-lite models` lists"),
    (r"methods= \(--methods\)", "--methods"),
    (r'\bmasking="(\w+)"', r"--masking \1"),
    (r"\bdevice='(\w+)'", r"--device \1"),
    (r"\brandom_state (?=is|must)", "--seed "),
    (r"\bonly_correct (?=is)", "only_correct (the opposite of --include-misclassified) "),
    (r"\bn_samples[= ](?=\d|of |among )", "--n-samples "),
    (r'as in \{"rise": 1000\}', "as in --n-samples rise=1000"),
)


class PatientOutput:
    """A text stream that drops what cannot be written, so that the work goes on without it.

    Whoever reads may stop early, such as ``head``, and files are written all the same.

    Parameters
    ----------
    stream : file object or None
        Where to write; None, as Python has it for a closed standard output, drops everything.

    Attributes
    ----------
    problem : OSError or None
        Why nothing has been written since; a BrokenPipeError if the reader has gone.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = None if stream is None or stream.closed else stream
        self.problem: OSError | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: D105
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it; returns its length."""
        if self._stream is not None and self.problem is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:  # a terminal that lacks a character of a file name
                self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered, or drop it."""
        if self._stream is not None and self.problem is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.problem = error
        _discard(self._stream)


def complain(line: str) -> None:
    """Print a line to the error stream, if somebody reads that."""
    if sys.stderr is None:  # closed by the shell; print would take the standard output
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def shows_progress() -> bool:
    """Whether the error stream is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def fail(error: Exception, code: int) -> int:
    """Print an error in one line, in words for the shell, and return the exit code."""
    message = in_shell_words(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        message = f"out of memory. {message}".rstrip()
    complain(f"moxi-lite: error: {message or type(error).__name__}")
    return code


def in_shell_words(message: str) -> str:
    """Put a message of the library into one line that names options instead of arguments.

    Parameters
    ----------
    message : str

    Returns
    -------
    str
    """
    message = " ".join(message.split())
    for pattern, words in _IN_SHELL_WORDS:
        message = re.sub(pattern, words, message)
    return message


def _discard(stream: TextIO | None) -> None:
    """Send what a stream still holds nowhere; Python would complain about it again on exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not every stream is a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        finally:
            os.close(nowhere)
