"""What training the SET-SUM models consists of: augmented digits, and one loss per network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from moxi_lite.data import DIGIT_SIDE, DigitPool
from moxi_lite.models import SetSumResNet


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training run; `steps` counts all steps, the first `digit_steps` included."""

    steps: int
    digit_steps: int = 300  # first, single digits only
    digit_batch: int  # digits a step while there are single digits
    batch_cells: int = 512  # digits a step afterwards
    learning_rate: float
    hold: float  # fraction of the steps before the learning rate starts to fall
    weight_decay: float = 0.05
    warmup: int = 50
    distortion: float  # 1: see `distort`
    presence_weight: float
    cell_weight: float


CNN = Recipe(
    steps=4000,
    digit_batch=256,
    learning_rate=3e-3,
    hold=0.3,
    distortion=1.0,
    presence_weight=3.0,
    cell_weight=0.0,
)
RECIPES = {
    "cnn": replace(CNN, steps=5000),
    "cnn_plain": CNN,
    "vit": Recipe(
        steps=10_000,
        digit_batch=512,
        learning_rate=1e-3,
        hold=0.4,
        distortion=0.8,
        presence_weight=10.0,
        cell_weight=1.0,
    ),
}


class DigitSampler:
    """Draws digits of a pool at random, each distorted anew; the generator alone is random."""

    def __init__(self, pool: DigitPool, distortion: float, generator: torch.Generator) -> None:
        self._images = torch.from_numpy(pool.images.copy()).float() / 255
        self._labels = torch.from_numpy(pool.labels.copy())
        self._distortion = distortion
        self.generator = generator

    def draw(self, n: int, cells: int) -> tuple[Tensor, Tensor]:
        """Return images, float (n, cells, 28, 28) in 0..1, and digits, int64 (n, cells)."""
        ids = torch.randint(len(self._images), (n * cells,), generator=self.generator)
        images = distort(self._images[ids], self._distortion, self.generator)
        shape = (n, cells, DIGIT_SIDE, DIGIT_SIDE)
        return images.view(shape), self._labels[ids].view(n, cells)


def distort(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Bend images a little, float (m, 28, 28).

    At strength 1: rotation up to 15 degrees, scale of each axis 0.85..1.15, shear up to 0.2, shift
    up to 2 pixels, and a smooth random displacement of 1 pixel standard deviation on a 5 x 5 mesh.
    """

    def uniform(low: float, high: float) -> Tensor:
        unit = torch.rand(len(images), generator=generator)
        return low + (high - low) * unit

    angle = uniform(-0.26, 0.26) * strength
    width, height = 1 + uniform(-0.15, 0.15) * strength, 1 + uniform(-0.15, 0.15) * strength
    shear = uniform(-0.2, 0.2) * strength
    right, down = uniform(-0.14, 0.14) * strength, uniform(-0.14, 0.14) * strength
    first = torch.stack([angle.cos() * width, shear - angle.sin() * height, right], dim=1)
    second = torch.stack([angle.sin() * width, angle.cos() * height, down], dim=1)
    side = (DIGIT_SIDE, DIGIT_SIDE)
    where = F.affine_grid(
        torch.stack([first, second], dim=1), [len(images), 1, *side], align_corners=False
    )
    mesh = torch.randn(len(images), 2, 5, 5, generator=generator) * 0.07 * strength
    bend = F.interpolate(mesh, size=side, mode="bicubic", align_corners=True)
    where = where + bend.permute(0, 2, 3, 1)
    return F.grid_sample(images[:, None], where, align_corners=False)[:, 0]


def tile(cells: Tensor) -> Tensor:
    """Four cells, float (n, 4, 28, 28), become grey RGB composites (n, 3, 56, 56)."""
    n, side = len(cells), 2 * DIGIT_SIDE
    rows = cells.view(n, 2, 2, DIGIT_SIDE, DIGIT_SIDE).permute(0, 1, 3, 2, 4)
    return rows.reshape(n, 1, side, side).expand(-1, 3, -1, -1)


def occurring(digits: Tensor, visible: Tensor) -> Tensor:
    """Which digits are to be seen: int64 and bool (n, k) to int64 (n, 10)."""
    return (F.one_hot(digits, 10) * visible[..., None]).amax(dim=1)


class PlainCnnTrainee(nn.Module):
    """The ResNet, with a head that only training uses: which of the ten digits are there?

    From random weights the sum alone teaches the network nothing for a long while: its loss lies
    on a plateau.  So the network first looks at single digits (28 x 28 pixels), then at full
    composites, and always also tells which digits are there.  It never sees a blank cell.
    """

    def __init__(self, network: SetSumResNet, recipe: Recipe) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.presence = nn.Linear(network.head.in_features, 10)
        self.recipe = recipe

    def loss(self, sampler: DigitSampler, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss to minimise, its part for the label, and the share of right labels."""
        if step < self.recipe.digit_steps:
            cells, digits = sampler.draw(self.recipe.digit_batch, 1)
            visible = torch.ones_like(digits, dtype=torch.bool)
            images = cells.expand(-1, 3, -1, -1)
        else:
            cells, digits = sampler.draw(self.recipe.batch_cells // 4, 4)
            visible = self.visible(len(cells), sampler.generator)
            images = tile(cells * visible[..., None, None])
        features = self.network.features(images.contiguous(memory_format=torch.channels_last))
        there = occurring(digits, visible)
        logits, labels = self.network.head(features).float(), there @ torch.arange(10)
        label_loss = F.cross_entropy(logits, labels)
        noted = F.binary_cross_entropy_with_logits(self.presence(features).float(), there.float())
        right = (logits.argmax(dim=1) == labels).float().mean()
        return label_loss + self.recipe.presence_weight * noted, label_loss, right

    def visible(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw which cells of n composites are shown, bool (n, 4): here all."""
        return torch.ones(n, 4, dtype=torch.bool)


class CnnTrainee(PlainCnnTrainee):
    """The ResNet, with a head that only training uses: which of the ten digits are there?

    From random weights the sum alone teaches the network nothing for a long while: its loss lies
    on a plateau.  So the network first looks at single digits (28 x 28 pixels), then at
    composites, and always also tells which digits are there.  Of half of the composites some or
    all cells are black, and the label is the sum of the distinct digits *visible* (0 if none is),
    which is what the task says of such an image; so f(S) is the reward of the digits in S.
    """

    visible_odds = (0.02, 0.08, 0.15, 0.25, 0.5)  # of no to four visible cells

    def visible(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw how many cells of each composite are shown, then which: bool (n, 4)."""
        odds = torch.tensor(self.visible_odds)
        count = torch.multinomial(odds, n, replacement=True, generator=generator)
        ranks = torch.rand(n, 4, generator=generator).argsort(dim=1).argsort(dim=1)
        return ranks < count[:, None]


class VitTrainee(nn.Module):
    """The ViT, with two heads that only training uses, and absent tokens from the first step.

    Whole cells are absent at random: one to four of them are visible, and the label is the sum of
    the distinct digits *visible*, which is what the task says of such an image; so f(S) is the
    reward of the digits in S.  In half of the steps up to half of the tokens of visible cells are
    absent as well, and the label stays: a digit can be read from a part of it.  Absent tokens are
    deleted, never painted over.  The training heads name the digit of each cell from the mean of
    its tokens, and the digits that are there from the class token.
    """

    visible_odds = (0.1, 0.15, 0.25, 0.5)  # of one to four visible cells, after the single digits

    def __init__(self, network: VisionTransformer, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        for block in network.blocks:  # in bfloat16 on a CPU the fused kernel's gradient is slow
            block.attn.fused_attn = False
        self.presence = nn.Linear(network.embed_dim, 10)
        self.cell = nn.Linear(network.embed_dim, 10)
        self.recipe = recipe
        side = network.patch_embed.grid_size[0]
        cell_of = torch.arange(side) * 2 // side
        numbers = (cell_of[:, None] * 2 + cell_of).flatten()
        tokens = torch.stack([torch.nonzero(numbers == cell)[:, 0] for cell in range(4)])
        self.register_buffer("cell_tokens", tokens, persistent=False)

    def loss(self, sampler: DigitSampler, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss to minimise, its part for the label, and the share of right labels."""
        rng = sampler.generator
        k, size = 1, self.recipe.digit_batch
        if step >= self.recipe.digit_steps:
            k = int(torch.multinomial(torch.tensor(self.visible_odds), 1, generator=rng)) + 1
            size = self.recipe.batch_cells // k
        cells, digits = sampler.draw(size, k)
        visible = torch.rand(size, 4, generator=rng).argsort(dim=1)[:, :k]
        canvas = torch.zeros(size, 4, DIGIT_SIDE, DIGIT_SIDE)
        canvas[torch.arange(size)[:, None], visible] = cells
        present = self.cell_tokens[visible].flatten(1)
        per_cell = self.cell_tokens.shape[1]
        thinned = bool(torch.rand(1, generator=rng) < 0.5)
        if thinned:
            n_kept = int(k * per_cell * (1 + torch.rand(1, generator=rng).item()) / 2)
            order = torch.rand(present.shape, generator=rng).argsort(dim=1)
            present = present.gather(1, order[:, :n_kept])

        tokens = self.network._pos_embed(self.network.patch_embed(tile(canvas)))
        kept = tokens[:, 1:].gather(1, present[..., None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([tokens[:, :1], kept], dim=1)
        tokens = self.network.norm(self.network.blocks(tokens))
        there = occurring(digits, torch.ones_like(digits, dtype=torch.bool))
        logits, labels = self.network.head(tokens[:, 0]).float(), there @ torch.arange(10)
        label_loss = F.cross_entropy(logits, labels)
        noted = F.binary_cross_entropy_with_logits(
            self.presence(tokens[:, 0]).float(), there.float()
        )
        total = label_loss + self.recipe.presence_weight * noted
        if not thinned:
            cell_means = tokens[:, 1:].reshape(size, k, per_cell, -1).mean(dim=2)
            named = self.cell(cell_means).float()
            cell_loss = F.cross_entropy(named.flatten(0, 1), digits.flatten())
            total = total + self.recipe.cell_weight * cell_loss
        right = (logits.argmax(dim=1) == labels).float().mean()
        return total, label_loss, right
