"""Verdicts: what a recorded value says about the paper's claim."""

from __future__ import annotations

import math

from moxi_lite.ledger.claims import Claim, Entry, LedgerError

STATUSES = ("reproduced", "scaled down", "differs", "undecided", "corrected", "not attempted")


def check(claim: Claim, entry: Entry) -> None:
    """Raise LedgerError for a value that leaves its tolerance and is not undecided."""
    if not math.isfinite(entry.value):
        raise LedgerError(f"claim {claim.id!r}: the value is {entry.value}, not a finite number.")
    low, high = claim.tolerance or (-math.inf, math.inf)
    if not low <= entry.value <= high and not undecided(claim, entry):
        unit = f" {claim.unit}" if claim.unit else ""
        raise LedgerError(
            f"claim {claim.id!r}: the value {entry.value:.10g}{unit} lies outside the expected "
            f"interval {low:g} to {high:g}. Find out why before changing claims.json."
        )


def undecided(claim: Claim, entry: Entry) -> bool:
    """Whether the interval leaves open if the claim holds."""
    expected = claim.claimed or claim.tolerance
    if expected is None or entry.interval is None:
        return False
    low, high = entry.interval
    least, most = expected
    if claim.value is not None:
        return not least <= entry.value <= most and low <= claim.value <= high
    return low < least <= high or low <= most < high


def status_of(claim: Claim, entry: Entry | None) -> str:
    """Return one of `STATUSES`; see `moxi_lite.ledger.table`."""
    if entry is None:
        return "not attempted"
    if undecided(claim, entry):
        return "undecided"
    if claim.correction is not None:
        return "corrected"
    for ends, value in ((claim.tolerance, claim.value), (claim.claimed, entry.value)):
        if ends is not None and value is not None and not ends[0] <= value <= ends[1]:
            return "differs"
    if entry.scaled or (claim.n is not None and entry.n is not None and entry.n < claim.n):
        return "scaled down"
    return "reproduced"
