"""Studies: many images, methods and modes, in parallel, resumable, into one tidy table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from moxi_lite.attribution import WHOLE_IMAGE_METHODS, attribute
from moxi_lite.models import Classifier, check_device
from moxi_lite.study.images import describe_images, listed_images
from moxi_lite.study.provenance import provenance_of
from moxi_lite.study.settings import (
    ModelSource,
    Samples,
    Settings,
    checked_names,
    load_source,
    make_settings,
)
from moxi_lite.study.store import Shard, StudyFolder, concatenate
from moxi_lite.study.worker import ImageJob, build_game, study_image


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study found about the images asked for.

    Attributes
    ----------
    table : pandas.DataFrame
        One row for each image, method, mode and step; see `run_study`.
    path : Path
        The Parquet file with all that the folder of the study holds.
    skipped : dict of str to int
        Misclassified images, with the class that the model predicts.
    failed : dict of str to str
        Images that could not be studied, with the reason.
    provenance : dict
        What is stored beside the table: settings, environments, seconds, fingerprints.
    """

    table: pd.DataFrame = field(repr=False)
    path: Path
    skipped: dict[str, int]
    failed: dict[str, str]
    provenance: dict[str, Any] = field(repr=False)


def run_study(
    images: Iterable[Any],
    model: ModelSource,
    methods: Iterable[str],
    modes: Iterable[str],
    out: str | os.PathLike[str],
    executor: Executor | None = None,
    *,
    budget: int | Mapping[str, int | None] | None = None,
    masking: str = "auto",
    grid: int | tuple[int, int] | None = None,
    dtype: torch.dtype | str | None = None,
    n_samples: Samples | None = None,
    random_state: int = 0,
    only_correct: bool = True,
    points: Iterable[int] | None = None,
    device: str | None = None,
    show_progress: bool = False,
) -> StudyResult:
    """Draw the curves of many images and methods (Sec. 5.1), and store every step.

    Each image is stored as soon as it is finished: killed at any moment and called again, the
    study goes on with those that are missing. An image that fails, such as a broken file, is
    reported, does not stop the rest, and is tried again by the next call.

    Parameters
    ----------
    images : iterable of int, path, URL, PIL image, tensor, or pair (image, label)
        An int is an ImageNet sample with its label (`moxi_lite.imagenet_sample`), for models of
        1,000 classes; a tensor is preprocessed, (3, H, W). A label is a class by index or name;
        without one the target is the class predicted for the whole image.
    model : str, Classifier or callable
        A name for `load_model`; a Classifier, without executor or with a ThreadPoolExecutor (each
        job works on a copy); or, for own models in other processes, a function at the top of an
        importable module that takes nothing and returns a Classifier, called once a process.
    methods : iterable of str
        Of ``"moxi"`` (`explain`, anew for each mode) and `moxi_lite.attribution.METHODS`, whose
        falling scores give one order for both modes (``"moxi-"``: one for each).
    modes : iterable of {"insertion", "deletion"}
    out : path-like
        Folder of the study.
    executor : concurrent.futures.Executor, optional
        Where to run, one job an image; by default here, one after the other.
    budget : int, mapping of mode to int or None, optional
        Greedy steps of ``"moxi"``, 1..n, by default all n. The patches left follow by their
        rewards as candidates for the next step, which settles that step, too.
    masking, grid, dtype : optional
        As for `PatchGame`, but masking by name only, and the dtype also by name.
    n_samples : int, iterable of int, or mapping of method to these, optional
        How much ``"shapley"``, ``"shapley-paper"`` and ``"rise"`` draw, see `attribute`; without
        names, for both Shapley methods. Rising numbers for one of these, such as
        ``{"shapley-paper": (50, 200)}``, draw a curve each for the price of the last
        (`nested_shapley`), named ``"shapley-paper-50"`` and so on. ``{"random": 20}`` follows
        20 random orders, ``"random-1"`` and so on.
    random_state : int
        Seed, at least 0; what is drawn does not depend on the order of work.
    only_correct : bool
        Skip images that the model misclassifies, as the paper does.
    points : iterable of int, optional
        Numbers of patches after which curves are evaluated and stored, besides 0, 1 and all; by
        default after every one. Each costs a forward pass, the long coalitions most.
    device : str, optional
        Where to put a model given by name; by default CUDA if there is one.
    show_progress : bool
        Show a bar over the images.

    Returns
    -------
    StudyResult
        Its table has the columns image (name), target, model, method, mode (categories and
        int16); step, 0..n (or those of `points`), and patch, the one that the step inserts or
        deletes, -1 at step 0 (int16); correct (whether the target is predicted); probability and
        log_odds of the target (float32); exact, False for steps of ``"moxi"`` after its budget;
        evaluations, coalitions evaluated for the order up to this step (int32): all from step 1 on
        for methods that score, missing where an older version stored none and ``"moxi"`` did not
        search.

    Raises
    ------
    ValueError, TypeError, IndexError, FileNotFoundError
        Before any work, and before anything is written: for arguments out of range, unknown names
        (near matches are listed), missing files, a masking, grid or method that is not defined for
        the model, or a folder with a study of other settings (the difference is named).
    OSError
        If the folder cannot be written to, or somebody else is writing into it (who is told).
    RuntimeError
        If a worker process dies; as RuntimeWarning, if images have failed.

    Notes
    -----
    The folder holds ``settings.json`` (all that determines the results), ``shards/`` (one file a
    finished image), ``failures/`` (tracebacks of the last call) and in the end ``<model>.parquet``,
    the table of all images finished in this folder, with its provenance as JSON in the schema's
    metadata and in ``<model>.json``. Later calls can add images.

    Several processes on one machine need ``spawn``, and few threads each::

        if __name__ == "__main__":  # each process imports the script anew
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(4, spawn, torch.set_num_threads, (1,)) as pool:
                run_study(range(1000), "vit_tiny_patch16_224", ["moxi"], ["insertion"], "out", pool)

    ``dask.distributed.Client(cluster).get_executor()`` does the same on a cluster, such as
    ``LocalCluster(n_workers=4, threads_per_worker=1)``, ``dask_jobqueue.SLURMCluster`` or, for
    several GPUs, ``dask_cuda.LocalCUDACluster``. Workers must see the images under the same path.

    Examples
    --------
    >>> result = run_study(range(0, 1000, 50), "vit_tiny_patch16_224",  # doctest: +SKIP
    ...                    ["moxi", "gradcam", "random"], ["insertion"], "out", budget=40)
    >>> result.table.pivot_table(index="step", columns="method", values="correct").plot()
    ... # doctest: +SKIP
    """
    known = checked_names(methods, modes, masking)
    listed = listed_images(images)  # before the model is loaded
    source, classifier = _model_for(model, executor, device)
    settings = make_settings(
        classifier,
        *known,
        budget=budget,
        masking=masking,
        grid=grid,
        dtype=dtype,
        n_samples=n_samples,
        random_state=random_state,
        only_correct=only_correct,
        points=points,
    )
    described = describe_images(listed, classifier)
    folder = StudyFolder(Path(out).expanduser().absolute())
    folder.adopt_settings(asdict(settings), write=False)
    if not {image.name for image in described} <= set(folder.finished()):
        _rehearse(classifier, settings)
    # only now: a folder that took settings which cannot work would refuse the corrected ones
    with folder.locked():
        folder.adopt_settings(asdict(settings))
        finished = set(folder.finished())
        missing = [image for image in described if image.name not in finished]
        copies = isinstance(executor, ThreadPoolExecutor)
        jobs = [ImageJob(image, settings, source, copies, device) for image in missing]
        failed: dict[str, str] = {}
        with tqdm(
            total=len(described),
            initial=len(described) - len(jobs),
            desc=settings.model,
            unit="image",
            smoothing=0,
            disable=not show_progress,
        ) as bar:
            for shard in _shards(jobs, executor):
                folder.write_shard(shard)
                if shard.facts["status"] == "failed":
                    failed[shard.facts["image"]] = shard.facts["reason"]
                    bar.set_postfix(failed=len(failed))
                bar.update()
        result = _collect(folder, settings, [image.name for image in described], failed)
    if failed:
        name, reason = next(iter(failed.items()))
        warnings.warn(
            f"{len(failed)} of {len(described)} images failed, such as {name}: {reason}. See "
            f"{folder.root / 'failures'}; the same call tries them again.",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def _model_for(
    model: ModelSource, executor: Executor | None, device: str | None
) -> tuple[ModelSource, Classifier]:
    """Return what jobs carry, and the model itself."""
    if device is not None and not isinstance(model, str):
        raise ValueError("device is for models given by name; load your own to where it should be.")
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor or None, not {executor!r}: for "
            "processes see the notes of run_study."
        )
    if executor is None or isinstance(executor, ThreadPoolExecutor):
        classifier = load_source(model, device)
        return classifier, classifier
    if isinstance(model, Classifier | torch.nn.Module):
        raise TypeError(
            f"{type(executor).__name__} runs jobs in other processes, which load the model "
            "themselves: pass its name, or a function that returns it as a Classifier, not the "
            f"{type(model).__name__} itself."
        )
    if isinstance(executor, ProcessPoolExecutor):
        context = getattr(executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            raise ValueError(
                "the executor forks its processes, and torch hangs in forked ones: make it with "
                'ProcessPoolExecutor(n, multiprocessing.get_context("spawn")).'
            )
        if device is not None:
            check_device(device)  # of this machine
    # Only to look at: the device is left to those that work.
    return model, load_source(model, "cpu" if isinstance(model, str) else None)


def _rehearse(model: Classifier, settings: Settings) -> None:
    """Raise what masking, grid, or a method that looks into the model has against the model."""
    noise = torch.rand(3, *model.input_size, generator=torch.Generator().manual_seed(0))
    game = build_game(model, noise, None, settings)
    for method in settings.methods:
        if method in WHOLE_IMAGE_METHODS:
            try:
                attribute(game, method)
            except ValueError as error:
                # What follows the first sentence names options that a study cannot take.
                reason = str(error).partition(". ")[0].rstrip(".")
                raise ValueError(f"{reason}: leave {method!r} out of the methods.") from None


def _shards(jobs: list[ImageJob], executor: Executor | None) -> Iterator[Shard]:
    """Run the jobs; yields what became of each, the quickest first."""
    if executor is None:
        yield from map(study_image, jobs)
        return
    futures: set[Future[Shard]] = set()
    try:
        futures = {executor.submit(study_image, job) for job in jobs}
        for future in as_completed(futures):
            futures.discard(future)  # and with it the result
            yield future.result()
    except BrokenExecutor as error:
        raise RuntimeError(
            "a worker process died: for want of memory, because it cannot import what it was "
            'sent, or because a script starts it without an if __name__ == "__main__": guard. '
            "Finished images are kept: run the same study again, if need be with fewer processes."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _collect(
    folder: StudyFolder, settings: Settings, wanted: list[str], failed: dict[str, str]
) -> StudyResult:
    """Write the table of all finished images; returns those asked for."""
    shards = {name: folder.read_shard(name) for name in folder.finished()}
    facts = {name: shard.facts for name, shard in shards.items()}
    provenance = provenance_of(asdict(settings), list(facts.values()), sorted(failed))
    whole = concatenate([shard.table for shard in shards.values()])
    asked = [name for name in wanted if name in shards]
    return StudyResult(
        table=concatenate([shards[name].table for name in asked]).to_pandas(),
        path=folder.write_table(settings.model, whole, provenance),
        skipped={
            name: facts[name]["predicted"]
            for name in asked
            if facts[name]["status"] == "misclassified"
        },
        failed=failed,
        provenance=provenance,
    )
