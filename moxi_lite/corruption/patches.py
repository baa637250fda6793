"""Common corruptions pasted into an image by patch: a game, its curves, a strip of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from moxi_lite.corruption.common import corrupt
from moxi_lite.curves import Curve, curves_of
from moxi_lite.explanation import NotebookFigure
from moxi_lite.games import RandomState
from moxi_lite.patches import PatchGame, patch_map
from moxi_lite.search import along, checked_order


def corrupted_game(
    game: PatchGame, corruption: str, level: int, random_state: RandomState = 0
) -> PatchGame:
    """Play a game in which absent patches are corrupted instead (Sec. 5.3).

    The whole image is corrupted once, at the resolution that the network sees, and absent patches
    show what it looks like there: a blurred patch is blurred together with its neighbours. The
    network sees whole images; no token is deleted. What takes games takes this one: `curves_of`,
    `explain`, `attribute`.

    Parameters
    ----------
    game : PatchGame
        Whose model, image, target, reward and grid are kept. Its patches that are present stay
        bit-equal.
    corruption, level, random_state
        As for `corrupt`.

    Returns
    -------
    PatchGame

    Raises
    ------
    ValueError, TypeError
        As for `corrupt`.
    """
    return _painted(game, corrupt(game.display, corruption, level, random_state))


def _painted(game: PatchGame, damaged: npt.NDArray[np.uint8]) -> PatchGame:
    """Play with absent patches as in a damaged image (H, W, 3); values that are whole stay so."""
    channels = torch.from_numpy(damaged != game.display).permute(2, 0, 1)
    scaled = torch.from_numpy(damaged).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (game.model.mean, game.model.std))
    pixels = torch.where(channels, (scaled - mean) / std, game.pixels)
    return PatchGame(
        game.model, game.pixels, game.target, masking=pixels, reward=game.reward, grid=game.grid
    )


def corrupted_curves(
    game: PatchGame,
    orders: Mapping[str, npt.ArrayLike],
    corruption: str,
    level: int,
    *,
    points: npt.ArrayLike | None = None,
    random_state: RandomState = 0,
) -> dict[str, Curve]:
    """Draw deletion curves of which the patches are corrupted instead of removed (Fig. 6).

    Parameters
    ----------
    game : PatchGame
        The image, the classifier and the target class. Its masking does not matter.
    orders, points
        As for `curves_of`.
    corruption, level, random_state
        As for `corrupt`.

    Returns
    -------
    dict of str to Curve
        Of mode "deletion"; at 1 the whole image is corrupted.

    Raises
    ------
    ValueError, TypeError
        As for `corrupt` and `curves_of`.
    """
    damaged = corrupted_game(game, corruption, level, random_state)
    return curves_of(damaged, orders, "deletion", points)


def damage_strip(
    game: PatchGame,
    order: npt.ArrayLike,
    corruption: str,
    level: int,
    *,
    shares: Sequence[float] = (0, 0.05, 0.1, 0.2, 0.5, 1),
    random_state: RandomState = 0,
) -> Figure:
    """Draw an image under rising damage: as the first patches of an order are corrupted.

    Parameters
    ----------
    game : PatchGame
    order : array_like of int, shape (n,)
        Every patch once, the first to be corrupted first.
    corruption, level, random_state
        As for `corrupt`.
    shares : sequence of float
        Of the patches, 0..1: one picture each.

    Returns
    -------
    matplotlib.figure.Figure
        Under each picture stand the predicted class and its probability, in bold where it is the
        target. Not registered with pyplot.

    Raises
    ------
    ValueError, TypeError
        As for `corrupt` and `curves_of`; or a share is outside 0..1.
    """
    patches = checked_order(order, game.n_players, "order")
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares must be one or more numbers in 0..1, not {shares!r}.")
    damaged = corrupt(game.display, corruption, level, random_state)
    counts = [int(share * game.n_players + 0.5) for share in shares]
    present = along(patches, "deletion")[counts]
    said = _painted(game, damaged).outcome(present)
    cells = patch_map(damaged.shape[0], damaged.shape[1], game.grid)
    pictures = np.where(present[:, cells][..., None], game.display, damaged)
    figure = NotebookFigure(figsize=(2.1 * len(counts), 2.7), layout="constrained")
    row = figure.subplots(1, len(counts), squeeze=False)[0]
    for ax, count, image, predicted, confidence in zip(
        row,
        counts,
        pictures,
        said.predictions,
        said.confidences,
        strict=True,
    ):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[], title=f"{count} of {len(patches)}")
        ax.spines[:].set_visible(False)
        name = game.model.class_name(predicted).split(",")[0]
        weight = "bold" if predicted == game.target else "normal"
        ax.set_xlabel(f"{name[:20]}\n{confidence:.2f}", fontsize="small", fontweight=weight)
    figure.suptitle(f"patches under {corruption.replace('_', ' ')}, level {level}", fontsize=11)
    return figure
