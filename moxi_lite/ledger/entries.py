"""The paper's claims beside our values.

Every number that the paper also reports goes through :func:`record` where it is computed, which
leaves one small JSON file behind. :func:`table` later joins those files with all claims, so that a
claim nobody checked is as visible as one that holds.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from moxi_lite.curves import Estimate
from moxi_lite.errors import unknown_name
from moxi_lite.files import write_atomically
from moxi_lite.ledger.claims import (
    Claim,
    Entry,
    LedgerError,
    Row,
    ends_of,
    load_claims,
    written_number,
    written_range,
    written_remarks,
    written_row,
    written_value,
)
from moxi_lite.ledger.verdicts import DESCRIPTION, STATUSES, check, status_of

LEDGER_DIR_VARIABLE = "MOXI_LITE_LEDGER_DIR"
_ROUNDING = 1e-9  # of a value against the ends of its interval


CLAIMS: Mapping[str, Claim] = load_claims()


def record(
    claim_id: str,
    value: float | Estimate,
    *,
    n: int | None = None,
    at_least: int = 1,
    note: str = "",
    scaled: bool = False,
) -> Entry | None:
    """Check a value against the paper's claim, print one line, and store it for the book.

    Parameters
    ----------
    claim_id : str
        One of the keys of ``CLAIMS``.
    value : float or Estimate
        Our value, in the claim's unit (per cent, not fractions, where the unit is ``%``); of an
        estimate the interval is kept, and one without an interval is not entered.
    n : int, optional
        Number of images or games behind the value, by default the estimate's; required where the
        paper gives its own.
    at_least : int, optional
        With fewer than this the value is not entered, which is said in a line.
    note : str, optional
        One sentence for the ledger's page: weights, data, what differs from the paper.
    scaled : bool, optional
        Say so when the test is smaller than the paper's in another way than `n` shows, such as by
        fewer draws or on a coarser grid.

    Returns
    -------
    Entry or None
        What was recorded. It is also written to ``<claim_id>.json`` in the folder named by the
        environment variable ``MOXI_LITE_LEDGER_DIR``, if that is set.

    Raises
    ------
    LedgerError
        If the value is outside the range that bears the claim out, no interval leaves the claim
        undecided (see `table`), and the claim is not known to differ; or if it is, and the value
        no longer does. That stops the notebook; nothing is written.
    ValueError
        If the claim is unknown, `n` is missing, or the interval does not hold the value.
    """
    claim, ends = _claim(claim_id), None
    if isinstance(value, Estimate):
        n, ends = value.n if n is None else n, (value.low, value.high)
        value = value.value
    if n is None and claim.n is not None:
        raise ValueError(
            f"claim {claim_id!r} is about {claim.n} images in the paper: pass n=, the number of "
            "images behind your value."
        )
    if n is not None and n < at_least:
        print(f"{claim_id}: not entered, as n = {n} and should be at least {at_least}")
        return None
    if ends is not None and math.isnan(ends[0]):
        print(f"{claim_id}: not entered, as there is no interval")
        return None
    if ends is not None and not ends[0] - _ROUNDING <= value <= ends[1] + _ROUNDING:
        raise ValueError(f"the interval {ends} does not hold the value {value}: is it in its unit?")
    entry = Entry(claim_id, float(value), None if n is None else int(n), ends, note, scaled)
    check(claim, entry)
    if folder := os.environ.get(LEDGER_DIR_VARIABLE):
        text = json.dumps(asdict(entry), indent=2, ensure_ascii=False) + "\n"
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / f"{claim_id}.json", text.encode())
    print(f"Ledger: {claim_id}: {written_row(Row(claim, entry, status_of(claim, entry)))}")
    return entry


def read_entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """Read the entries that :func:`record` wrote.

    Parameters
    ----------
    folder : path
        The folder that ``MOXI_LITE_LEDGER_DIR`` named, or a parent of several such folders.

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
    for path in sorted(root.glob("**/*.json")):
        try:
            item = json.loads(path.read_text(encoding="utf-8"))
            entries.append(Entry(**{**item, "interval": ends_of(item["interval"])}))
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
        One row a claim, with status ``"agrees"`` (the value lies in the range that bears the claim
        out), ``"agrees, smaller sample"`` (on less than four fifths of the paper's images, or in a
        smaller test), ``"differs"`` (it lies outside), ``"undecided"`` (the interval leaves it
        open: it holds the paper's number, while our value is outside the range; or, of a claim
        without a number, it reaches to both sides of an end of the range), ``"corrected"`` (the
        printed claim fails) or ``"not attempted"``; or ``"description"``, which is no verdict, for
        a row without a range.

    Raises
    ------
    LedgerError
        If an entry's verdict is not the one known; see `record`.
    ValueError
        If an entry's claim is unknown.
    """
    best: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda each: (not each.scaled, each.n or 0)):
        check(_claim(entry.claim), entry)
        best[entry.claim] = entry
    return [
        Row(claim, best.get(claim.id), status_of(claim, best.get(claim.id)))
        for claim in CLAIMS.values()
    ]


def markdown_table(rows: list[Row]) -> str:
    """Write the rows of `table` as Markdown: the count of each status, then one table."""
    counts = Counter(row.status for row in rows)
    summary = "; ".join(f"{status}: {counts[status]}" for status in STATUSES)
    described = counts[DESCRIPTION]
    lines = [
        f"**{len(rows) - described} claims ({summary}) and {described} descriptions.**",
        "",
        "| Claim | Paper | Range | Ours | Status |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        claim, entry = row.claim, row.entry
        cells = (
            f"**{claim.section}.** {claim.statement}",
            "–" if claim.value is None else written_number(claim.value, ""),
            written_range(claim),  # names the unit, if there is a range
            "–"
            if entry is None
            else written_value(claim, entry, "" if claim.tolerance else claim.unit),
            f"**{row.status}.** {written_remarks(row)}",
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _claim(claim_id: str) -> Claim:
    if claim_id not in CLAIMS:
        raise unknown_name("claim", claim_id, CLAIMS)
    return CLAIMS[claim_id]
