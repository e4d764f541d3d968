"""Ceilings: how well any model could do, from repetitions of the same images.

Half of the repetitions of each test image predicts the other half. Any metric of two
sets of responses has such a ceiling: apply it to what `split_halves` yields.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from paperlib.evaluation.metrics import pearson_across_images
from paperlib.validation import check_finite, check_shape

CEILINGS = ("Ceiling, lower", "Ceiling, upper")


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


def correlations_with_halves(
    predictions: Sequence[tuple[str, np.ndarray]],
    repetitions: np.ndarray,
    *,
    n_splits: int,
    rng: np.random.Generator,
) -> list[tuple[str, np.ndarray]]:
    """Correlate predictions over images with half of the repetitions.

    Follows Gifford et al. (NeuroImage 264, 2022): the target is the mean of one half;
    the other half gives the lower, all repetitions the upper ceiling of what a perfect
    model would reach. The upper one is optimistic: the mean of all contains the half.

    Parameters
    ----------
    predictions : sequence of (str, ndarray of shape (n_images, n_channels, n_times))
        Methods and what they predict.
    repetitions, n_splits, rng
        As in `split_halves`.

    Returns
    -------
    list of (str, ndarray of shape (n_channels, n_times))
        Methods, then the `CEILINGS`. Means over the splits; NaN for a prediction that
        is the same for all images.

    Raises
    ------
    ValueError
        As in `split_halves` and `pearson_across_images`.
    """
    names = [*(name for name, _ in predictions), *CEILINGS]
    known = [generated for _, generated in predictions]
    everything = _mean_of(repetitions, np.arange(repetitions.shape[1]))
    total = np.zeros((len(names), *repetitions.shape[2:]))
    for target, other in split_halves(repetitions, n_splits=n_splits, rng=rng):
        compared = [*known, other, everything]
        total += [pearson_across_images(responses, target) for responses in compared]
    return list(zip(names, total / n_splits, strict=True))


def _mean_of(repetitions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean response (N, C, T) over the chosen repetitions."""
    n_images, _, n_channels, n_times = repetitions.shape
    dtype = np.result_type(repetitions.dtype, np.float32)
    means = np.empty((n_images, n_channels, n_times), dtype)
    for mean, responses in zip(means, repetitions, strict=True):
        mean[:] = responses[chosen].mean(axis=0, dtype=np.float64)
    check_finite("the mean over repetitions", means)
    return means
