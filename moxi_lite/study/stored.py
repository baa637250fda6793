"""The stored results of long runs, wherever the book is read: repository, checkout or Colab."""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pooch

from moxi_lite.errors import unknown_name
from moxi_lite.explanation import VERBS

FOLDER_VARIABLE = "MOXI_LITE_RESULTS_DIR"
_BRANCH = "main"  # of the repository, as in _config.yml
_HERE = Path(__file__).resolve().parent.parent.parent / "results"


def stored_result(name: str) -> Path:
    """Find a file of the repository's folder ``results/``, or fetch it.

    Where ``$MOXI_LITE_RESULTS_DIR`` names a folder, only that is looked into.  Otherwise
    ``results/`` beside the package (a checkout of the repository), in the current folder and in
    the one above it, as far as they hold a folder ``imagenet``.  Only if there is none of these is
    the file downloaded from the project's repository; the copy in the cache is kept, and is not
    compared with the repository again.

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
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{name!r} is not a path below results/: write imagenet/FILE.parquet.")
    folders = _folders()
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    address = _address()
    # Where there is a folder of results it is complete: a download would hide a mistyped name.
    if folders or address is None:
        raise FileNotFoundError(_not_found(name, folders))
    try:
        path = pooch.retrieve(
            f"{address}/{relative.as_posix()}",
            known_hash=None,
            fname=relative.name,
            path=pooch.os_cache("moxi-lite") / "results" / relative.parent,
        )
    except Exception as error:  # whatever the downloader raises: no network, no such file
        raise FileNotFoundError(
            f"the stored result {name!r} could not be fetched from {address} ({error}). Clone the "
            f"repository, or set {FOLDER_VARIABLE} to a copy of its folder results/."
        ) from error
    return Path(path)


def stored_study(model: str = "vit_tiny_patch16_224") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the stored ImageNet study of a model (Sec. 5).

    Parameters
    ----------
    model : str
        Name of the model as for `load_model`.

    Returns
    -------
    table : pandas.DataFrame
        One row for each image, method, mode and step, with the columns of `run_study`. Not every
        method has all images. Of ``"vit_tiny_patch16_224"`` there are also Shapley values:
        ``"shapley-paper"`` drew 200 iterations of the paper's sampler, as in the paper,
        ``"shapley-paper-50"`` and ``"shapley-paper-10"`` drew 50 and 10, and ``"shapley-10"``
        drew 10 permutations with their reverses.
    provenance : dict
        How each part of it came about: settings, seconds, hardware, images.

    Raises
    ------
    FileNotFoundError
        If no study of that model is stored; see `stored_result`.
    """
    path = stored_result(f"imagenet/{model}.parquet")
    record = stored_result(f"imagenet/{model}.json")
    provenance: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return pd.read_parquet(path), provenance


def provenance_text(provenance: Mapping[str, Any], mode: str | None = None) -> str:
    """Say in words where a stored study comes from, for the foot of a figure.

    Parameters
    ----------
    provenance : mapping
        From `stored_study`.
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
    for name, part in provenance["phases"].items():
        settings, machines = part["settings"], part["environments"]
        if mode is not None and mode not in settings["modes"]:
            continue
        draws = "".join(
            f", {method} {' and '.join(map(str, n)) if isinstance(n, list | tuple) else n}"
            for method, n in settings["n_samples"].items()
        )
        rows, columns = settings["grid"]
        commits: Counter[str] = Counter()
        for made in machines:
            commits[_short_commit(made["commit"])] += made["images"]
        lines += [
            f"{name}: {part['n_studied']} images, {' and '.join(settings['modes'])}, "
            f"{rows} x {columns} patches, masking {settings['masking']!r}, {settings['dtype']}, "
            f"seed {settings['random_state']}{draws}",
            f"    {part['seconds'] / max(part['n_studied'], 1):.0f} s an image on "
            f"{machines[0]['processor']} ({machines[0]['device']}), until {part['finished'][:10]}; "
            f"weights SHA-256 {settings['weights_sha256'][:12]}, "
            f"list of images {part['image_list_sha256'][:12]}",
            f"    commit {', '.join(f'{commit} ({n} images)' for commit, n in commits.items())}",
        ]
    lines += [f"made by: {provenance['command']}", *provenance.get("notes", ())]
    if any("-dirty" in line for line in lines):
        lines.append("Commits marked -dirty had changes in the working tree, not yet committed.")
    return "\n".join(lines)


def _short_commit(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    return commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


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


def _address() -> str | None:
    """Address of the repository's files, from the package's metadata."""
    try:
        links = metadata("moxi-lite").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    home = dict(link.split(", ", 1) for link in links).get("Repository", "")
    if "github.com" not in home:
        return None
    return f"{home.replace('github.com', 'raw.githubusercontent.com')}/{_BRANCH}/results"


def _not_found(name: str, folders: list[Path]) -> str:
    files = {
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    near = difflib.get_close_matches(name, files, n=3) or sorted(files)[:6]
    where = f"in {', '.join(map(str, folders))}" if folders else "(nor any folder results/ here)"
    hint = f" There is: {', '.join(near)}." if near else ""
    return (
        f"there is no stored result {name!r} {where}.{hint} If the repository's folder results/ is "
        f"elsewhere, set {FOLDER_VARIABLE} to it."
    )
