"""Scores of patches: the methods that the paper compares with."""

from moxi_lite.attribution.registry import (
    METHODS,
    SAMPLING_METHODS,
    WHOLE_IMAGE_METHODS,
    attribute,
)
from moxi_lite.attribution.rollout import attention_weights, rollout
from moxi_lite.attribution.sampled import SHAPLEY_SAMPLERS, shapley_estimates

__all__ = [
    "METHODS",
    "SAMPLING_METHODS",
    "SHAPLEY_SAMPLERS",
    "WHOLE_IMAGE_METHODS",
    "attention_weights",
    "attribute",
    "rollout",
    "shapley_estimates",
]
