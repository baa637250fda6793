"""Error messages shared by the whole package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, given: object, allowed: Iterable[str]) -> ValueError:
    """Build the error for a name that is not one of the allowed ones.

    Parameters
    ----------
    kind : str
        What the name stands for, such as ``"mode"``.
    given : object
        What the caller passed.
    allowed : iterable of str
        The valid names.

    Returns
    -------
    ValueError
        To be raised by the caller; names the nearest valid names, and a short list in full.
    """
    names = list(allowed)
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
    full_list = "" if near and len(names) > 12 else f"Expected one of: {listed}."
    sentences = [f"unknown {kind} {given!r}.", hint, full_list]
    return ValueError(" ".join(filter(None, sentences)))
