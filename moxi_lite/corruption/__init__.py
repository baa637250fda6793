"""Patches that are damaged instead of removed: common corruptions and adversarial perturbations."""

from moxi_lite.corruption.adversarial import ATTACKS, adversarial_curves, attack
from moxi_lite.corruption.common import CORRUPTIONS, corrupt
from moxi_lite.corruption.patches import corrupted_curves, corrupted_game, damage_strip

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "adversarial_curves",
    "attack",
    "corrupt",
    "corrupted_curves",
    "corrupted_game",
    "damage_strip",
]
