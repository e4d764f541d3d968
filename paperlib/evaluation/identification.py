"""Identification of the image by matching recorded responses to generated ones.

Each recorded test response is correlated with the generated response to every test
image; the generated response to the right image should correlate best (zero-shot
identification as in Gifford et al., NeuroImage 264, 2022, among the test images).

Correlations run over channels and times together, on the responses as they are. They
are not z-scored over images: that would use the other test images to describe one.
A mean response shared by all images raises every correlation and favors none.

For the other direction, from generated to recorded, transpose the correlations.
"""

import numpy as np

from paperlib.validation import check_finite, check_shape

_DECIMALS = 10  # correlations equal to this precision are tied


def response_correlations(recorded: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Return the correlation of every recorded with every generated response.

    Parameters
    ----------
    recorded, generated : ndarray of shape (n_images, n_channels, n_times)
        Responses to the same images in the same order.

    Returns
    -------
    ndarray of shape (n_images, n_images)
        Recorded responses along rows; the diagonal holds the right pairs. NaN for
        responses that are constant.

    Raises
    ------
    ValueError
        If the shapes differ or a value is NaN or infinite.
    """
    check_shape("recorded", recorded, (None, None, None))
    check_shape("generated", generated, recorded.shape)
    rows = _standardized("recorded", recorded)
    columns = _standardized("generated", generated)
    return rows @ columns.T


def top_hits(correlations: np.ndarray, *, k: int) -> np.ndarray:
    """Return whether the right image is among the k best candidates.

    Parameters
    ----------
    correlations : ndarray of shape (n_images, n_candidates)
        Candidate i is the right one of image i; there may be more candidates than
        images.
    k : int
        Number of candidates that may be named.

    Returns
    -------
    ndarray of shape (n_images,)
        1 or 0; where the right candidate is tied, the probability of a hit if ties
        are broken at random, so that a prediction that is the same for all images
        scores exactly at chance. NaN where the right correlation is undefined; an
        undefined candidate is never ahead.

    Raises
    ------
    ValueError
        If k is not in 1...n_candidates or there are fewer candidates than images.
    """
    if not 1 <= k <= correlations.shape[1]:
        raise ValueError(f"k must be in 1...{correlations.shape[1]}; got {k}.")
    ahead, tied = _ahead_and_tied(correlations)
    return np.clip((k - ahead) / tied, 0, 1)


def two_versus_two(correlations: np.ndarray) -> np.ndarray:
    """Return the share of other images from which each image is told apart.

    Images i and j are told apart if r(i, i) + r(j, j) > r(i, j) + r(j, i) (Mitchell
    et al., Science 320, 2008). The accuracy is the mean over images.

    Parameters
    ----------
    correlations : ndarray of shape (n_images, n_images)
        From `response_correlations`.

    Returns
    -------
    ndarray of shape (n_images,)
        Ties count one half. NaN where the right correlation is undefined; other
        undefined pairs are left out.

    Raises
    ------
    ValueError
        If the correlations are not square or there is one image only.
    """
    n_images = len(correlations)
    check_shape("correlations", correlations, (n_images, n_images))
    if n_images < 2:
        raise ValueError(f"Two versus two needs 2 images or more; got {n_images}.")
    right = np.diag(correlations)
    swapped = correlations + correlations.T
    margin = np.round(right[:, None] + right - swapped, _DECIMALS)
    wins = np.where(np.isnan(margin), np.nan, (np.sign(margin) + 1) / 2)
    compared = ~np.isnan(wins) & ~np.eye(n_images, dtype=bool)
    n_compared = np.where(compared.any(axis=1), compared.sum(axis=1), np.nan)
    return np.where(compared, wins, 0).sum(axis=1) / n_compared


def chance_levels(n_candidates: int) -> dict[str, float]:
    """Return what guessing scores on each measure of identification.

    Parameters
    ----------
    n_candidates : int
        Images to choose from.

    Returns
    -------
    dict of str to float
        ``top1``, ``top5`` and ``two_versus_two`` as proportions.
    """
    return {
        "top1": 1 / n_candidates,
        "top5": min(5 / n_candidates, 1.0),
        "two_versus_two": 0.5,
    }


def _ahead_and_tied(correlations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the candidates above and level with the right one (itself included)."""
    n_images, n_candidates = correlations.shape
    if n_candidates < n_images:
        raise ValueError(
            f"correlations must have a candidate for each of {n_images} images; got "
            f"{n_candidates}."
        )
    rounded = np.round(correlations, _DECIMALS)
    right = np.diag(rounded)[:, None]
    defined = np.where(np.isnan(right[:, 0]), np.nan, 1)
    return (
        (rounded > right).sum(axis=1) * defined,
        (rounded == right).sum(axis=1) * defined,
    )


def _standardized(name: str, responses: np.ndarray) -> np.ndarray:
    """Return each response as a float64 vector of mean 0 and length 1, or NaN."""
    vectors = np.empty((len(responses), responses[0].size))
    for vector, response in zip(vectors, responses, strict=True):
        check_finite(name, response)
        vector[:] = response.ravel()
        constant = np.ptp(vector) == 0
        vector -= vector.mean()
        vector /= np.nan if constant else np.linalg.norm(vector)
    return vectors
