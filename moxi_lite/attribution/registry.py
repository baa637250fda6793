"""Attribution methods: one score a patch, from gradients, attention, sampling or the patch alone.

These are the baselines of the paper's experiments (Sec. 5) and two more, RISE and random. Scores
become an order of patches by `order_of`, and every order draws curves (`moxi_lite.curves`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm.auto import tqdm

from moxi_lite.attribution.gradcam import Reshape, gradcam_map
from moxi_lite.attribution.rollout import AttentionFunction, rollout_map
from moxi_lite.errors import unknown_name, whole_number
from moxi_lite.games import (
    DEFAULT_SAMPLES,
    FloatArray,
    Game,
    RandomState,
    ShapleyEstimate,
    as_game,
    evaluate,
    full_context_shapley,
    nested_shapley,
    player_count,
    self_context_shapley,
)
from moxi_lite.patches import PatchGame, outcomes
from moxi_lite.search import MODES

_GRADCAMS: dict[str, tuple[bool, str | None]] = {  # name: is it Grad-CAM++, how it is smoothed
    "gradcam": (False, None),
    "gradcam-eigen": (False, "eigen"),
    "gradcam-aug": (False, "aug"),
    "gradcam++": (True, None),
    "gradcam++-eigen": (True, "eigen"),
    "gradcam++-aug": (True, "aug"),
}
SHAPLEY_SAMPLERS = {"shapley": "permutation", "shapley-paper": "paper"}
SAMPLING_METHODS = (*SHAPLEY_SAMPLERS, "rise")  # those that take n_samples
METHODS = (*_GRADCAMS, "rollout", *SAMPLING_METHODS, "moxi-", "random")

_RISE_MASKS = 4000  # as many as its authors used for VGG-16; 8000 for ResNet-50
_RISE_ROWS = 1024  # masks between two steps of the progress bar


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
        as in the paper; otherwise the last convolutional stage, that is the last module to run
        whose output is a feature map of more than one cell.
    reshape : callable, optional
        Grad-CAM only: from the layer's output to a feature map (1, channels, h, w). By default
        feature maps are taken as they are, and tokens of timm's Vision Transformers are laid out
        on their grid without class, register and distillation tokens.
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
        Class activation maps weighed by gradients of the target's logit, through
        pytorch-grad-cam, negative parts cut to 0 (so low scores are often tied). Maps keep the
        resolution of the layer and are averaged over the area of each patch of the game's grid;
        maps coarser than that grid are interpolated first (bilinear, to the size of the image).
    ``"gradcam-eigen"``, ``"gradcam++-eigen"``
        Smoothed: the first principal component of the weighed activations instead of their sum.
        Its sign is arbitrary in pytorch-grad-cam (``eigen_smooth``); here it is the one that
        correlates with the plain map.
    ``"gradcam-aug"``, ``"gradcam++-aug"``
        Smoothed: the mean of six maps, each scaled to 0..1, of the image and its mirror image
        at three contrasts (``aug_smooth``).
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
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    n = player_count(game)
    _refuse_foreign(method, SAMPLING_METHODS, n_samples=n_samples)
    _refuse_foreign(method, tuple(_GRADCAMS), target_layer=target_layer, reshape=reshape)
    _refuse_foreign(method, ("rollout",), attention=attention, n_prefix_tokens=n_prefix_tokens)

    if method in _GRADCAMS:
        patch_game = _as_patch_game(game, method)
        plus_plus, smooth = _GRADCAMS[method]
        scores = pool_to_grid(
            gradcam_map(
                patch_game.model,
                patch_game.pixels,
                patch_game.target,
                plus_plus=plus_plus,
                smooth=smooth,
                target_layer=target_layer,
                reshape=reshape,
            ),
            patch_game,
        )
    elif method == "rollout":
        patch_game = _as_patch_game(game, method)
        shares = rollout_map(patch_game.model, patch_game.pixels, attention, n_prefix_tokens)
        scores = pool_to_grid(shares, patch_game)
    elif method in SHAPLEY_SAMPLERS:
        usual = _equal_cost_permutations(n) if method == "shapley" else DEFAULT_SAMPLES
        draws = usual if n_samples is None else n_samples
        scores = shapley_estimates(game, method, [draws], random_state, show_progress)[0].values
    elif method == "rise":
        masks = _RISE_MASKS if n_samples is None else n_samples
        rng = np.random.default_rng(random_state)
        scores = _rise(_for_sampling(game), masks, rng, show_progress)
    elif method == "moxi-":
        scores = self_context_shapley(game) if mode == "insertion" else full_context_shapley(game)
    else:
        scores = np.random.default_rng(random_state).random(n)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{method} gives NaN or infinite scores: check that the model's layers are finite."
        )
    return scores


def shapley_estimates(
    game: Game,
    method: str,
    n_samples: Sequence[int],
    random_state: RandomState = None,
    show_progress: bool = False,
) -> list[ShapleyEstimate]:
    """Score every patch by its sampled Shapley value, after each of several numbers of samples.

    Parameters
    ----------
    game, random_state, show_progress
        As for `attribute`.
    method : {"shapley", "shapley-paper"}
    n_samples : sequence of int
        Rising numbers of samples, of which the largest sets the cost (`nested_shapley`).

    Returns
    -------
    list of ShapleyEstimate
        One for each number.
    """
    sampler = SHAPLEY_SAMPLERS[method]
    return nested_shapley(_for_sampling(game), sampler, n_samples, random_state, show_progress)


def order_of(scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Sort patches by falling score; ties go to the lowest index.

    Scores that agree to 12 digits (of the largest) are ties: equal players can differ in the last
    bit of an exact Shapley value.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        For example from `attribute`; not NaN.

    Returns
    -------
    ndarray of int64, shape (n,)
        Patches, the highest score first.

    Raises
    ------
    ValueError
        If the scores are not one number a patch, or a score is NaN.

    Examples
    --------
    >>> order_of([0.5, 2.0, 0.5]).tolist()
    [1, 0, 2]
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"scores must be one number a patch, shape (n,); got {values.shape}: flatten a map "
            "with .ravel()."
        )
    for patch in np.flatnonzero(np.isnan(values)):
        raise ValueError(
            f"scores must be numbers to be sorted, but the score of patch {patch} is NaN."
        )
    scale = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    return np.argsort(-np.round(values / scale, 12), kind="stable").astype(np.int64)


def pool_to_grid(values: npt.ArrayLike, game: PatchGame) -> FloatArray:
    """Average a map over the patches of a game.

    Parameters
    ----------
    values : array_like of float, shape (h, w)
        A map over the whole image, at any resolution. Where it is coarser than the game's grid,
        it is first interpolated (bilinear) to the size of the image.
    game : PatchGame
        Whose grid to average over.

    Returns
    -------
    ndarray of float64, shape (n,)
        Averages by area, row-major.
    """
    fine = np.asarray(values, dtype=np.float64)
    rows, columns = game.grid
    if fine.shape[0] < rows or fine.shape[1] < columns:
        size = tuple(game.pixels.shape[1:])
        stack = torch.from_numpy(fine)[None, None]
        fine = nn.functional.interpolate(stack, size, mode="bilinear")[0, 0].numpy()
    return (_shares(rows, fine.shape[0]) @ fine @ _shares(columns, fine.shape[1]).T).ravel()


def _shares(n_patches: int, n_cells: int) -> FloatArray:
    """Share of each cell's length in each patch's along one side, (n_patches, n_cells)."""
    patches, cells = np.arange(n_patches)[:, None], np.arange(n_cells)
    # In units of 1 / (n_patches * n_cells) of the side, all bounds are whole numbers.
    starts = np.maximum(patches * n_cells, cells * n_patches)
    ends = np.minimum((patches + 1) * n_cells, (cells + 1) * n_patches)
    return np.maximum(ends - starts, 0) / n_cells


def _as_patch_game(game: Game, method: str) -> PatchGame:
    if not isinstance(game, PatchGame):
        raise TypeError(
            f"{method} looks into a model, so it needs a PatchGame, not {type(game).__name__}. "
            "For any game use 'shapley', 'shapley-paper', 'rise', 'moxi-' or 'random'."
        )
    return game


def _for_sampling(game: Game) -> Game:
    """Return the game in bfloat16 if it may screen in it: sampling errs by far more."""
    if not (isinstance(game, PatchGame) and game.screens):
        return game
    return as_game(lambda rows: outcomes([(game, rows)], screening=True)[0].rewards, game.n_players)


def _refuse_foreign(method: str, methods: tuple[str, ...], **options: object) -> None:
    for name, value in options.items():
        if value is not None and method not in methods:
            raise ValueError(
                f"method {method!r} takes no {name} (only {', '.join(methods)} do): leave it out."
            )


def _equal_cost_permutations(n: int) -> int:
    """Most pairs m of permutations, 2 + 2m(n - 1) evaluations, within the paper's 2n * 200."""
    return (DEFAULT_SAMPLES * n - 1) // max(n - 1, 1)


def _rise(game: Game, n_masks: int, rng: np.random.Generator, show_progress: bool) -> FloatArray:
    total = whole_number("n_samples", n_masks, 2)
    if total % 2:
        raise ValueError(f"rise draws masks in pairs: n_samples must be even, got {n_masks}.")
    half = rng.random((total // 2, player_count(game))) < 0.5
    masks = np.concatenate([half, ~half])
    # Masks of one size run as one dense batch when a game deletes tokens.
    masks = masks[np.argsort(masks.sum(axis=1), kind="stable")]
    sums = np.zeros(masks.shape[1])
    with tqdm(total=total, unit="mask", disable=not show_progress) as progress:
        for start in range(0, total, _RISE_ROWS):
            rows = masks[start : start + _RISE_ROWS]
            sums += evaluate(game, rows) @ rows
            progress.update(len(rows))
    return sums / (total // 2)
