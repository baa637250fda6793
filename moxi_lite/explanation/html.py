"""Interactive pictures: self-contained HTML that works live, in Colab and in a static book.

Each piece carries its data, style and script, loads nothing, and keeps to its own element, so any
number of them may share a page.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from moxi_lite.explanation.heat import heat_colors
from moxi_lite.explanation.result import Explanation
from moxi_lite.explanation.templates import fill, json_for_html, rounded
from moxi_lite.files import write_atomically


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
        fields = {"TITLE": html.escape(self.title), "BODY": self.html}
        write_atomically(path, fill("explanation", "page.html", fields).encode())
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
    if title is None:
        aim = "reward" if ex.target is None else ex.class_name(ex.target)
        title = f"{aim}: {ex.mode} step by step" + (f", {ex.model}" if ex.model else "")
    rows, columns = ex.grid or (math.ceil(ex.n_players / 10), min(ex.n_players, 10))
    height, width = (40 * rows, 40 * columns) if ex.image is None else ex.image.shape[:2]
    flip = ex.patches_to_flip()
    alt = "the image as the model sees it" if ex.image is not None else "the players of the game"
    units = "players" if ex.grid is None else "patches"
    data = {
        "mode": ex.mode,
        "verb": ex.verb,
        "units": units,
        "seen": "present" if ex.image is None else "visible",
        "picture": alt[0].upper() + alt[1:],
        "n": ex.n_players,
        "grid": [rows, columns],
        "size": [height, width],
        "numbered": ex.image is None,
        "present": "#0072b2",
        "order": ex.order.tolist(),
        "colors": heat_colors(len(ex)),
        "f": rounded(np.array([ex.f_empty if ex.mode == "insertion" else ex.f_full, *ex.values])),
        "flip": flip,
        "target": ex.target,
        "targetName": None if ex.target is None else ex.class_name(ex.target).split(",")[0],
        "classes": _classes(ex),
        "probabilities": _probabilities(ex),
    }
    picture = "" if ex.image is None else _image_element(ex.image)
    fields = {
        "TITLE": html.escape(title),
        "ALT": html.escape(str(data["picture"])),
        "WIDTH": str(width),
        "HEIGHT": str(height),
        "IMAGE": picture,
        "STEPS": str(len(ex)),
        "START": str(len(ex) if flip is None else flip),
        "VERB": ex.verb,
        "UNITS": units,
        "DATA": json_for_html(data),
    }
    return SliderHTML(fill("explanation", "reveal.html", fields), title)


def _classes(ex: Explanation) -> list[tuple[int, str] | None] | None:
    """Index and name of the predicted class from step 0 on."""
    if ex.predictions is None:
        return None
    steps = [ex.start_prediction, *ex.predictions.tolist()]
    return [None if index is None else (index, ex.class_name(index)) for index in steps]


def _probabilities(ex: Explanation) -> list[float | None] | None:
    if ex.confidences is None:
        return None
    return [None if p is None else round(p, 4) for p in (ex.start_confidence, *ex.confidences)]


def _image_element(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    height, width = image.shape[:2]
    return f'<image href="data:image/jpeg;base64,{encoded}" width="{width}" height="{height}"/>'
