"""Ceilings: how well any model could do, from repetitions of the same images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paperlib.evaluation.metrics import pseudo_values, standardized
from paperlib.recordings.signals import average_repetitions
from paperlib.validation import check_finite


def split_halves(
    repetitions: np.ndarray, *, n_splits: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the mean responses (N, C, T) to two random halves of the repetitions.

    Of an odd number, one random repetition is left out, so that the halves are equal.
    """
    n_repetitions = repetitions.shape[1]
    if n_repetitions < 2:
        raise ValueError(
            f"repetitions must hold 2 or more of each image; got {n_repetitions} in "
            f"shape {repetitions.shape}. Keep the single repetitions of the test set."
        )
    half = n_repetitions // 2
    for _ in range(n_splits):
        order = rng.permutation(n_repetitions)
        chosen = order[:half], order[half : 2 * half]
        first, second = (average_repetitions(repetitions, part) for part in chosen)
        check_finite("the mean over repetitions", first + second)
        yield first, second


@dataclass(frozen=True)
class Halves:
    """Halves of the repetitions that predictions are correlated with over images.

    Follows Gifford et al. (NeuroImage 264, 2022): the target is the mean of one half;
    the other half gives the lower, all repetitions the upper ceiling of what a perfect
    model would reach. The upper one is optimistic: the mean of all contains the half.
    All arrays are (N, C, T); the ceilings are what `correlate` returns.
    """

    target: np.ndarray  # standardized over images in each halving; mean over halvings
    squares: np.ndarray  # mean over halvings of its squares
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def draw(
        cls, repetitions: np.ndarray, *, n_splits: int, rng: np.random.Generator
    ) -> "Halves":
        """Draw random halvings of the repetitions (N, R, C, T), read image by image."""
        target, squares, lower = 0, 0, 0
        for half, other in split_halves(repetitions, n_splits=n_splits, rng=rng):
            aim, guess = standardized(half, axis=0), standardized(other, axis=0)
            target += aim / n_splits
            squares += aim**2 / n_splits
            lower += pseudo_values(guess, aim, aim**2, axis=0) / n_splits
        everything = standardized(average_repetitions(repetitions), axis=0)
        upper = pseudo_values(everything, target, squares, axis=0)
        return cls(target, squares, lower, upper)

    def correlate(self, predicted: np.ndarray) -> np.ndarray:
        """Correlate predictions (N, C, T) over images, averaged over the halvings.

        The result (N, C, T) are pseudo-values as of `metrics.correlation`, NaN where a
        prediction is the same for all images.
        """
        return pseudo_values(
            standardized(predicted, axis=0), self.target, self.squares, axis=0
        )
