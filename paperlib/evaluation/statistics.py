"""Intervals for means over subjects and images, and images in the wrong order.

Both the subjects and the images are samples of those one could have taken, and every
subject saw the same images. So both are resampled, with replacement and crossed: a
resample takes whole rows and whole columns of the table of scores, never channels or
times.
"""

from dataclasses import dataclass

import numpy as np

from paperlib.validation import check_shape


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % bootstrap interval.

    Attributes
    ----------
    mean, low, high : float
        In the unit of the scores.
    n_subjects, n_images : int
        Size of the table of scores, undefined ones included. A factor with one level
        is not resampled: with one subject the interval speaks of that subject only.
    n_undefined : int
        Scores that were NaN and are left out of the mean; report it if it is not 0.
    """

    mean: float
    low: float
    high: float
    n_subjects: int
    n_images: int
    n_undefined: int


def bootstrap_interval(
    scores: np.ndarray,
    *,
    rng: np.random.Generator,
    n_resamples: int = 10_000,
) -> Interval:
    """Return the mean score with its 95 % percentile bootstrap interval.

    Parameters
    ----------
    scores : ndarray of shape (n_subjects, n_images)
        One value per subject and image; NaN where it is undefined.
    rng : numpy.random.Generator
        Draws the resamples.
    n_resamples : int
        Number of resamples.

    Returns
    -------
    Interval
        Low and high are NaN if there is one score only, or none is defined.

    Raises
    ------
    ValueError
        If the scores are not a table, hold infinity or are empty.

    Notes
    -----
    The percentile interval of few subjects is too narrow, by about
    sqrt((n - 1) / n) for n of them.
    """
    check_shape("scores", scores, (None, None))
    if scores.size == 0 or np.isinf(scores).any():
        raise ValueError(
            f"scores must hold finite numbers or NaN; got {np.isinf(scores).sum()} "
            f"infinite values in shape {scores.shape}."
        )
    defined = ~np.isnan(scores)
    low = high = np.nan
    if scores.size > 1 and defined.any():
        means = _resampled_means(scores, rng=rng, n_resamples=n_resamples)
        low, high = np.nanquantile(means, [0.025, 0.975])
    return Interval(
        mean=float(scores[defined].mean()) if defined.any() else np.nan,
        low=float(low),
        high=float(high),
        n_subjects=scores.shape[0],
        n_images=scores.shape[1],
        n_undefined=int((~defined).sum()),
    )


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    *,
    rng: np.random.Generator,
    n_resamples: int = 10_000,
) -> Interval:
    """Return the mean of a - b with its 95 % interval, for two methods.

    Parameters
    ----------
    a, b : ndarray of shape (n_subjects, n_images)
        Scores of the two methods on the same images. Both are resampled together, and
        a pair counts only if both of its scores are defined.
    rng, n_resamples
        As in `bootstrap_interval`.

    Returns
    -------
    Interval
        Of the difference; ``n_undefined`` counts pairs.

    Raises
    ------
    ValueError
        If the shapes differ, or as in `bootstrap_interval`.
    """
    check_shape("b", b, a.shape)
    return bootstrap_interval(a - b, rng=rng, n_resamples=n_resamples)


def _resampled_means(
    scores: np.ndarray, *, rng: np.random.Generator, n_resamples: int
) -> np.ndarray:
    """Return the mean of each resample (NaN if it drew no defined score)."""
    subjects, images = (
        rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) for n in scores.shape
    )  # how often each was drawn: resamples, S and resamples, N
    defined = ~np.isnan(scores)
    totals = ((subjects @ np.where(defined, scores, 0)) * images).sum(axis=1)
    counts = ((subjects @ defined.astype(float)) * images).sum(axis=1)
    return totals / np.where(counts > 0, counts, np.nan)


def derangement(n_images: int, rng: np.random.Generator) -> np.ndarray:
    """Assign another image to each image, as a control that keeps all else.

    Parameters
    ----------
    n_images
        Two or more.
    rng
        Draws one of the cycles through all images.

    Returns
    -------
    ndarray of shape (n_images,)
        A permutation that leaves nothing in its place.

    Raises
    ------
    ValueError
        If there are fewer than two images.
    """
    if n_images < 2:
        raise ValueError(f"A derangement needs two images or more; got {n_images}.")
    cycle = rng.permutation(n_images)
    order = np.empty(n_images, dtype=int)
    order[cycle] = np.roll(cycle, 1)
    return order
