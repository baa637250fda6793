from . import ledger
from .attribution import attribute, order_of
from .averages import AverageCurve, accuracy_at, average_curves, average_differences
from .curves import (
    Curve,
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
from .estimates import Estimate, bootstrap, wilson
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
from .sampling import ShapleyEstimate, estimate_shapley, nested_shapley
from .search import Optimum, Step, explain, explain_many, optimal_sets
from .study import StudyResult, run_study
from .study_tables import study_curves, study_explanation
from .target_class import ClassExplanation, explain_class
from .values import (
    full_context_interaction,
    full_context_shapley,
    interaction,
    interaction_matrix,
    self_context_interaction,
    self_context_shapley,
    shapley_values,
)
from .walk import follow

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
    "Estimate",
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
    "average_differences",
    "bootstrap",
    "complete_order",
    "curves_of",
    "deletion_curve",
    "digit_pool",
    "estimate_shapley",
    "explain",
    "explain_class",
    "explain_many",
    "figure1_strip",
    "follow",
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
    "nested_shapley",
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
    "study_explanation",
    "tabulate",
    "wilson",
]
