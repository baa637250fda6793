"""The paper's claims, recorded values, and how both are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType


class LedgerError(ValueError):
    """A value left the interval its claim expects, or a stored entry cannot be used."""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, as listed in `claims.json`.

    Attributes
    ----------
    id : str
        Short name, used by :func:`record`.
    section : str
        Where the paper makes the claim, such as ``"Sec. 5.1, Fig. 3(a)"``.
    statement : str
        The claim in our words.
    value : float or None
        The paper's number, in `unit`; None for a claim without one.
    unit : str
        Unit of `value` and of every recorded value.
    n : int or None
        Number of images behind the paper's number, where it says so.
    tolerance : tuple of (float, float) or None
        Closed interval of our values that bear the claim out (of a corrected claim: that show it to
        fail). None for a row that describes an experiment and claims nothing that could fail.
    chapter : str or None
        The notebook that checks the claim, or is meant to.
    remark : str
        What a reader should know of the row itself: what is missing, when it was framed.
    correction : str or None
        Set when the printed claim is wrong: what is right.
    differs : bool
        Whether our value is known not to bear the claim out; `remark` says why.
    """

    id: str
    section: str
    statement: str
    value: float | None = None
    unit: str = ""
    n: int | None = None
    tolerance: tuple[float, float] | None = None
    chapter: str | None = None
    remark: str = ""
    correction: str | None = None
    differs: bool = False


@dataclass(frozen=True)
class Entry:
    """One recorded value.

    Attributes
    ----------
    claim : str
        The claim's id.
    value : float
        Our value, in the claim's unit.
    n : int or None
        Number of images or games behind it.
    interval : tuple of (float, float) or None
        Confidence interval of the value.
    note : str
        What a reader should know: weights, data, setting.
    scaled : bool
        Whether the test is smaller than the paper's in another way than `n` shows.
    """

    claim: str
    value: float
    n: int | None = None
    interval: tuple[float, float] | None = None
    note: str = ""
    scaled: bool = False


@dataclass(frozen=True)
class Row:
    """A claim, what was recorded for it (or None), and the status that follows."""

    claim: Claim
    entry: Entry | None
    status: str


def load_claims() -> Mapping[str, Claim]:
    """Read `claims.json`, in the paper's order."""
    text = files("moxi_lite.ledger").joinpath("claims.json").read_text(encoding="utf-8")
    items = [item | {"tolerance": ends_of(item.get("tolerance"))} for item in json.loads(text)]
    return MappingProxyType({item["id"]: Claim(**item) for item in items})


def ends_of(ends: Iterable[float] | None) -> tuple[float, float] | None:
    """Turn two ends into floats; None stays None."""
    if ends is None:
        return None
    low, high = (float(end) for end in ends)
    return low, high


def written_number(value: float, unit: str) -> str:
    """Write a number with its unit."""
    text = f"{value:.3g}" if abs(value) < 100 else f"{value:,.1f}".removesuffix(".0")
    if not unit:
        return text
    return f"{text} {unit}" if unit.startswith("%") else f"{text} ({unit})"


def written_value(claim: Claim, entry: Entry, unit: str) -> str:
    """Write a recorded value with its interval and number of images."""
    text = written_number(entry.value, unit)
    if entry.interval is not None:
        low, high = (written_number(end, "") for end in entry.interval)
        text += f" ({low} to {high})"
    if entry.n is not None:
        text += f", n = {entry.n:,}" + (f" of {claim.n:,}" if claim.n is not None else "")
    return text


def written_row(row: Row) -> str:
    """Write the line that `record` prints."""
    claim = row.claim
    assert row.entry is not None
    paper = "" if claim.value is None else f" (paper: {written_number(claim.value, claim.unit)})"
    return f"{written_value(claim, row.entry, claim.unit)}{paper}: {row.status}"


def written_range(claim: Claim) -> str:
    """Write the range that bears a claim out, and in which unit."""
    if claim.tolerance is None:
        return "–"
    low, high = (written_number(end, "") for end in claim.tolerance)
    return f"{low if low == high else f'{low} to {high}'} {claim.unit}".strip()


def written_remarks(row: Row) -> str:
    """Write what stands beside the status."""
    claim, entry = row.claim, row.entry
    if entry is None:
        return claim.remark or "Not checked in this build."
    link = claim.chapter and f"[Chapter {claim.chapter[:2]}](../notebooks/{claim.chapter}.ipynb)."
    return " ".join(part for part in (claim.correction, entry.note, claim.remark, link) if part)
