"""Identification of the image by matching recorded responses to predicted ones.

Each recorded test response is correlated with the predicted response to every test
image; the one predicted for the right image should correlate best (zero-shot
identification as in Gifford et al., NeuroImage 264, 2022, among the test images).

Correlations run over channels and times together, on the responses as they are. They
are not z-scored over images: that would use the other test images to describe one. A
mean response shared by all images raises every correlation and favors none.
"""

import numpy as np

from paperlib.evaluation.metrics import standardized

_DECIMALS = 10  # correlations equal to this precision are tied


def response_correlations(recorded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the correlation (N, N) of every recorded with every predicted response.

    Responses are (N, C, T); the diagonal holds the right pairs. Constant responses give
    NaN.
    """
    rows, columns = (
        standardized(responses.reshape(len(responses), -1), axis=1)
        for responses in (recorded, predicted)
    )
    return rows @ columns.T / rows.shape[1]


def top_hits(correlations: np.ndarray, *, k: int) -> np.ndarray:
    """Return whether the right image is among the k best candidates: 1 or 0.

    Candidate i is the right one of image i; there may be more candidates than images.
    A tie counts as if it were broken at random, so that one prediction for all images
    scores exactly at chance. NaN where the right correlation is undefined; an undefined
    candidate is never ahead.
    """
    rounded = np.round(correlations, _DECIMALS)
    right = np.diag(rounded)[:, None]
    ahead = (rounded > right).sum(axis=1)
    tied = (rounded == right).sum(axis=1)  # with itself
    hits = np.clip((k - ahead) / np.maximum(tied, 1), 0, 1)
    return np.where(np.isnan(right[:, 0]), np.nan, hits)


def two_versus_two(correlations: np.ndarray) -> np.ndarray:
    """Return the 2-vs-2 accuracy of each image among all others.

    Images i and j are distinguished if r(i, i) + r(j, j) > r(i, j) + r(j, i) (Mitchell
    et al., Science 320, 2008); ties count one half. NaN where the right correlation is
    undefined; other undefined pairs are left out.
    """
    right = np.diag(correlations)
    margin = right[:, None] + right - correlations - correlations.T
    np.fill_diagonal(margin, np.nan)
    margin = np.round(margin, _DECIMALS)
    wins = (np.sign(margin) + 1) / 2
    compared = ~np.isnan(margin)
    n_compared = np.where(compared.any(axis=1), compared.sum(axis=1), np.nan)
    return np.where(compared, wins, 0).sum(axis=1) / n_compared


def chance_levels(n_candidates: int) -> dict[str, float]:
    """Return what guessing scores on each measure of identification."""
    return {
        "top1": 1 / n_candidates,
        "top5": min(5 / n_candidates, 1.0),
        "two_versus_two": 0.5,
    }
