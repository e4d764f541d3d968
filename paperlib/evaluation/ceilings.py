"""Ceilings: how well any model could do, from repetitions of the same images.

Half of the repetitions of each test image predicts the other half. Any metric of two
sets of responses has such a ceiling: apply it to what `split_halves` yields.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paperlib.evaluation.metrics import standardized_over_images
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


@dataclass(frozen=True)
class Halves:
    """Halves of the repetitions that predictions are correlated with over images.

    Follows Gifford et al. (NeuroImage 264, 2022): the target is the mean of one half;
    the other half gives the lower, all repetitions the upper ceiling of what a perfect
    model would reach. The upper one is optimistic: the mean of all contains the half.

    Attributes
    ----------
    target, squares : ndarray of shape (n_images, n_channels, n_times)
        Of mean 0 and length 1 over images in each halving; mean over the halvings, and
        that of their squares.
    lower, upper : ndarray of shape (n_images,)
        The ceilings, as :meth:`correlate` returns correlations.
    """

    target: np.ndarray
    squares: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def draw(
        cls, repetitions: np.ndarray, *, n_splits: int, rng: np.random.Generator
    ) -> "Halves":
        """Draw halvings; parameters and errors as in `split_halves`."""
        everything = _mean_of(repetitions, np.arange(repetitions.shape[1]))
        target, squares = np.zeros(everything.shape), np.zeros(everything.shape)
        lower = np.zeros(len(everything))
        for half, other in split_halves(repetitions, n_splits=n_splits, rng=rng):
            aim, guess = standardized_over_images(half), standardized_over_images(other)
            target += aim / n_splits
            squares += aim**2 / n_splits
            lower += _pseudo_values(guess, aim, aim**2) / n_splits
        everything = standardized_over_images(everything)
        return cls(target, squares, lower, _pseudo_values(everything, target, squares))

    def correlate(self, generated: np.ndarray) -> np.ndarray:
        """Correlate predictions over images with the halves.

        Parameters
        ----------
        generated : ndarray of shape (n_images, n_channels, n_times)

        Returns
        -------
        ndarray of shape (n_images,)
            Their mean is the correlation over images, itself the mean over channels,
            times and halvings; NaN for a prediction that is the same for all images at
            a channel and time.

        Raises
        ------
        ValueError
            If the shape is not that of the target or a value is NaN or infinite.

        Notes
        -----
        A correlation has no value for a single image. These are pseudo-values of the
        infinitesimal jackknife, correlation plus influence of the image: resampling
        them as if they were scores gives the correlation's interval to first order.
        """
        check_shape("generated", generated, self.target.shape)
        check_finite("generated", generated)
        predicted = standardized_over_images(generated)
        return _pseudo_values(predicted, self.target, self.squares)


def _pseudo_values(
    predicted: np.ndarray, target: np.ndarray, squares: np.ndarray
) -> np.ndarray:
    """Return the pseudo-value of each image (N,), mean over channels and times.

    All are standardized over images, of shape (N, C, T).
    """
    n_images = len(predicted)
    correlation = (predicted * target).sum(axis=0)  # C T
    scale = n_images * (predicted**2 + squares) / 2 - 1  # 0 on average
    values = n_images * predicted * target - correlation * scale
    return values.mean(axis=(1, 2))


def _mean_of(repetitions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the mean response (N, C, T) over the chosen repetitions."""
    n_images, _, n_channels, n_times = repetitions.shape
    dtype = np.result_type(repetitions.dtype, np.float32)
    means = np.empty((n_images, n_channels, n_times), dtype)
    for mean, responses in zip(means, repetitions, strict=True):
        mean[:] = responses[chosen].mean(axis=0, dtype=np.float64)
    check_finite("the mean over repetitions", means)
    return means
