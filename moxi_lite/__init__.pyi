from . import ledger
from .attribution import attribute, order_of
from .curves import (
    AverageCurve,
    Curve,
    accuracy_at,
    average_curves,
    complete_order,
    curves_of,
    deletion_curve,
    insertion_curve,
)
from .data import (
    SAMPLE_PHOTOS,
    imagenet_sample,
    imagenet_samples,
    load_image,
    sample_photo,
)
from .digits import SetSumComposites, digit_pool, set_sum_composites, set_sum_labels
from .explanation import Explanation
from .game import (
    CachedGame,
    CountingGame,
    Game,
    SetSumGame,
    TableGame,
    all_coalitions,
    as_game,
    tabulate,
)
from .interactive import SliderHTML, reveal
from .models import Classifier, available_models, load_model
from .patch_game import Outcome, PatchGame
from .plotting import METHOD_COLORS, figure1_strip, plot_explanation, plot_trace
from .results import stored_result, stored_study
from .search import Optimum, Step, explain, explain_many, optimal_sets
from .study import StudyResult, run_study, study_curves
from .target_class import ClassExplanation, explain_class
from .values import (
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

__version__: str

__all__ = [
    "METHOD_COLORS",
    "SAMPLE_PHOTOS",
    "AverageCurve",
    "CachedGame",
    "ClassExplanation",
    "Classifier",
    "CountingGame",
    "Curve",
    "Explanation",
    "Game",
    "Optimum",
    "Outcome",
    "PatchGame",
    "SetSumComposites",
    "SetSumGame",
    "ShapleyEstimate",
    "SliderHTML",
    "Step",
    "StudyResult",
    "TableGame",
    "accuracy_at",
    "all_coalitions",
    "as_game",
    "attribute",
    "available_models",
    "average_curves",
    "complete_order",
    "curves_of",
    "deletion_curve",
    "digit_pool",
    "estimate_shapley",
    "explain",
    "explain_class",
    "explain_many",
    "figure1_strip",
    "full_context_interaction",
    "full_context_shapley",
    "imagenet_sample",
    "imagenet_samples",
    "insertion_curve",
    "interaction",
    "interaction_matrix",
    "ledger",
    "load_image",
    "load_model",
    "optimal_sets",
    "order_of",
    "plot_explanation",
    "plot_trace",
    "reveal",
    "run_study",
    "sample_photo",
    "self_context_interaction",
    "self_context_shapley",
    "set_sum_composites",
    "set_sum_labels",
    "shapley_values",
    "stored_result",
    "stored_study",
    "study_curves",
    "tabulate",
]
