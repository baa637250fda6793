"""Verdicts: what a recorded value says about the paper's claim."""

from __future__ import annotations

import math

from moxi_lite.ledger.claims import Claim, Entry, LedgerError

STATUSES = (
    "agrees",
    "agrees, smaller sample",
    "differs",
    "undecided",
    "corrected",
    "not attempted",
)
DESCRIPTION = "description"  # in place of a status, where nothing is claimed that could fail
_ENOUGH = 0.8  # of the paper's n: the margin of error is then at most 12 % wider


def check(claim: Claim, entry: Entry) -> None:
    """Raise LedgerError for a value whose verdict is not the one that the claim says is known."""
    if not math.isfinite(entry.value):
        raise LedgerError(f"claim {claim.id!r}: the value is {entry.value}, not a finite number.")
    status, why = status_of(claim, entry), "Find out why before changing claims.json."
    value = f"claim {claim.id!r}: the value {entry.value:.10g}{claim.unit and f' {claim.unit}'}"
    if claim.tolerance is None or status == "undecided":
        return
    low, high = claim.tolerance
    if not claim.differs and not low <= entry.value <= high:
        raise LedgerError(f"{value} lies outside the range {low:g} to {high:g}. {why}")
    if claim.differs and status != "differs":
        raise LedgerError(f"{value} lies in the range {low:g} to {high:g}, no longer aside. {why}")


def status_of(claim: Claim, entry: Entry | None) -> str:
    """Return one of `STATUSES`, or `DESCRIPTION`; see `moxi_lite.ledger.table`."""
    if claim.tolerance is None:
        return DESCRIPTION
    if entry is None:
        return "not attempted"
    if _undecided(claim, claim.tolerance, entry):
        return "undecided"
    if not claim.tolerance[0] <= entry.value <= claim.tolerance[1]:
        return "differs"
    if claim.correction is not None:
        return "corrected"
    fewer = claim.n is not None and entry.n is not None and entry.n < _ENOUGH * claim.n
    return "agrees, smaller sample" if fewer or entry.scaled else "agrees"


def _undecided(claim: Claim, tolerance: tuple[float, float], entry: Entry) -> bool:
    """Whether the interval leaves open if the claim holds."""
    if entry.interval is None:
        return False
    (low, high), (least, most) = entry.interval, tolerance
    if claim.value is not None:
        return not least <= entry.value <= most and low <= claim.value <= high
    return low < least <= high or low <= most < high
