"""Search for the group of players that matters most."""

from moxi_lite.search.coalitions import (
    MODES,
    along,
    check_mode,
    checked_budget,
    checked_order,
    complete_order,
    next_coalitions,
    order_of,
    remaining,
)
from moxi_lite.search.greedy import (
    Optimum,
    Step,
    StopRule,
    best_steps,
    explain,
    explain_many,
    optimal_sets,
    step_of,
    stop_rule,
    told,
)
from moxi_lite.search.target_class import ClassExplanation, explain_class

__all__ = [
    "MODES",
    "ClassExplanation",
    "Optimum",
    "Step",
    "StopRule",
    "along",
    "best_steps",
    "check_mode",
    "checked_budget",
    "checked_order",
    "complete_order",
    "explain",
    "explain_class",
    "explain_many",
    "next_coalitions",
    "optimal_sets",
    "order_of",
    "remaining",
    "step_of",
    "stop_rule",
    "told",
]
