"""Explanation: the order of patches that a search found, with a value per step."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from moxi_lite.errors import whole_number
from moxi_lite.explanation.heat import shown_patches, tinted
from moxi_lite.explanation.pictures import plot_explanation
from moxi_lite.files import write_atomically
from moxi_lite.games import BoolArray, FloatArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

VERBS: Mapping[str, str] = MappingProxyType({"insertion": "inserted", "deletion": "removed"})
"""What is done to patches in each mode."""

_Numbers: TypeAlias = Sequence[Any] | np.ndarray
_FORMAT = "moxi-lite explanation"
_VERSION = 2  # 1 had no step_evaluations
_ARRAYS = {
    "order": np.int64,
    "values": float,
    "predictions": np.int64,
    "confidences": float,
    "step_evaluations": np.int64,
}


@dataclass(frozen=True, eq=False)
class Explanation:
    """An order of players with the reward after each step (Algorithms 1 and 2).

    Attributes
    ----------
    order : ndarray of int64, shape (k,)
        Players in the order in which they were inserted or deleted.
    values : ndarray of float64, shape (k,)
        Reward after each step.
    f_empty, f_full : float
        Rewards of no player and of all players.
    n_players : int
        Number of players, n; k is at most n.
    n_evaluations : int
        Candidate coalitions evaluated by the search (n(n+1)/2 when k = n); the two rewards
        ``f_empty`` and ``f_full`` come on top.
    mode : {"insertion", "deletion"}
    stop_reason : {"all", "budget", "flip", "callable", "stuck"}
        Why the search ended.
    predictions, confidences : ndarray of shape (k,) or None
        Class predicted after each step and its probability, 0..1; None for games without classes.
    start_prediction, start_confidence : int and float, or None
        The same before the first step.
    step_evaluations : ndarray of int64, shape (k,), or None
        Candidate coalitions evaluated up to each step; None where that is not known.
    target : int or None
        Class whose reward was played for.
    grid : tuple of int or None
        Rows and columns of patches; None for games that are not images.
    labels : dict of int to str
        Names of the classes that occur.
    image : ndarray of uint8, shape (H, W, 3), or None
        The image as the model sees it.
    model, masking, reward : str or None
        Name of the model, what "absent" meant, and which reward was played for.
    """

    order: np.ndarray
    values: FloatArray
    f_empty: float
    f_full: float
    n_players: int
    n_evaluations: int
    mode: str
    stop_reason: str
    predictions: np.ndarray | None = None
    confidences: FloatArray | None = None
    start_prediction: int | None = None
    start_confidence: float | None = None
    step_evaluations: np.ndarray | None = None
    target: int | None = None
    grid: tuple[int, int] | None = None
    labels: dict[int, str] = dataclasses.field(default_factory=dict)
    image: np.ndarray | None = None
    model: str | None = None
    masking: str | None = None
    reward: str | None = None

    @classmethod
    def from_steps(
        cls,
        mode: str,
        order: _Numbers,
        values: _Numbers,
        other_end: float,
        *,
        predictions: _Numbers | None = None,
        confidences: _Numbers | None = None,
        step_evaluations: _Numbers | None = None,
        **facts: Any,
    ) -> Explanation:
        """Assemble an explanation from what is known of the steps 0 to k.

        `values`, `predictions` and `confidences` start before the first player; `other_end` is
        the reward of all players (insertion) or of none (deletion); `facts` are further fields.
        """
        f = np.asarray(values, dtype=float)
        f_empty, f_full = (f[0], other_end) if mode == "insertion" else (other_end, f[0])
        if predictions is not None:
            said = np.asarray(predictions, dtype=np.int64)
            facts |= {"start_prediction": int(said[0]), "predictions": said[1:]}
        if confidences is not None:
            sure = np.asarray(confidences, dtype=float)
            facts |= {"start_confidence": float(sure[0]), "confidences": sure[1:]}
        if step_evaluations is not None:
            facts["step_evaluations"] = np.asarray(step_evaluations, dtype=np.int64)
        used = facts.get("step_evaluations", np.zeros(1))
        return cls(
            order=np.asarray(order, dtype=np.int64),
            values=f[1:],
            f_empty=float(f_empty),
            f_full=float(f_full),
            mode=mode,
            **{"n_evaluations": int(used.max(initial=0)), **facts},
        )

    def __len__(self) -> int:
        """Return the number of steps, k."""
        return len(self.order)

    def __repr__(self) -> str:
        """Summarise in one line."""
        steps = f"{len(self)} of {self.n_players} players"
        target = None if self.target is None else self.labels.get(self.target, self.target)
        return (
            f"Explanation({self.mode}, {steps}, target={target!r}, "
            f"stop_reason={self.stop_reason!r})"
        )

    @property
    def start_value(self) -> float:
        """Reward before the first step: of no player (insertion) or of all (deletion)."""
        return self.f_empty if self.mode == "insertion" else self.f_full

    @property
    def verb(self) -> str:
        """What happens to a patch: ``"inserted"`` or ``"removed"``."""
        return VERBS[self.mode]

    @property
    def units(self) -> str:
        """What the players are called: ``"patches"``, or ``"players"`` without a grid."""
        return "players" if self.grid is None else "patches"

    def class_name(self, index: int) -> str:
        """Name the class of an index, or number it where the name is unknown."""
        return self.labels.get(int(index), f"class {int(index)}")

    def patches_to_flip(self) -> int | None:
        """Count the patches until the prediction turns.

        Returns
        -------
        int or None
            The smallest number of patches, 0 to k, after which an insertion is classified as the
            target (success) or a deletion no longer is (failure): the point at which the paper's
            heatmaps stop (Sec. 5.2). None if that never happens or predictions are unknown.
        """
        if self.predictions is None or self.target is None:
            return None
        on_target = np.array([self.start_prediction, *self.predictions]) == self.target
        turned = on_target if self.mode == "insertion" else ~on_target
        return int(turned.argmax()) if turned.any() else None

    def summary(self) -> str:
        """Say in one line what was inserted or removed, and what the model says then.

        Returns
        -------
        str
            Such as ``"5 of 196 patches (2.6 %) inserted; the model then says 'espresso',
            probability 0.312"``.
        """
        k, n = len(self), self.n_players
        count = f"{k} of {n} {self.units} ({100 * k / n:.1f} %) {self.verb}"
        if self.predictions is None or self.start_prediction is None:
            return count
        flip = self.patches_to_flip()
        if flip == 0:
            start, said = "none" if self.mode == "insertion" else "all", self.start_prediction
            return f"{count}; already with {start} of them the model says {self.class_name(said)!r}"
        says = f"{count}; the model then says {self._said(k)}" if k else count
        if self.target is None or flip == k:
            return says
        if flip is None:
            return f"{says}; the prediction did not turn"
        return f"{says}; the prediction turned at {flip}, to {self._said(flip)}"

    def _said(self, step: int) -> str:
        assert self.predictions is not None
        name = repr(self.class_name(self.predictions[step - 1]))
        sure = "" if self.confidences is None else f", probability {self.confidences[step - 1]:.3f}"
        return name + sure

    def heatmap(self) -> FloatArray:
        """Colour patches by when they were chosen (Sec. 5.2).

        Returns
        -------
        ndarray of float64, shape (rows, columns), or (n,) for games without a grid
            1 for the first patch, falling in equal steps to 1/k for the last; NaN where a patch
            was not chosen.
        """
        heat = np.full(self.n_players, np.nan)
        heat[self.order] = np.linspace(1, 0, len(self), endpoint=False)
        return heat if self.grid is None else heat.reshape(self.grid)

    def visible(self, step: int) -> BoolArray:
        """Return the players present after a number of steps.

        Parameters
        ----------
        step : int
            0 (before the first step) to k.

        Returns
        -------
        ndarray of bool, shape (n,)

        Raises
        ------
        IndexError
            If there are fewer steps than that.
        """
        if not 0 <= step <= len(self):
            raise IndexError(f"step must be 0..{len(self)}, not {step}.")
        present = np.full(self.n_players, self.mode == "deletion")
        present[self.order[:step]] = self.mode == "insertion"
        return present

    def table(self) -> pd.DataFrame:
        """Tell the steps as a table, one row a step.

        Returns
        -------
        pandas.DataFrame
            Index ``step``, 1 to k. Columns ``patch``, ``row`` and ``column`` (``player`` for games
            without a grid); ``value``, the reward after the step; ``class`` and ``probability``,
            what the model says then, for games with classes; ``evaluations``, candidate
            coalitions evaluated up to the step, where that is known.
        """
        import pandas as pd  # slow

        columns: dict[str, Any] = {"player" if self.grid is None else "patch": self.order}
        if self.grid is not None:
            columns["row"], columns["column"] = np.divmod(self.order, self.grid[1])
        columns["value"] = self.values
        if self.predictions is not None:
            columns["class"] = [self.class_name(index) for index in self.predictions]
        if self.confidences is not None:
            columns["probability"] = self.confidences
        if self.step_evaluations is not None:
            columns["evaluations"] = self.step_evaluations
        return pd.DataFrame(columns, index=pd.RangeIndex(1, len(self) + 1, name="step"))

    def visible_image(self, step: int) -> np.ndarray:
        """Show the image with only those patches that are present after some steps.

        Parameters and errors are those of `visible`; without an image there is a ValueError, too.

        Returns
        -------
        ndarray of uint8, shape (H, W, 3)
            Absent patches are grey, whatever the masking put there for the model.
        """
        image, grid = self._picture()
        return shown_patches(image, grid, self.visible(step))

    def overlay(self, steps: int | None = None) -> np.ndarray:
        """Paint the paper's heatmap over the image (Sec. 5.2).

        Parameters
        ----------
        steps : int, optional
            Number of patches to colour.  By default those up to the success of an insertion or
            the failure of a deletion, or all if the prediction never turns.

        Returns
        -------
        ndarray of uint8, shape (H, W, 3)
            Selected patches are tinted, the redder the earlier; the rest is dimmed and grey.

        Raises
        ------
        ValueError
            If the explanation holds no image, or `steps` exceeds its length.
        """
        image, _ = self._picture()
        first = dataclasses.replace(self, order=self.order[: self.shown_steps(steps)])
        return tinted(image, first.heatmap())

    def shown_steps(self, steps: int | None) -> int:
        """Return the number of steps to draw, checked; None is up to the flip, or else all."""
        if steps is None:
            flip = self.patches_to_flip()
            return len(self) if flip is None else flip
        return whole_number("steps", steps, 0, len(self))

    def _picture(self) -> tuple[np.ndarray, tuple[int, int]]:
        if self.image is None or self.grid is None:
            raise ValueError(
                "this explanation holds no image: expected one of a PatchGame. "
                "For a plain game use plot_explanation, which draws bars."
            )
        return self.image, self.grid

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the heatmap over the image; see `moxi_lite.plot_explanation`."""
        return plot_explanation(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one JSON file, image included; atomic, so never half a file.

        Parameters
        ----------
        path : path-like
            Where to; the folder must exist.

        Returns
        -------
        Path
            The path written.
        """
        record: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            record[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
        if self.image is not None:
            buffer = io.BytesIO()
            Image.fromarray(self.image).save(buffer, format="PNG", optimize=True)
            record["image"] = base64.b64encode(buffer.getvalue()).decode()
        path = Path(path).expanduser()
        write_atomically(path, json.dumps(record, allow_nan=False, indent=1).encode())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is not an explanation of a version that this package knows.
        """
        try:
            record = json.loads(Path(path).expanduser().read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON, let alone an Explanation: {error}.") from None
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} is not a saved Explanation (no field format={_FORMAT!r}).")
        version = record.pop("version", None)
        if version not in range(1, _VERSION + 1):
            raise ValueError(
                f"{path} has version {version}; this moxi-lite reads versions up to {_VERSION}: "
                "update it."
            )
        try:
            found = cls(**_decoded({"step_evaluations": None} | record))
            found.heatmap()  # the grid fits the players
            if found.mode not in VERBS:
                raise ValueError(f"its mode is {found.mode!r}")
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            OSError,
        ) as error:
            raise ValueError(f"{path} is damaged: {error}.") from error
        return found


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    """Turn what JSON can hold into the fields of an explanation."""
    fields, k = dict(record), len(record["order"])
    for name, dtype in _ARRAYS.items():
        if fields[name] is not None:
            values = np.array(fields[name] or np.empty(0, dtype))
            fields[name] = values.astype(dtype, casting="same_kind")
            if values.shape != (k,):
                raise ValueError(f"{name} has shape {values.shape} for {k} steps")
    if len({*fields["order"]} & {*range(fields["n_players"])}) < k:
        raise ValueError(f"its order is not one of different players out of {fields['n_players']}")
    if fields["image"] is not None:
        with Image.open(io.BytesIO(base64.b64decode(fields["image"]))) as image:
            fields["image"] = np.asarray(image.convert("RGB"))
    fields["labels"] = {int(index): name for index, name in fields["labels"].items()}
    fields["grid"] = None if fields["grid"] is None else tuple(fields["grid"])
    return fields
