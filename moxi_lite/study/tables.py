"""What a study's table says, as curves and as explanations again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from moxi_lite.curves import Curve
from moxi_lite.errors import unknown_name, whole_number
from moxi_lite.explanation import Explanation
from moxi_lite.patches import checked_grid

_ANOTHER = -1  # the table says whether the target was predicted, and no other class


def study_curves(table: pd.DataFrame, method: str, mode: str) -> dict[str, Curve]:
    """Turn the table of a study back into curves, for `average_curves` and `average_differences`.

    Parameters
    ----------
    table : pandas.DataFrame
        From `run_study`, or read from its Parquet file.
    method, mode : str
        Which rows.

    Returns
    -------
    dict of str to Curve
        By the image's name, in the order of the table.

    Raises
    ------
    ValueError
        If the table has no such method or mode, or an image's rows are not all steps of one study.
    """
    rows = _rows(table, method, mode)
    return {
        image: Curve(
            fraction=steps["step"].to_numpy(np.float64) / steps["step"].max(),
            correct=steps["correct"].to_numpy(),
            probability=steps["probability"].to_numpy(np.float64),
            log_odds=steps["log_odds"].to_numpy(np.float64),
            mode=mode,
            target=int(steps["target"].iloc[0]),
        )
        for image, steps in _by_image(rows)
    }


def study_explanation(
    table: pd.DataFrame,
    image: str,
    method: str,
    mode: str,
    *,
    steps: int | None = None,
    photo: np.ndarray | None = None,
    grid: int | tuple[int, int] | None = None,
    class_name: str | None = None,
) -> Explanation:
    """Turn one image's rows in the table of a study into an `Explanation`, to draw or to reveal.

    Parameters
    ----------
    table : pandas.DataFrame
        From `run_study`, or read from its Parquet file.
    image, method, mode : str
        Which rows.
    steps : int, optional
        Only the first steps, at least 0; all by default.
    photo : ndarray of uint8, shape (H, W, 3), optional
        The image as the model sees it; the table does not hold it.
    grid : int or tuple of int, optional
        Rows and columns of patches. By default a square, if their number is one.
    class_name : str, optional
        Name of the target.

    Returns
    -------
    Explanation
        With log-odds as values. Where the target was not predicted, the class that was is unknown:
        its number is -1. Without evaluations where the table does not know them.

    Raises
    ------
    ValueError
        If the table has no such image, method or mode, its rows are not all steps of one study, or
        `steps` or `grid` does not fit it.
    TypeError
        If `steps` is not a whole number.
    """
    of_method = _rows(table, method, mode)
    rows = of_method[of_method["image"] == image]
    if not len(rows):
        raise unknown_name("image", image, of_method["image"].unique())
    ((_, rows),) = _by_image(rows)
    n = int(rows["step"].max())
    grid = checked_grid(math.isqrt(n) if grid is None else grid)
    if math.prod(grid) != n:
        raise ValueError(f"grid {grid} does not have the {n} patches of the table: pass grid=.")
    k = n if steps is None else whole_number("steps", steps, 0, n)
    target = int(rows["target"].iloc[0])
    labels = {_ANOTHER: "another class"} | ({target: class_name} if class_name else {})
    said = np.where(rows["correct"], target, _ANOTHER)
    odds = rows["log_odds"].to_numpy(np.float64)
    ends = (odds[0], odds[-1]) if mode == "insertion" else (odds[-1], odds[0])
    stop = slice(1, k + 1)
    spent = rows["evaluations"].to_numpy()[stop] if "evaluations" in rows else np.array([np.nan])
    known = not np.isnan(spent).any()
    return Explanation(
        order=rows["patch"].to_numpy(np.int64)[stop],
        values=odds[stop],
        predictions=said[stop],
        start_prediction=int(said[0]),
        f_empty=float(ends[0]),
        f_full=float(ends[1]),
        n_players=n,
        n_evaluations=int(spent[-1]) if known and k else 0,
        step_evaluations=spent.astype(np.int64) if known else None,
        mode=mode,
        stop_reason="budget" if k < n else "all",
        target=target,
        grid=grid,
        labels=labels,
        image=photo,
        model=str(rows["model"].iloc[0]),
        reward="log_odds",
    )


def _rows(table: pd.DataFrame, method: str, mode: str) -> pd.DataFrame:
    for kind, name in (("method", method), ("mode", mode)):
        known = table[kind].unique()
        if name not in known:
            raise unknown_name(kind, name, known)
    return table[(table["method"] == method) & (table["mode"] == mode)]


def _by_image(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each image's steps in order, if they are those of one whole run."""
    for image, steps in rows.groupby("image", observed=True, sort=False):
        ordered = steps.sort_values("step")
        n = len(ordered) - 1
        whole = np.array_equal(ordered["step"], np.arange(n + 1)) and np.array_equal(
            np.sort(ordered["patch"])[1:], np.arange(n)
        )
        if not whole or ordered["model"].nunique() > 1:
            raise ValueError(
                f"image {image}: the rows are not the steps 0 to n of one run, each once. Pass the "
                "whole table of one study, neither rows of several studies nor some of the steps."
            )
        yield str(image), ordered
