"""The patches of an image as players: rewards, what absent means, dense batches."""

from moxi_lite.patches.masking import (
    BASELINES,
    MASKINGS,
    PixelMasking,
    TokenDeletion,
    blur_baseline,
    deletion_problem,
    mean_baseline,
    noise_baseline,
    patch_map,
    resolve_masking,
    zero_baseline,
)
from moxi_lite.patches.patch_game import PatchGame, outcomes
from moxi_lite.patches.reward import (
    Outcome,
    get_reward,
    log_odds,
    log_probability,
    logit,
    outcome_of,
    probability,
)

__all__ = [
    "BASELINES",
    "MASKINGS",
    "Outcome",
    "PatchGame",
    "PixelMasking",
    "TokenDeletion",
    "blur_baseline",
    "deletion_problem",
    "get_reward",
    "log_odds",
    "log_probability",
    "logit",
    "mean_baseline",
    "noise_baseline",
    "outcome_of",
    "outcomes",
    "patch_map",
    "probability",
    "resolve_masking",
    "zero_baseline",
]
