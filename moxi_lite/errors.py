"""Error messages and checks shared by the whole package."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any


def unknown_name(kind: str, given: object, allowed: Iterable[str]) -> ValueError:
    """Build the error for a name that is not allowed; it lists the nearest, or all if few."""
    names = list(allowed)
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
    full_list = "" if near and len(names) > 12 else f"Expected one of: {listed}."
    sentences = [f"unknown {kind} {given!r}.", hint, full_list]
    return ValueError(" ".join(filter(None, sentences)))


def index_of(value: Any) -> int:
    """Return a whole number of any kind, also a tensor's, as int; raises TypeError for others."""
    # NumPy before 2.3 and torch take their truth values for 0 and 1
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        raise TypeError("a truth value is no whole number")
    return operator.index(value)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an argument that must be a whole number, 3 or ``numpy.int64(3)`` but not 3.0 or True.

    Raises TypeError for anything else, ValueError if it is out of range; both name the argument.
    """
    try:
        number = index_of(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}.") from None
    if number < low or (high is not None and number > high):
        expected = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {expected}, got {number}.")
    return number


def whole_pair(name: str, value: Any) -> tuple[int, int]:
    """Return two positive whole numbers, also when one is given for both; raises ValueError."""
    try:
        pair = tuple(value)
    except TypeError:  # one number, or an array without axes
        pair = (value, value)
    try:
        # 14.0 counts as 14: it often comes from a division
        first, second = (
            whole_number(name, int(x) if isinstance(x, float) and x == int(x) else x, 1)
            for x in pair
        )
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} must be one positive whole number or two (rows, columns), not {value!r}."
        ) from None
    return first, second
