"""Does ``dtype="mixed"`` choose what float32 chooses, and what does it lose where it does not?"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.steps import candidates, decide, screen, state
from benchmarks.subjects import Subject
from moxi_lite.attribution import attribute, order_of
from moxi_lite.patches import PatchGame


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
    for number, image in enumerate(subject.images[:n_images]):
        game = PatchGame(subject.model, image, dtype="mixed")
        order = order_of(attribute(game, "moxi-"))
        for mode, of_mode in counts.items():
            for k in of_mode:
                _, rows = candidates(state(game.n_players, k, mode, order), mode)
                merit = game(rows) if mode == "insertion" else -game(rows)  # in float32
                finalists, screened = screen(game, rows, mode)
                chosen, _ = decide(game, rows, finalists, mode)
                best = int(merit.argmax())
                steps.append(
                    {
                        "image": number,
                        "mode": mode,
                        "step": k,
                        "same": chosen == best,
                        "loss": float(merit[best] - merit[chosen]),
                        "rank": int((screened > screened[best]).sum()) + 1,
                        "gap": float(screened.max() - screened[best]),
                    }
                )
    return {
        "share": float(np.mean([each["same"] for each in steps])),
        "largest_loss": max(each["loss"] for each in steps),
        "largest_rank": max(each["rank"] for each in steps),
        "largest_gap": max(each["gap"] for each in steps),
        "n_steps": len(steps),
        "steps": steps,
    }
