"""Floating-point operations of a Vision Transformer and of whole searches, by formula.

A multiplication with its addition counts as two.  Only matrix products are counted: LayerNorm,
softmax, GELU and additions are work too, but no hardware states its peak in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Shape:
    """What the cost of a plain ViT depends on."""

    width: int  # d
    depth: int
    hidden: int  # width of the MLP's hidden layer
    n_patches: int
    n_prefix: int
    n_classes: int
    patch_values: int  # numbers in one patch: 3 x 16 x 16

    @classmethod
    def of(cls, module: VisionTransformer) -> Shape:
        """Read the shape off a timm model."""
        return cls(
            width=module.embed_dim,
            depth=len(module.blocks),
            hidden=module.blocks[0].mlp.fc1.out_features,
            n_patches=module.patch_embed.num_patches,
            n_prefix=module.num_prefix_tokens,
            n_classes=module.num_classes,
            patch_values=module.patch_embed.proj.weight[0].numel(),
        )


def block_flops(shape: Shape, t: int, read: int) -> float:
    """One block over t tokens of which only `read` are needed afterwards."""
    d = shape.width
    queries_and_projection = 2 * 2 * read * d * d
    keys_and_values = 2 * 2 * t * d * d
    attention = 2 * 2 * read * t * d
    mlp = 2 * 2 * read * d * shape.hidden
    return float(queries_and_projection + keys_and_values + attention + mlp)


def row_flops(shape: Shape, n_present: int, *, plain: bool) -> float:
    """One coalition: all tokens to the very end (`plain`), or as moxi_lite runs it."""
    t = n_present + shape.n_prefix
    last_read = t if plain else shape.n_prefix
    blocks = (shape.depth - 1) * block_flops(shape, t, t) + block_flops(shape, t, last_read)
    # Queries, keys and values of the first block are made once an image.
    shared = 0 if plain or shape.depth == 1 else 2 * 3 * t * shape.width**2
    return blocks - shared + 2.0 * shape.width * shape.n_classes


def embedding_flops(shape: Shape) -> float:
    """Embed one image."""
    return 2.0 * shape.n_patches * shape.patch_values * shape.width


def step_size(n: int, k: int, mode: str) -> tuple[int, int]:
    """Candidates of step k (from 0), and patches present in each of their coalitions."""
    return n - k, k + 1 if mode == "insertion" else n - k - 1


def step_flops(shape: Shape, k: int, mode: str, *, plain: bool) -> float:
    """Step k of a search that evaluates only the remaining candidates."""
    rows, present = step_size(shape.n_patches, k, mode)
    return rows * row_flops(shape, present, plain=plain)


def reference_step_flops(shape: Shape, k: int, mode: str) -> float:
    """Step k of the straightforward reference: all n candidates, each embedded again."""
    _, present = step_size(shape.n_patches, k, mode)
    return shape.n_patches * (row_flops(shape, present, plain=True) + embedding_flops(shape))


def search_flops(shape: Shape, mode: str, *, plain: bool) -> float:
    """All n steps."""
    return sum(step_flops(shape, k, mode, plain=plain) for k in range(shape.n_patches))
