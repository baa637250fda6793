"""The paper's numbers, and what became of them."""

from moxi_lite.ledger.claims import Claim, Entry, LedgerError, Row
from moxi_lite.ledger.entries import (
    CLAIMS,
    LEDGER_DIR_VARIABLE,
    markdown_table,
    read_entries,
    record,
    table,
)
from moxi_lite.ledger.verdicts import STATUSES

__all__ = [
    "CLAIMS",
    "LEDGER_DIR_VARIABLE",
    "STATUSES",
    "Claim",
    "Entry",
    "LedgerError",
    "Row",
    "markdown_table",
    "read_entries",
    "record",
    "table",
]
