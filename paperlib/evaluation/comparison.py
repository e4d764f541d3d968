"""Score every method on the same recordings, image by image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from paperlib.evaluation.ceilings import split_halves
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
from paperlib.evaluation.responses import Responses
from paperlib.evaluation.statistics import bootstrap_intervals, derangement
from paperlib.evaluation.synchronization import matched_chance, recurrence_agreement

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
    "pearson_specific": "Pearson, flattened, training mean removed ↑",
    "specific_chance": "… with other images",
    "top1": "Identified, top 1 ↑",
    "top5": "Identified, top 5 ↑",
    "two_versus_two": "2 versus 2 ↑",
}
METRICS = MAIN_METRICS | SUPPLEMENT_METRICS
ZERO = "Zero"
TRAINING_MEAN = "Training mean"
CROSSED_MEAN = "Training mean, cross-subject"
CONTROLS = (ZERO, TRAINING_MEAN, CROSSED_MEAN)
CEILING = "Split half of the repetitions"

Scores = dict[str, np.ndarray]


def score(generated: Responses, recorded: Responses, *, sfreq: float) -> Scores:
    """Score predicted responses, one value for each metric and image.

    Parameters
    ----------
    generated
        One prediction for each image, in the order of the recordings.
    recorded
        What was measured.
    sfreq
        Sampling rate in Hz.

    Returns
    -------
    dict
        Each key of :data:`METRICS` -> ndarray of shape (N,); NaN where a metric is
        not defined, as correlation is for a constant signal.

    Notes
    -----
    ``pearson_specific`` takes from each side the training mean of its own participant.
    A model that was trained on another one knows that participant's mean only: what it
    says of the image is how it departs from there. Were the mean of the participant
    tested taken from both sides, the difference between two people would count as an
    answer to the image.

    A model whose mean response is not the training mean departs from it alike for all
    images, and that may resemble the recordings: ``specific_chance`` is what the same
    prediction reaches for other images.
    """
    predicted, measured = generated.values, recorded.values
    correlations = response_correlations(measured, predicted)
    departure = predicted - generated.common
    measured_departure = measured - recorded.common
    others = derangement(len(measured), np.random.default_rng(len(measured)))
    return {
        "mse": mean_squared_error(predicted, measured),
        "pearson": pearson(predicted, measured),
        "cosine": cosine_similarity(predicted, measured),
        **_synchronization(generated, recorded),
        "log_psd": log_psd_distance(predicted, measured, sfreq=sfreq),
        "pearson_flattened": pearson_flattened(predicted, measured),
        "pearson_specific": pearson_flattened(departure, measured_departure),
        "specific_chance": pearson_flattened(departure[others], measured_departure),
        "top1": top_hits(correlations, k=1),
        "top5": top_hits(correlations, k=min(5, len(measured))),
        "two_versus_two": two_versus_two(correlations),
    }


def control_responses(
    recorded: dict[int, Responses],
    *,
    training_subject: int,
    dim: int,
    delay: int,
    neighbors: int,
) -> Iterator[tuple[str, int, None, Responses]]:
    """Yield what knows nothing of the image: silence, and mean responses.

    Parameters
    ----------
    recorded
        Subject -> test responses.
    training_subject
        Whose mean response answers for the others, beside their own.
    dim, delay, neighbors
        Of the synchronization likelihood.

    Yields
    ------
    method, subject compared with, None for a training seed, responses
    """
    options = {"dim": dim, "delay": delay, "neighbors": neighbors}
    means = {
        subject: Responses.prepare(measured.common[None], measured.common, **options)
        for subject, measured in recorded.items()
    }
    for subject, measured in recorded.items():
        everywhere = np.zeros(len(measured.values), int)
        mean = means[subject].reorder(everywhere)
        silent = replace(mean, values=np.zeros_like(mean.values), recurrences={})
        yield ZERO, subject, None, silent
        yield TRAINING_MEAN, subject, None, mean
        if subject != training_subject:
            other = means[training_subject].reorder(everywhere)
            yield CROSSED_MEAN, subject, None, other


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
    options = {"dim": dim, "delay": delay, "neighbors": neighbors}
    scores = []
    for halves in split_halves(repetitions, n_splits=halvings, rng=rng):
        first, second = (Responses.prepare(h, common, **options) for h in halves)
        scores.append(score(first, second, sfreq=sfreq))
    return {metric: np.mean([s[metric] for s in scores], axis=0) for metric in METRICS}


def tidy_scores(
    scored: Iterable[tuple[str, int, int | None, Scores]], methods: Sequence[str]
) -> pd.DataFrame:
    """Put scores into one table.

    Parameters
    ----------
    scored
        Method, subject, training seed (None for what is not trained), scores.
    methods
        In the order wanted; the scores may come in any.

    Returns
    -------
    DataFrame
        Columns method, subject, seed, image, metric, value.
    """
    parts = [
        pd.DataFrame(scores)
        .rename_axis("image")
        .melt(var_name="metric", ignore_index=False)
        .reset_index()
        .assign(method=method, subject=subject, seed=np.nan if seed is None else seed)
        for method, subject, seed, scores in scored
    ]
    place = {method: number for number, method in enumerate(methods)}
    parts.sort(key=lambda part: place[part["method"][0]])
    columns = ["method", "subject", "seed", "image", "metric", "value"]
    return pd.concat(parts, ignore_index=True)[columns]


def summarize(scores: pd.DataFrame, *, seed: int, resamples: int) -> pd.DataFrame:
    """Reduce image-wise scores to means with 95 % bootstrap intervals.

    Parameters
    ----------
    scores
        From :func:`tidy_scores`. Training seeds are averaged before participants and
        images are resampled: the interval is about them, not about other trainings.
    seed
        Of the bootstrap; every method meets the same resamples.
    resamples
        Number of resamples of subjects and images.

    Returns
    -------
    DataFrame
        Columns method, metric, mean, low, high, n_subjects, n_images, n_undefined,
        and seed_sd: standard deviation over training seeds of the mean over subjects
        and images, NaN with one seed.
    """
    summary = _intervals(_tables(scores), seed=seed, resamples=resamples)
    return summary.assign(seed_sd=_seed_spread(scores)).reset_index()


def compare_with(
    scores: pd.DataFrame, reference: str, *, seed: int, resamples: int
) -> pd.DataFrame:
    """Return paired differences of every method from one, with 95 % intervals.

    Parameters
    ----------
    scores
        From :func:`tidy_scores`.
    reference
        The method that is subtracted, on the same subjects and images. Both are
        resampled together, and a pair counts only if both scores are defined.
    seed, resamples
        Of the bootstrap, see :func:`summarize`.

    Returns
    -------
    DataFrame
        Columns as those of :func:`summarize`. Trainings of two methods are independent:
        ``seed_sd`` is the root of the sum of both squared.
    """
    tables = _tables(scores)
    differences = {
        (method, metric): table - tables[reference, metric].loc[table.index]
        for (method, metric), table in tables.items()
        if method != reference
    }
    compared = _intervals(differences, seed=seed, resamples=resamples)
    spread = _seed_spread(scores)
    known = spread.reindex(compared.index)
    of_reference = spread[reference].reindex(compared.index.get_level_values("metric"))
    both = np.hypot(known.fillna(0).to_numpy(), of_reference.to_numpy())
    return compared.assign(seed_sd=both).reset_index()


def _tables(scores: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return tables of subjects and images by method and metric, seeds averaged."""
    keys = ["method", "metric"]
    of_image = scores.groupby([*keys, "subject", "image"], sort=False)["value"].mean()
    tables = of_image.unstack("image").groupby(keys, sort=False)
    return {key: table.droplevel(keys).sort_index() for key, table in tables}


def _intervals(
    tables: dict[tuple[str, str], pd.DataFrame], *, seed: int, resamples: int
) -> pd.DataFrame:
    """Bootstrap tables of subjects and images, those of the same subjects at once."""
    groups: dict[tuple, list] = {}
    for key, table in tables.items():
        groups.setdefault(tuple(table.index), []).append(key)
    found = {}
    for keys in groups.values():
        intervals = bootstrap_intervals(
            np.stack([tables[key].to_numpy() for key in keys], axis=-1),
            rng=np.random.default_rng(seed),
            n_resamples=resamples,
        )
        found |= zip(keys, intervals, strict=True)
    index = pd.MultiIndex.from_tuples(tables, names=["method", "metric"])
    return pd.DataFrame([vars(found[key]) for key in tables], index=index)


def _seed_spread(scores: pd.DataFrame) -> pd.Series:
    """Return the standard deviation over seeds by method and metric, else NaN."""
    keys = ["method", "metric"]
    of_seed = scores.groupby([*keys, "seed"], dropna=False)["value"].mean()
    return of_seed.groupby(keys).std()


def _synchronization(generated: Responses, recorded: Responses) -> Scores:
    """Return synchronization likelihoods, and that with other images: its chance."""
    found, true = generated.recurrences, recorded.recurrences
    if not (found and true):
        undefined = np.full(len(recorded.values), np.nan)
        return dict.fromkeys(("sl", "sl_theiler", "sl_chance"), undefined)
    scores = {
        metric: recurrence_agreement(found[metric], true[metric]) for metric in found
    }
    scores["sl_chance"] = matched_chance(
        true["sl"],
        found["sl"],
        n_derangements=1,
        rng=np.random.default_rng(len(recorded.values)),  # the same for all predictions
    )
    return {metric: values.mean(axis=-1) for metric, values in scores.items()}
