"""Filling HTML templates with text and data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from moxi_lite.games import FloatArray


def rounded(values: FloatArray) -> list[Any]:
    """Nested lists of numbers for JSON: six digits, whole numbers without a point, NaN as null."""
    if values.ndim > 1:
        return [rounded(row) for row in values]
    short = [float(f"{value:.6g}") for value in values]
    return [None if np.isnan(v) else int(v) if v.is_integer() else v for v in short]


def json_for_html(data: Mapping[str, Any]) -> str:
    """JSON that is safe inside ``<script>``: no ``<``, so neither ``</script>`` nor ``<!--``."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def fill(room: str, template: str, fields: Mapping[str, str]) -> str:
    """Fill ``@@NAME@@`` in one pass, so that a field's text is never taken for a place."""
    text = resources.files(f"moxi_lite.{room}").joinpath(template).read_text(encoding="utf-8")
    # The same content gets the same token: builds repeat exactly, and copies do no harm.
    token = hashlib.sha256("\0".join([text, *fields.values()]).encode()).hexdigest()[:16]
    known = {"TOKEN": token, **fields}
    return re.sub("@@([A-Z]+)@@", lambda place: known[place[1]], text).rstrip("\n")
