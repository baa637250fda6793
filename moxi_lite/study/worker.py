"""One image of a study, from its pixels to its rows in the table: what executors run."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import socket
import threading
import time
import traceback
from dataclasses import dataclass, field
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

Ranking = tuple[np.ndarray, BoolArray, np.ndarray]
"""All patches in order, which of them a search chose, evaluations used up to each; shapes (n,)."""

_TRACEBACK_CHARACTERS = 4000
# A thread loads its own model, once a study: Grad-CAM and rollout hook into it while they run.
_LOADED = threading.local()


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


def _tables(game: PatchGame, name: str, settings: Settings) -> list[pa.Table]:
    rankings: dict[str, Ranking] = {}
    tables = []
    for mode in settings.modes:
        for method in settings.methods:
            if mode == settings.modes[0] or method in ("moxi", "moxi-"):
                rankings |= _rankings(game, name, method, mode, settings)
        orders = {curve: order for curve, (order, *_) in rankings.items()}
        for method, curve in curves_of(game, orders, mode, settings.points).items():
            tables.append(_table(name, settings.model, method, rankings[method], curve))
    return tables


def _rankings(
    game: PatchGame, name: str, method: str, mode: str, settings: Settings
) -> dict[str, Ranking]:
    """Rank the patches for each of the curves that a method draws."""
    if method == "moxi":
        return {method: greedy_order(game, mode, settings.budget[mode])}
    # Depends on image and method alone, not on who computes what in which order.
    text = f"{settings.random_state} {name} {method}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    n_samples = settings.n_samples.get(method)
    if isinstance(n_samples, tuple):
        estimates = shapley_estimates(game, method, n_samples, seed)
        scored = [(estimate.values, estimate.n_evaluations) for estimate in estimates]
    elif method == "random":
        rng = np.random.default_rng(seed)
        scored = [(attribute(game, method, random_state=rng), 0) for _ in range(n_samples or 1)]
    else:
        before = game.n_evaluations
        scores = attribute(game, method, mode=mode, n_samples=n_samples, random_state=seed)
        scored = [(scores, game.n_evaluations - before)]
    every = np.ones(game.n_players, dtype=bool)
    return {
        curve: (order_of(scores), every, np.full(len(every), spent))
        for curve, (scores, spent) in zip(settings.curve_names(method), scored, strict=True)
    }


def greedy_order(game: PatchGame, mode: str, budget: int | None) -> Ranking:
    """Order all patches: greedily up to a budget, the rest by what they would do next.

    The candidates of the step after the budget are evaluated for that and follow by their
    rewards, the highest first for insertion, the lowest first for deletion; one left over alone
    counts as chosen.
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


def _table(name: str, model: str, method: str, ranking: Ranking, curve: Curve) -> pa.Table:
    order, exact, evaluations = ranking
    steps = np.rint(curve.fraction * len(order)).astype(int)
    rows = len(steps)
    columns = {
        "image": [name] * rows,
        "target": [curve.target] * rows,
        "model": [model] * rows,
        "method": [method] * rows,
        "mode": [curve.mode] * rows,
        "step": steps,
        "patch": np.append(-1, order)[steps],
        "correct": curve.correct,
        "probability": curve.probability.astype(np.float32),
        "log_odds": curve.log_odds.astype(np.float32),
        "exact": np.append(True, exact)[steps],
        "evaluations": np.append(0, evaluations)[steps],
    }
    return pa.table(columns, schema=SCHEMA)


def _the_model(job: ImageJob) -> Classifier:
    if isinstance(job.model, Classifier):
        if not job.copy_model:
            return job.model
        return dataclasses.replace(job.model, module=copy.deepcopy(job.model.module))
    wanted = (job.settings, job.device)
    if getattr(_LOADED, "wanted", None) != wanted:
        _LOADED.model, _LOADED.wanted = load_source(job.model, job.device), wanted
    model: Classifier = _LOADED.model
    expected = job.settings.weights_sha256
    if model.weights_sha256 != expected:
        raise RuntimeError(
            f"{model.name} has other weights here, on {socket.gethostname()}, than where the study "
            f"was started ({model.weights_sha256} instead of {expected}): use the same version of "
            "timm and the same weights everywhere."
        )
    return model
