"""Score every method on the same recordings, image by image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from paperlib.evaluation.ceilings import correlations_with_halves, split_halves
from paperlib.evaluation.identification import (
    response_correlations,
    top_hits,
    two_versus_two,
)
from paperlib.evaluation.metrics import (
    cosine_similarity,
    log_psd_distance,
    mean_squared_error,
    pearson,
    pearson_flattened,
)
from paperlib.evaluation.statistics import bootstrap_interval, paired_difference
from paperlib.evaluation.synchronization import (
    matched_chance,
    recurrence_agreement,
    recurrences,
)

# Columns of the main table (the paper's four) and of the supplement.
MAIN_METRICS = {
    "mse": "MSE ↓",
    "pearson": "Pearson ↑",
    "cosine": "Cosine ↑",
    "sl": "SL ↑",
}
SUPPLEMENT_METRICS = {
    "sl_theiler": "SL, Theiler window ↑",
    "sl_chance": "SL with other images",
    "log_psd": "Log-PSD distance (dB) ↓",
    "pearson_flattened": "Pearson, flattened ↑",
    "pearson_specific": "Pearson, training mean removed ↑",
    "top1": "Identified, top 1 ↑",
    "top5": "Identified, top 5 ↑",
    "two_versus_two": "2 versus 2 ↑",
}
METRICS = MAIN_METRICS | SUPPLEMENT_METRICS
CEILING = "Split half of the repetitions"

Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recordings:
    """Test responses of one participant, prepared for scoring many predictions.

    Attributes
    ----------
    responses : ndarray of shape (N, C, T)
        Mean over repetitions.
    common : ndarray of shape (C, T)
        Mean response to all training images: what can be known without the image.
    sfreq : float
        Sampling rate in Hz.
    embedding : dict
        Arguments of the synchronization likelihood, two Theiler windows among them.
    recurrences : dict
        Metric (sl, sl_theiler) -> recurrences of the responses; the same for every
        prediction.
    """

    responses: np.ndarray
    common: np.ndarray
    sfreq: float
    embedding: dict[str, int | tuple[int, int]]
    recurrences: Scores

    @classmethod
    def prepare(
        cls,
        responses: np.ndarray,
        common: np.ndarray,
        *,
        sfreq: float,
        dim: int,
        delay: int,
        neighbors: int,
    ) -> "Recordings":
        """Compute the recurrences without and with a Theiler window.

        Parameters
        ----------
        responses : ndarray of shape (N, C, T)
        common : ndarray of shape (C, T)
        sfreq
            In Hz.
        dim, delay, neighbors
            Of the synchronization likelihood. The window is (dim - 1) * delay, the
            span of a delay vector.
        """
        embedding = {"dim": dim, "delay": delay, "neighbors": neighbors}
        embedding["theiler"] = (0, (dim - 1) * delay)
        found = _recurrences(responses, embedding)
        return cls(responses, common, sfreq, embedding, found)

    def select(self, channels: np.ndarray) -> "Recordings":
        """Return the recordings of some channels.

        Parameters
        ----------
        channels : ndarray of int
            Positions.
        """
        return replace(
            self,
            responses=self.responses[:, channels],
            common=self.common[channels],
            recurrences={k: r[:, channels] for k, r in self.recurrences.items()},
        )


def score(generated: np.ndarray, recorded: Recordings) -> Scores:
    """Score predicted responses, one value for each metric and image.

    Parameters
    ----------
    generated : ndarray of shape (N, C, T)
        One prediction for each image, in the order of the recordings.
    recorded
        What was measured.

    Returns
    -------
    dict
        Each key of :data:`METRICS` -> ndarray of shape (N,); NaN where a metric is
        not defined, as correlation is for a constant signal.
    """
    responses = recorded.responses
    correlations = response_correlations(responses, generated)
    return {
        "mse": mean_squared_error(generated, responses),
        "pearson": pearson(generated, responses),
        "cosine": cosine_similarity(generated, responses),
        **_synchronization(generated, recorded),
        "log_psd": log_psd_distance(generated, responses, sfreq=recorded.sfreq),
        "pearson_flattened": pearson_flattened(generated, responses),
        "pearson_specific": pearson_flattened(
            generated - recorded.common, responses - recorded.common
        ),
        "top1": top_hits(correlations, k=1),
        "top5": top_hits(correlations, k=min(5, len(responses))),
        "two_versus_two": two_versus_two(correlations),
    }


def control_predictions(
    training_mean: np.ndarray, n_images: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what knows nothing of the image: silence, and the mean response.

    Parameters
    ----------
    training_mean : ndarray of shape (C, T)
        Mean of the responses to all training images.
    n_images
        Test images.

    Yields
    ------
    name, prediction of shape (N, C, T)
    """
    shape = (n_images, *training_mean.shape)
    yield "Zero", np.zeros(shape, training_mean.dtype)
    yield "Training mean", np.broadcast_to(training_mean, shape)


def split_half_scores(
    repetitions: np.ndarray,
    common: np.ndarray,
    *,
    halvings: int,
    rng: np.random.Generator,
    sfreq: float,
    dim: int,
    delay: int,
    neighbors: int,
) -> Scores:
    """Score one half of the test repetitions as a prediction of the other.

    This is what a perfect model of the response would reach against half of the
    repetitions if it had the noise of the other half.

    Parameters
    ----------
    repetitions : ndarray of shape (N, R, C, T)
        Single test responses.
    common : ndarray of shape (C, T)
        Mean response to all training images.
    halvings
        Random halvings that are averaged.
    rng
        Draws them.
    sfreq
        In Hz.
    dim, delay, neighbors
        Of the synchronization likelihood.
    """
    options = {"sfreq": sfreq, "dim": dim, "delay": delay, "neighbors": neighbors}
    scores = [
        score(first, Recordings.prepare(second, common, **options))
        for first, second in split_halves(repetitions, n_splits=halvings, rng=rng)
    ]
    return {metric: np.mean([s[metric] for s in scores], axis=0) for metric in METRICS}


def tidy_scores(scored: Iterable[tuple[str, int, Scores]]) -> pd.DataFrame:
    """Put scores into one table.

    Parameters
    ----------
    scored
        Method, subject, scores.

    Returns
    -------
    DataFrame
        Columns method, subject, image, metric, value. Equal method and subject (other
        training seeds) are averaged, methods in order.
    """
    parts = [
        pd.DataFrame(scores)
        .rename_axis("image")
        .melt(var_name="metric", ignore_index=False)
        .reset_index()
        .assign(method=method, subject=subject)
        for method, subject, scores in scored
    ]
    keys = ["method", "subject", "image", "metric"]
    scores = pd.concat(parts).groupby(keys, sort=False)["value"].mean().reset_index()
    order = methods_in_order(scores)
    return scores.sort_values("method", key=lambda m: m.map(order.index), kind="stable")


def methods_in_order(scores: pd.DataFrame) -> list[str]:
    """List the methods as the subject has them who has most.

    Cross-subject scores lack the subject trained on: no list of another subject but
    the longest one holds every method.

    Parameters
    ----------
    scores
        With columns method and subject, each subject's methods in order.
    """
    return list(max(scores.groupby("subject")["method"].unique(), key=len))


def summarize(scores: pd.DataFrame, *, seed: int, resamples: int) -> pd.DataFrame:
    """Reduce image-wise scores to means with 95 % bootstrap intervals.

    Parameters
    ----------
    scores
        From :func:`tidy_scores`.
    seed
        Of the bootstrap; every method meets the same resamples.
    resamples
        Number of resamples of subjects and images.

    Returns
    -------
    DataFrame
        Columns method, metric, mean, low, high, n_subjects, n_images, n_undefined.
    """
    rows = []
    for (method, metric), group in scores.groupby(["method", "metric"], sort=False):
        table = group.pivot(index="subject", columns="image", values="value")
        interval = bootstrap_interval(
            table.to_numpy(),
            rng=np.random.default_rng(seed),
            n_resamples=resamples,
        )
        rows.append({"method": method, "metric": metric, **vars(interval)})
    return pd.DataFrame(rows)


def across_images(
    predictions: Sequence[tuple[str, np.ndarray]],
    repetitions: np.ndarray,
    *,
    halvings: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Correlate over images, for each channel and time, with half of the repetitions.

    Parameters
    ----------
    predictions
        Method, ndarray of shape (N, C, T). Equal methods (other training seeds) are
        averaged.
    repetitions : ndarray of shape (N, R, C, T)
        Single test responses.
    halvings
        Random halvings that are averaged.
    rng
        Draws them.

    Returns
    -------
    DataFrame
        Columns method and correlation (the mean over channels and times): methods,
        then the lower and the upper ceiling.
    """
    found = correlations_with_halves(
        predictions, repetitions, n_splits=halvings, rng=rng
    )
    rows = [{"method": name, "correlation": r.mean()} for name, r in found]
    return pd.DataFrame(rows).groupby("method", sort=False).mean().reset_index()


def compare_with(
    scores: pd.DataFrame, reference: str, *, seed: int, resamples: int
) -> pd.DataFrame:
    """Return paired differences of every method from one, with 95 % intervals.

    Parameters
    ----------
    scores
        From :func:`tidy_scores`.
    reference
        The method that is subtracted, on the same subjects and images.
    seed, resamples
        Of the bootstrap, see :func:`summarize`.

    Returns
    -------
    DataFrame
        Columns as those of :func:`summarize`.
    """
    rows = []
    for metric, group in scores.groupby("metric", sort=False):
        tables = {
            method: part.pivot(index="subject", columns="image", values="value")
            for method, part in group.groupby("method", sort=False)
        }
        for method, table in tables.items():
            if method == reference:
                continue
            interval = paired_difference(
                table.to_numpy(),
                tables[reference].loc[table.index].to_numpy(),
                rng=np.random.default_rng(seed),
                n_resamples=resamples,
            )
            rows.append({"method": method, "metric": metric, **vars(interval)})
    return pd.DataFrame(rows)


def _synchronization(generated: np.ndarray, recorded: Recordings) -> Scores:
    """Return synchronization likelihoods, and that with other images: its chance."""
    if (np.ptp(generated, axis=-1) == 0).any():
        undefined = np.full(len(generated), np.nan)
        return dict.fromkeys((*recorded.recurrences, "sl_chance"), undefined)
    found = _recurrences(generated, recorded.embedding)
    scores = {
        metric: recurrence_agreement(found[metric], recorded.recurrences[metric])
        for metric in found
    }
    scores["sl_chance"] = matched_chance(
        recorded.recurrences["sl"],
        found["sl"],
        n_derangements=1,
        rng=np.random.default_rng(len(generated)),  # the same for every prediction
    )
    return {metric: values.mean(axis=-1) for metric, values in scores.items()}


def _recurrences(signals: np.ndarray, embedding: dict) -> Scores:
    """Return the recurrences without and with a Theiler window, by metric."""
    both = recurrences(signals, **embedding)
    return dict(zip(("sl", "sl_theiler"), both, strict=True))
