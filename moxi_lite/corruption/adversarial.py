"""Adversarial perturbations restricted to patches: FGSM, I-FGSM and PGD."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moxi_lite.curves import Curve, checked_points, curves_of_logits
from moxi_lite.errors import unknown_name, whole_number
from moxi_lite.games import BoolArray, as_coalitions
from moxi_lite.models import Classifier, evaluating
from moxi_lite.patches import PatchGame, log_odds, patch_map
from moxi_lite.search import along, checked_order

ATTACKS = ("fgsm", "i-fgsm", "pgd")


def attack(
    game: PatchGame,
    patches: BoolArray,
    method: str = "pgd",
    *,
    epsilon: float = 8 / 255,
    steps: int = 10,
    random_state: int = 0,
    batch_size: int = 16,
) -> Tensor:
    r"""Perturb patches of an image so that its target class is no longer seen (App. G.2).

    Untargeted, within :math:`\|\delta\|_\infty \le \epsilon` and within the image's range 0..1:

    .. math:: \delta \leftarrow \Pi\left[\delta - \alpha\,\mathrm{sign}\,\nabla_\delta f(x +
       \delta)\right],

    where :math:`f` is the log-odds of the target. Their gradient has the sign of that of the
    negative cross-entropy, which vanishes where the network is sure.

    Parameters
    ----------
    game : PatchGame
        The image, the classifier and the target class. Its masking does not matter: the network
        sees whole images.
    patches : ndarray of bool, shape (m, n) or (n,)
        True where the image may be perturbed: m sets of patches, each attacked on its own.
    method : {"fgsm", "i-fgsm", "pgd"}
        One step of epsilon (Goodfellow et al.); `steps` of epsilon / steps (Kurakin et al., also
        called BIM); `steps` of 2.5 epsilon / steps from a random start in the ball (Madry et al.).
    epsilon : float
        Largest change of a value in 0..1.
    steps : int
        Of the methods that take several.
    random_state : int
        Seed of the random start, the same for all sets.
    batch_size : int
        Most images at once, with what their gradients need.

    Returns
    -------
    Tensor, float32, shape (m, 3, H, W)
        Preprocessed images on the CPU. All patches but those chosen are bit-equal to
        ``game.pixels``.

    Raises
    ------
    ValueError
        If the method is unknown, epsilon outside 0..1, or no gradient reaches the pixels.
    TypeError
        If `steps`, `random_state` or `batch_size` is no whole number.
    """
    if method not in ATTACKS:
        raise unknown_name("attack", method, ATTACKS)
    if not 0 <= epsilon <= 1:
        raise ValueError(
            f"epsilon must be in 0..1, the range of pixels, got {epsilon!r} (8 of 255 is 8 / 255)."
        )
    steps = 1 if method == "fgsm" else whole_number("steps", steps, 1)
    batch_size = whole_number("batch_size", batch_size, 1)
    chosen = as_coalitions(patches, game.n_players)
    height, width = game.pixels.shape[1:]
    allowed = torch.from_numpy(chosen[:, patch_map(height, width, game.grid)])[:, None]
    mean, std = (torch.tensor(each)[:, None, None] for each in (game.model.mean, game.model.std))
    shown = game.pixels * std + mean  # in 0..1
    lowest, highest = (-shown).clamp(-epsilon, 0), (1 - shown).clamp(0, epsilon)
    start, size = torch.zeros_like(shown), epsilon / steps
    if method == "pgd":
        seeded = torch.Generator().manual_seed(whole_number("random_state", random_state, 0))
        uniform = torch.rand(shown.shape, generator=seeded)
        start, size = (epsilon * (2 * uniform - 1)).clamp(lowest, highest), 2.5 * epsilon / steps
    perturbed = []
    for mask in allowed.split(batch_size):
        delta = start * mask
        for _ in range(steps):
            uphill = pixel_gradient(game, game.pixels + delta / std) / std
            delta = (delta - size * uphill.sign() * mask).clamp(lowest, highest)
        perturbed.append(game.pixels + delta / std)
    return torch.cat(perturbed)


def pixel_gradient(game: PatchGame, images: Tensor) -> Tensor:
    """Differentiate the log-odds of the target by preprocessed images, (m, 3, H, W), on the CPU.

    Gradients do not accumulate in the network. ValueError says that none reaches the images.
    """
    model = game.model
    # a graph cannot be recorded in inference mode, which the caller may be in
    with torch.inference_mode(False), torch.enable_grad():
        inputs = images.to(model.device, copy=True).requires_grad_()
        logits = _logits(model, inputs)
        if model.outputs == "multilabel":
            total = logits[:, game.target].sum()
        else:
            total = log_odds(logits, game.target).sum()
        (gradient,) = (
            torch.autograd.grad(total, inputs, allow_unused=True)
            if total.requires_grad
            else (None,)
        )
    if gradient is None:
        raise ValueError(
            f"no gradient of the class's score reaches the pixels of {model.name}: it detaches "
            "them, or is not differentiable, as quantised (int8) networks are. Attack the network "
            "as it was before it was quantised."
        )
    return gradient.cpu()


def _logits(model: Classifier, images: Tensor) -> Tensor:
    """Run the network in float32, as a game does by default."""
    module = model.module_in(torch.float32)
    with evaluating(module):
        return model.to_logits(module(images.to(model.device)))


def adversarial_curves(
    game: PatchGame,
    orders: Mapping[str, npt.ArrayLike],
    method: str = "pgd",
    *,
    points: npt.ArrayLike | None = None,
    epsilon: float = 8 / 255,
    steps: int = 10,
    random_state: int = 0,
    batch_size: int = 16,
) -> dict[str, Curve]:
    """Draw deletion curves of which the patches are attacked instead of removed (App. G.2).

    At each point the first patches of the order are attacked together, from the unperturbed image.

    Parameters
    ----------
    game, method, epsilon, steps, random_state, batch_size
        As for `attack`.
    orders, points
        As for `curves_of`; each point costs `steps` passes back and forth.

    Returns
    -------
    dict of str to Curve
        Of mode "deletion"; at 1 the whole image is attacked.

    Raises
    ------
    ValueError, TypeError
        As for `attack` and `curves_of`.
    """
    n = game.n_players
    checked = [checked_order(order, n, name) for name, order in orders.items()]
    at = checked_points(points, n)
    present = np.concatenate([along(order, "deletion")[at] for order in checked])
    images = attack(
        game,
        ~present,
        method,
        epsilon=epsilon,
        steps=steps,
        random_state=random_state,
        batch_size=batch_size,
    )
    with torch.no_grad():
        logits = torch.cat([_logits(game.model, batch) for batch in images.split(batch_size)])
    return curves_of_logits(game, list(orders), at, logits.cpu().numpy(), "deletion")
