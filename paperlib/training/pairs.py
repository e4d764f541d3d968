"""What a network learns from, and in which order: a function of seed and step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Pairs(Dataset):
    """Signals with the condition tokens of their images.

    Parameters
    ----------
    signals : ndarray of shape (N, R, C, T)
        Signals of each image; may be a memory map.
    rows : ndarray of int
        Images to use.
    context : callable
        Rows of images -> tokens, ndarray of shape (B, L, D).
    scale : float
        Signals are divided by it.
    """

    def __init__(
        self,
        signals: np.ndarray,
        rows: Sequence[int],
        *,
        context: Callable[[np.ndarray], np.ndarray],
        scale: float,
    ):
        self.signals = signals
        self.rows = np.asarray(rows)
        self.context = context
        self.scale = np.float32(scale)

    def __len__(self) -> int:
        """Count pairs: an image has as many as it has repetitions."""
        return len(self.rows) * self.signals.shape[1]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read a batch: signals (B, C, T) and tokens (B, L, D)."""
        images, repetitions = np.divmod(indices, self.signals.shape[1])
        images = self.rows[images]
        signals = self.signals[images, repetitions] / self.scale
        return torch.from_numpy(signals), torch.from_numpy(self.context(images))

    def batches(
        self, batch_size: int, device: str | torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in order, as :meth:`__getitems__` reads them."""
        for start in range(0, len(self), batch_size):
            signals, tokens = self.__getitems__(
                range(start, min(start + batch_size, len(self)))
            )
            yield signals.to(device), tokens.to(device)


@dataclass(frozen=True)
class Batches:
    """Indices of this process's share of each batch; an epoch is a permutation."""

    size: int
    batch_size: int
    steps: range
    seed: int
    share: slice

    def __len__(self) -> int:
        """Count the batches that are left."""
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batch of each step."""
        orders = {}
        for step in self.steps:
            first = step * self.batch_size
            epochs, offsets = np.divmod(
                np.arange(first, first + self.batch_size), self.size
            )
            orders = {
                e: orders[e] if e in orders else self._permutation(e)
                for e in set(epochs.tolist())
            }
            pairs = zip(epochs.tolist(), offsets, strict=True)
            yield [int(orders[epoch][offset]) for epoch, offset in pairs][self.share]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)
