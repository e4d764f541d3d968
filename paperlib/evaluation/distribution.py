"""Proper scores of generated distributions, against several observations of the truth.

A generator answers with K samples an image; a point prediction is one with K = 1. The
truth of an image is a distribution as well: G independent observations, each the mean
of as many test repetitions as a training response has. Lower CRPS and energy score are
better; they are fair, so that K does not matter in expectation.

These scores measure whether the samples scatter as recordings do, hardly whether they
depend on the image: read them beside random training responses (`random_responses`) and
a linear prediction with resampled residuals (`with_residuals`).
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from sklearn.metrics.pairwise import euclidean_distances

from paperlib.evaluation.metrics import power_spectrum, spectral_distance

METRICS = {
    "crps": "CRPS ↓",
    "energy": "Energy score ↓",
    "spread_skill": "Spread / skill (ideal 1)",
    "coverage": "Coverage of the central 90 %",
    "spectrum": "Spectrum (dB) ↓",
    "covariance": "Channel covariance ↓",
}
_LEVEL = 0.9  # of the central interval


def perfect_coverage(n_samples: int) -> float:
    """Return how often the central 90 % of K samples hold one more draw: .84 of 32.

    Exact where the ends are samples; of few samples the ends are interpolated between
    the outermost two, and Gaussian ones hold a little more (.76 instead of .74 of 10).
    """
    return _LEVEL * (n_samples - 1) / (n_samples + 1)


def disjoint_averages(
    repetitions: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Average disjoint random groups of the repetitions: N R C T to N R//size C T.

    The groups are the same for all images.
    """
    n_groups = repetitions.shape[1] // size
    groups = rng.permutation(repetitions.shape[1])[: n_groups * size]
    groups = groups.reshape(n_groups, size)
    return np.stack(
        [image[groups].mean(axis=1, dtype=np.float32) for image in repetitions]
    )


def crps(samples: np.ndarray, observations: np.ndarray) -> float:
    """Return the fair continuous ranked probability score of one image's samples.

    mean_kg |x_k - y_g| - sum_k<l |x_k - x_l| / (K (K - 1)) of K samples x (K, C, T) and
    G observations y (G, C, T), averaged over channels and times (Gneiting and Raftery,
    JASA 102, 2007; fair form: Ferro, QJRMS 140, 2014). Of one sample it is the mean
    absolute error.
    """
    n_samples = len(samples)
    error = np.mean([np.abs(samples - y).mean() for y in observations])
    if n_samples == 1:
        return error
    # sum_k<l |x_k - x_l| from sorted values: the k-th is subtracted K - k times
    ranks = 2 * np.arange(n_samples) - n_samples + 1
    pairs = np.tensordot(ranks, np.sort(samples, axis=0), axes=1).mean()
    return error - pairs / (n_samples * (n_samples - 1))


def energy_score(samples: np.ndarray, observations: np.ndarray) -> float:
    """Return the fair energy score / sqrt(C T): the CRPS with Euclidean distances.

    The distances are those of whole responses (C, T).
    """
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (samples, observations))
    error = euclidean_distances(x, y).mean()
    if len(x) > 1:
        error -= euclidean_distances(x).sum() / (2 * len(x) * (len(x) - 1))
    return error / np.sqrt(x.shape[1])


def coverage(samples: np.ndarray, observations: np.ndarray) -> float:
    """Return how often the central 90 % of the samples hold the observation."""
    ordered = np.sort(samples, axis=0)  # np.quantile takes ten times as long
    places = (len(samples) - 1) * np.array([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    below, above = np.floor(places).astype(int), np.ceil(places).astype(int)
    weight = (places - below)[:, None, None]
    low, high = (1 - weight) * ordered[below] + weight * ordered[above]
    return np.mean((low <= observations) & (observations <= high))


def score_distribution(
    samples: Iterable[np.ndarray], observations: np.ndarray, *, sfreq: float
) -> pd.DataFrame:
    """Score the samples (K, C, T) of each image: a row an image, a column a metric.

    Observations (N, G, C, T) are independent draws of the truth; ``sfreq`` is in Hz.
    ``spread_skill`` is the root of (K + 1) / K * mean variance over samples / mean
    squared error of their mean (Fortin et al., J. Hydrometeorology 15, 2014) as
    pseudo-values, whose mean is the ratio to first order. ``spectrum`` (distance of log
    mean power) and ``covariance`` (relative Frobenius distance) have one value for all
    images. Spread and coverage are NaN for K = 1.
    """
    rows, generated, recorded = [], _Moments(sfreq), _Moments(sfreq)
    for drawn, truth in zip(samples, observations, strict=True):
        drawn = drawn.astype(np.float32)
        n_samples = len(drawn)
        generated.add(drawn)
        recorded.add(truth)
        row = {"crps": crps(drawn, truth), "energy": energy_score(drawn, truth)}
        row["skill"] = np.mean((truth - drawn.mean(axis=0)) ** 2)
        if n_samples > 1:
            variance = drawn.var(axis=0, ddof=1).mean()
            row["spread"] = variance * (n_samples + 1) / n_samples
            row["coverage"] = coverage(drawn, truth)
        rows.append(row)
    scores = pd.DataFrame(rows).reindex(columns=[*METRICS, "spread", "skill"])
    spread, skill = scores.pop("spread"), scores.pop("skill")
    ratio = np.sqrt(spread.mean() / skill.mean())
    influence = (spread / spread.mean() - skill / skill.mean()) / 2
    scores["spread_skill"] = ratio * (1 + influence)
    scores["spectrum"] = spectral_distance(generated.power, recorded.power)
    truth = recorded.covariance
    distance = np.linalg.norm(generated.covariance - truth)
    scores["covariance"] = distance / np.linalg.norm(truth)
    return scores


class _Moments:
    """Mean power spectrum and channel covariance of responses, image after image."""

    def __init__(self, sfreq: float):
        self.sfreq, self.n = sfreq, 0
        self.powers, self.sums, self.products = 0, 0, 0

    def add(self, responses: np.ndarray) -> None:  # K C T
        self.n += len(responses)
        self.powers = self.powers + power_spectrum(responses, self.sfreq).sum(axis=0)
        self.sums = self.sums + responses.sum(axis=0, dtype=np.float64)
        flat = np.moveaxis(responses, 1, 0).reshape(responses.shape[1], -1)  # C KT
        self.products = self.products + (flat @ flat.T).astype(np.float64)

    @property
    def power(self) -> np.ndarray:  # C F
        return self.powers / self.n

    @property
    def covariance(self) -> np.ndarray:  # C C, about the mean response
        mean = self.sums / self.n
        return (self.products / self.n - mean @ mean.T) / mean.shape[1]


def random_responses(
    responses: np.ndarray, n_images: int, n_samples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield K of the training responses (M, C, T) for each image: the climatology."""
    for _ in range(n_images):
        yield responses[np.sort(rng.integers(len(responses), size=n_samples))]


def with_residuals(
    predictions: np.ndarray,
    residuals: np.ndarray,
    n_samples: int,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Yield each prediction (C, T) plus random residuals as samples (K, C, T).

    The residuals are training responses less their predictions by models that were not
    fitted to their concepts.
    """
    drawn = random_responses(residuals, len(predictions), n_samples, rng)
    for prediction, errors in zip(predictions, drawn, strict=True):
        yield prediction + errors
