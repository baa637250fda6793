"""Two ways to run a Vision Transformer on some of its tokens, and what both must equal.

`HookedViT` runs the user's own network as it is, with hooks of ours that delete tokens before the
first block; it honours whatever else the network does.  `project` and `encode` run the blocks of
timm's plain make without the work that nobody reads: a classifier that reads the class token needs
only that token from the last block, and what the first block makes of a token before it attends
can be made once for all sets of tokens of an image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moxi_lite.models import TransformersViT, patched_methods, transformers_vits

AnyViT = VisionTransformer | TransformersViT

_ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop"}


def transformers_in(module: nn.Module) -> list[AnyViT]:
    """List the Vision Transformers of timm and transformers in a network, itself included."""
    timms = [part for part in module.modules() if isinstance(part, VisionTransformer)]
    return [*timms, *transformers_vits(module)]


def token_grid(vit: AnyViT, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tokens that a Vision Transformer makes of images of (H, W)."""
    if isinstance(vit, TransformersViT):
        return vit.grid(size)
    rows, columns = vit.patch_embed.dynamic_feat_size(size)
    return rows, columns


def pools_patches(vit: AnyViT) -> bool:
    """Whether the head reads patch tokens only, so that with none it would read nothing."""
    return not getattr(vit, "pool_include_prefix", False) or vit.num_prefix_tokens == 0


def tampered(module: nn.Module) -> list[str]:
    """Describe the hooks and replaced methods inside a network, each with the layer's name."""
    found = []
    for name, part in module.named_modules():
        hooks = len(part._forward_hooks) + len(part._forward_pre_hooks)
        where = repr(name) if name else "the network itself"
        found += [f"a hook on {where}"] if hooks else []
        found += [f"a replaced {method} of {where}" for method in patched_methods(part)]
    return found


def is_plain(module: nn.Module) -> bool:
    """Whether `encode` may stand for the network: timm's own classes, nothing hooked or replaced.

    It is not proof enough, but what acts on some inputs only is found here alone.
    """
    return (
        type(module) in (VisionTransformer, VisionTransformerDistilled)
        and all(
            type(block) is Block
            and type(block.attn) is Attention
            and type(block.attn.qkv) is nn.Linear
            and {name for name, _ in block.attn.named_children()} <= _ATTENTION_PARTS
            for block in cast(VisionTransformer, module).blocks
        )
        and not tampered(module)
    )


@contextlib.contextmanager
def _hooked(vit: AnyViT, **hooks: Callable[..., Any] | None) -> Iterator[None]:
    """Add hooks to the stem's input, the first block's input and the final norm's output."""
    handles = []
    try:
        if stem := hooks.get("stem"):
            handles.append(vit.patch_embed.register_forward_pre_hook(stem))
        if blocks := hooks.get("blocks"):
            handles.append(vit.blocks[0].register_forward_pre_hook(blocks))
        if norm := hooks.get("norm"):
            handles.append(vit.norm.register_forward_hook(norm))
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_on_some(module: nn.Module, image: Tensor, present: Tensor) -> Tensor:
    """Run the network itself on an image (3, H, W), with tokens present (m, k): its output (m, C).

    The others are deleted before the first block.
    """
    (vit,) = transformers_in(module)
    n_prefix, empty = vit.num_prefix_tokens, present.shape[1] == 0 and pools_patches(vit)

    def delete(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tokens, *others = given
        kept = present if n_prefix or present.shape[1] else present.new_zeros(len(present), 1)
        prefix = tokens[:, :n_prefix].expand(len(present), -1, -1)
        return torch.cat([prefix, tokens[0, n_prefix:][kept]], dim=1), *others

    def pool_nothing(_: nn.Module, given: Any, normed: Tensor) -> Tensor:
        return with_nothing(vit, normed)

    with _hooked(vit, blocks=delete, norm=pool_nothing if empty else None):
        return module(image[None])


def with_nothing(vit: AnyViT, normed: Tensor) -> Tensor:
    """Put one zero token in the place of all patches: the mean of nothing is taken as zero."""
    prefix = normed[:, : vit.num_prefix_tokens]
    return torch.cat([prefix, normed.new_zeros(len(normed), 1, vit.embed_dim)], dim=1)


def run_masking_keys(module: nn.Module, image: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network with all tokens, of which those not `present` (t,) get no attention.

    Returns its output, (1, C), whose head sees only those present, and the image that the stem saw.
    """
    (vit,) = transformers_in(module)
    keep = torch.cat([present.new_ones(vit.num_prefix_tokens), present])
    seen = []

    def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    def select(_: nn.Module, given: Any, normed: Tensor) -> Tensor:
        return normed[:, keep]

    with _hooked(vit, stem=look, norm=select), _KeyMasking(keep):
        return module(image[None]), seen[0]


class _KeyMasking(TorchFunctionMode):
    """Gives tokens no attention, in whatever attention layer, fused or not."""

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self._keep = keep

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, keep = dict(kwargs or {}), self._keep
        if func is F.scaled_dot_product_attention:
            kwargs |= zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False)
            args = args[:3]
            plain = kwargs.get("attn_mask") is None and len(args) == 3
            if plain and args[1].shape[-2] == len(keep):
                kwargs["attn_mask"] = keep.expand(args[0].shape[-2], -1)
        elif func in (torch.softmax, F.softmax, Tensor.softmax):
            if args[0].ndim == 4 and args[0].shape[-1] == len(keep):
                args = (args[0].masked_fill(~keep, -torch.inf), *args[1:])
        return func(*args, **kwargs)


def project(module: VisionTransformer, tokens: Tensor) -> Tensor:
    """Make the first block's queries, keys and values, (t, 3 w); none if it is the last."""
    if len(module.blocks) == 1:
        return tokens[:, :0]
    first = cast(Block, module.blocks[0])
    return cast(Attention, first.attn).qkv(first.norm1(tokens))


def encode(module: VisionTransformer, tokens: Tensor, projected: Tensor) -> Tensor:
    """Run the blocks and the final norm over sets of tokens.

    `tokens` (m, t, d) are embedded, prefix tokens (class, register, distillation) first, and
    `projected` is what `project` made of them.  Returned are the tokens that the head reads,
    (m, r, d): the prefix alone where the head pools the class token, otherwise all.
    """
    *blocks, last = (cast(Block, block) for block in module.blocks)
    reads_prefix = module.global_pool == "token" and module.attn_pool is None
    n_read = module.num_prefix_tokens if reads_prefix else tokens.shape[1]
    for block in blocks:
        tokens = _run(block, tokens, tokens.shape[1], projected)
        projected = projected[..., :0]
    return module.norm(_run(last, tokens, n_read, projected[..., :0]))


def _run(block: Block, tokens: Tensor, n_read: int, projected: Tensor) -> Tensor:
    """Run one block and return its first `n_read` tokens; `projected` counts if it has width."""
    attention = cast(Attention, block.attn)
    tokens_read = tokens[:, :n_read]
    if projected.shape[-1]:
        q, k, v = _split(attention, projected, 3)
    else:
        q, k, v = _queries_keys_values(attention, block.norm1(tokens), n_read)
    tokens_read = tokens_read + block.ls1(_attend(attention, q, k, v))
    return tokens_read + block.ls2(_transform(block.mlp, block.norm2(tokens_read)))


def _transform(mlp: nn.Module, tokens: Tensor) -> Tensor:
    """Run the MLP; its hidden layer, a block's largest activation, is overwritten, not copied."""
    if type(mlp) is not Mlp or type(mlp.act) is not nn.GELU or type(mlp.norm) is not nn.Identity:
        return mlp(tokens)
    hidden = mlp.fc1(tokens)
    # the MLP is 1.03 to 1.1 times as fast in float32 on the CPU, and a third less memory is needed
    torch.ops.aten.gelu_(hidden, approximate=mlp.act.approximate)
    return mlp.fc2(hidden)


def _queries_keys_values(
    attention: Attention, tokens: Tensor, n_read: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project to queries of the first `n_read` tokens and to keys and values of all."""
    if n_read == tokens.shape[1]:
        q, k, v = _split(attention, attention.qkv(tokens), 3)
        return q, k, v
    weight, bias = attention.qkv.weight, attention.qkv.bias
    inner = attention.num_heads * attention.head_dim
    q_bias, kv_bias = (None, None) if bias is None else (bias[:inner], bias[inner:])
    (q,) = _split(attention, F.linear(tokens[:, :n_read], weight[:inner], q_bias), 1)
    k, v = _split(attention, F.linear(tokens, weight[inner:], kv_bias), 2)
    return q, k, v


def _split(attention: Attention, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Divide (m, t, parts * heads * width) into parts of shape (m, heads, t, width)."""
    m, t, _ = projected.shape
    shape = (m, t, parts, attention.num_heads, attention.head_dim)
    return projected.view(shape).permute(2, 0, 3, 1, 4).unbind()


def _attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Self-attention, shape (m, read, d), from queries (m, heads, read, width), keys, values."""
    q, k = attention.q_norm(q), attention.k_norm(k)
    mixed = _mix(q, k, v, attention.scale).transpose(1, 2).flatten(2)
    # `norm` came with later versions of timm
    return attention.proj(getattr(attention, "norm", nn.Identity())(mixed))


def _mix(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Scaled dot-product attention over (m, heads, tokens, width)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # The fused kernel computes in float32 on the CPU: two batched products are 2.5 to 3.5 times
        # as fast at 197 tokens, 1.3 to 1.5 times at 20 (ViT-Ti, one core; in float32 they lose).
        m, heads, n_read, width = q.shape
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        ignored = q.new_empty(())  # beta=0: only the scaled product counts
        scores = torch.baddbmm(ignored, q, k.transpose(1, 2), beta=0, alpha=scale)
        return torch.bmm(scores.softmax(dim=-1), v).view(m, heads, n_read, width)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
