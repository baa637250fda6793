"""Walk along an order of patches that any method made, and tell it as a search does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moxi_lite.curves.curve import checked_order
from moxi_lite.errors import unknown_name
from moxi_lite.explanation import Explanation
from moxi_lite.games import checked_rewards
from moxi_lite.patches import PatchGame
from moxi_lite.search import MODES

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
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    if stop not in (None, "flip"):
        raise ValueError(f'stop must be None or "flip", not {stop!r}.')
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"following needs predicted classes, so a PatchGame, not {type(game).__name__}."
        )
    n, inserting = game.n_players, mode == "insertion"
    patches = checked_order(order, n, "order")
    chosen = np.empty(n, dtype=np.int64)
    chosen[patches] = np.arange(n)
    none_and_all = np.array([[False] * n, [True] * n])
    ends = game.outcome(none_and_all)
    checked_rewards(ends.rewards, none_and_all)
    start = 0 if inserting else 1
    values, predictions, confidences = (
        part[start : start + 1] for part in (ends.rewards, ends.predictions, ends.confidences)
    )
    done, ahead = 0, _FIRST_LOOK if stop else n
    turned = (predictions == game.target) == inserting
    while done < n and not (stop and turned.any()):
        counts = np.arange(done + 1, min(done + ahead, n) + 1)
        taken = chosen < counts[:, None]
        present = taken if inserting else ~taken
        found = game.outcome(present)
        values = np.append(values, checked_rewards(found.rewards, present))
        predictions = np.append(predictions, found.predictions)
        confidences = np.append(confidences, found.confidences)
        turned = (predictions == game.target) == inserting
        done, ahead = int(counts[-1]), 2 * ahead
    flip = int(turned.argmax()) if stop and turned.any() else None
    k = n if flip is None else flip
    return Explanation(
        order=patches[:k],
        values=values[1 : k + 1],
        f_empty=float(ends.rewards[0]),
        f_full=float(ends.rewards[1]),
        n_players=n,
        n_evaluations=done,
        mode=mode,
        stop_reason="all" if flip is None else "flip",
        predictions=predictions[1 : k + 1],
        confidences=confidences[1 : k + 1],
        start_prediction=int(predictions[0]),
        start_confidence=float(confidences[0]),
        **game.facts(predictions[: k + 1].tolist()),
    )
