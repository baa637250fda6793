"""One image of a study, from its pixels to its rows in the table: what executors run.

Everything here travels to other processes and machines: `study_image` is a function at the top
of a module, an `ImageJob` holds plain values, and the `Shard` comes back to whoever writes it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import socket
import threading
import time
import traceback
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from moxi_lite.attribution import attribute, shapley_estimates
from moxi_lite.curves import Curve, curves_of
from moxi_lite.games import BoolArray
from moxi_lite.models import Classifier
from moxi_lite.patches import PatchGame
from moxi_lite.search import complete_order, explain, next_coalitions, order_of
from moxi_lite.study.images import StudyImage, open_image
from moxi_lite.study.provenance import environment, now
from moxi_lite.study.settings import ModelSource, Settings, load_source
from moxi_lite.study.store import SCHEMA, Shard

_TRACEBACK_CHARACTERS = 4000


@dataclass(frozen=True, eq=False)
class ImageJob:
    """One image to be studied."""

    image: StudyImage
    settings: Settings
    model: ModelSource = field(repr=False)  # a name or function is loaded, once a thread
    copy_model: bool  # a Classifier that other threads use at the same time
    device: str | None  # for a model given by name


def study_image(job: ImageJob) -> Shard:
    """Compute one image; whatever files, models and methods raise is told in the shard."""
    try:
        return _evaluate(job)
    except Exception as error:
        facts = {
            "image": job.image.name,
            "origin": job.image.origin,
            "label": job.image.label,
            "status": "failed",
            "reason": f"{type(error).__name__}: {' '.join(str(error).split())}",
            "traceback": "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:],
            "host": socket.gethostname(),
            "time": now(),
        }
        return Shard(SCHEMA.empty_table(), facts)


def build_game(model: Classifier, image: Any, label: int | None, settings: Settings) -> PatchGame:
    """Make the game that a study plays with one image."""
    return PatchGame(
        model,
        image,
        target=label,
        masking=settings.masking,
        grid=settings.grid,
        dtype="mixed" if settings.dtype == "mixed" else getattr(torch, settings.dtype),
    )


def _evaluate(job: ImageJob) -> Shard:
    start, settings, image = time.perf_counter(), job.settings, job.image
    model = _the_model(job)
    game = build_game(model, open_image(image), image.label, settings)
    skipped = settings.only_correct and game.predicted != game.target
    tables = [] if skipped else _tables(game, image.name, settings)
    facts = {
        "image": image.name,
        "origin": image.origin,
        "sha256": image.sha256,
        "label": image.label,
        "predicted": game.predicted,
        "status": "misclassified" if skipped else "studied",
        "n_evaluations": game.n_evaluations,
        "seconds": round(time.perf_counter() - start, 3),
        "finished": now(),
        "environment": environment(model.device),
    }
    return Shard(pa.concat_tables([SCHEMA.empty_table(), *tables]), facts)


@dataclass(frozen=True)
class _Ranking:
    """An order of all n patches: which the search chose, evaluations used up to each, (n,)."""

    order: np.ndarray
    exact: BoolArray
    evaluations: np.ndarray


def _tables(game: PatchGame, name: str, settings: Settings) -> list[pa.Table]:
    of_both: dict[str, _Ranking] = {}
    for method in settings.methods:
        if method not in ("moxi", "moxi-"):
            of_both |= _by_score(game, method, "insertion", name, settings)
    curve_names = tuple(chain.from_iterable(map(settings.curve_names, settings.methods)))
    tables = []
    for mode in settings.modes:
        found = dict(of_both)
        if "moxi" in settings.methods:
            found["moxi"] = _Ranking(*greedy_order(game, mode, settings.budget[mode]))
        if "moxi-" in settings.methods:
            found |= _by_score(game, "moxi-", mode, name, settings)
        curves = curves_of(game, {curve: found[curve].order for curve in curve_names}, mode)
        tables += [
            _table(name, settings, curve_names, method, found[method], curve)
            for method, curve in curves.items()
        ]
    return tables


def _by_score(
    game: PatchGame, method: str, mode: str, name: str, settings: Settings
) -> dict[str, _Ranking]:
    """Rank the patches by score for each of the curves that a method draws."""
    # Depends on image and method alone, not on who computes what in which order.
    text = f"{settings.random_state} {name} {method}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    n_samples = settings.n_samples.get(method)
    if isinstance(n_samples, tuple):
        estimates = shapley_estimates(game, method, n_samples, seed)
        scored = [(estimate.values, estimate.n_evaluations) for estimate in estimates]
    else:
        before = game.n_evaluations
        scores = attribute(game, method, mode=mode, n_samples=n_samples, random_state=seed)
        scored = [(scores, game.n_evaluations - before)]
    n = game.n_players
    return {
        curve: _Ranking(order_of(scores), np.ones(n, dtype=bool), np.full(n, spent))
        for curve, (scores, spent) in zip(settings.curve_names(method), scored, strict=True)
    }


def greedy_order(
    game: PatchGame, mode: str, budget: int | None
) -> tuple[np.ndarray, BoolArray, np.ndarray]:
    """Order all patches: greedily up to a budget, the rest by what they would do next.

    The candidates of the step after the budget are evaluated once more, and follow by their
    rewards: the highest first for insertion, the lowest first for deletion.  Returns the order,
    which patches the search itself chose (or one left over alone), and the candidates evaluated
    until each had its place; shapes (n,).
    """
    ex = explain(game, mode, budget=budget)
    assert ex.step_evaluations is not None
    n, spent = game.n_players, ex.step_evaluations
    rest = np.setdiff1d(np.arange(n), ex.order)
    scores = np.zeros(n)
    if len(rest) > 1:
        rewards = game(next_coalitions(ex.visible(len(ex)), rest, mode))
        scores[rest] = rewards if mode == "insertion" else -rewards
    total = spent[-1] + len(rest) * (len(rest) > 1)
    evaluations = np.concatenate([spent, np.full(len(rest), total)])
    return *complete_order(ex.order, scores), evaluations


def _table(
    name: str,
    settings: Settings,
    methods: tuple[str, ...],
    method: str,
    ranking: _Ranking,
    curve: Curve,
) -> pa.Table:
    rows = len(ranking.order) + 1

    def same(column: str, values: tuple[str, ...], value: str) -> pa.Array:
        kind = SCHEMA.field(column).type.index_type
        indices = pa.array(np.full(rows, values.index(value)), type=kind)
        return pa.DictionaryArray.from_arrays(indices, pa.array(values))

    columns = {
        "image": same("image", (name,), name),
        "target": np.full(rows, curve.target),
        "model": same("model", (settings.model,), settings.model),
        "method": same("method", methods, method),
        "mode": same("mode", settings.modes, curve.mode),
        "step": np.arange(rows),
        "patch": np.concatenate([[-1], ranking.order]),
        "correct": curve.correct,
        "probability": curve.probability.astype(np.float32),
        "log_odds": curve.log_odds.astype(np.float32),
        "exact": np.concatenate([[True], ranking.exact]),
        "evaluations": np.concatenate([[0], ranking.evaluations]),
    }
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, type=SCHEMA.field(key).type)
        for key, values in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _the_model(job: ImageJob) -> Classifier:
    if isinstance(job.model, Classifier):
        if not job.copy_model:
            return job.model
        return dataclasses.replace(job.model, module=copy.deepcopy(job.model.module))
    settings = job.settings
    same = (settings.weights_sha256, settings.input_size, settings.mean, settings.std)
    key = (settings.model, *same, job.device, threading.get_ident())
    model = _load(_Loader(key, job.model, job.device))
    if model.weights_sha256 != settings.weights_sha256:
        raise RuntimeError(
            f"{model.name} has other weights here, on {socket.gethostname()}, than where the study "
            f"was started ({model.weights_sha256} instead of {settings.weights_sha256}): use "
            "the same version of timm and the same weights everywhere."
        )
    return model


@dataclass(frozen=True)
class _Loader:
    """What to load for whom: a function sent from a notebook is a new object with every job."""

    key: tuple[Any, ...]
    source: ModelSource = field(compare=False)
    device: str | None = field(compare=False)


@functools.cache
def _load(loader: _Loader) -> Classifier:
    """Load a model once for each thread: Grad-CAM and rollout hook into it while they run."""
    return load_source(loader.source, loader.device)
