"""Measure whether the patches that a method puts first say the same (Sec. 5.1), and store it.

    python scripts/run_similar_information.py

For each photograph of the stored study of ViT-Ti, and each method, the self-context interaction
(Eq. 6) of every pair among its first 8 patches of insertion: how much more the pair brings to the
log-odds than its two patches alone.  Below 0 they say, in part, the same.  Stored is the mean over
the 28 pairs, in nats.  The orders are the study's; only pairs and single patches are evaluated.

Writes results/imagenet/similar_information.json.
"""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
from _results import RESULTS, parser, working
from tqdm.auto import tqdm

import moxi_lite as moxi
from moxi_lite.study import environment, publishable, write_json

MODEL = "vit_tiny_patch16_224"
N_FIRST = 8  # of 196: the 4 % of the paper's headline
PAIRS = np.array(list(combinations(range(N_FIRST), 2)))


def redundancy(game: moxi.PatchGame, orders: dict[str, list[int]]) -> dict[str, float]:
    """Average the interactions of pairs among the first patches of each method."""
    one = np.eye(game.n_players, dtype=bool)
    nothing = float(game(np.zeros(game.n_players, dtype=bool))[0])
    alone = game(one) - nothing
    found = {}
    for method, order in orders.items():
        first, second = np.array(order)[PAIRS].T
        joint = game(one[first] | one[second]) - nothing
        found[method] = round(float((joint - alone[first] - alone[second]).mean()), 5)
    return found


def main() -> None:
    options = parser(__doc__).parse_args()
    with working(options.threads):
        started = time.perf_counter()
        study, model = moxi.stored_study(MODEL), moxi.load_model(MODEL, device=options.device)
        rows = study.table.query("mode == 'insertion' and 1 <= step <= @N_FIRST")
        rows = rows.sort_values("step").astype({"image": str, "method": str})
        orders = rows.groupby(["image", "method"])["patch"].agg(list)
        images = {}
        for image in tqdm(orders.index.unique("image")):
            photo, target = study.photograph(image)
            game = moxi.PatchGame(model, photo, target=target)
            images[image] = redundancy(game, orders[image].to_dict())
        made = {
            "format": "moxi-lite similar information",
            "command": "python scripts/run_similar_information.py",
            "model": MODEL,
            "first_patches": N_FIRST,
            "unit": "nats, mean self-context interaction of two of the first patches",
            "seconds": round(time.perf_counter() - started, 1),
            "environment": publishable(environment(model.device)),
        }
        write_json(RESULTS / "imagenet" / "similar_information.json", made | {"images": images})


if __name__ == "__main__":
    main()
