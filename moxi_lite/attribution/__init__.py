"""Scores of patches: the methods that the paper compares with."""

from moxi_lite.attribution.registry import (
    METHODS,
    SAMPLING_METHODS,
    SHAPLEY_SAMPLERS,
    attribute,
    order_of,
    shapley_estimates,
)
from moxi_lite.attribution.rollout import attention_weights, rollout

__all__ = [
    "METHODS",
    "SAMPLING_METHODS",
    "SHAPLEY_SAMPLERS",
    "attention_weights",
    "attribute",
    "order_of",
    "rollout",
    "shapley_estimates",
]
