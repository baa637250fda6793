"""Running coalitions of one or many images through a network in dense batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from moxi_lite.games import BoolArray
from moxi_lite.patches.masking import Masking

Task = tuple[Masking, BoolArray]  # coalitions, shape (m, n), of one image

# Large enough to fill two cores, small enough to stay in their cache: 15 full-size sequences of
# ViT-Ti in float32, measured as the fastest.
_CPU_BATCH_BYTES = 32 * 2**20

# What CPUs (Linux, Windows), CUDA's libraries and Apple's GPUs say.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class Batcher:
    """Runs coalitions in batches that fit the device's memory, and remembers what fits."""

    def __init__(self, device: torch.device, batch_size: int | None = None) -> None:
        self._device = device
        self._batch_size = batch_size
        self._bytes = _CPU_BATCH_BYTES
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            self._bytes = (free + cached) // 3

    def run(self, tasks: Sequence[Task]) -> list[np.ndarray]:
        """Return what the networks say in all tasks, float32 arrays of shape (m, C).

        Coalitions that cost the same share batches, whichever image they belong to.  The batch is
        halved when memory runs out; MemoryError says that not even one coalition fits.
        """
        results: list[np.ndarray | None] = [None] * len(tasks)  # allocated once C is known
        for group in _groups(tasks):
            start = 0
            while start < len(group):
                rows = group[start : start + self._rows_per_batch(tasks, group[start])]
                logits = self._try_forward(tasks, rows)
                if logits is None:
                    self._shrink(tasks, rows)
                    continue
                for task in np.unique(rows[:, 0]):
                    if results[task] is None:
                        results[task] = np.empty((len(tasks[task][1]), logits.shape[1]), np.float32)
                    mine = rows[:, 0] == task
                    results[task][rows[mine, 1]] = logits[mine]  # type: ignore[index]
                start += len(rows)
        return [np.empty((0, 0), np.float32) if found is None else found for found in results]

    def _forward(self, tasks: Sequence[Task], rows: np.ndarray) -> np.ndarray:
        inputs = []
        for task in np.unique(rows[:, 0]):
            masking, coalitions = tasks[task]
            chosen = torch.from_numpy(coalitions[rows[rows[:, 0] == task, 1]])
            inputs.append(masking.inputs(chosen.to(self._device)))
        # the maskings of a group differ in their image alone, so any of them can run the batch
        masking = tasks[rows[0, 0]][0]
        batch = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        return masking.forward(batch).float().reshape(len(batch), -1).cpu().numpy()

    def _try_forward(self, tasks: Sequence[Task], rows: np.ndarray) -> np.ndarray | None:
        """Return the logits, or None if the batch does not fit."""
        try:
            return self._forward(tasks, rows)
        except RuntimeError as error:
            # torch.cuda.OutOfMemoryError says "out of memory", too
            if not any(words in str(error) for words in _OUT_OF_MEMORY):
                raise
            return None

    def _rows_per_batch(self, tasks: Sequence[Task], row: np.ndarray) -> int:
        fitting = max(1, self._bytes // _row_cost(tasks, row))
        return fitting if self._batch_size is None else min(fitting, self._batch_size)

    def _shrink(self, tasks: Sequence[Task], rows: np.ndarray) -> None:
        """Allow half of what a batch that did not fit needs."""
        if len(rows) == 1:
            raise MemoryError(
                f"not even one image fits into the memory of {self._device}: free some memory, "
                "use a smaller model, or load it with device='cpu'."
            )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._bytes = len(rows) * _row_cost(tasks, rows[0]) // 2

    @property
    def limits(self) -> tuple[float, int]:
        """Most rows and most bytes of a batch; the smallest of several is safe for all."""
        return self._batch_size or float("inf"), self._bytes


def _groups(tasks: Sequence[Task]) -> Iterator[np.ndarray]:
    """Yield groups of (task, row) pairs, int (k, 2), that may share a batch."""
    members: dict[object, list[np.ndarray]] = {}
    for number, (masking, coalitions) in enumerate(tasks):
        sizes = masking.sizes(coalitions)
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            pairs = np.stack([np.full(len(rows), number), rows], axis=1)
            members.setdefault((*masking.kind, int(size)), []).append(pairs)
    for parts in members.values():
        yield np.concatenate(parts)


def _row_cost(tasks: Sequence[Task], row: np.ndarray) -> int:
    masking, coalitions = tasks[row[0]]
    return masking.row_cost(int(masking.sizes(coalitions[row[1:]])[0]))
