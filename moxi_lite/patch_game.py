"""PatchGame: the patches of one image as players, a classifier's log-odds as reward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moxi_lite.classifier import Classifier
from moxi_lite.game import BoolArray, FloatArray, as_coalitions
from moxi_lite.masking import BaselineFunction, equal_size_rows, make_masking
from moxi_lite.reward import get_reward

# Large enough to fill two cores, small enough to stay in their cache: 15 full-size sequences of
# ViT-Ti in float32, measured as the fastest.
_CPU_BATCH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What a classifier says about m coalitions; unpacks into ``rewards, predictions``.

    Attributes
    ----------
    rewards : ndarray of float64, shape (m,)
        The game's reward of the target class.
    predictions : ndarray of int64, shape (m,)
        The classes with the highest score.
    confidences : ndarray of float64, shape (m,)
        Softmax probabilities, 0..1, of these classes.
    """

    rewards: FloatArray
    predictions: np.ndarray
    confidences: FloatArray

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rewards, then the predictions."""
        return iter((self.rewards, self.predictions))


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
    masking : str, Tensor or callable, default "drop"
        What "absent" means: ``"drop"`` deletes the tokens of plain Vision Transformers;
        ``"zero"``, ``"mean"``, ``"blur"``, ``"noise"``, a baseline tensor (3, H, W) or a function
        from the image to such a tensor paint over absent pixels, for every classifier.
    reward : {"log_odds", "log_probability", "probability", "logit"}
        Reward of the target class.
    grid : tuple of int, optional
        Rows and columns of patches.  None means the model's own grid; token deletion needs one
        that divides it.
    batch_size : int, optional
        Most coalitions in one forward pass.  None adapts it to the device's memory.  It is halved
        whenever the device runs out of memory.
    dtype : torch.dtype, optional
        Precision of the forward passes; rewards are always computed in float32.
        None means float32.

    Attributes
    ----------
    n_players : int
        Number of patches.
    grid : tuple of int
        Rows and columns of patches.
    target, predicted : int
        Class played for, and class predicted for the whole image.
    masking, reward : str
        Names of the masking ("custom" for an own baseline) and of the reward.
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
        masking: str | Tensor | BaselineFunction = "drop",
        reward: str = "log_odds",
        grid: tuple[int, int] | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, Classifier):
            raise TypeError(
                f"model must be a Classifier, not {type(model).__name__}: "
                "wrap it with moxi_lite.load_model(your_module)."
            )
        self._reward_of = get_reward(reward)
        self.reward = reward
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        pixels = _as_pixels(model, image)
        dtype = _check_dtype(dtype)
        module = model.module
        if dtype != torch.float32:
            module = copy.deepcopy(module).to(dtype)

        self.model = model
        self.grid = _check_grid(model.grid if grid is None else grid)
        self.masking = masking if isinstance(masking, str) else "custom"
        self.display = model.display(pixels)
        self.pixels = pixels.cpu()
        self.n_evaluations = 0
        self._device = model.device
        self._batch_size = batch_size
        self._masking = make_masking(module, pixels.to(model.device, dtype), masking, self.grid)
        self._batch_bytes = _memory_budget(model.device)

        full = torch.from_numpy(self.logits(np.ones(self.n_players, dtype=bool)))
        self.predicted = int(full.argmax())
        self.target = self.predicted if target is None else model.class_index(target)
        self.n_evaluations = 0

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

        Parameters
        ----------
        coalitions : ndarray of bool, shape (m, n) or (n,)
            True where a patch is present.

        Returns
        -------
        Outcome
        """
        logits = torch.from_numpy(self.logits(coalitions))
        confidences, predictions = torch.softmax(logits, dim=1).max(dim=1)
        return Outcome(
            rewards=self._reward_of(logits, self.target).double().numpy(),
            predictions=predictions.numpy(),
            confidences=confidences.double().numpy(),
        )

    def logits(self, coalitions: BoolArray) -> np.ndarray:
        """Evaluate the raw scores of all classes.

        Parameters
        ----------
        coalitions : ndarray of bool, shape (m, n) or (n,)
            True where a patch is present.

        Returns
        -------
        ndarray of float32, shape (m, C)
        """
        coalitions = as_coalitions(coalitions, self.n_players)
        self.n_evaluations += len(coalitions)
        if len(coalitions) == 0:
            return np.empty((0, self.model.n_classes), dtype=np.float32)
        groups = (
            equal_size_rows(coalitions)
            if self._masking.needs_equal_sizes
            else [np.arange(len(coalitions))]
        )
        done = [(rows, self._forward(coalitions[rows])) for rows in groups]
        logits = np.empty((len(coalitions), done[0][1].shape[1]), dtype=np.float32)
        for rows, values in done:
            logits[rows] = values
        return logits

    def _forward(self, coalitions: BoolArray) -> np.ndarray:
        """Run coalitions of one size in batches, halving the batch when memory runs out."""
        parts: list[np.ndarray] = []
        start = 0
        while start < len(coalitions):
            size = self._rows_per_batch(int(coalitions[start].sum()))
            batch = torch.from_numpy(coalitions[start : start + size]).to(self._device)
            try:
                parts.append(self._masking.logits(batch).float().cpu().numpy())
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(min(size, len(batch)), error)
                continue
            start += size
        return np.concatenate(parts)

    def _rows_per_batch(self, n_present: int) -> int:
        rows = max(1, self._batch_bytes // self._masking.row_cost(n_present))
        return rows if self._batch_size is None else min(rows, self._batch_size)

    def _shrink(self, rows: int, error: RuntimeError) -> None:
        if rows == 1:
            raise MemoryError(
                f"not even one image fits into the memory of {self._device}: free some memory, "
                "use a smaller model, or load it with device='cpu'."
            ) from error
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._batch_size = rows // 2


def _as_pixels(model: Classifier, image: Image.Image | Tensor) -> Tensor:
    if isinstance(image, Image.Image):
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
    return image.detach().float()


def _check_grid(grid: tuple[int, int]) -> tuple[int, int]:
    if len(grid) != 2 or any(int(side) != side or side < 1 for side in grid):
        raise ValueError(f"grid must be two positive whole numbers (rows, columns), not {grid!r}.")
    return int(grid[0]), int(grid[1])


def _check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a torch.dtype such as torch.bfloat16, not {dtype!r}.")
    return dtype


def _memory_budget(device: torch.device) -> int:
    """Bytes of activations that one batch may hold."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 3
    return _CPU_BATCH_BYTES


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
