"""The blocks of a plain Vision Transformer, without the work that nobody reads.

A classifier that reads the class token needs only that token from the last block: its queries,
its output projection and its MLP.  The functions below compute just that, from the model's own
layers, and choose the quicker of two equal ways to attend.  Blocks of an unfamiliar make run as
they are.
"""

from __future__ import annotations

from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

_BLOCK_PARTS = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}


def encode(module: VisionTransformer, tokens: Tensor) -> Tensor:
    """Run the blocks and the final norm over sets of tokens.

    Parameters
    ----------
    module : VisionTransformer
        In eval mode.
    tokens : Tensor, shape (m, t, d)
        Embedded tokens, prefix tokens (class, register, distillation) first.

    Returns
    -------
    Tensor, shape (m, r, d)
        The tokens that the head reads: the prefix alone (r = number of prefix tokens) where the
        head pools the class token, otherwise all (r = t).
    """
    blocks = list(module.blocks)
    reads_prefix = module.global_pool == "token" and module.attn_pool is None
    n_read = module.num_prefix_tokens if reads_prefix else tokens.shape[1]
    for block in blocks[:-1]:
        tokens = _run(block, tokens, tokens.shape[1])
    return module.norm(_run(blocks[-1], tokens, n_read))


def _run(block: nn.Module, tokens: Tensor, n_read: int) -> Tensor:
    """Run one block and return its first `n_read` tokens."""
    if not _is_familiar(block):
        return block(tokens)[:, :n_read]
    attention = cast(Attention, block.attn)
    tokens_read = tokens[:, :n_read]
    tokens_read = tokens_read + block.ls1(_attend(attention, block.norm1(tokens), n_read))
    return tokens_read + block.ls2(_transform(block.mlp, block.norm2(tokens_read)))


def _is_familiar(block: nn.Module) -> TypeGuard[Block]:
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and isinstance(block.attn.qkv, nn.Linear)
        and {name for name, _ in block.named_children()} <= _BLOCK_PARTS
        and {name for name, _ in block.attn.named_children()} <= _ATTENTION_PARTS
    )


def _transform(mlp: nn.Module, tokens: Tensor) -> Tensor:
    """Run the MLP; the largest activation of a block is then overwritten, not copied."""
    if (
        type(mlp) is not Mlp
        or type(mlp.fc1) is not nn.Linear
        or type(mlp.act) is not nn.GELU
        or type(mlp.norm) is not nn.Identity
    ):
        return mlp(tokens)
    hidden = mlp.fc1(tokens)
    torch.ops.aten.gelu_(hidden, approximate=mlp.act.approximate)
    return mlp.fc2(hidden)


def _attend(attention: Attention, tokens: Tensor, n_read: int) -> Tensor:
    """Self-attention of the first `n_read` tokens over all; shape (m, n_read, d)."""
    m, t, _ = tokens.shape
    heads, width = attention.num_heads, attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    if n_read == t:
        q, k, v = attention.qkv(tokens).view(m, t, 3, heads, width).permute(2, 0, 3, 1, 4)
    else:
        inner = heads * width
        q_bias, kv_bias = (None, None) if bias is None else (bias[:inner], bias[inner:])
        q = F.linear(tokens[:, :n_read], weight[:inner], q_bias)
        q = q.view(m, n_read, heads, width).transpose(1, 2)
        k, v = (
            F.linear(tokens, weight[inner:], kv_bias)
            .view(m, t, 2, heads, width)
            .permute(2, 0, 3, 1, 4)
        )
    q, k = attention.q_norm(q), attention.k_norm(k)
    mixed = _mix(q, k, v, attention.scale).transpose(1, 2).reshape(m, n_read, heads * width)
    # `norm` came with later versions of timm
    return attention.proj(getattr(attention, "norm", nn.Identity())(mixed))


def _mix(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Scaled dot-product attention over (m, heads, tokens, width)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # Two batched products beat the fused kernel, which computes in float32 on the CPU.
        m, heads, n_read, width = q.shape
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        ignored = q.new_empty(())  # beta=0: only the scaled product counts
        scores = torch.baddbmm(ignored, q, k.transpose(1, 2), beta=0, alpha=scale)
        return torch.bmm(scores.softmax(dim=-1), v).view(m, heads, n_read, width)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
