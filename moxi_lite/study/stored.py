"""The stored results of long runs, wherever the book is read: repository, checkout or Colab."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
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

from moxi_lite.curves import Curve
from moxi_lite.data import imagenet_sample, sample_photo
from moxi_lite.errors import unknown_name
from moxi_lite.explanation import VERBS, Explanation
from moxi_lite.models import Classifier, imagenet_class_names
from moxi_lite.study.store import with_evaluations
from moxi_lite.study.tables import study_curves, study_explanation

FOLDER_VARIABLE = "MOXI_LITE_RESULTS_DIR"
_HERE = Path(__file__).resolve().parents[2] / "results"
_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "moxi": "MoXI",
        "moxi-": "MoXI(-)",
        "shapley-paper": "Shapley (200)",
        "shapley-paper-50": "Shapley (50)",
        "shapley-paper-10": "Shapley (10)",
        "shapley-10": "Shapley (10 permutations)",
        "rise": "RISE",
        "gradcam": "Grad-CAM",
        "gradcam-eigen": "Grad-CAM, smoothed",
        "gradcam-aug": "Grad-CAM, augmented",
        "gradcam++": "Grad-CAM++",
        "gradcam++-eigen": "Grad-CAM++, smoothed",
        "gradcam++-aug": "Grad-CAM++, augmented",
        "rollout": "Attention rollout",
        "random": "Random",
    }
)
_PAPER_SAMPLER = ("shapley-paper", "shapley-paper-50", "shapley-paper-10")  # more draws first


@dataclass(frozen=True, eq=False)
class StoredStudy:
    """A stored ImageNet study of one model (Sec. 5), and what chapters ask of it.

    Attributes
    ----------
    model : str
        Name of the model as for `load_model`.
    table : pandas.DataFrame
        One row for each image, method, mode and step, with the columns of `run_study`. Not every
        method has all images. Evaluations are NaN where the study did not note them.
    provenance : dict
        How each part of it came about: settings, seconds, hardware, images.
    labels : dict of str to str
        Method in the table -> its name in figures, in the order of display. ``"shapley-paper"``
        drew 200 iterations of the paper's sampler, as in the paper, ``"shapley-paper-50"`` and
        ``"shapley-paper-10"`` drew 50 and 10, ``"shapley-10"`` 10 permutations with their reverses.
    shapley : str or None
        Label of the estimate by the paper's sampler with the most images (of equals the one with
        the most draws), for which ``"Shapley"`` stands.
    """

    model: str
    table: pd.DataFrame = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Method in the table -> its name in figures, in the order of display."""
        stored = set(self.table["method"].unique())
        return {method: label for method, label in _LABELS.items() if method in stored}

    @cached_property
    def shapley(self) -> str | None:
        """Label of the estimate of Shapley values with the most images."""
        counts = self.table.groupby("method", observed=True)["image"].nunique()
        stored = [method for method in _PAPER_SAMPLER if method in self.labels]
        return self.labels[max(stored, key=counts.__getitem__)] if stored else None

    def curves(self, mode: str) -> dict[str, dict[str, Curve]]:
        """Collect the curves of all methods.

        Parameters
        ----------
        mode : {"insertion", "deletion"}

        Returns
        -------
        dict of str to dict of str to Curve
            Label -> image -> curve, in the order of `labels`; under ``"Shapley"`` once more those
            of the estimate that `shapley` names.

        Raises
        ------
        ValueError
            If the study has no such mode.
        """
        curves = {
            label: study_curves(self.table, method, mode) for method, label in self.labels.items()
        }
        return curves | ({"Shapley": curves[self.shapley]} if self.shapley else {})

    def searched_share(self, mode: str) -> float:
        """Return the smallest share of patches that MoXI chose step by step; the rest is ranked.

        Parameters
        ----------
        mode : {"insertion", "deletion"}

        Returns
        -------
        float
            Of all images, 0..1.
        """
        rows = self.table[(self.table["method"] == "moxi") & (self.table["mode"] == mode)]
        searched = rows[rows["exact"]].groupby("image", observed=True)["step"].max()
        return float(searched.min() / rows["step"].max())

    def explanation(
        self, image: str, method: str, mode: str, steps: int | None = None
    ) -> Explanation:
        """Turn the rows of one image into an `Explanation`, to draw or to reveal.

        Parameters
        ----------
        image : str
            Name in the table, such as ``"imagenet-0281"``.
        method : str
            Method in the table, or its label; ``"Shapley"`` for the estimate `shapley`.
        mode : {"insertion", "deletion"}
        steps : int, optional
            Only the first steps, at least 0; all by default.

        Returns
        -------
        Explanation
            As from `study_explanation`; with the photograph if the sample image is at hand.

        Raises
        ------
        ValueError
            If the study has no such image, method or mode, or `steps` does not fit.
        """
        wanted = self.shapley if method == "Shapley" else method
        by_label = {label: name for name, label in self.labels.items()}
        settings = next(iter(self.provenance["phases"].values()))["settings"]
        sample = re.match(r"imagenet-(\d{4})", image)
        rows = self.table[self.table["image"] == image]
        return study_explanation(
            rows if len(rows) else self.table,  # the whole table knows the names to suggest
            image,
            by_label.get(str(wanted), method),
            mode,
            steps=steps,
            grid=tuple(settings["grid"]),
            photo=self._photo(int(sample[1])) if sample and len(rows) else None,
            class_name=imagenet_class_names()[int(rows["target"].iloc[0])] if len(rows) else None,
        )

    def photograph(self, image: str) -> tuple[Image.Image, int | None]:
        """Open the photograph of an image, or say with None that another one takes its place.

        Parameters
        ----------
        image : str
            Name in the table, such as ``"imagenet-0281"``.

        Returns
        -------
        photo : PIL.Image.Image
            Where the sample image is unavailable, `moxi_lite.sample_photo` ``"chelsea"``.
        target : int or None
            Its label; None for the stand-in.
        """
        try:
            sample = imagenet_sample(int(image.removeprefix("imagenet-")))
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
            One row a step, with the columns patch and value; stored patch and stored value only
            where the study used these weights and `ex` explains its class.

        Raises
        ------
        ValueError
            If log-odds differ by 0.02 or more before, or where, the patches first differ. (Another
            processor may decide a near tie the other way; the values still agree there.)
        """
        steps = ex.table()[["patch", "value"]]
        stored = self.table[
            (self.table["image"] == image)
            & (self.table["method"] == "moxi")
            & (self.table["mode"] == ex.mode)
        ].set_index("step")
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

    def _photo(self, index: int) -> np.ndarray | None:
        """Crop a sample image as the model sees it; None where it is unavailable."""
        try:
            photo = imagenet_sample(index).image
        except OSError:
            return None
        config = timm.get_pretrained_cfg(self.model)
        assert config is not None
        rows, columns = config.input_size[1:]
        middle = ImageOps.fit(photo, (columns, rows), bleed=(1 - config.crop_pct) / 2)
        return np.asarray(middle)

    def origin(self, mode: str | None = None) -> str:
        """Say in words where the study comes from, for the foot of a figure.

        Parameters
        ----------
        mode : {"insertion", "deletion"}, optional
            Only the parts with this mode; by default all.

        Returns
        -------
        str
            Three lines for each part of the study, then the command and what is to be known.

        Raises
        ------
        ValueError
            If the mode is unknown.
        """
        if mode is not None and mode not in VERBS:
            raise unknown_name("mode", mode, VERBS)
        lines = []
        for name, part in self.provenance["phases"].items():
            if mode is None or mode in part["settings"]["modes"]:
                lines += _lines_of(name, part)
        lines += [f"made by: {self.provenance['command']}", *self.provenance.get("notes", ())]
        if any("-dirty" in line for line in lines):
            lines.append(
                "Commits marked -dirty had changes in the working tree, not yet committed."
            )
        return "\n".join(lines)


def stored_study(name: str = "vit_tiny_patch16_224") -> StoredStudy:
    """Read the stored ImageNet study of a model (Sec. 5).

    Parameters
    ----------
    name : str
        Name of the model as for `load_model`.

    Returns
    -------
    StoredStudy

    Raises
    ------
    FileNotFoundError
        If no study of that model is stored; see `stored_result`.

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

    Where ``$MOXI_LITE_RESULTS_DIR`` names a folder, only that is looked into.  Otherwise
    ``results/`` beside the package (a checkout of the repository), in the current folder and in
    the one above it, as far as they hold a folder ``imagenet``.  Only if there is none of these is
    the file downloaded from the project's repository, and compared by its SHA-256 with the one
    that belongs to this version of the package; so is the copy in the cache.

    Parameters
    ----------
    name : str
        Path below ``results/``, such as ``"imagenet/vit_tiny_patch16_224.parquet"``.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the name leaves the folder.
    FileNotFoundError
        If the file is not in those folders (near matches are listed) or cannot be downloaded, or
        ``$MOXI_LITE_RESULTS_DIR`` is not a folder.
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


def _lines_of(name: str, part: Mapping[str, Any]) -> list[str]:
    """Describe one part of a study in three lines."""
    settings, machines = part["settings"], part["environments"]
    draws = "".join(
        f", {method} {' and '.join(map(str, n)) if isinstance(n, list) else n}"
        for method, n in settings["n_samples"].items()
    )
    rows, columns = settings["grid"]
    commits: Counter[str] = Counter()
    for made in machines:
        commit, dirty, _ = (made["commit"] or "unknown").partition("-dirty")
        commits[commit[:10] + dirty] += made["images"]
    return [
        f"{name}: {part['n_studied']} images, {' and '.join(settings['modes'])}, "
        f"{rows} x {columns} patches, masking {settings['masking']!r}, {settings['dtype']}, "
        f"seed {settings['random_state']}{draws}",
        f"    {part['seconds'] / max(part['n_studied'], 1):.0f} s an image on "
        f"{machines[0]['processor']} ({machines[0]['device']}), until {part['finished'][:10]}; "
        f"weights SHA-256 {settings['weights_sha256'][:12]}, "
        f"list of images {part['image_list_sha256'][:12]}",
        f"    commit {', '.join(f'{commit} ({n} images)' for commit, n in commits.items())}",
    ]


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
    """Address of the stored results, from the package's metadata."""
    links = metadata.metadata("moxi-lite").get_all("Project-URL") or []
    home = dict(link.split(", ", 1) for link in links).get("Repository", "")
    return f"{home.replace('github.com', 'raw.githubusercontent.com')}/main/results/"
