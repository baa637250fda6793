"""From a classifier's logits to rewards, one number per coalition, and to whole outcomes.

The paper plays its games with the log-odds of one class (Sec. 3).  Probability, log-probability
and log-odds of one class rise and fall together, so they give the same greedy order; the raw
logit does not, because it ignores the other classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moxi_lite.errors import unknown_name
from moxi_lite.games import FloatArray

RewardFunction = Callable[[Tensor, int], Tensor]


def log_odds(logits: Tensor, target: int) -> Tensor:
    r"""Log-odds of one class, ``log(p / (1 - p))`` (Sec. 3 of the paper).

    Parameters
    ----------
    logits : Tensor, shape (m, C)
        Raw scores of the classifier, any floating dtype.
    target : int
        The class :math:`y`.

    Returns
    -------
    Tensor, shape (m,), float32
        In nats, unbounded.

    Notes
    -----
    Computed as :math:`z_y - \log\sum_{c \ne y} e^{z_c}`.  The textbook form ``p / (1 - p)``
    saturates as soon as ``p`` rounds to 1 and turns different coalitions into ties.
    """
    z = logits.float()
    others = z.clone()
    others[:, target] = -torch.inf
    return z[:, target] - torch.logsumexp(others, dim=1)


def log_probability(logits: Tensor, target: int) -> Tensor:
    """Logarithm of the softmax probability of one class; shape (m,), float32, nats, at most 0."""
    return torch.log_softmax(logits.float(), dim=1)[:, target]


def probability(logits: Tensor, target: int) -> Tensor:
    """Softmax probability of one class; shape (m,), float32, in 0..1."""
    return torch.softmax(logits.float(), dim=1)[:, target]


def logit(logits: Tensor, target: int) -> Tensor:
    """Raw score of one class; shape (m,), float32.  Its greedy order is not the log-odds' one."""
    return logits.float()[:, target]


REWARDS: dict[str, RewardFunction] = {
    "log_odds": log_odds,
    "log_probability": log_probability,
    "probability": probability,
    "logit": logit,
}


def get_reward(name: str) -> RewardFunction:
    """Return the reward function of that name; raises ValueError, with near matches, for others."""
    try:
        return REWARDS[name]
    except (KeyError, TypeError):
        raise unknown_name("reward", name, REWARDS) from None


@dataclass(frozen=True)
class Outcome:
    """What a classifier says about m coalitions.

    Attributes
    ----------
    rewards : ndarray of float64, shape (m,)
        The reward of one class.
    predictions : ndarray of int64, shape (m,)
        The classes with the highest score.
    confidences : ndarray of float64, shape (m,)
        Probabilities, 0..1, of these classes.
    """

    rewards: FloatArray
    predictions: np.ndarray
    confidences: FloatArray


def outcome_of(
    logits: Tensor | np.ndarray, target: int, reward: str = "log_odds", outputs: str = "logits"
) -> Outcome:
    """Turn logits (m, C) into rewards of a class, predicted classes and their probabilities.

    With ``outputs="multilabel"`` (`Classifier.outputs`) probabilities are sigmoids: the prediction
    is the target where its probability is above 0.5, otherwise the strongest of the other labels.
    """
    scores = torch.as_tensor(logits).float()
    shown, index = scores, target
    if outputs == "multilabel":
        mine = scores[:, target]
        others = scores.clone()
        others[:, target] = -torch.inf
        predictions = torch.where(mine > 0, target, others.argmax(dim=1))
        confidences = torch.sigmoid(scores).gather(1, predictions[:, None])[:, 0]
        shown, index = torch.stack([torch.zeros_like(mine), mine], dim=1), 1
    else:
        confidences, predictions = torch.softmax(scores, dim=1).max(dim=1)
    return Outcome(
        rewards=get_reward(reward)(shown, index).double().numpy(),
        predictions=predictions.numpy(),
        confidences=confidences.double().numpy(),
    )
