"""The registry of attribution methods: one score a patch, and how to call each.

These are the baselines of the paper's experiments (Sec. 5) and two more, RISE and random. Scores
become an order of patches by `order_of`, and every order draws curves (`moxi_lite.curves`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from moxi_lite.attribution.gradcam import Reshape, gradcam_map
from moxi_lite.attribution.maps import pool_to_grid
from moxi_lite.attribution.rollout import AttentionFunction, rollout_map
from moxi_lite.attribution.sampled import rise, shapley
from moxi_lite.errors import unknown_name
from moxi_lite.games import (
    FloatArray,
    Game,
    RandomState,
    full_context_shapley,
    player_count,
    self_context_shapley,
)
from moxi_lite.models import evaluating
from moxi_lite.patches import PatchGame
from moxi_lite.search import check_mode


@dataclass(frozen=True)
class Method:
    """How a method scores, and which keyword arguments of `attribute` it takes."""

    score: Callable[..., FloatArray]  # game, keyword arguments -> (n,); of the whole image, a map
    takes: tuple[str, ...] = ()
    whole_image: bool = False  # looks into the model of a PatchGame, at the image without a mask


def _moxi_minus(game: Game, *, mode: str) -> FloatArray:
    return self_context_shapley(game) if mode == "insertion" else full_context_shapley(game)


def _random(game: Game, *, random_state: RandomState) -> FloatArray:
    return np.random.default_rng(random_state).random(player_count(game))


def _gradcam(kind: str, **smooth: Any) -> Method:
    return Method(partial(gradcam_map, method=kind, **smooth), ("target_layer", "reshape"), True)


_SAMPLING = ("n_samples", "random_state", "show_progress")

REGISTRY: dict[str, Method] = {
    "gradcam": _gradcam("GradCAM"),
    "gradcam-eigen": _gradcam("GradCAM", eigen_smooth=True),
    "gradcam-paper": _gradcam("GradCAM", aug_smooth=True, eigen_smooth=True),
    "gradcam++": _gradcam("GradCAMPlusPlus"),
    "gradcam++-eigen": _gradcam("GradCAMPlusPlus", eigen_smooth=True),
    "gradcam++-paper": _gradcam("GradCAMPlusPlus", aug_smooth=True, eigen_smooth=True),
    "rollout": Method(rollout_map, ("attention", "n_prefix_tokens"), True),
    "shapley": Method(partial(shapley, method="shapley"), _SAMPLING),
    "shapley-paper": Method(partial(shapley, method="shapley-paper"), _SAMPLING),
    "rise": Method(rise, _SAMPLING),
    "moxi-": Method(_moxi_minus, ("mode",)),
    "random": Method(_random, ("random_state",)),
}
METHODS = tuple(REGISTRY)
SAMPLING_METHODS = tuple(name for name, entry in REGISTRY.items() if "n_samples" in entry.takes)
WHOLE_IMAGE_METHODS = tuple(name for name, entry in REGISTRY.items() if entry.whole_image)


def attribute(
    game: Game,
    method: str,
    *,
    mode: str = "insertion",
    n_samples: int | None = None,
    random_state: RandomState = None,
    show_progress: bool = False,
    target_layer: nn.Module | str | None = None,
    reshape: Reshape | None = None,
    attention: AttentionFunction | None = None,
    n_prefix_tokens: int | None = None,
) -> FloatArray:
    """Score every patch: the higher, the more it speaks for the target class.

    Parameters
    ----------
    game : Game
        A `PatchGame` for Grad-CAM and rollout, which look into its model at the whole image,
        whatever masking the game plays with; any game for the others.
    method : str
        One of `METHODS`, see Notes.
    mode : {"insertion", "deletion"}
        What the scores are for; only ``"moxi-"`` depends on it.
    n_samples : int, optional
        ``"shapley"``: pairs of permutations (`estimate_shapley`); by default as many as cost the
        evaluations of 200 iterations of the paper's sampler, 400n. ``"shapley-paper"``:
        iterations, 200 as in the paper. ``"rise"``: masks, an even number, 4000.
    random_state : int, numpy.random.Generator or None
        Seed or generator of the methods that draw: Shapley, RISE, random.
    show_progress : bool
        Show a progress bar for those that sample.
    target_layer : torch.nn.Module or str, optional
        Grad-CAM only: the layer to look at, as a submodule of ``game.model.module`` or its dotted
        name. By default the LayerNorm before the last attention of timm's Vision Transformers,
        as in the paper; otherwise the last layer to run whose output is a feature map of more
        than one cell that the target's logit depends on or, where that is a sequence of tokens,
        the last normalisation of as many (none: the last map before an attention that pools it).
    reshape : callable, optional
        Grad-CAM only: from the layer's output to a feature map (1, channels, h, w). By default
        feature maps are taken as they are, channels first or last, and tokens are laid out on
        their grid without class, register and distillation tokens. What has not the proportions
        of the image is refused.
    attention : callable, optional
        Rollout only, for own transformers: maps (module, images (1, 3, H, W)) to attention
        weights, one tensor (heads, tokens, tokens) a layer, the class token first, the patches
        last and laid out as ``game.model.grid``.
    n_prefix_tokens : int, optional
        Rollout only: tokens before the patches. By default what timm says; with `attention`, 1.

    Returns
    -------
    ndarray of float64, shape (n,)
        Scores in the units of the method. Feed them to `order_of`.

    Raises
    ------
    ValueError
        If the method is unknown, an option does not belong to it, no layer for Grad-CAM is found,
        or rollout is not defined for the model.
    TypeError
        If Grad-CAM or rollout is asked of a game that is no `PatchGame`.
    ImportError
        If Grad-CAM is asked for without pytorch-grad-cam.

    Notes
    -----
    ``"gradcam"``, ``"gradcam++"``
        Class activation maps weighted by gradients of the target's logit, through
        pytorch-grad-cam. Maps keep the resolution of the layer and are averaged over the area of
        each patch of the game's grid; maps coarser than that grid are interpolated first
        (bilinear, to the size of the image). The published maps are cut to 0 where negative, which
        ties half of all patches: here those have their score before the cut, a negative one, so
        that no tie is left to the order of the patches. ``np.maximum(scores, 0)`` cuts.
    ``"gradcam-eigen"``, ``"gradcam++-eigen"``
        Smoothed: the first principal component of the weighted activations instead of their sum.
        Its sign is arbitrary in pytorch-grad-cam (``eigen_smooth``); here it is the one that
        correlates with the plain map.
    ``"gradcam-paper"``, ``"gradcam++-paper"``
        Smoothed twice, as the paper's authors do: the mean of six such principal components, each
        cut and scaled to 0..1, of the image and its mirror image at three contrasts
        (``aug_smooth`` and ``eigen_smooth``).
    ``"rollout"``
        Attention rollout: row-normalised (mean over heads + identity), multiplied over the
        blocks; the row of the class token. The same for all classes.
    ``"shapley"``, ``"shapley-paper"``
        Shapley values of Eq. 1, by permutations or by the paper's sampler; see `estimate_shapley`.
    ``"rise"``
        Random coalitions, each patch present with probability 1/2: the score of a patch is the
        mean reward of those in which it is present, as in RISE (Petsiuk et al. 2018). RISE itself
        plays for the probability (``PatchGame(..., reward="probability")``) and draws coarse
        masks with soft, randomly shifted edges, since its players are pixels. Masks are drawn in
        pairs with their complements, so that each patch is present in exactly half of them.
        Expected scores are half the Banzhaf values, up to a constant.
    ``"moxi-"``
        MoXI without interactions: self-context Shapley values (Eq. 5) for insertion,
        full-context Shapley values (Eq. 10) for deletion.
    ``"random"``
        Uniform random numbers in 0..1.

    A game made with ``dtype="mixed"`` is sampled (Shapley, RISE) in bfloat16, whose rounding is
    small beside the error of sampling.
    """
    if method == "moxi":
        raise ValueError(
            "MoXI chooses each patch in view of those before it, so it has an order but no scores: "
            "use explain(game, mode).order, or attribute(game, 'moxi-') for its first step alone."
        )
    if method not in REGISTRY:
        raise unknown_name("method", method, METHODS)
    check_mode(mode)
    player_count(game)  # a game at all?
    entry = REGISTRY[method]
    own = {
        "n_samples": n_samples,
        "target_layer": target_layer,
        "reshape": reshape,
        "attention": attention,
        "n_prefix_tokens": n_prefix_tokens,
    }
    for name, value in own.items():
        if value is not None and name not in entry.takes:
            takers = ", ".join(other for other in METHODS if name in REGISTRY[other].takes)
            raise ValueError(f"method {method!r} takes no {name} (only {takers} do): leave it out.")
    given = {"mode": mode, "random_state": random_state, "show_progress": show_progress, **own}
    options = {name: given[name] for name in entry.takes}
    if not entry.whole_image:
        scores = entry.score(game, **options)
    elif isinstance(game, PatchGame):
        with evaluating(game.model.module):
            scores = pool_to_grid(entry.score(game, **options), game)
    else:
        others = [repr(name) for name in METHODS if not REGISTRY[name].whole_image]
        raise TypeError(
            f"{method} looks into a model, so it needs a PatchGame, not {type(game).__name__}. "
            f"For any game use {', '.join(others[:-1])} or {others[-1]}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{method} gives NaN or infinite scores: check that the model's layers are finite."
        )
    return scores
