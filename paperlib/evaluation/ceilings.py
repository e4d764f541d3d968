"""Ceilings: how well any model could do, from repetitions of the same images.

Half of the repetitions of each test image predicts the other half. Any metric of two
sets of responses has such a ceiling: apply it to what `split_halves` yields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paperlib.evaluation.metrics import pearson_across_images
from paperlib.validation import check_finite, check_shape


@dataclass(frozen=True)
class NoiseCeiling:
    """Bounds on the correlation over images that a perfect model would reach.

    Attributes
    ----------
    lower, upper : ndarray of shape (n_channels, n_times)
        Correlation of one half of the repetitions with the mean of the other half and
        with the mean of all repetitions. The upper bound is optimistic: the mean of
        all contains the half.
    """

    lower: np.ndarray
    upper: np.ndarray


def split_halves(
    repetitions: np.ndarray, *, n_splits: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield mean responses to two random halves of the repetitions.

    Parameters
    ----------
    repetitions : ndarray of shape (n_images, n_repetitions, n_channels, n_times)
        Single responses; a memory map is read image by image. Of an odd number, one
        random repetition is left out, so that the halves are equal.
    n_splits : int
        Number of random halvings.
    rng : numpy.random.Generator
        Draws the halvings. Equal generators give equal halves.

    Yields
    ------
    tuple of two ndarrays of shape (n_images, n_channels, n_times)
        In the type of the repetitions, float32 or wider; averaged in float64.

    Raises
    ------
    ValueError
        If there are fewer than two repetitions or a value is NaN or infinite.
    """
    check_shape("repetitions", repetitions, (None, None, None, None))
    n_repetitions = repetitions.shape[1]
    if n_repetitions < 2:
        raise ValueError(
            f"repetitions must hold 2 or more of each image; got {n_repetitions} in "
            f"shape {repetitions.shape}. Keep the single repetitions of the test set."
        )
    half = n_repetitions // 2
    for _ in range(n_splits):
        order = rng.permutation(n_repetitions)
        yield (
            _mean_of(repetitions, order[:half]),
            _mean_of(repetitions, order[half : 2 * half]),
        )


def noise_ceiling(
    repetitions: np.ndarray, *, n_splits: int, rng: np.random.Generator
) -> NoiseCeiling:
    """Return lower and upper ceilings of the correlation over images.

    Follows Gifford et al. (NeuroImage 264, 2022): the target is the mean of one half;
    the other half gives the lower, all repetitions the upper ceiling. A model must be
    compared with the same targets: see `correlations_with_halves`.

    Parameters
    ----------
    repetitions, n_splits, rng
        As in `split_halves`.

    Returns
    -------
    NoiseCeiling
        Means over the splits.

    Raises
    ------
    ValueError
        As in `split_halves`, or if there is one image only.
    """
    everything = _mean_of(repetitions, np.arange(repetitions.shape[1]))
    lower = np.zeros(repetitions.shape[2:])
    upper = np.zeros(repetitions.shape[2:])
    for target, other in split_halves(repetitions, n_splits=n_splits, rng=rng):
        lower += pearson_across_images(other, target)
        upper += pearson_across_images(everything, target)
    return NoiseCeiling(lower / n_splits, upper / n_splits)


def correlations_with_halves(
    predictions: Sequence[tuple[str, np.ndarray]],
    repetitions: np.ndarray,
    *,
    n_splits: int,
    rng: np.random.Generator,
) -> list[tuple[str, np.ndarray]]:
    """Return methods' correlations over images with the targets of `noise_ceiling`.

    Parameters
    ----------
    predictions : sequence of (str, ndarray of shape (n_images, n_channels, n_times))
        Methods and what they predict.
    repetitions, n_splits, rng
        As in `split_halves`; a generator seeded as for `noise_ceiling` gives the same
        targets.

    Returns
    -------
    list of (str, ndarray of shape (n_channels, n_times))
        Means over the splits; NaN for a prediction that is the same for all images.

    Raises
    ------
    ValueError
        As in `split_halves` and `pearson_across_images`.
    """
    totals = [np.zeros(repetitions.shape[2:]) for _ in predictions]
    for target, _ in split_halves(repetitions, n_splits=n_splits, rng=rng):
        for total, (_, generated) in zip(totals, predictions, strict=True):
            total += pearson_across_images(generated, target)
    names = [name for name, _ in predictions]
    return [(n, total / n_splits) for n, total in zip(names, totals, strict=True)]


def _mean_of(repetitions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean response (N, C, T) over the chosen repetitions."""
    n_images, _, n_channels, n_times = repetitions.shape
    dtype = np.result_type(repetitions.dtype, np.float32)
    means = np.empty((n_images, n_channels, n_times), dtype)
    for mean, responses in zip(means, repetitions, strict=True):
        mean[:] = responses[chosen].mean(axis=0, dtype=np.float64)
    check_finite("the mean over repetitions", means)
    return means
