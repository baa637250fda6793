"""Walk along an order of patches that any method made, and tell it as a search does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moxi_lite.explanation import Explanation
from moxi_lite.games import checked_rewards
from moxi_lite.patches import PatchGame
from moxi_lite.search import along, check_mode, checked_order

_FIRST_LOOK = 8  # patches looked at before asking whether the prediction has turned


def follow(
    game: PatchGame, order: npt.ArrayLike, mode: str = "insertion", *, stop: str | None = None
) -> Explanation:
    """Insert or delete patches in a given order, and note what the model says after each.

    What `explain` returns for its own order, this returns for any, so that a rival's map can be
    drawn, stepped through and saved in the same ways.

    Parameters
    ----------
    game : PatchGame
        The image, the classifier, the target class, the reward and what "absent" means.
    order : array_like of int, shape (n,)
        Every patch once, the most important first: from `order_of` or `complete_order`.
    mode : {"insertion", "deletion"}
    stop : {"flip"}, optional
        End as soon as the prediction turns, as for `explain`; by default after all n patches.

    Returns
    -------
    Explanation
        Its ``n_evaluations`` counts the coalitions looked at, besides the empty and the full one.

    Raises
    ------
    ValueError
        If the order has repeats or gaps or is not made of whole numbers, or mode or stop is
        unknown.
    TypeError
        If the game has no classes.

    Examples
    --------
    >>> scores = attribute(game, "gradcam")                     # doctest: +SKIP
    >>> follow(game, order_of(scores), stop="flip").summary()   # doctest: +SKIP
    "31 of 196 patches (15.8 %) inserted; the model then says 'tabby', probability 0.412"
    """
    check_mode(mode)
    if stop not in (None, "flip"):
        raise ValueError(f'stop must be None or "flip", not {stop!r}.')
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"following needs predicted classes, so a PatchGame, not {type(game).__name__}."
        )
    n, inserting = game.n_players, mode == "insertion"
    patches = checked_order(order, n, "order")
    path = along(patches, mode)
    ends = game.outcome(path[[0, -1]])
    checked_rewards(ends.rewards, path[[0, -1]])
    parts = [part[:1] for part in (ends.rewards, ends.predictions, ends.confidences)]
    ahead = _FIRST_LOOK if stop else n
    while True:
        values, predictions, confidences = parts
        done = len(values) - 1
        turned = (predictions == game.target) == inserting
        if done == n or (stop and turned.any()):
            break
        rows = path[done + 1 : done + 1 + ahead]
        found = game.outcome(rows)
        checked_rewards(found.rewards, rows)
        fresh = (found.rewards, found.predictions, found.confidences)
        parts = [np.append(*both) for both in zip(parts, fresh, strict=True)]
        ahead *= 2
    k = int(turned.argmax()) if stop and turned.any() else n
    reached = slice(k + 1)
    return Explanation.from_steps(
        mode,
        patches[:k],
        values[reached],
        float(ends.rewards[1]),
        n_players=n,
        stop_reason="flip" if stop and turned.any() else "all",
        predictions=predictions[reached],
        confidences=confidences[reached],
        n_evaluations=done,
        step_evaluations=np.arange(1, k + 1),
        **game.facts(predictions[reached].tolist()),
    )
