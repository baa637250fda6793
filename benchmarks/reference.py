"""Greedy insertion and deletion, written straight from Algorithms 1 and 2.

This is the yardstick of the benchmark, in the style of the code that accompanies papers: one copy
of the image for every patch, all of them embedded again at every step, tokens deleted copy by
copy with lists of indices, all n candidates evaluated at every step though only those that remain
can be chosen, and every token computed to the very end.  It does one thing carefully, the
log-odds, so that its orders can be compared with moxi_lite's.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


def candidate_lists(n: int, chosen: list[int], mode: str) -> list[list[int]]:
    """Patches shown to the model for each of the n candidates, chosen ones included.

    The row of a patch that is chosen already is filler of the right length: nobody looks at it.
    """
    if mode == "insertion":
        return [[*chosen, b] for b in range(n)]
    kept = [a for a in range(n) if a not in chosen]
    lists = []
    for b in range(n):
        shown = [a for a in kept if a != b]
        lists.append(shown[: len(kept) - 1])
    return lists


@torch.no_grad()
def forward(module: VisionTransformer, images: Tensor, lists: list[list[int]]) -> Tensor:
    """Embed every image, keep the listed patches of each, and classify: logits (m, C)."""
    tokens = module.norm_pre(module._pos_embed(module.patch_embed(images)))
    kept = []
    for row, patches in enumerate(lists):
        index = torch.tensor([0] + [1 + patch for patch in patches], device=images.device)
        kept.append(tokens[row].index_select(0, index))
    tokens = torch.stack(kept)
    for block in module.blocks:
        tokens = block(tokens)
    return module.forward_head(module.norm(tokens))


def log_odds(logits: Tensor, target: int) -> Tensor:
    """Log-odds of one class, (m,)."""
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - torch.logsumexp(others, dim=1)


def step(
    module: VisionTransformer, image: Tensor, target: int, chosen: list[int], mode: str
) -> tuple[int, float, int]:
    """Take one greedy step; returns the patch, the log-odds after it, and the predicted class."""
    n = module.patch_embed.num_patches
    images = image[None].repeat(n, 1, 1, 1)
    logits = forward(module, images, candidate_lists(n, chosen, mode))
    scores = log_odds(logits, target)
    if mode == "deletion":
        scores = -scores
    for patch in chosen:
        scores[patch] = -float("inf")
    best = int(scores.argmax())
    value = float(scores[best])
    return best, value if mode == "insertion" else -value, int(logits[best].argmax())


def search(
    module: VisionTransformer,
    image: Tensor,
    target: int,
    mode: str,
    n_steps: int | None = None,
    until_flip: bool = False,
) -> tuple[list[int], list[float]]:
    """Insert or delete patch after patch; returns the order and the log-odds after each step."""
    order: list[int] = []
    values: list[float] = []
    for _ in range(n_steps or module.patch_embed.num_patches):
        patch, value, prediction = step(module, image, target, order, mode)
        order.append(patch)
        values.append(value)
        if until_flip and (prediction == target) == (mode == "insertion"):
            break
    return order, values
