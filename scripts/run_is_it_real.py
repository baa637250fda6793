"""Attack the headline "90 % with 4 % of the patches" by experiment (Sec. 5.1; chapter 16).

    python scripts/run_is_it_real.py --images 60

Photographs are those of run_imagenet_study.py, in its order: ViT-Ti, 14 x 14 patches, tokens
deleted.  Of each, part "attacks" stores

- 8 steps of insertion for its class and for ten random *wrong* classes;
- what DeiT-Ti and painted masks say of the first patches of every method, in their stored orders,
  and of the wrong classes' patches;
- how many disjoint groups suffice: find one, take its patches away for good, search again.

Part "removals" asks whether taking away a tenth of the area makes the network predict such a wrong
class.  Nearly all tokens are kept then, so: three classes, a grid of 7 x 7, fewer photographs.
Part "randomised", on as few, compares the scores of every method with those that it gives once the
network's weights are shuffled, from the head down (Adebayo et al. 2018).

Writes results/imagenet/is_it_real.json after each photograph.  Killed and started again, it goes on
where it was.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import say
from _results import RESULTS, STUDIES, correctly_classified, kept, parser, positive, spread, working
from scipy.special import expit
from scipy.stats import ConstantInputWarning, spearmanr

import moxi_lite as moxi
from moxi_lite.data import image_list_sha256
from moxi_lite.files import write_atomically
from moxi_lite.games import FloatArray
from moxi_lite.patches import outcomes
from moxi_lite.search import next_coalitions
from moxi_lite.study import StudyFolder, counted

MODEL, OTHER = "vit_tiny_patch16_224", "deit_tiny_patch16_224"
BUDGET = 8  # patches, 4 % of 196
N_WRONG = 10
SIZES = (2, 4, 8, 14, 20)  # patches shown to the judges; 20 are a tenth, and searched
MASKS = ("mean", "blur")
MOST_SETS = 10
MOST_PATCHES = 20  # of a sufficient group
CONFIDENT = 0.9  # of the confidence in the whole photograph
FINALISTS = 8  # candidates of a step that float32 decides among
BLOCKS = (1, 4, 12)  # of the network, from the end, shuffled one stage after another
DRAWS = {"shapley": 2, "rise": 400}
REMOVED, COARSE = 5, (7, 7)  # patches taken away, and of which grid: 10 %
N_PUSHED = 3  # wrong classes for whose good they are taken away


def retargeted(game: moxi.PatchGame, target: int) -> moxi.PatchGame:
    """Play the same game for another class, without proving token deletion again."""
    made = copy.copy(game)
    made.target = target
    return made


def members(n: int, groups: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Coalitions of the given patches: bool (number of groups, n)."""
    return np.stack([np.isin(np.arange(n), group) for group in groups])


def told(outcome: moxi.Outcome, target: int) -> dict[str, Any]:
    return {
        "correct": (outcome.predictions == target).astype(int).tolist(),
        "log_odds": np.round(outcome.rewards, 3).tolist(),
    }


def wrong_classes(index: int, n_classes: int) -> list[int]:
    """Draw classes other than that of the photograph."""
    others = np.delete(np.arange(n_classes), index)
    n = min(N_WRONG, len(others))
    drawn: list[int] = np.random.default_rng(index).choice(others, n, replace=False).tolist()
    return drawn


def insertions(game: moxi.PatchGame, targets: Sequence[int]) -> list[dict[str, Any]]:
    """Search for a few patches that make the network predict each class."""
    games = [retargeted(game, target) for target in targets]
    budget = min(BUDGET, game.n_players)
    return [
        {
            "class": ex.target,
            "order": ex.order.tolist(),
            "correct": (np.asarray(ex.predictions) == ex.target).astype(int).tolist(),
            "log_odds": np.round(ex.values, 3).tolist(),
        }
        for ex in moxi.explain_many(games, budget=budget)
    ]


def judged(game: moxi.PatchGame, orders: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a network or masking says of the empty image, and of the first patches of orders."""
    n = game.n_players
    sizes = [size for size in SIZES if size < n]
    rows = [members(n, [order[:size] for size in sizes]) for order in orders.values()]
    everything = np.stack([np.zeros(n, dtype=bool), np.ones(n, dtype=bool)])
    said = {
        method: told(game.outcome(of_method), game.target)
        for method, of_method in zip(orders, rows, strict=True)
    }
    return {"empty and whole": told(game.outcome(everything), game.target), "methods": said}


def gains(game: moxi.PatchGame, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a network or masking says of patches found for other classes, against no patches."""
    said = []
    for each in found:
        of_class = retargeted(game, each["class"])
        outcome = of_class.outcome(members(game.n_players, [each["order"], []]))
        said.append(told(outcome, each["class"]))
    return {
        "correct": [each["correct"][0] for each in said],
        "gain": [round(each["log_odds"][0] - each["log_odds"][1], 3) for each in said],
    }


def group_among(
    game: moxi.PatchGame, players: np.ndarray, enough: Callable[[float, bool], bool]
) -> list[int] | None:
    """Insert some patches greedily, all others absent for good; None if too many are needed.

    `enough` is asked after each step, with the log-odds and whether the class is predicted.
    """
    present = np.zeros(game.n_players, dtype=bool)
    order: list[int] = []
    while len(order) < min(MOST_PATCHES, len(players)):
        candidates = players[~present[players]]
        rows = next_coalitions(present, candidates, "insertion")
        if game.screens and len(rows) > FINALISTS:
            screened = outcomes([(game, rows)], screening=True)[0].rewards
            finalists = np.sort(np.argpartition(-screened, FINALISTS)[:FINALISTS])
            candidates, rows = candidates[finalists], rows[finalists]
        said = game.outcome(rows)
        best = int(said.rewards.argmax())  # the first of equals
        present = rows[best]
        order.append(int(candidates[best]))
        if enough(float(said.rewards[best]), bool(said.predictions[best] == game.target)):
            return order
    return None


def disjoint_groups(game: moxi.PatchGame, enough: Callable[[float, bool], bool]) -> list[list[int]]:
    """Find a group that is enough, take its patches away, and search again among the rest."""
    players = np.arange(game.n_players)
    found: list[list[int]] = []
    while len(found) < MOST_SETS and len(players):
        group = group_among(game, players, enough)
        if group is None:
            break
        found.append(group)
        players = np.setdiff1d(players, group)
    return found


def attacks(
    models: dict[str, moxi.Classifier], study: moxi.StoredStudy, index: int
) -> dict[str, Any]:
    """Explain wrong classes, judge the groups elsewhere, and count disjoint ones."""
    image, model = moxi.imagenet_sample(index).image, models[MODEL]
    game = moxi.PatchGame(model, image, target=index, dtype="mixed")
    full = float(game.outcome(np.ones(game.n_players, dtype=bool)).rewards[0])
    right, *wrong = insertions(game, [index, *wrong_classes(index, model.n_classes)])
    name = f"imagenet-{index:04d}"
    orders = {
        method: study.explanation(name, method, "insertion").order for method in moxi.METHOD_COLORS
    }
    judges = {"deletion": game, OTHER: moxi.PatchGame(models[OTHER], image, target=index)}
    judges |= {m: moxi.PatchGame(model, image, target=index, masking=m) for m in MASKS}
    return {
        "image": index,
        "log_odds_full": round(full, 3),
        "right": right,
        "wrong": wrong,
        "judged": {judge: judged(each, orders) for judge, each in judges.items()},
        "wrong_judged": {judge: gains(each, wrong) for judge, each in judges.items()},
        "groups": {
            "flip": disjoint_groups(game, lambda _, predicted: predicted),
            "confident": disjoint_groups(
                game, lambda value, predicted: predicted and expit(value) >= CONFIDENT * expit(full)
            ),
        },
    }


def removals(model: moxi.Classifier, index: int) -> dict[str, Any]:
    """Take patches away for the wrong classes' good; for the right class, to its harm."""
    image = moxi.imagenet_sample(index).image
    game = moxi.PatchGame(model, image, target=index, grid=COARSE, dtype="mixed")
    wrong = []
    for target in wrong_classes(index, model.n_classes)[:N_PUSHED]:
        of_class, present = retargeted(game, target), np.ones(game.n_players, dtype=bool)
        path = [present]
        for _ in range(REMOVED):
            rows = next_coalitions(present, np.flatnonzero(present), "deletion")
            screened = outcomes([(of_class, rows)], screening=True)[0]
            present = rows[int(screened.rewards.argmax())]
            path.append(present)
        wrong.append({"class": target, **told(of_class.outcome(np.stack(path)), target)})
    ex = moxi.explain(game, mode="deletion", budget=REMOVED)
    right = np.stack([ex.visible(step) for step in range(len(ex) + 1)])
    return {"image": index, "right": told(game.outcome(right), index), "wrong": wrong}


def shuffled(model: moxi.Classifier, seed: int) -> Iterator[tuple[str, moxi.Classifier]]:
    """Shuffle the entries of each weight tensor, from the head down; yields after each stage.

    Shuffling draws a network anew and keeps every layer's distribution of weights.
    """
    module: Any = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(seed)
    depth, done = len(module.blocks), set[str]()

    def part(*prefixes: str) -> moxi.Classifier:
        for name, weight in module.named_parameters():
            if name.startswith(prefixes) and name not in done:
                order = torch.randperm(weight.numel(), generator=generator)
                with torch.no_grad():
                    weight.copy_(weight.flatten()[order.to(weight.device)].view_as(weight))
                done.add(name)
        return dataclasses.replace(model, module=module)

    yield "head", part("head.")
    for k in BLOCKS:
        last = tuple(f"blocks.{block}." for block in range(max(depth - k, 0), depth))
        yield f"{k} blocks", part("norm.", "fc_norm.", *last)
    yield "everything", part("")


def looks(game: moxi.PatchGame, seed: int) -> dict[str, FloatArray]:
    """Scores of every method; for MoXI 1 for its first patches and 0 for all others."""
    drawn = {
        name: partial(moxi.attribute, n_samples=n, random_state=seed) for name, n in DRAWS.items()
    }
    methods = ("moxi-", "shapley", "rise", "gradcam", "gradcam++", "rollout")
    scores = {name: drawn.get(name, moxi.attribute)(game, name) for name in methods}
    order = moxi.explain(game, budget=min(BUDGET, game.n_players)).order
    return {"moxi": members(game.n_players, [order])[0].astype(float), **scores}


def likeness(some: dict[str, FloatArray], others: dict[str, FloatArray]) -> dict[str, list[Any]]:
    """Rank correlation of each method's scores, and how many of its first patches are shared."""
    found = {}
    for method in some:
        pair = some[method], others[method]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)  # a map of zeros: None
            rho = float(spearmanr(*pair).statistic)
        first, second = (moxi.order_of(scores)[:BUDGET] for scores in pair)
        shared = len(np.intersect1d(first, second))
        found[method] = [None if method == "moxi" or np.isnan(rho) else round(rho, 3), shared]
    return found


def randomised(model: moxi.Classifier, index: int) -> dict[str, Any]:
    """Compare what the methods say of the trained network and of shuffled ones."""

    def look(network: moxi.Classifier, seed: int = 0) -> dict[str, FloatArray]:
        image = moxi.imagenet_sample(index).image
        return looks(moxi.PatchGame(network, image, target=index, dtype="mixed"), seed)

    trained = look(model)
    stages = {"the same again": likeness(trained, look(model, seed=1))}
    for stage, network in shuffled(model, seed=index):
        stages[stage] = likeness(trained, look(network))
    scores = {method: of_method.tolist() for method, of_method in trained.items()}
    return {"image": index, "stages": stages, "scores": scores}


def settings_of(models: dict[str, moxi.Classifier]) -> dict[str, Any]:
    table = moxi.stored_result(f"imagenet/{MODEL}.parquet").read_bytes()
    return {
        "budget": BUDGET,
        "n_wrong": N_WRONG,
        "sizes": SIZES,
        "masks": MASKS,
        "most_sets": MOST_SETS,
        "most_patches": MOST_PATCHES,
        "confident": CONFIDENT,
        "blocks": BLOCKS,
        "draws": DRAWS,
        "n_pushed": N_PUSHED,
        "removed": REMOVED,
        "coarse_grid": COARSE,
        "dtype": "mixed",
        "weights_sha256": {name: model.weights_sha256 for name, model in models.items()},
        "orders_sha256": hashlib.sha256(table).hexdigest(),
    }


def collect(settings: dict[str, Any], parts: dict[str, list[dict[str, Any]]]) -> None:
    """Join what is finished; each photograph's scores are also compared with the next one's."""
    found = {part: [dict(each) for each in records] for part, records in parts.items()}
    every = [each for records in found.values() for each in records]
    scores = [
        {method: np.asarray(of_method) for method, of_method in each.pop("scores").items()}
        for each in found["randomised"]
    ]
    for each, own, next_one in zip(
        found["randomised"], scores, [*scores[1:], *scores[:1]], strict=True
    ):
        each["stages"] = each["stages"] | {"another photograph": likeness(own, next_one)}
    images = [each["image"] for each in found["attacks"]]
    record = {
        "format": "moxi-lite attacks on the headline",
        "command": "python scripts/run_is_it_real.py",
        "model": MODEL,
        "masking": "drop",
        **settings,
        "selection": f"the first {len(images)} that the model classifies correctly, of "
        f"{spread().index(images[-1]) + 1} in the order of the study",
        "image_list_sha256": image_list_sha256(images),
        "seconds": round(sum(each.pop("seconds") for each in every), 1),
        "environments": counted(each.pop("environment") for each in every),
        **found,
    }
    content = json.dumps(record, separators=(",", ":"), allow_nan=False)
    write_atomically(RESULTS / "imagenet" / "is_it_real.json", content.encode())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=positive, default=60, help="photographs (default 60)")
    options.add_argument(
        "--few", type=positive, default=10, help="of these, in the other two parts (default 10)"
    )
    given = options.parse_args()
    folder, study = StudyFolder(STUDIES / "is_it_real"), moxi.stored_study(MODEL)
    with working(given.threads):
        models = {name: moxi.load_model(name, device=given.device) for name in (MODEL, OTHER)}
        model = models[MODEL]
        indices = correctly_classified([model], given.images)
        settings = settings_of(models)
        work: dict[str, Callable[[int], dict[str, Any]]] = {
            "attacks": partial(attacks, models, study),
            "removals": partial(removals, model),
            "randomised": partial(randomised, model),
        }
        parts: dict[str, list[dict[str, Any]]] = {part: [] for part in work}
        with folder.locked():
            folder.adopt_settings(settings)
            for place, index in enumerate(indices):
                for part in work if place < given.few else ["attacks"]:
                    path = folder.root / "shards" / f"{part}-{index}.json"
                    parts[part].append(kept(path, model.device, partial(work[part], index)))
                collect(settings, parts)
    say(f"is_it_real.json: {len(indices)} photographs")


if __name__ == "__main__":
    main()
