"""What the ImageNet studies of the book consist of, for each model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moxi_lite.study import METHODS, samples_by_curve

SCORES = ("moxi-", "gradcam", "gradcam-eigen", "gradcam++", "gradcam++-eigen", "rollout", "rise")
ON_CNN = tuple(method for method in SCORES if method != "rollout")
BOTH = ("insertion", "deletion")
RISE = (("rise", 1000),)

Budgets = dict[str, int | None]


@dataclass(frozen=True)
class Phase:
    """One part of a study, with settings of its own.

    Attributes
    ----------
    methods, modes : tuple of str
    images : int
        Correctly classified images by default.
    skip : int
        How many are left out before them, also by default.
    dtype : str
    n_samples : tuple of pairs
        Samples by method, or several numbers of them.
    rename : tuple of pairs
        Names of methods in the joined table.
    masking, grid
        As for `moxi_lite.PatchGame`.
    budget : int, optional
        Greedy steps in each mode, in place of --budget.
    """

    methods: tuple[str, ...]
    modes: tuple[str, ...]
    images: int
    dtype: str = "mixed"
    n_samples: tuple[tuple[str, int | tuple[int, ...]], ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    masking: str = "drop"
    grid: tuple[int, int] | None = None
    budget: int | None = None
    skip: int = 0

    def contains(self, other: Phase, budgets: Budgets, of_other: Budgets) -> bool:
        """Whether all curves of another phase are among those of this one, as far searched."""
        if not self._curves() >= other._curves():
            return False
        return "moxi" not in other.methods or all(
            (own := budgets[mode]) is None or (steps is not None and own >= steps)
            for mode, steps in of_other.items()
        )

    def budgets(self, shares: dict[str, float], n_patches: int) -> Budgets:
        """Return the greedy steps by mode; None means all."""
        asked = {m: max(1, int(shares[m] * n_patches)) if m in shares else None for m in self.modes}
        return {mode: self.budget or steps for mode, steps in asked.items()}

    def chosen(self, images: int | None) -> slice:
        """Return which of the correctly classified images to study: the first so many, if given."""
        return slice(images) if images else slice(self.skip, self.skip + self.images)

    def _curves(self) -> set[tuple[Any, ...]]:
        names, samples = dict(self.rename), dict(self.n_samples)
        curves: dict[str, int | None] = {}
        for method in self.methods:
            curves |= samples_by_curve(method, samples.get(method))
        common = (self.dtype, self.masking, self.grid)
        return {
            (names.get(curve, curve), draws, mode, *common)
            for curve, draws in curves.items()
            for mode in self.modes
        }


def phases_of(model: str) -> dict[str, Phase]:
    """List the phases for a model, the most wanted first."""
    methods = ("moxi", *SCORES, "random")
    if model == "vit_tiny_patch16_224":
        sampler = {"methods": ("shapley-paper",), "modes": BOTH}
        return {
            "insertion": Phase(methods, ("insertion",), 60, n_samples=RISE),
            "all-methods": Phase(
                METHODS,
                BOTH,
                20,
                n_samples=(("shapley", 10), ("shapley-paper", 10), *RISE),
                rename=(("shapley", "shapley-10"), ("shapley-paper", "shapley-paper-10")),
                budget=40,
            ),
            "deletion": Phase(methods, ("deletion",), 60, n_samples=RISE),
            # of photographs without estimates so far: here the smaller numbers cost nothing
            "shapley-200": Phase(
                **sampler,
                images=20,
                skip=40,
                n_samples=(("shapley-paper", (10, 50, 200)),),
                rename=(("shapley-paper-200", "shapley-paper"),),
            ),
            "shapley-50": Phase(
                **sampler,
                images=60,
                n_samples=(("shapley-paper", 50),),
                rename=(("shapley-paper", "shapley-paper-50"),),
            ),
        }
    if model.startswith(("deit", "vit")):
        return {
            "insertion": Phase(methods, ("insertion",), 20, n_samples=RISE),
            "deletion": Phase(methods, ("deletion",), 20, n_samples=RISE),
        }
    methods = ("moxi", *ON_CNN, "random")
    return {
        "zero": Phase(methods, BOTH, 20, "float32", n_samples=RISE, masking="zero", grid=(7, 7))
    }
