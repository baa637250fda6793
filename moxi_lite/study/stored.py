"""The stored results of long runs, wherever the book is read: repository, checkout or Colab."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pooch
import pyarrow.parquet as pq
import timm
from PIL import Image, ImageOps

from moxi_lite.curves import Curve, mean_curve
from moxi_lite.data import imagenet_sample, sample_photo
from moxi_lite.errors import unknown_name, whole_number, whole_pair
from moxi_lite.explanation import Explanation
from moxi_lite.models import Classifier, imagenet_class_names
from moxi_lite.search import check_mode
from moxi_lite.study.store import with_evaluations

FOLDER_VARIABLE = "MOXI_LITE_RESULTS_DIR"
_HERE = Path(__file__).resolve().parents[2] / "results"
_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "moxi": "MoXI",
        "moxi-": "MoXI(-)",
        "shapley-20": "Shapley (20 permutations)",
        "shapley-10": "Shapley (10 permutations)",
        "shapley-paper-200": "Shapley (200)",
        "shapley-paper-50": "Shapley (50)",
        "shapley-paper-10": "Shapley (10)",
        "rise": "RISE",
        "gradcam": "Grad-CAM",
        "gradcam-raster": "Grad-CAM, ties in raster order",
        "gradcam-paper": "Grad-CAM, paper",
        "gradcam++": "Grad-CAM++",
        "gradcam++-raster": "Grad-CAM++, ties in raster order",
        "gradcam++-paper": "Grad-CAM++, paper",
        "rollout": "Attention rollout",
        "random": "Random",
    }
)
_SHAPLEY = tuple(name for name in _LABELS if name.startswith("shapley"))  # the best first
_ANOTHER = -1  # class: the table says whether the target was predicted, and no other


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
    return {
        str(image): Curve(
            fraction=steps["step"].to_numpy(np.float64) / steps["step"].max(),
            correct=steps["correct"].to_numpy(),
            probability=steps["probability"].to_numpy(np.float64),
            log_odds=steps["log_odds"].to_numpy(np.float64),
            mode=mode,
            target=int(steps["target"].iloc[0]),
        )
        for image, steps in _whole_runs(_rows(table, method, mode))
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
        Only the first steps, at least 0; by default all, up to the first that is not stored.
    photo : ndarray of uint8, shape (H, W, 3), optional
        The image as the model sees it, which the table does not hold.
    grid : int or tuple of int, optional
        Rows and columns of patches, by default as many.
    class_name : str, optional
        Name of the target.

    Returns
    -------
    Explanation
        With log-odds as values. A predicted class that is not the target is unknown, number -1.

    Raises
    ------
    ValueError, TypeError
        If the table has no such image, method or mode, its rows are not all steps of one study, or
        `steps` or `grid` does not fit it.
    """
    of_method = _rows(table, method, mode)
    rows = of_method[of_method["image"] == image]
    if not len(rows):
        raise unknown_name("image", image, of_method["image"].unique())
    ((_, rows),) = _whole_runs(rows)
    n, step = int(rows["step"].iloc[-1]), rows["step"].to_numpy()
    stored = int(np.cumprod(step == np.arange(len(step))).sum()) - 1  # without a gap
    grid = whole_pair("grid", math.isqrt(n) if grid is None else grid)
    if math.prod(grid) != n:
        raise ValueError(f"grid {grid} does not have the {n} patches of the table: pass grid=.")
    k = stored if steps is None else whole_number("steps", steps, 0, stored)
    target, other_end = int(rows["target"].iloc[0]), float(rows["log_odds"].iloc[-1])
    first = rows.iloc[: k + 1]
    spent = first["evaluations"].iloc[1:]
    return Explanation.from_steps(
        mode,
        first["patch"].iloc[1:],
        first["log_odds"].to_numpy(),
        other_end,
        n_players=n,
        stop_reason="budget" if k < n else "all",
        predictions=np.where(first["correct"], target, _ANOTHER),
        step_evaluations=None if spent.isna().any() else spent,
        target=target,
        grid=grid,
        labels={_ANOTHER: "another class"} | ({target: class_name} if class_name else {}),
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


def _whole_runs(rows: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    """Split the rows by image, in order, if each has the steps and patches of one run once."""
    rows = rows.sort_values("step", kind="stable")
    by_image = rows.groupby("image", observed=True, sort=False)
    row, n = by_image.cumcount(), by_image["step"].transform("max")
    whole = (row > 1) | (rows["step"] == row)  # steps 0 and 1 are always stored
    whole &= (rows["patch"] < n) & ((rows["patch"] < 0) == (row == 0))
    for column in ("step", "patch"):
        whole &= ~rows.duplicated(["image", column])
    if not whole.all():
        raise ValueError(
            f"image {rows['image'][~whole].iloc[0]}: the rows are not the steps of one run from 0 "
            "to all patches, each once. Pass the whole table of one study, neither rows of several "
            "studies nor some of the steps."
        )
    return by_image


@dataclass(frozen=True, eq=False)
class StoredStudy:
    """A stored ImageNet study of one model (Sec. 5), and what chapters ask of it.

    Attributes
    ----------
    model : str
        Name of the model as for `load_model`.
    table : pandas.DataFrame
        As from `run_study`; not every method has all images.
    provenance : dict
        How each part of it came about: settings, seconds, hardware, images.
    labels : dict of str to str
        Method in the table -> its name in figures, in the order of display. A number is that of
        iterations of the paper's sampler, or of permutations, each with its reverse.
    shapley : str or None
        Label of the estimate with the most images (of equals the one with the most draws), for
        which ``"Shapley"`` stands.
    """

    model: str
    table: pd.DataFrame = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Method in the table -> its name in figures, in the order of display."""
        stored = {re.sub(r"^random-\d+$", "random", name) for name in self.table["method"].unique()}
        return {method: label for method, label in _LABELS.items() if method in stored}

    @cached_property
    def shapley(self) -> str | None:
        """Label of the estimate of Shapley values with the most images."""
        counts = self.table.groupby("method", observed=True)["image"].nunique()
        stored = [method for method in _SHAPLEY if method in self.labels]
        return self.labels[max(stored, key=counts.__getitem__)] if stored else None

    def curves(self, mode: str) -> dict[str, dict[str, Curve]]:
        """Collect the curves of all methods: label -> image -> curve, in the order of `labels`.

        Under ``"Shapley"`` stand once more those of the estimate that `shapley` names. Where
        several random orders of an image are stored, ``"Random"`` has their mean. Raises
        ValueError if the study has no such mode.
        """
        curves = {
            label: study_curves(self.table, method, mode)
            for method, label in self.labels.items()
            if method in set(self.table["method"])
        }
        drawn = [name for name in self.table["method"].unique() if name.startswith("random-")]
        several = [study_curves(self.table, name, mode) for name in drawn]
        for image in several[0] if several else ():
            mean = mean_curve([each[image] for each in several])
            curves.setdefault("Random", {})[image] = mean
        return curves | ({"Shapley": curves[self.shapley]} if self.shapley else {})

    def searched_share(self, mode: str) -> float:
        """Share of the patches, 0..1, that MoXI chose step by step in all images; see ``exact``."""
        rows = _rows(self.table, "moxi", mode)
        searched = rows[rows["exact"]].groupby("image", observed=True)["step"].max()
        return float(searched.min() / rows["step"].max())

    def explanation(
        self, image: str, method: str, mode: str, steps: int | None = None
    ) -> Explanation:
        """Turn the rows of one image into an `Explanation`, with its photograph if at hand.

        Arguments and errors are those of `study_explanation`; the method may also be given by its
        label, or ``"Shapley"`` for the estimate that `shapley` names.
        """
        by_label = {label: name for name, label in self.labels.items()}
        settings = next(iter(self.provenance["phases"].values()))["settings"]
        rows = self.table[self.table["image"] == image]
        known = len(rows) > 0
        return study_explanation(
            rows if known else self.table,  # the whole table knows the names to suggest
            image,
            by_label.get(str(self.shapley if method == "Shapley" else method), method),
            mode,
            steps=steps,
            grid=tuple(settings["grid"]),
            photo=self._photo(image) if known and image.startswith("imagenet-") else None,
            class_name=imagenet_class_names()[int(rows["target"].iloc[0])] if known else None,
        )

    def photograph(self, image: str) -> tuple[Image.Image, int | None]:
        """Open the photograph of an image of the study, and give its label.

        Where it is unavailable, `moxi_lite.sample_photo` ``"chelsea"`` takes its place, with None.
        """
        try:
            sample = imagenet_sample(int(image.removeprefix("imagenet-")[:4]))
        except OSError:
            return sample_photo("chelsea"), None
        return sample.image, sample.index

    def compare(self, ex: Explanation, image: str, model: Classifier) -> pd.DataFrame:
        """Hold a search of now against the stored one, step by step.

        Parameters
        ----------
        ex : Explanation
            From `explain` for `photograph` of that image.
        image : str
            Name in the table.
        model : Classifier
            The network that was asked.

        Returns
        -------
        pandas.DataFrame
            One row a step: patch and value; stored patch and stored value only where the study
            used these weights and `ex` explains its class. ValueError is raised if log-odds differ
            by 0.02 or more up to where the patches first differ (a near tie may go either way).
        """
        steps = ex.table()[["patch", "value"]]
        rows = _rows(self.table, "moxi", ex.mode)
        stored = rows[rows["image"] == image].set_index("step")
        phases = self.provenance["phases"].values()
        weights = {phase["settings"]["weights_sha256"] for phase in phases}
        if model.weights_sha256 not in weights or stored["target"].iloc[0] != ex.target:
            return steps
        steps = steps.join(stored[["patch", "log_odds"]].add_prefix("stored "))
        steps = steps.rename(columns={"stored log_odds": "stored value"})
        same = (steps["patch"] == steps["stored patch"]).to_numpy()
        until = len(same) if same.all() else int(same.argmin()) + 1
        gap = (steps["value"] - steps["stored value"]).abs()[:until].max()
        if gap >= 0.02:
            raise ValueError(f"{image}: the stored log-odds are missed by {gap:.3f}.")
        return steps

    def _photo(self, image: str) -> np.ndarray | None:
        """Crop a photograph as the model sees it; None where it is unavailable."""
        photo, target = self.photograph(image)
        config = timm.get_pretrained_cfg(self.model)
        if target is None or config is None:
            return None
        rows, columns = config.input_size[1:]
        middle = ImageOps.fit(photo, (columns, rows), bleed=(1 - config.crop_pct) / 2)
        return np.asarray(middle)

    def origin(self, mode: str | None = None) -> str:
        """Say in words where the study comes from, for the foot of a figure.

        Three lines for each part of the study, by default of both modes, then the command and what
        is to be known. Raises ValueError if the mode is unknown.
        """
        if mode is not None:
            check_mode(mode)
        parts = self.provenance["phases"].items()
        wanted = [pair for pair in parts if mode is None or mode in pair[1]["settings"]["modes"]]
        text = "\n".join(_part_in_words(*pair) for pair in wanted)
        notes = [f"made by: {self.provenance['command']}", *self.provenance.get("notes", ())]
        if "-dirty" in text:
            notes.append("Commits marked -dirty had changes in the working tree.")
        return "\n".join([text, *notes])


def stored_study(name: str = "vit_tiny_patch16_224") -> StoredStudy:
    """Read the stored ImageNet study of a model (Sec. 5), found or fetched by `stored_result`.

    Parameters
    ----------
    name : str
        Name of the model as for `load_model`.

    Returns
    -------
    StoredStudy

    Examples
    --------
    >>> study = stored_study()                                      # doctest: +SKIP
    >>> average_curves(study.curves("insertion")["MoXI"]).at(0.04)  # doctest: +SKIP
    Estimate(value=0.916..., low=0.85, high=0.983...)
    """
    table = with_evaluations(pq.read_table(stored_result(f"imagenet/{name}.parquet"))).to_pandas()
    record = stored_result(f"imagenet/{name}.json").read_text(encoding="utf-8")
    return StoredStudy(name, table, json.loads(record))


def stored_result(name: str) -> Path:
    """Find a file of the repository's folder ``results/``, or fetch it.

    Where ``$MOXI_LITE_RESULTS_DIR`` names a folder, only that is looked into; otherwise
    ``results/`` beside the package (a checkout of the repository), in the current folder and in
    the one above it. If there is none of these the file is downloaded from the project's
    repository, or taken from the cache, if it is that of this version of the package (SHA-256).

    Parameters
    ----------
    name : str
        Path below ``results/``, such as ``"imagenet/vit_tiny_patch16_224.parquet"``.

    Returns
    -------
    Path

    Raises
    ------
    ValueError, FileNotFoundError
        If the name leaves the folder; if there is no such file (near matches are listed) or it
        cannot be downloaded, or ``$MOXI_LITE_RESULTS_DIR`` is not a folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} is not a path below results/: write imagenet/FILE.parquet.")
    folders = _folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    fetcher = pooch.create(pooch.os_cache("moxi-lite") / "results", _address())
    with resources.files("moxi_lite.study").joinpath("results_registry.txt").open() as registry:
        fetcher.load_registry(registry)
    # Where there is a folder of results it is complete: a download would hide a mistyped name.
    if folders or name not in fetcher.registry:
        paths = ((folder, path) for folder in folders for path in folder.rglob("*.*"))
        files = {path.relative_to(folder).as_posix() for folder, path in paths}
        files = files or set(fetcher.registry)
        near = difflib.get_close_matches(name, files, n=3) or sorted(files)[:6]
        raise FileNotFoundError(
            f"there is no stored result {name!r}{' in ' * bool(folders)}"
            f"{', '.join(map(str, folders))}. There is: {', '.join(near)}. If the repository's "
            f"folder results/ is elsewhere, set {FOLDER_VARIABLE} to it."
        )
    try:
        return Path(fetcher.fetch(name))
    except Exception as error:  # whatever the downloader raises: no network, another version
        raise FileNotFoundError(
            f"the stored result {name!r} could not be fetched from {fetcher.base_url} ({error}). "
            f"Clone the repository, or set {FOLDER_VARIABLE} to a copy of its folder results/."
        ) from error


def _part_in_words(name: str, part: Mapping[str, Any]) -> str:
    """Describe one part of a study in three lines."""
    settings, machines = part["settings"], part["environments"]
    draws = "".join(f", {method} {n}" for method, n in settings["n_samples"].items())
    rows, columns = settings["grid"]
    commits: Counter[str] = Counter()
    for made in machines:
        commit, dirty, _ = (made["commit"] or "unknown").partition("-dirty")
        commits[commit[:10] + dirty] += made["images"]
    return (
        f"{name}: {part['n_studied']} images, {' and '.join(settings['modes'])}, "
        f"{rows} x {columns} patches, masking {settings['masking']!r}, {settings['dtype']}, "
        f"seed {settings['random_state']}{draws}\n"
        f"    {part['seconds'] / max(part['n_studied'], 1):.0f} s an image on "
        f"{machines[0]['processor']} ({machines[0]['device']}), until {part['finished'][:10]}; "
        f"weights SHA-256 {settings['weights_sha256'][:12]}, "
        f"list of images {part['image_list_sha256'][:12]}\n"
        f"    commit {', '.join(f'{commit} ({n} images)' for commit, n in commits.items())}"
    )


def _folders() -> list[Path]:
    """Folders of results at hand; the one that the user names must exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise FileNotFoundError(f"{FOLDER_VARIABLE}={named} is not a folder.")
        return [Path(named)]
    here = Path.cwd()
    nearby = [_HERE, *(folder / "results" for folder in (here, here.parent))]
    return [folder for folder in nearby if (folder / "imagenet").is_dir()]


def _address() -> str:
    """Address of the stored results: at the commit that pip fetched, else at this version's tag."""
    installed = metadata.distribution("moxi-lite")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        home, at = origin["url"].removesuffix(".git"), origin["vcs_info"]["commit_id"]
    else:
        links = installed.metadata.get_all("Project-URL") or []
        home = dict(link.split(", ", 1) for link in links).get("Repository", "")
        at = f"v{installed.version}"
    return f"{home.replace('github.com', 'raw.githubusercontent.com')}/{at}/results/"
