"""What "absent" means: how a classifier sees an image of which only some patches are present.

Two answers are offered.  `TokenDeletion` takes the tokens of absent patches out of a Vision
Transformer, so that nothing stands in their place.  `PixelMasking` paints a baseline over absent
patches and works for every classifier, at the price of showing it an image nobody ever took.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from moxi_lite.errors import unknown_name
from moxi_lite.models import Classifier, dtype_of, evaluating
from moxi_lite.patches.vit import (
    encode,
    is_plain,
    pools_patches,
    project,
    run_masking_keys,
    run_on_some,
    tampered,
    token_grid,
    transformers_in,
    with_nothing,
)

BaselineFunction = Callable[[Tensor], Tensor]

# By how much, of the largest logit, two ways to compute the same may differ by rounding.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}


def deletion_problem(
    module: nn.Module,
    size: tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
) -> str | None:
    """Say why token deletion is not defined for a kind of model, or return None if it may be.

    Deletion is exact for transformers that add absolute position embeddings to the tokens and
    know nothing else of where a token came from: timm's Vision Transformer and DeiT, with class,
    register or distillation tokens, alone or inside a network of your own.  Whether it is exact for
    this very network, with its hooks and adapters, is found out by `TokenDeletion`.

    Parameters
    ----------
    module : nn.Module
    size : tuple of int, optional
        (H, W) of an image, needed to judge a grid.
    grid : tuple of int, optional
        Rows and columns of patches, at most as many as the model has tokens.
    """
    inside, name = transformers_in(module), type(module).__name__
    if not inside:
        return f"{name} is not a Vision Transformer of timm or transformers, nor holds one"
    if len(inside) > 1:
        return f"{name} holds {len(inside)} Vision Transformers"
    (vit,) = inside
    if isinstance(vit, VisionTransformer) and not isinstance(vit.patch_embed, PatchEmbed):
        stem = type(vit.patch_embed).__name__
        return f"its stem, {stem}, mixes pixels of neighbouring patches into every token"
    if vit.attn_pool is not None and pools_patches(vit):
        return "it pools patch tokens by attention, which is undefined when none is left"
    if size is not None and grid is not None:
        rows, columns = token_grid(vit, size)
        if rows < grid[0] or columns < grid[1]:
            return f"the grid {grid[0]}x{grid[1]} is finer than its tokens, {rows}x{columns}"
    return None


def resolve_masking(model: Classifier, masking: str, grid: tuple[int, int]) -> str:
    """Name the masking that `make_masking` would choose, found out on an image of noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, *model.input_size, generator=generator)
    return make_masking(model, noise.to(model.device, dtype_of(model.module)), masking, grid).name


class TokenDeletion:
    """Absent patches are deleted from the sequence of tokens of a Vision Transformer.

    Tokens are deleted after position embeddings were added to them. Coalitions of one size become
    one dense batch, without any attention mask.
    For models that read out the class token this equals masking the keys of absent tokens in
    every attention layer, to rounding.  Models that average the patch tokens average those
    present; with none present the mean is taken as the zero vector.

    That it is right for this very network is proven here, at the price of three and a half passes:
    the whole image must give what the network gives, and a random half of its tokens what masking
    their keys gives.  Where nothing is hooked, replaced or adapted the blocks run without the work
    that nobody reads (`dense`); otherwise, or where that differs, the network itself runs, with a
    hook of ours that deletes the tokens before the first block.

    Parameters
    ----------
    module : nn.Module
        A network that is or holds a timm Vision Transformer, in evaluation mode.
    image : Tensor, shape (3, H, W)
        Preprocessed image on the module's device, in the module's dtype.
    grid : tuple of int, optional
        Rows and columns of patches.  None means one patch per token; otherwise a patch is a block
        of tokens, and blocks are as equal as the numbers allow.

    Raises
    ------
    ValueError
        If deletion is not defined for this model or this grid, or is not what the network
        computes; the message names the cause and the alternative.
    """

    name = "drop"
    whole: Tensor | None = None

    def __init__(
        self, module: nn.Module, image: Tensor, grid: tuple[int, int] | None = None
    ) -> None:
        size = (image.shape[1], image.shape[2])
        problem = deletion_problem(module, size, grid)
        if problem is not None:
            raise ValueError(
                f'masking="drop" deletes tokens, which is not defined for this model: {problem}. '
                'Use pixel masking instead, for example masking="mean".'
            )
        self.module = module
        self._vit: Any = transformers_in(module)[0]
        self._image = image
        rows, columns = token_grid(self._vit, size)
        grid = (rows, columns) if grid is None else grid
        players = patch_map(rows, columns, grid).ravel()
        self._tokens_of = np.bincount(players)
        self._player_of_token = torch.from_numpy(players).to(image.device)
        self.n_players = grid[0] * grid[1]
        with torch.no_grad():
            self._prove()

    def _prove(self) -> None:
        """Choose a way to run the network that equals it, or say why there is none."""
        whole = self.module(self._image[None])
        generator = torch.Generator().manual_seed(0)
        half = torch.randperm(self.n_players, generator=generator) < (self.n_players + 1) // 2
        half[0] = half[-1] = False  # what counts tokens from either end finds others there
        half[-1] |= not half.any()
        some = half.to(self._image.device)[self._player_of_token]
        masked, seen = run_masking_keys(self.module, self._image, some)
        reasons = []
        if not _same_picture(seen, self._image[None]):
            reasons = ["the picture is moved or changed on its way to the tokens"]
        for dense in [] if reasons else [True, False] if is_plain(self.module) else [False]:
            self._set(dense)
            try:
                found = [self.forward(self.inputs(each[None])) for each in (half | True, half)]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever hooks and heads may raise when tokens are gone
                reasons.append(f"it fails without some of its tokens ({error})")
                continue
            off = [_off(a, b) for a, b in zip(found, (whole, masked), strict=True)]
            if all(share <= _rounding(whole) for share in off):
                self.whole = found[0]
                return
            reasons.append(
                f"without deletions it is off by {off[0]:.2g} of the largest score, with half of "
                f"the tokens by {off[1]:.2g}"
            )
        causes = tampered(self.module)[:5] or [f"a layer of {type(self.module).__name__}"]
        raise ValueError(
            f'masking="drop" deletes tokens, which is not what this network computes: '
            f"{reasons[-1]}. The cause may be {', '.join(causes)}. "
            'Use pixel masking instead, for example masking="mean".'
        )

    def _set(self, dense: bool) -> None:
        self.dense = dense
        self.kind: tuple[object, ...] = (id(self.module), "drop")
        if not dense:
            self.kind = (id(self), "drop")  # it embeds its own image
            return
        vit = self._vit
        # position embeddings are added here, before anything is deleted
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(self._image[None])))[0]
        tokens = torch.cat([tokens, project(vit, tokens)], dim=1)
        self._prefix, self._patches = tokens.tensor_split([vit.num_prefix_tokens])

    def sizes(self, coalitions: np.ndarray) -> np.ndarray:
        """Count the patch tokens that coalitions (m, n) keep: int (m,)."""
        return coalitions @ self._tokens_of

    def row_cost(self, size: int) -> int:
        """Approximate bytes of activations that one coalition with so many patch tokens needs."""
        n_tokens = max(1, size + self._vit.num_prefix_tokens)
        # what `inputs` holds (4d), residuals (3d), and the larger of attention (3d and its
        # result) and the hidden layer of the MLP (4d), with some room for copies
        return 14 * n_tokens * self._vit.embed_dim * self._image.element_size()

    @torch.no_grad()
    def inputs(self, coalitions: Tensor) -> Tensor:
        """Gather the tokens of coalitions (m, n) of one size, each with its projection.

        Where the network itself runs, only their numbers.
        """
        m = coalitions.shape[0]
        present = coalitions[:, self._player_of_token].nonzero()[:, 1].view(m, -1)
        if not self.dense:
            return present
        return torch.cat([self._prefix.expand(m, -1, -1), self._patches[present]], dim=1)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Classify sets of tokens from `inputs`: what the network returns, (m, C)."""
        vit = self._vit
        if not self.dense:
            return run_on_some(self.module, self._image, inputs)
        tokens, projected = inputs[..., : vit.embed_dim], inputs[..., vit.embed_dim :]
        normed = encode(vit, tokens, projected) if tokens.shape[1] else tokens
        if tokens.shape[1] == vit.num_prefix_tokens and pools_patches(vit):
            normed = with_nothing(vit, normed)
        return vit.forward_head(normed)


def _rounding(output: Tensor) -> float:
    # float32 products on CUDA may be asked to be as coarse as TF32
    tf32 = output.is_cuda and torch.get_float32_matmul_precision() != "highest"
    return 0.01 if tf32 else _ROUNDING.get(output.dtype, 1e-4)


def _off(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest score; infinite if there is a NaN."""
    scale = expected.abs().max().float().clamp(min=1e-6)
    share = float((found - expected).abs().max().float() / scale)
    return share if np.isfinite(share) else np.inf


def _same_picture(seen: Tensor, image: Tensor) -> bool:
    """Whether both are the same but for the normalisation of channels."""
    if seen.shape != image.shape:
        return False
    seen, image = (
        (each - each.mean((2, 3), True)) / each.std((2, 3), keepdim=True).clamp(min=1e-6)
        for each in (seen.float(), image.float())
    )
    return bool((seen - image).abs().mean() < 0.02)


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
"""Name -> function that makes a baseline (3, H, W) of an image of that shape."""

MASKINGS = ("auto", "drop", *BASELINES)


class PixelMasking:
    """Absent patches are painted over with a baseline image.

    Parameters
    ----------
    module : nn.Module
        Maps images (m, 3, H, W) to scores (m, C).
    image : Tensor, shape (3, H, W)
        Preprocessed image on the module's device, in the module's dtype.
    baseline : Tensor, shape (3, H, W)
        Shown where a patch is absent, in the units of the preprocessed image.
    grid : tuple of int
        Rows and columns of patches.
    name : str
        What the baseline is called.
    """

    whole: Tensor | None = None

    def __init__(
        self,
        module: nn.Module,
        image: Tensor,
        baseline: Tensor,
        grid: tuple[int, int],
        name: str = "custom",
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
        self.name = name
        self.module = module
        self._image = image
        self._baseline = baseline
        cells = patch_map(image.shape[1], image.shape[2], grid)
        self._cells = torch.from_numpy(cells).to(image.device)
        self.n_players = grid[0] * grid[1]
        self.kind: tuple[object, ...] = id(module), "pixels"

    def sizes(self, coalitions: np.ndarray) -> np.ndarray:
        """Return zeros (m,): the network is shown whole images."""
        return np.zeros(len(coalitions), dtype=int)

    def row_cost(self, size: int) -> int:
        """Approximate bytes of activations that one coalition needs, whatever its size."""
        # a convolutional net's widest layers hold some 40 times its input
        return 40 * self._image.nbytes

    @torch.no_grad()
    def inputs(self, coalitions: Tensor) -> Tensor:
        """Paint over the absent patches of coalitions (m, n): images (m, 3, H, W)."""
        visible = coalitions[:, self._cells][:, None]
        return torch.where(visible, self._image, self._baseline)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Classify images (m, 3, H, W): what the network returns, (m, C)."""
        return self.module(inputs)


# One image under one notion of absence. `inputs` depends on the image, `forward` on the network
# alone, so that coalitions of several images of one `kind` and of one size can share a batch.
Masking: TypeAlias = TokenDeletion | PixelMasking


def make_masking(
    model: Classifier,
    image: Tensor,
    masking: str | Tensor | BaselineFunction,
    grid: tuple[int, int],
) -> Masking:
    """Build the masking that a caller asked for, in the precision of the image.

    ``"auto"`` means token deletion where it is defined for model and grid and proven equal to the
    network, otherwise ``"mean"``.  For a model whose makers say what an absent patch looks like
    (`Classifier.drop_as`) "auto" and "drop" mean that.
    A baseline is a tensor (3, H, W), or a function that makes one of the image.  ValueError and
    TypeError say what is wrong with a name, a baseline, or the deletion of tokens from this model.
    """
    module = model.module_in(image.dtype)
    if isinstance(masking, Tensor):
        return PixelMasking(module, image, masking.to(image, copy=True), grid)
    if callable(masking):
        return PixelMasking(module, image, masking(image), grid)
    if not isinstance(masking, str):
        raise TypeError(
            f"masking must be a name, a tensor (3, H, W) or a function that makes one, not "
            f"{type(masking).__name__}: make a tensor with model.preprocess or torch.from_numpy."
        )
    if masking not in MASKINGS:
        raise unknown_name("masking", masking, MASKINGS)
    if masking in ("auto", "drop") and model.drop_as is not None:
        masking = model.drop_as
    if masking in ("auto", "drop"):
        try:
            with evaluating(module):
                return TokenDeletion(module, image, grid)
        except ValueError as error:
            if masking == "drop":
                raise
            if deletion_problem(module, model.input_size, grid) is None:  # not known beforehand
                warnings.warn(f'masking="auto" is "mean" here. {error}', stacklevel=4)
            masking = "mean"
    return PixelMasking(module, image, BASELINES[masking](image), grid, masking)
