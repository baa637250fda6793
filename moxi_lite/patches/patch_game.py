"""PatchGame: the patches of one image as players, a classifier's log-odds as reward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moxi_lite.errors import whole_number, whole_pair
from moxi_lite.games import BoolArray, FloatArray, as_coalitions
from moxi_lite.models import Classifier, evaluating, state_of
from moxi_lite.patches.batches import Batcher
from moxi_lite.patches.masking import BaselineFunction, Masking, make_masking
from moxi_lite.patches.reward import Outcome, get_reward, outcome_of


class PatchGame:
    """An image and a classifier as a cooperative game (Sec. 3 of the paper).

    The players are the patches of the image, numbered row-major from 0; the reward of a coalition
    is, by default, the log-odds of one class when only its patches are present.

    Parameters
    ----------
    model : Classifier
        From `moxi_lite.load_model`.
    image : PIL.Image.Image or Tensor, shape (3, H, W)
        A photograph, or a float tensor that the model's preprocessing has already made.
    target : int or str, optional
        Class whose reward is played for, by index or name.  None means the predicted class.
    masking : str, Tensor or callable, default "auto"
        What "absent" means: ``"drop"`` deletes the tokens of a timm Vision Transformer, also
        one inside a network of yours, after a proof that this is what the network computes
        (`TokenDeletion`; the price is three and a half passes a game instead of one);
        ``"zero"``, ``"mean"``, ``"blur"``, ``"noise"``, a baseline tensor (3, H, W) or a function
        from the image to such a tensor paint over absent pixels, for every classifier.
        ``"auto"`` means "drop" where that is defined and proven, otherwise "mean".
        A model may say what dropping means for it (`Classifier.drop_as`).
    reward : {"log_odds", "log_probability", "probability", "logit"}
        Reward of the target class.
    grid : int or tuple of int, optional
        Rows and columns of patches, one number for both if they are equal.  None means the
        model's own grid; token deletion needs one that is not finer than its tokens.
    batch_size : int, optional
        Most coalitions in one forward pass.  None adapts it to the device's memory.  It is halved
        whenever the device runs out of memory.
    dtype : torch.dtype or "mixed", optional
        Precision of the forward passes; rewards are always computed in float32.
        None means float32.  ``"mixed"`` lets `explain` screen candidates in bfloat16 and decide
        among the best few in float32, and `attribute` sample in bfloat16; all else is float32.

    Attributes
    ----------
    n_players : int
        Number of patches.
    grid : tuple of int
        Rows and columns of patches.
    target, predicted : int
        Class played for, and class predicted for the whole image.
    masking, reward : str
        Names of the masking played with ("drop", "mean", ..., "custom" for an own baseline; never
        "auto") and of the reward.
    display : ndarray of uint8, shape (H, W, 3)
        The preprocessed image, to look at.
    pixels : Tensor, float32, shape (3, H, W)
        The preprocessed image, on the CPU.
    n_evaluations : int
        Coalitions evaluated so far.

    Raises
    ------
    TypeError
        If model, image or dtype is of the wrong kind.
    ValueError
        If the image has the wrong shape or holds NaN or Inf, or masking, reward, grid or batch
        size is not valid for this model.
    IndexError
        If the target is outside the model's classes.
    RuntimeError
        When called, if the network's weights, layers, hooks or device have changed since.  Writes
        through ``.data``, plain attributes and buffers are not watched: make a new game then.

    Examples
    --------
    >>> model = load_model("vit_tiny_patch16_224")              # doctest: +SKIP
    >>> game = PatchGame(model, load_image("cat.jpg"))          # doctest: +SKIP
    >>> game(np.ones(game.n_players, dtype=bool))               # doctest: +SKIP
    array([8.31])
    """

    def __init__(
        self,
        model: Classifier,
        image: Image.Image | Tensor,
        target: int | str | None = None,
        masking: str | Tensor | BaselineFunction = "auto",
        reward: str = "log_odds",
        grid: int | tuple[int, int] | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        if not isinstance(model, Classifier):
            raise TypeError(
                f"model must be a Classifier, not {type(model).__name__}: "
                "wrap it with moxi_lite.load_model(your_module)."
            )
        get_reward(reward)  # refuses unknown names
        self.reward = reward
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, 1)
        pixels = _as_pixels(model, image)
        self.model = model
        self.grid = whole_pair("grid", model.grid if grid is None else grid)
        self.display = model.display(pixels)
        self.pixels = pixels.cpu()
        self.n_evaluations = 0
        self._batcher = Batcher(model.device, batch_size)
        self._state = state_of(model.module)
        deciding, screening = _precisions(dtype)
        asked = masking
        if torch.finfo(deciding).bits < 32 and isinstance(masking, str):
            # what rounding would hide from the proof of token deletion, float32 shows
            asked = self._masking_in(torch.float32, masking).name
        self._masking = self._masking_in(deciding, asked)
        self.masking = self._masking.name
        self._screen_masking = self._masking
        if screening != deciding:
            asked = masking if self.masking == "custom" else self.masking
            self._screen_masking = self._masking_in(screening, asked)

        if self._masking.whole is None:
            full = torch.from_numpy(self.logits(np.ones(self.n_players, dtype=bool)))
        else:
            full = model.to_logits(self._masking.whole)
        if not bool(torch.isfinite(full).all()):
            raise ValueError(
                f"{model.name} returns NaN or infinite scores for the whole image: check its "
                "weights, or choose a dtype with a larger range (bfloat16, float32)."
            )
        self.predicted = int(full.argmax())
        self.target = self.predicted if target is None else model.class_index(target)
        self.n_evaluations = 0

    def _masking_in(self, dtype: torch.dtype, masking: str | Tensor | BaselineFunction) -> Masking:
        return make_masking(
            self.model, self.pixels.to(self.model.device, dtype), masking, self.grid
        )

    @property
    def screens(self) -> bool:
        """Whether searches screen candidates in bfloat16 (``dtype="mixed"``)."""
        return self._screen_masking is not self._masking

    @property
    def n_players(self) -> int:
        """Number of patches, n."""
        return self._masking.n_players

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        """Evaluate the reward of coalitions.

        Parameters
        ----------
        coalitions : ndarray of bool, shape (m, n) or (n,)
            True where a patch is present.

        Returns
        -------
        ndarray of float64, shape (m,)
        """
        return self.outcome(coalitions).rewards

    def outcome(self, coalitions: BoolArray) -> Outcome:
        """Evaluate rewards, predicted classes and their probabilities in one pass.

        Takes coalitions as a call of the game does: bool (m, n) or (n,).
        """
        return outcomes([(self, coalitions)])[0]

    def logits(self, coalitions: BoolArray) -> np.ndarray:
        """Evaluate the raw scores of all classes: float32 (m, C) of coalitions (m, n) or (n,)."""
        return _run([(self, coalitions)], screening=False)[0]

    def facts(self, classes: Iterable[int]) -> dict[str, Any]:
        """Fields of an `Explanation` of this game in which `classes` occur besides the target."""
        return {
            "target": self.target,
            "grid": self.grid,
            "labels": {i: self.model.class_name(i) for i in sorted({self.target, *classes})},
            "image": self.display,
            "model": self.model.name,
            "masking": self.masking,
            "reward": self.reward,
        }


Request = tuple[PatchGame, BoolArray]  # coalitions, shape (m, n) or (n,), of one game


def outcomes(requests: Sequence[Request], screening: bool = False) -> list[Outcome]:
    """Evaluate coalitions, bool (m, n) or (n,), of games; those of one network share batches.

    `screening` evaluates in bfloat16 those games that were made with ``dtype="mixed"``.
    """
    logits = _run(requests, screening)
    return [
        outcome_of(rows, game.target, game.reward, game.model.outputs)
        for (game, _), rows in zip(requests, logits, strict=True)
    ]


def _run(requests: Sequence[Request], screening: bool) -> list[np.ndarray]:
    """Return the logits (m, C) of every request; those of one device run together."""
    by_device: dict[torch.device, list[int]] = {}
    tasks = []
    states = {each: state_of(each) for each in {game.model.module for game, _ in requests}}
    for number, (game, coalitions) in enumerate(requests):
        checked = as_coalitions(coalitions, game.n_players)
        if game._state != states[game.model.module]:
            raise RuntimeError(
                f"{game.model.name} has changed since this game was made (its weights, layers, "
                "hooks or device): make a new PatchGame."
            )
        game.n_evaluations += len(checked)
        tasks.append((game._screen_masking if screening else game._masking, checked))
        by_device.setdefault(game.model.device, []).append(number)
    results: dict[int, np.ndarray] = {}
    with evaluating(*{masking.module for masking, _ in tasks}):
        for numbers in by_device.values():
            batchers = [requests[number][0]._batcher for number in numbers]
            batcher = min(batchers, key=lambda each: each.limits)
            found = batcher.run([tasks[number] for number in numbers])
            results |= zip(numbers, found, strict=True)
    logits = []
    for number, (game, _) in enumerate(requests):
        said = game.model.to_logits(torch.from_numpy(results[number])).numpy()
        logits.append(said.reshape(-1, game.model.n_classes))
    return logits


def _as_pixels(model: Classifier, image: Image.Image | Tensor) -> Tensor:
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"the image has no pixels: its size is {image.size}.")
        return model.preprocess(image)
    if not isinstance(image, Tensor):
        raise TypeError(
            f"image must be a PIL image or a preprocessed tensor (3, H, W), not "
            f"{type(image).__name__}: open files and arrays with moxi_lite.load_image."
        )
    expected = (3, *model.input_size)
    if tuple(image.shape) != expected or not image.is_floating_point():
        raise ValueError(
            f"a preprocessed image must be a float tensor of shape {expected}, but is "
            f"{image.dtype} {tuple(image.shape)}: pass a PIL image, or model.preprocess(it)."
        )
    if not bool(torch.isfinite(image).all()):
        raise ValueError("the image holds NaN or Inf pixels: expected finite numbers.")
    return image.detach().clone().float()  # the caller may write into it later


def _precisions(dtype: torch.dtype | str | None) -> tuple[torch.dtype, torch.dtype]:
    """Return the precisions that decide and that screen."""
    if dtype is None:
        return torch.float32, torch.float32
    if dtype == "mixed":
        return torch.float32, torch.bfloat16
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f'dtype must be a torch.dtype such as torch.bfloat16, or "mixed", not {dtype!r}.'
        )
    return dtype, dtype
