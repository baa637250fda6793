"""Does ``dtype="mixed"`` choose what float32 chooses, and what does it lose where it does not?"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.subjects import Subject
from moxi_lite.attribution import attribute
from moxi_lite.patches import PatchGame, outcomes
from moxi_lite.search import along, best_steps, next_coalitions, order_of, remaining


def measure_agreement(
    subject: Subject, n_images: int, counts: dict[str, list[int]]
) -> dict[str, Any]:
    """Compare single steps of mixed and float32 from the same coalitions.

    The coalitions lie on each image's MoXI(-) order for insertion: its first patches, as many as
    `counts` says for each mode, are inserted or deleted already.

    Returns
    -------
    dict
        ``share``: of steps on which both choose the same patch.  ``largest_loss``: log-odds
        (in float32) by which mixed choices fall short of the best, at most.  ``largest_rank``:
        place, from 1, that screening gives to float32's choice, at most.  ``largest_gap``:
        log-odds by which screening puts that choice behind its own favourite, at most.
    """
    steps = []
    for image in subject.images[:n_images]:
        game = PatchGame(subject.model, image, dtype="mixed")
        order = order_of(attribute(game, "moxi-"))
        for mode, of_mode in counts.items():
            sign = 1 if mode == "insertion" else -1
            for k in of_mode:
                present = along(order, mode)[k]
                players = remaining(present, mode)
                rows = next_coalitions(present, players, mode)
                merit = sign * game(rows)  # in float32
                screened = sign * outcomes([(game, rows)], screening=True)[0].rewards
                chosen = players.tolist().index(best_steps([(game, present)], mode)[0].player)
                best = int(merit.argmax())
                loss, gap = merit[best] - merit[chosen], screened.max() - screened[best]
                steps.append((chosen == best, loss, (screened > screened[best]).sum() + 1, gap))
    same, losses, ranks, gaps = np.transpose(steps)
    return {
        "share": float(same.mean()),
        "largest_loss": float(losses.max()),
        "largest_rank": int(ranks.max()),
        "largest_gap": float(gaps.max()),
        "n_steps": len(steps),
    }
