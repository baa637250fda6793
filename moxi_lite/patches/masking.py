"""What "absent" means: how a classifier sees an image of which only some patches are present.

Two answers are offered.  `TokenDeletion` takes the tokens of absent patches out of a Vision
Transformer, so that nothing stands in their place.  `PixelMasking` paints a baseline over absent
patches and works for every classifier, at the price of showing it an image nobody ever took.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from moxi_lite.errors import unknown_name
from moxi_lite.models import Classifier
from moxi_lite.patches.vit import encode, project

BaselineFunction = Callable[[Tensor], Tensor]

_PLAIN_VIT_MODULES = {"timm.models.vision_transformer", "timm.models.deit"}


class Masking(Protocol):
    """One image under one notion of absence.

    `inputs` depends on the image, `forward` on the network alone, so that coalitions of several
    images can share a batch; those of one batch must be equally large if `needs_equal_sizes`.
    """

    n_players: int
    needs_equal_sizes: bool
    kind: tuple[object, ...]  # those of one kind have interchangeable `forward`

    def row_cost(self, n_present: int) -> int:
        """Approximate bytes of activations that one coalition of that size needs."""

    def inputs(self, coalitions: Tensor) -> Tensor:
        """Make what the network is shown of coalitions, bool (m, n)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map these to logits (m, C)."""


def deletion_problem(
    module: nn.Module,
    size: tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
) -> str | None:
    """Say why token deletion is not defined for a model, or return None if it is.

    Deletion is exact for transformers that add absolute position embeddings to the tokens and
    know nothing else of where a token came from: timm's plain ViT and DeiT, with class, register
    or distillation tokens.

    Parameters
    ----------
    module : nn.Module
    size : tuple of int, optional
        (H, W) of an image, needed to judge a grid.
    grid : tuple of int, optional
        Rows and columns of patches; both must divide the model's own grid of tokens.
    """
    name = type(module).__name__
    if not isinstance(module, VisionTransformer):
        return f"{name} is not a plain timm Vision Transformer"
    if type(module).__module__ not in _PLAIN_VIT_MODULES:
        return f"{name} changes timm's plain Vision Transformer in ways unknown here"
    if not isinstance(module.patch_embed, PatchEmbed):
        stem = type(module.patch_embed).__name__
        return f"its stem, {stem}, mixes pixels of neighbouring patches into every token"
    if module.attn_pool is not None and not _pools_prefix(module):
        return "it pools patch tokens by attention, which is undefined when none is left"
    if size is not None and grid is not None:
        rows, columns = module.patch_embed.dynamic_feat_size(size)
        if rows % grid[0] or columns % grid[1]:
            return (
                f"the grid must divide the model's own {rows}x{columns}, which "
                f"{grid[0]}x{grid[1]} does not"
            )
    return None


def resolve_masking(
    model: Classifier, masking: str | Tensor | BaselineFunction, grid: tuple[int, int]
) -> str | Tensor | BaselineFunction:
    """Put the masking meant in the place of ``"auto"`` and of ``"drop"``; leave others as they are.

    ``"auto"`` means token deletion where it is defined for model and grid, otherwise ``"mean"``.
    For a model whose makers say what an absent patch looks like (`Classifier.drop_as`) both names
    mean that.
    """
    if not isinstance(masking, str) or masking not in ("auto", "drop"):
        return masking
    if model.drop_as is not None:
        return model.drop_as
    possible = masking == "drop" or not deletion_problem(model.module, model.input_size, grid)
    return "drop" if possible else "mean"


def _pools_prefix(module: VisionTransformer) -> bool:
    return module.num_prefix_tokens > 0 and getattr(module, "pool_include_prefix", False)


class TokenDeletion:
    """Absent patches are deleted from the sequence of tokens of a Vision Transformer.

    The image is embedded once, and the first block's queries, keys and values are computed once.
    Coalitions of one size then become one dense gather of tokens and run through the blocks
    without any attention mask.
    For models that read out the class token this equals masking the keys of absent tokens in
    every attention layer, to rounding.  Models that average the patch tokens average those
    present; with none present the mean is taken as the zero vector.

    Parameters
    ----------
    module : nn.Module
        A plain timm Vision Transformer in eval mode.
    image : Tensor, shape (3, H, W)
        Preprocessed image on the module's device, in the module's dtype.
    grid : tuple of int, optional
        Rows and columns of patches.  None means one patch per token; otherwise both must divide
        the model's grid of tokens, and a patch is a block of tokens.

    Raises
    ------
    ValueError
        If deletion is not defined for this model or this grid; the message names the alternative.
    """

    needs_equal_sizes = True

    def __init__(
        self, module: nn.Module, image: Tensor, grid: tuple[int, int] | None = None
    ) -> None:
        size = (image.shape[1], image.shape[2])
        problem = deletion_problem(module, size, grid)
        if problem is not None or not isinstance(module, VisionTransformer):
            raise ValueError(
                f'masking="drop" deletes tokens, which is not defined for this model: {problem}. '
                'Use pixel masking instead, for example masking="mean".'
            )
        self._module = module
        with torch.inference_mode():
            # position embeddings are added here, before anything is deleted
            tokens = module.norm_pre(module._pos_embed(module.patch_embed(image[None])))[0]
            tokens = torch.cat([tokens, project(module, tokens)], dim=1)
        self._prefix = tokens[: module.num_prefix_tokens]
        self._patches = tokens[module.num_prefix_tokens :]
        rows, columns = module.patch_embed.dynamic_feat_size(size)
        grid = (rows, columns) if grid is None else grid
        players = patch_map(rows, columns, grid).ravel()
        self._player_of_token = torch.from_numpy(players).to(image.device)
        self.n_players = grid[0] * grid[1]
        self.kind: tuple[object, ...] = id(module), self.n_players

    def row_cost(self, n_present: int) -> int:
        """Approximate bytes of activations that one coalition of that size needs."""
        n_tokens = n_present * len(self._patches) // self.n_players + self._prefix.shape[0]
        # what `inputs` holds (4d), residuals (3d), and the larger of attention (3d and its
        # result) and the hidden layer of the MLP (4d), with some room for copies
        return 14 * n_tokens * self._module.embed_dim * self._prefix.element_size()

    @torch.inference_mode()
    def inputs(self, coalitions: Tensor) -> Tensor:
        """Gather the tokens, each with its projection, of coalitions (m, n) of one size."""
        m = coalitions.shape[0]
        present = coalitions[:, self._player_of_token].nonzero()[:, 1].view(m, -1)
        return torch.cat([self._prefix.expand(m, -1, -1), self._patches[present]], dim=1)

    @torch.inference_mode()
    def forward(self, inputs: Tensor) -> Tensor:
        """Classify sets of tokens from `inputs`: logits (m, C)."""
        module, width = self._module, self._module.embed_dim
        tokens, projected = inputs[..., :width], inputs[..., width:]
        nothing_to_pool = (
            tokens.shape[1] == module.num_prefix_tokens
            and module.global_pool != "token"
            and not _pools_prefix(module)
        )
        if not nothing_to_pool:
            return module.forward_head(encode(module, tokens, projected))
        # timm would average over no token at all (NaN): the mean of nothing is taken as zero
        pooled = tokens.new_zeros(tokens.shape[0], width)
        return module.head(module.head_drop(module.fc_norm(pooled)))


def patch_map(height: int, width: int, grid: tuple[int, int]) -> np.ndarray:
    """Map every pixel to the number of the patch that holds it: int64 (height, width).

    Where the grid does not divide the image, patches differ by at most one pixel in each
    direction.  ValueError says that it has more rows or columns than there are pixels.
    """
    rows, columns = grid
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(
            f"grid {rows}x{columns} does not fit an image of {height}x{width} pixels: "
            f"expected 1..{height} rows and 1..{width} columns."
        )
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    return row[:, None] * columns + column[None, :]


def zero_baseline(image: Tensor) -> Tensor:
    """Zero after normalisation: the mean colour of the training set, grey for most models."""
    return torch.zeros_like(image)


def mean_baseline(image: Tensor) -> Tensor:
    """Paint the mean colour of this image everywhere."""
    return image.mean(dim=(1, 2), keepdim=True).expand_as(image).clone()


def blur_baseline(image: Tensor) -> Tensor:
    """Blur this image by a Gaussian whose standard deviation is a tenth of its shorter side."""
    sigma = min(image.shape[1:]) / 10
    # reflection padding, which the blur uses, must stay smaller than the image
    kernel = 2 * min(int(2 * sigma), (min(image.shape[1:]) - 1) // 2) + 1
    return F.gaussian_blur(image, kernel_size=[kernel, kernel], sigma=[sigma, sigma])


def noise_baseline(image: Tensor) -> Tensor:
    """Gaussian noise with the mean and standard deviation of this image's channels (seed 0)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape, generator=generator).to(image)
    flat = image.flatten(1)
    return flat.mean(1)[:, None, None] + noise * flat.std(1)[:, None, None]


BASELINES: dict[str, BaselineFunction] = {
    "zero": zero_baseline,
    "mean": mean_baseline,
    "blur": blur_baseline,
    "noise": noise_baseline,
}

MASKINGS = ("auto", "drop", *BASELINES)


class PixelMasking:
    """Absent patches are painted over with a baseline image.

    Parameters
    ----------
    module : callable
        Maps images (m, 3, H, W) to logits (m, C).
    image : Tensor, shape (3, H, W)
        Preprocessed image on the module's device, in the module's dtype.
    baseline : Tensor, shape (3, H, W)
        Shown where a patch is absent, in the units of the preprocessed image.
    grid : tuple of int
        Rows and columns of patches.
    """

    needs_equal_sizes = False

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        image: Tensor,
        baseline: Tensor,
        grid: tuple[int, int],
    ) -> None:
        if not isinstance(baseline, Tensor):
            raise TypeError(
                "the baseline must be a tensor of the image's shape "
                f"{tuple(image.shape)}, not {type(baseline).__name__}."
            )
        if baseline.shape != image.shape:
            raise ValueError(
                f"the baseline must have the image's shape {tuple(image.shape)}, but has shape "
                f"{tuple(baseline.shape)}."
            )
        if not bool(torch.isfinite(baseline).all()):
            raise ValueError("the baseline holds NaN or Inf: expected finite numbers.")
        self._module = module
        self._image = image
        self._baseline = baseline
        cells = patch_map(image.shape[1], image.shape[2], grid)
        self._cells = torch.from_numpy(cells).to(image.device)
        self.n_players = grid[0] * grid[1]
        self.kind: tuple[object, ...] = id(module), "pixels"

    def row_cost(self, n_present: int) -> int:
        """Approximate bytes of activations that one coalition needs, whatever its size."""
        # a convolutional net's widest layers hold some 40 times its input
        return 40 * self._image.nbytes

    @torch.inference_mode()
    def inputs(self, coalitions: Tensor) -> Tensor:
        """Paint over the absent patches of coalitions (m, n): images (m, 3, H, W)."""
        visible = coalitions[:, self._cells][:, None]
        return torch.where(visible, self._image, self._baseline)

    @torch.inference_mode()
    def forward(self, inputs: Tensor) -> Tensor:
        """Classify images (m, 3, H, W): logits (m, C)."""
        return self._module(inputs)


def make_masking(
    module: nn.Module,
    image: Tensor,
    masking: str | Tensor | BaselineFunction,
    grid: tuple[int, int],
) -> Masking:
    """Build the masking that a caller asked for, by any name but "auto" (`resolve_masking`).

    A baseline is a tensor (3, H, W), or a function that makes one of the image.  ValueError and
    TypeError say what is wrong with a name, a baseline, or the deletion of tokens from this model.
    """
    if isinstance(masking, Tensor):
        return PixelMasking(module, image, masking.to(image, copy=True), grid)
    if callable(masking):
        return PixelMasking(module, image, masking(image), grid)
    if not isinstance(masking, str):
        raise TypeError(
            f"masking must be a name, a tensor (3, H, W) or a function that makes one, not "
            f"{type(masking).__name__}: make a tensor with model.preprocess or torch.from_numpy."
        )
    if masking == "drop":
        return TokenDeletion(module, image, grid)
    if masking not in BASELINES:
        raise unknown_name("masking", masking, MASKINGS)
    return PixelMasking(module, image, BASELINES[masking](image), grid)
