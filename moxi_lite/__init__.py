"""Find the group of pixels that an image classifier relies on.

Patches of an image are players of a cooperative game whose reward is a classifier's log-odds.
See the book for the ideas and `explain` for the first thing to call.
"""

from moxi_lite import ledger
from moxi_lite.data import (
    SAMPLE_PHOTOS,
    imagenet_sample,
    imagenet_samples,
    load_image,
    sample_photo,
)
from moxi_lite.explanation import Explanation
from moxi_lite.game import (
    CachedGame,
    CountingGame,
    Game,
    SetSumGame,
    TableGame,
    all_coalitions,
    as_game,
    tabulate,
)
from moxi_lite.models import Classifier, available_models, load_model
from moxi_lite.patch_game import Outcome, PatchGame
from moxi_lite.search import Optimum, Step, explain, optimal_sets
from moxi_lite.values import (
    ShapleyEstimate,
    estimate_shapley,
    full_context_interaction,
    full_context_shapley,
    interaction,
    interaction_matrix,
    self_context_interaction,
    self_context_shapley,
    shapley_values,
)

__version__ = "0.1.0"

__all__ = [
    "SAMPLE_PHOTOS",
    "CachedGame",
    "Classifier",
    "CountingGame",
    "Explanation",
    "Game",
    "Optimum",
    "Outcome",
    "PatchGame",
    "SetSumGame",
    "ShapleyEstimate",
    "Step",
    "TableGame",
    "all_coalitions",
    "as_game",
    "available_models",
    "estimate_shapley",
    "explain",
    "full_context_interaction",
    "full_context_shapley",
    "imagenet_sample",
    "imagenet_samples",
    "interaction",
    "interaction_matrix",
    "ledger",
    "load_image",
    "load_model",
    "optimal_sets",
    "sample_photo",
    "self_context_interaction",
    "self_context_shapley",
    "shapley_values",
    "tabulate",
]
