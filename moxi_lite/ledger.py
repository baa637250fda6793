"""The paper's claims beside our values.

Every number that the paper also reports goes through :func:`record` once, where it is computed.
``record`` stops the notebook when the value leaves the interval that `claims.json` expects, and
otherwise leaves one small JSON file behind. :func:`table` later joins those files with the full
list of claims, so that a claim nobody checked is as visible as one that was reproduced.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from moxi_lite._errors import unknown_name
from moxi_lite._files import write_atomically

LEDGER_DIR_VARIABLE = "MOXI_LITE_LEDGER_DIR"
STATUSES = ("reproduced", "scaled down", "differs", "corrected", "not attempted")


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
        Closed interval in which our value is expected.
    chapter : str or None
        The notebook that checks the claim, or is meant to.
    reason : str
        Why the claim is not attempted, while no value is recorded.
    correction : str or None
        Set when the printed claim is wrong: what is right.
    claimed : tuple of (float, float) or None
        For a claim without a number: the interval that our value lies in if the claim holds for
        us. A value within `tolerance` but not in it "differs".
    """

    id: str
    section: str
    statement: str
    value: float | None
    unit: str
    n: int | None
    tolerance: tuple[float, float] | None
    chapter: str | None
    reason: str
    correction: str | None
    claimed: tuple[float, float] | None = None


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
        Whether the setting is smaller than the paper's in another way than `n` shows.
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


def _load_claims() -> Mapping[str, Claim]:
    text = files("moxi_lite").joinpath("claims.json").read_text(encoding="utf-8")
    intervals = ("tolerance", "claimed")
    claims = [
        Claim(**{**item, **{key: _pair(item.get(key)) for key in intervals}})
        for item in json.loads(text)
    ]
    return MappingProxyType({claim.id: claim for claim in claims})


def _pair(ends: Iterable[float] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    low, high = (float(end) for end in ends)
    return low, high


CLAIMS: Mapping[str, Claim] = _load_claims()


def record(
    claim_id: str,
    value: float,
    *,
    n: int | None = None,
    interval: tuple[float, float] | None = None,
    note: str = "",
    scaled: bool = False,
) -> Entry:
    """Check a value against the paper's claim, print one line, and store it for the book.

    Parameters
    ----------
    claim_id : str
        One of the keys of ``CLAIMS``.
    value : float
        Our value, in the claim's unit (per cent, not fractions, where the unit is ``%``).
    n : int, optional
        Number of images or games behind the value; required where the paper gives its own.
    interval : tuple of (float, float), optional
        Confidence interval of the value, in the same unit.
    note : str, optional
        One sentence for the ledger's page: weights, data, what differs from the paper.
    scaled : bool, optional
        Say so when the setting is smaller than the paper's in another way than `n` shows.

    Returns
    -------
    Entry
        What was recorded. It is also written to ``<claim_id>.json`` in the folder named by the
        environment variable ``MOXI_LITE_LEDGER_DIR``, if that is set.

    Raises
    ------
    LedgerError
        If the value leaves the claim's tolerance. Nothing is written then.
    ValueError
        If the claim is unknown, `n` is missing or not positive, `interval` is not an interval, or
        the claim has a number but no tolerance yet.
    """
    claim = _claim(claim_id)
    if n is None and claim.n is not None:
        raise ValueError(
            f"claim {claim_id!r} is about {claim.n} images in the paper: pass n=, the number of "
            "images behind your value."
        )
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    ends = _pair(interval)
    if ends is not None and not -math.inf < ends[0] <= ends[1] < math.inf:
        raise ValueError(f"interval must be two finite numbers in order, got {interval}.")
    entry = Entry(claim_id, float(value), None if n is None else int(n), ends, note, scaled)
    _check(claim, entry)
    _write(entry)
    print(f"Ledger: {claim_id}: {_describe(Row(claim, entry, _status(claim, entry)))}")
    return entry


def read_entries(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Entry]:
    """Read the entries that :func:`record` wrote.

    Parameters
    ----------
    folder : path
        The folder that ``MOXI_LITE_LEDGER_DIR`` named, or a parent of several such folders.
    recursive : bool, optional
        Whether to look into subfolders too.

    Returns
    -------
    list of Entry
        Sorted by path.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    LedgerError
        If a file is not an entry.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no ledger folder {root}. Run the notebooks with {LEDGER_DIR_VARIABLE} set to it, "
            "or create it empty for a table without values."
        )
    entries = []
    for path in sorted(root.glob("**/*.json" if recursive else "*.json")):
        try:
            item = json.loads(path.read_text(encoding="utf-8"))
            entries.append(Entry(**{**item, "interval": _pair(item["interval"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise LedgerError(
                f"{path} is not a ledger entry ({error}). Delete it and run its notebook again."
            ) from error
    return entries


def table(entries: Iterable[Entry]) -> list[Row]:
    """Join the recorded values with all claims, in the paper's order.

    Where a claim was recorded more than once, the entry in the full setting counts, and among
    those the one with the larger `n`.

    Parameters
    ----------
    entries : iterable of Entry
        Such as :func:`read_entries` gives.

    Returns
    -------
    list of Row
        One row a claim, with status ``"reproduced"``, ``"scaled down"`` (fewer images or a smaller
        setting), ``"differs"`` (as we expect it, but not what the paper says),
        ``"corrected"`` (the printed claim fails) or ``"not attempted"``.

    Raises
    ------
    LedgerError
        If an entry's value leaves its claim's tolerance.
    ValueError
        If an entry's claim is unknown.
    """
    best: dict[str, Entry] = {}
    for entry in entries:
        _check(_claim(entry.claim), entry)
        held = best.get(entry.claim)
        if held is None or _weight(entry) > _weight(held):
            best[entry.claim] = entry
    return [
        Row(claim, best.get(claim.id), _status(claim, best.get(claim.id)))
        for claim in CLAIMS.values()
    ]


def markdown_table(rows: Iterable[Row], *, notebooks: str = "../notebooks") -> str:
    """Write the rows as Markdown: the count of each status, then one table.

    Parameters
    ----------
    rows : iterable of Row
        As :func:`table` gives them.
    notebooks : str, optional
        Path from the page to the chapters, for the links of recorded claims.

    Returns
    -------
    str
        Text ending in a newline.
    """
    rows = list(rows)
    counts = Counter(row.status for row in rows)
    summary = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    lines = [
        f"**{len(rows)} claims: {summary}.**",
        "",
        "| Claim | Paper | Ours | Status |",
        "|---|---|---|---|",
    ]
    for row in rows:
        claim, entry = row.claim, row.entry
        cells = (
            f"**{claim.section}.** {claim.statement}",
            "–" if claim.value is None else _number(claim.value, claim.unit),
            "–" if entry is None else _ours(claim, entry),
            f"**{row.status}.** {_remarks(row, notebooks)}",
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _claim(claim_id: str) -> Claim:
    if claim_id not in CLAIMS:
        raise unknown_name("claim", claim_id, CLAIMS)
    return CLAIMS[claim_id]


def _check(claim: Claim, entry: Entry) -> None:
    if not math.isfinite(entry.value):
        raise LedgerError(f"claim {claim.id!r}: the value is {entry.value}, not a finite number.")
    if claim.tolerance is None:
        if claim.value is not None:
            raise ValueError(
                f"claim {claim.id!r} has the paper's number {claim.value:g} but no tolerance: set "
                "one in claims.json before recording a value."
            )
        return
    low, high = claim.tolerance
    if not low <= entry.value <= high:
        unit = f" {claim.unit}" if claim.unit else ""
        raise LedgerError(
            f"claim {claim.id!r}: the value {entry.value:.10g}{unit} lies outside the expected "
            f"interval {low:g} to {high:g}. Find out why before changing claims.json."
        )


def _status(claim: Claim, entry: Entry | None) -> str:
    if entry is None:
        return "not attempted"
    if claim.correction is not None:
        return "corrected"
    if claim.value is not None and claim.tolerance is not None:
        low, high = claim.tolerance
        if not low <= claim.value <= high:
            return "differs"
    if claim.claimed is not None and not claim.claimed[0] <= entry.value <= claim.claimed[1]:
        return "differs"
    if entry.scaled or (claim.n is not None and entry.n is not None and entry.n < claim.n):
        return "scaled down"
    return "reproduced"


def _weight(entry: Entry) -> tuple[bool, int]:
    return (not entry.scaled, entry.n or 0)


def _write(entry: Entry) -> None:
    folder_name = os.environ.get(LEDGER_DIR_VARIABLE)
    if not folder_name:
        return
    folder = Path(folder_name)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(entry), indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{entry.claim}.json", text.encode())


def _number(value: float, unit: str) -> str:
    size = abs(value)
    if value == int(value) and size < 1e15:
        text = f"{int(value):,}"
    else:
        text = f"{value:.3g}" if size < 100 else f"{value:,.1f}"
    if not unit:
        return text
    return f"{text} {unit}" if unit.startswith("%") else f"{text} ({unit})"


def _ours(claim: Claim, entry: Entry) -> str:
    text = _number(entry.value, claim.unit)
    if entry.interval is not None:
        low, high = (_number(end, "") for end in entry.interval)
        text += f" ({low} to {high})"
    if entry.n is not None:
        text += f", n = {entry.n:,}" + (f" of {claim.n:,}" if claim.n is not None else "")
    return text


def _describe(row: Row) -> str:
    claim = row.claim
    assert row.entry is not None
    paper = "" if claim.value is None else f" (paper: {_number(claim.value, claim.unit)})"
    return f"{_ours(claim, row.entry)}{paper}: {row.status}"


def _remarks(row: Row, notebooks: str) -> str:
    claim, entry = row.claim, row.entry
    if entry is None:
        return claim.reason
    link = claim.chapter and f"[Chapter {claim.chapter[:2]}]({notebooks}/{claim.chapter}.ipynb)."
    return " ".join(part for part in (claim.correction, entry.note, link) if part)
