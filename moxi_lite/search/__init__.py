"""Search for the group of players that matters most."""

from moxi_lite.search.greedy import (
    MODES,
    N_FINALISTS,
    Optimum,
    Step,
    explain,
    explain_many,
    optimal_sets,
)
from moxi_lite.search.target_class import ClassExplanation, explain_class

__all__ = [
    "MODES",
    "N_FINALISTS",
    "ClassExplanation",
    "Optimum",
    "Step",
    "explain",
    "explain_class",
    "explain_many",
    "optimal_sets",
]
