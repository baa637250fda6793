"""Attention rollout (Abnar and Zuidema 2020): attention followed through all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from moxi_lite.games import FloatArray
from moxi_lite.models import dtype_of
from moxi_lite.patches import PatchGame

AttentionFunction = Callable[[nn.Module, Tensor], Iterable[Tensor]]

_PASS_ATTENTION = (
    "For an own transformer pass attention=, a function (module, images (1, 3, H, W)) -> one "
    "tensor (heads, tokens, tokens) a layer; for others use another method, such as "
    "'gradcam' or 'shapley'."
)


def rollout_map(
    game: PatchGame,
    *,
    attention: AttentionFunction | None = None,
    n_prefix_tokens: int | None = None,
) -> FloatArray:
    """Shares of the patches in the class token's row of `rollout`, float64 on the grid of tokens.

    With the shares of the class token and its like they sum to 1. Parameters and errors are those
    of `moxi_lite.attribute`.
    """
    model = game.model
    module: Any = model.module
    images = game.pixels.to(model.device, dtype_of(module))[None]
    if attention is None:
        problem = _rollout_problem(module)
        if problem is not None:
            raise ValueError(
                f"rollout is not defined for {model.name}: {problem}. {_PASS_ATTENTION}"
            )
        weights: Iterable[Tensor] = attention_weights(module, images)
        grid: tuple[int, int] = tuple(module.patch_embed.dynamic_feat_size(model.input_size))
        prefix = module.num_prefix_tokens
    else:
        with torch.no_grad():
            weights = list(attention(module, images))
        grid, prefix = model.grid, 1
    prefix = prefix if n_prefix_tokens is None else n_prefix_tokens
    row = rollout(weights)[0]
    n_tokens = prefix + grid[0] * grid[1]
    if prefix < 1 or len(row) != n_tokens:
        raise ValueError(
            f"attention among {len(row)} tokens does not fit a grid of {grid[0]}x{grid[1]} patches "
            f"after {prefix} other tokens, the class token first: expected {n_tokens}. Set "
            "n_prefix_tokens= to the number of tokens before the patches, at least 1."
        )
    return row[prefix:].reshape(grid)


def rollout(weights: Iterable[Tensor]) -> FloatArray:
    r"""Multiply attention through the layers.

    .. math:: R = \hat A_L \cdots \hat A_2 \hat A_1, \qquad
              \hat A_l = \operatorname{row-normalise}(\bar A_l + I)

    with :math:`\bar A_l` the mean over heads and :math:`I` for the residual connection.

    Parameters
    ----------
    weights : iterable of Tensor, shape (heads, tokens, tokens) or (1, heads, tokens, tokens)
        Attention weights of each layer, first to last; rows are queries.

    Returns
    -------
    ndarray of float64, shape (tokens, tokens)
        Row i says from which input tokens the last layer's token i draws; rows sum to 1.

    """
    result: FloatArray | None = None
    for layer, given in enumerate(weights):
        heads = given.detach().cpu().double().numpy()  # MPS has no float64
        heads = heads[0] if heads.ndim == 4 and len(heads) == 1 else heads
        if heads.ndim != 3 or heads.shape[1] != heads.shape[2]:
            raise ValueError(
                f"attention weights of layer {layer} have shape {tuple(given.shape)}; expected "
                "(heads, tokens, tokens)."
            )
        if not np.isfinite(heads).all() or heads.min() < 0:
            raise ValueError(
                f"attention weights of layer {layer} are negative or not finite: expected a "
                "softmax over the last axis."
            )
        mixed = heads.mean(axis=0) + np.eye(heads.shape[1])
        mixed /= mixed.sum(axis=1, keepdims=True)
        result = mixed if result is None else mixed @ result
    if result is None:
        raise ValueError("rollout needs the attention weights of one layer or more, got none.")
    return result


def attention_weights(module: nn.Module, images: Tensor) -> list[Tensor]:
    """Attention weights of every block of timm's plain Vision Transformer for one image.

    Maps images (1, 3, H, W) to a float32 tensor (heads, tokens, tokens) a block, whose rows sum
    to 1. Fused attention never forms the weights, so they are computed from the queries and keys
    of what enters each attention layer.
    """
    weights: list[Tensor] = []

    def record(attention: Any, inputs: tuple[Tensor, ...]) -> None:
        joint = attention.qkv(inputs[0])[0].unflatten(1, (3, attention.num_heads, -1))
        queries, keys, _ = joint.permute(1, 2, 0, 3)
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        products = (queries * attention.scale) @ keys.mT
        weights.append(products.float().softmax(dim=-1))

    blocks: Any = module.blocks
    handles = [block.attn.register_forward_pre_hook(record) for block in blocks]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    return weights


def _rollout_problem(module: nn.Module) -> str | None:
    """Say why rollout is not defined for a model, or return None if it is."""
    if not isinstance(module, VisionTransformer):
        return f"{type(module).__name__} is not a plain timm Vision Transformer"
    for number, block in enumerate(module.blocks):
        # Subclasses and other classes may bias, rotate, mask or window their attention.
        kind = type(getattr(block, "attn", None))
        if kind is not Attention:
            return f"block {number} has {kind.__name__} instead of timm's plain Attention"
    if module.cls_token is None:
        return "it has no class token whose attention could be followed"
    if module.global_pool != "token":
        return f"it does not classify by its class token (global_pool={module.global_pool!r})"
    return None
