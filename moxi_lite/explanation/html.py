"""Interactive pictures: self-contained HTML that works live, in Colab and in a static book.

Each piece carries its data, style and script, loads nothing, and keeps to its own element, so any
number of them may share a page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moxi_lite.explanation.heat import heat_colors
from moxi_lite.explanation.result import Explanation
from moxi_lite.files import write_atomically
from moxi_lite.games import FloatArray


@dataclass(frozen=True)
class SliderHTML:
    """A piece of interactive HTML; notebooks show it, `save` writes it as a page.

    Attributes
    ----------
    html : str
        One ``<div>`` with its data, style and script; it may be pasted into any page.
    title : str
        What it shows, as plain text.
    """

    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Summarise in one line, without the HTML."""
        return f"SliderHTML({self.title!r}, {len(self.html) // 1024} KiB)"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a complete HTML page that needs no other file; atomic, so never half a page.

        Parameters
        ----------
        path : path-like
            Where to; the folder must exist.

        Returns
        -------
        Path
            The path written.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist.
        """
        path = Path(path).expanduser()
        page = _template("explanation", "page")
        parts = {"TITLE": html.escape(self.title), "BODY": self.html}
        write_atomically(path, _fill(page, parts).encode())
        return path


def reveal(ex: Explanation, *, title: str | None = None) -> SliderHTML:
    """Show an explanation step by step, with a slider.

    Parameters
    ----------
    ex : Explanation
        Of an image, or of a plain game: then numbered tiles stand for the players.
    title : str, optional
        Read out by screen readers and shown above the saved page; says class, mode and model
        by default.

    Returns
    -------
    SliderHTML
        The slider runs over steps 0 to k.  Each shows the patches present (absent ones grey,
        the newest outlined), the predicted class and its probability, the reward f, and how
        many patches are present.  It starts where the prediction turns, or at the last step.
    """
    aim = None if ex.target is None else ex.class_name(ex.target)
    if title is None:
        title = f"{aim or 'reward'}: {ex.mode} step by step" + (f", {ex.model}" if ex.model else "")
    rows, columns = ex.grid or (math.ceil(ex.n_players / 10), min(ex.n_players, 10))
    if ex.image is None:
        (height, width), image = (40 * rows, 40 * columns), ""
        picture, seen = "The players of the game", "present"
    else:
        (height, width), image = ex.image.shape[:2], _image_element(ex.image)
        picture, seen = "The image as the model sees it", "visible"
    flip = ex.patches_to_flip()
    said = None if ex.predictions is None else [ex.start_prediction, *ex.predictions.tolist()]
    sure = None if ex.confidences is None else [ex.start_confidence, *ex.confidences]
    data = {
        "mode": ex.mode,
        "verb": ex.verb,
        "units": ex.units,
        "seen": seen,
        "picture": picture,
        "n": ex.n_players,
        "grid": [rows, columns],
        "size": [height, width],
        "numbered": ex.image is None,
        "order": ex.order.tolist(),
        "colors": heat_colors(len(ex)),
        "f": rounded(np.array([ex.start_value, *ex.values])),
        "flip": flip,
        "target": ex.target,
        "targetName": aim and aim.split(",")[0],
        "classes": said and [(index, ex.class_name(index)) for index in said],
        "probabilities": sure and rounded(np.round(sure, 4)),
    }
    fields = {
        "ALT": picture,
        "WIDTH": str(width),
        "HEIGHT": str(height),
        "IMAGE": image,
        "STEPS": str(len(ex)),
        "START": str(len(ex) if flip is None else flip),
        "VERB": ex.verb,
        "UNITS": ex.units,
    }
    return framed("explanation", "reveal", title, data, fields)


def framed(
    room: str, kind: str, title: str, data: Mapping[str, Any], fields: Mapping[str, str]
) -> SliderHTML:
    """Put style, body and script of a room's ``kind.html`` into the frame, beside their data."""
    sections = "<style>\n(.*)\n</style>\n(.*)\n<script>\n(.*)\n</script>\n"
    found = re.fullmatch(sections, _template(room, kind), re.DOTALL)
    assert found is not None
    content = json.dumps(data, allow_nan=False, separators=(",", ":"))
    parts = {
        "KIND": kind,
        "TITLE": html.escape(title),
        "STYLE": found[1],
        "BODY": _fill(found[2], fields),
        "SCRIPT": found[3],
        "DATA": content.replace("<", "\\u003c"),  # neither "</script>" nor "<!--"
    }
    # The same content gets the same token: builds repeat exactly, and copies do no harm.
    parts["TOKEN"] = hashlib.sha256("\0".join(parts.values()).encode()).hexdigest()[:16]
    return SliderHTML(_fill(_template("explanation", "frame"), parts).rstrip("\n"), title)


def rounded(values: FloatArray) -> list[Any]:
    """Nested lists of numbers for JSON: six digits, whole numbers without a point, NaN as null."""
    if values.ndim > 1:
        return [rounded(row) for row in values]
    short = [float(f"{value:.6g}") for value in values]
    return [None if np.isnan(v) else int(v) if v.is_integer() else v for v in short]


def _template(room: str, name: str) -> str:
    path = resources.files(f"moxi_lite.{room}").joinpath(f"{name}.html")
    return path.read_text(encoding="utf-8")


def _fill(text: str, fields: Mapping[str, str]) -> str:
    """Fill ``@@NAME@@`` in one pass, so that a field's text is never taken for a place."""
    return re.sub("@@([A-Z]+)@@", lambda place: fields[place[1]], text)


def _image_element(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    height, width = image.shape[:2]
    return f'<image href="data:image/jpeg;base64,{encoded}" width="{width}" height="{height}"/>'
