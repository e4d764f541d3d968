"""Score every method on the same recordings, image by image.

Scores stand in one table (a DataFrame): a row for each method, participant (subject),
training seed and test image, a column for each metric.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from paperlib.evaluation import identification, metrics
from paperlib.evaluation.ceilings import split_halves
from paperlib.evaluation.statistics import bootstrap_intervals, derangement
from paperlib.evaluation.synchronization import (
    DelayEmbedding,
    recurrence_agreement,
    recurrences,
)
from paperlib.recordings.regions import channel_regions
from paperlib.validation import check_distinct

# Columns of the main table (the paper's four metrics and the image-specific score), of
# the supplement, of correlations over images, and of the metrics that others report.
PAPER_METRICS = {
    "mse": "MSE ↓",
    "pearson": "Pearson ↑",
    "cosine": "Cosine ↑",
    "sl": "SL ↑",
}
MAIN_METRICS = PAPER_METRICS | {"specific": "Image-specific ↑"}
SUPPLEMENT_METRICS = {
    "specific_chance": "Image-specific, other images",
    "top1": "Top 1 ↑",
    "top5": "Top 5 ↑",
    "two_versus_two": "2 versus 2 ↑",
    "sl_chance": "SL, other images",
    "sl_theiler": "SL, Theiler window ↑",
    "log_psd": "Log-PSD distance (dB) ↓",
}
ACROSS_METRICS = {
    "across": "All channels and times ↑",
    "across_posterior": "Posterior channels, 60-500 ms ↑",
}
FIELD_METRICS = {
    "mse": "MSE ↓",
    "across_posterior": "r over images, posterior, 60-500 ms ↑",
    "pooled": "Pooled r ↑",
    "channelwise": "Mean channel r ↑",
    "waveform": "Waveform r ↑",
    "waveform_chance": "Waveform r, other images",
}

ZERO = "Zero"
TRAINING_MEAN = "Training mean"
CROSSED_MEAN = "Training mean, cross-subject"
CONTROLS = (ZERO, TRAINING_MEAN, CROSSED_MEAN)
CEILING = "Split half of the repetitions"
CEILINGS = ("Ceiling, lower", "Ceiling, upper")  # of correlations over images


@dataclass(frozen=True)
class Responses:
    """Responses to the test images, recorded or predicted, with their recurrences.

    The recurrences take most of the time and are computed once: those of some channels,
    or of the images in another order, are a part of them.
    """

    values: np.ndarray  # N C T
    # C T, mean response to all training images, of the participant who was recorded or
    # whom the model was trained on: what can be known without the image
    common: np.ndarray
    # metric (sl, sl_theiler) -> N C n_points n_bytes; empty if a channel is constant,
    # where they are not defined
    recurrences: dict[str, np.ndarray]

    @classmethod
    def prepare(
        cls,
        values: np.ndarray,
        common: np.ndarray,
        embedding: DelayEmbedding,
        *,
        theiler: bool = False,
    ) -> "Responses":
        """Compute the recurrences; ``theiler`` adds those outside of one span."""
        if (np.ptp(values, axis=-1) == 0).any():
            return cls(values, common, {})
        windows = {"sl": 0} | ({"sl_theiler": embedding.span} if theiler else {})
        bits = recurrences(values, embedding, theilers=tuple(windows.values()))
        return cls(values, common, dict(zip(windows, bits, strict=True)))

    def select(self, channels: np.ndarray) -> "Responses":
        """Return the responses of some channels, given by their positions."""
        parts = {name: bits[:, channels] for name, bits in self.recurrences.items()}
        return Responses(self.values[:, channels], self.common[channels], parts)

    def reorder(self, images: np.ndarray) -> "Responses":
        """Return the responses to images given by their positions, in that order."""
        parts = {name: bits[images] for name, bits in self.recurrences.items()}
        return replace(self, values=self.values[images], recurrences=parts)


def score(predicted: Responses, recorded: Responses, *, sfreq: float) -> pd.DataFrame:
    """Score predicted responses (``sfreq`` in Hz), a row an image, a column a metric.

    Columns are the metrics that need nothing but the two; NaN where one is not defined,
    as correlation is for a constant signal.

    ``specific``, the image-specific score, is the correlation over channels and times
    after each side's training mean is removed, that of its own participant: of a model
    trained on another participant, the mean of that one. Were the mean of the
    participant tested removed from both sides, the difference between two people would
    count as information on the image.

    A model whose mean response is not the training mean departs from it alike for all
    images, and that may resemble the recordings: ``specific_chance`` is what the same
    prediction reaches for other images.
    """
    guess, truth = predicted.values, recorded.values
    departure, true_departure = guess - predicted.common, truth - recorded.common
    same = np.arange(len(truth))
    others = derangement(len(truth), np.random.default_rng(len(truth)))
    correlations = identification.response_correlations(truth, guess)
    scores = {
        "mse": metrics.mean_squared_error(guess, truth),
        "pearson": metrics.pearson(guess, truth),
        "cosine": metrics.cosine_similarity(guess, truth),
        "sl": _synchronization("sl", predicted, recorded, same),
        "specific": metrics.pearson_flattened(departure, true_departure),
        "specific_chance": metrics.pearson_flattened(departure[others], true_departure),
        "top1": identification.top_hits(correlations, k=1),
        "top5": identification.top_hits(correlations, k=min(5, len(truth))),
        "two_versus_two": identification.two_versus_two(correlations),
        "sl_chance": _synchronization("sl", predicted, recorded, others),
        "sl_theiler": _synchronization("sl_theiler", predicted, recorded, same),
        "log_psd": metrics.log_psd_distance(guess, truth, sfreq=sfreq),
        "pooled": metrics.correlation(guess, truth, axis=(0, 1, 2)),
        "channelwise": metrics.correlation(guess, truth, axis=(0, 2)),
        "waveform": np.diag(correlations),
        "waveform_chance": correlations[same, others],
    }
    return pd.DataFrame(scores)


def _synchronization(
    name: str, predicted: Responses, recorded: Responses, order: np.ndarray
) -> np.ndarray:
    """Mean likelihood over channels with predicted images in ``order``, or NaN."""
    if name not in predicted.recurrences or name not in recorded.recurrences:
        return np.full(len(recorded.values), np.nan)
    guess, truth = predicted.recurrences[name], recorded.recurrences[name]
    pairs = zip(order, truth, strict=True)  # one by one: the bits would be copied
    return np.mean([recurrence_agreement(guess[i], bits) for i, bits in pairs], axis=1)


def control_responses(
    recorded: dict[int, Responses],
    embedding: DelayEmbedding,
    *,
    training_subject: int,
) -> Iterator[tuple[str, int, int, Responses]]:
    """Yield method, subject, seed (0) and responses of predictions without an image.

    Zero, and mean responses: each participant's own, and that of ``training_subject``
    for the others. ``recorded`` maps subjects to their test responses.
    """
    means = {
        subject: Responses.prepare(r.common[None], r.common, embedding, theiler=True)
        for subject, r in recorded.items()
    }
    for subject, responses in recorded.items():
        everywhere = np.zeros(len(responses.values), int)
        mean = means[subject].reorder(everywhere)
        zero = replace(mean, values=np.zeros_like(mean.values), recurrences={})
        yield ZERO, subject, 0, zero
        yield TRAINING_MEAN, subject, 0, mean
        if subject != training_subject:
            crossed = means[training_subject].reorder(everywhere)
            yield CROSSED_MEAN, subject, 0, crossed


def split_half_scores(
    repetitions: np.ndarray,
    common: np.ndarray,
    embedding: DelayEmbedding,
    *,
    halvings: int,
    rng: np.random.Generator,
    sfreq: float,
) -> pd.DataFrame:
    """Score one half of the test repetitions (N, R, C, T) as a prediction of the other.

    This is what a perfect model of the response would reach against half of the
    repetitions if it had the noise of the other half. ``common`` (C, T) is the mean
    training response; scores are averaged over the halvings.
    """
    frames = []
    for halves in split_halves(repetitions, n_splits=halvings, rng=rng):
        first, second = (
            Responses.prepare(half, common, embedding, theiler=True) for half in halves
        )
        frames.append(score(first, second, sfreq=sfreq))
    return sum(frames) / len(frames)


def posterior_window(ch_names: Iterable[str], times: np.ndarray) -> np.ndarray:
    """Return which channels and times (C, T) are posterior and in 60-500 ms.

    Of THINGS-EEG2's 63 channels these are the 17 of its authors' own analyses.
    """
    regions = np.array(channel_regions(ch_names))
    posterior = np.isin(regions, ("Parietal", "Occipital"))
    return posterior[:, None] & (times > 0.0599) & (times < 0.5001)


def score_across(correlations: np.ndarray, window: np.ndarray) -> dict[str, np.ndarray]:
    """Average correlations over images (N, C, T) over everything and in a window."""
    return {
        "across": correlations.mean(axis=(1, 2)),
        "across_posterior": correlations[:, window].mean(axis=1),
    }


def point_prediction(generated: np.ndarray, kind: str) -> np.ndarray:
    """Return the response (N, C, T) that a run predicts for each image.

    ``generated`` is the ``posterior_mean`` (N, C, T), or samples (N, K, C, T) of which
    the ``mean`` or ``one``, the first, is taken; it may be memory-mapped.
    """
    if kind == "posterior_mean":
        return np.array(generated, np.float32)
    if kind == "one":
        return np.array(generated[:, 0], np.float32)
    return np.stack([image.mean(axis=0, dtype=np.float32) for image in generated])


def comparison_rows(
    rows: Iterable, runs: dict, *, n_samples: dict[str, int], n_seeds: dict[str, int]
) -> pd.DataFrame:
    """Name the rows of the configuration's section ``comparison``, in its order.

    The result has an index of names, such as "Ours (v), posterior mean, cross-subject",
    the method of the run as column kind, and the fields of `paperlib.config.Row`. Two
    rows of one name are a ValueError.

    Parameters
    ----------
    n_samples, n_seeds
        Run -> samples of an image (1 for a method that does not sample), trainings.
    """
    kinds = {"posterior_mean": "posterior mean", "one": "one sample"}
    named = []
    for row in rows:
        parts = [runs[row.run].label]
        if n_samples[row.run] > 1:
            parts.append(kinds.get(row.samples, f"mean of {n_samples[row.run]}"))
        if row.seeds == "ensemble":
            parts.append(f"mean of {n_seeds[row.run]} trainings")
        if row.average_with:
            parts.append(f"averaged with {runs[row.average_with].label}")
        parts += ["cross-subject"] * row.cross_subject
        parts += ["other image"] * row.other_image
        kind = runs[row.run].method
        values = row.model_dump() | {"average_with": row.average_with or ""}
        named.append({"method": ", ".join(parts), "kind": kind, **values})
    check_distinct("Rows of the comparison", "names", [row["method"] for row in named])
    return pd.DataFrame(named).set_index("method")


def reference_row(rows: pd.DataFrame, run: str) -> str:
    """Name the row of a run's point prediction for its own participant and image."""
    own = rows[(rows["run"] == run) & ~rows["cross_subject"] & ~rows["other_image"]]
    return own.sort_values(
        "samples", key=lambda kind: kind == "one", kind="stable"
    ).index[0]


def row_kinds(rows: pd.DataFrame) -> dict[str, str]:
    """Return the kind of each row of the table of methods, in its order.

    Controls and predictions for another image are ``control``, the ceiling is
    ``ceiling``; of the others, cross-subject rows are ``cross``, diffusion transformers
    ``generated`` and the rest ``baseline``.
    """
    kinds = dict.fromkeys(CONTROLS, "control")
    for name, row in rows.iterrows():
        kind = "generated" if row["kind"] == "dit" else "baseline"
        kind = "cross" if row["cross_subject"] else kind
        kinds[name] = "control" if row["other_image"] else kind
    return kinds | {CEILING: "ceiling"}


def predicted_responses(
    rows: pd.DataFrame,
    predictions: Callable[[pd.Series, int], dict[int, np.ndarray]],
    recorded: dict[int, Responses],
    embedding: DelayEmbedding,
    *,
    training_subject: int,
    seed: int,
) -> Iterator[tuple[str, int, int, Responses]]:
    """Yield method, subject compared with, training seed and responses of all rows.

    Rows that show the same predictions across subjects or for other images (drawn by
    ``seed``) share the recurrences.

    Parameters
    ----------
    predictions
        (row, subject) -> training seed -> responses (N, C, T) of the model of that
        participant, called once for the rows that share them.
    training_subject
        Whose models are tested on the others in cross-subject rows.
    """
    shared = ["run", "samples", "seeds", "average_with"]
    for (_, kind, *_), alike in rows.groupby(shared, sort=False, dropna=False):
        options = {"theiler": kind != "one"}  # for the supplement; a fifth of the time
        for source, own in recorded.items():
            others = [s for s in recorded if s != source and source == training_subject]
            tested = [
                (name, row["other_image"], subject)
                for name, row in alike.iterrows()
                for subject in (others if row["cross_subject"] else [source])
            ]
            if not tested:
                continue
            for trained, values in predictions(alike.iloc[0], source).items():
                predicted = Responses.prepare(values, own.common, embedding, **options)
                for name, other_image, subject in tested:
                    shown = predicted
                    if other_image:
                        rng = np.random.default_rng((seed, subject))
                        shown = predicted.reorder(derangement(len(values), rng))
                    yield name, subject, trained, shown


def summarize(scores: pd.DataFrame, *, seed: int, resamples: int) -> pd.DataFrame:
    """Reduce image-wise scores to means with 95 % bootstrap intervals.

    Scores have columns method, subject, seed (training; 0 for what is not trained),
    image, and one a metric; the result has columns method, metric and those of
    `bootstrap_intervals`. Every method meets the same resamples.
    """
    return _intervals(_tables(scores), None, seed, resamples)


def compare_with(
    scores: pd.DataFrame, reference: str, *, seed: int, resamples: int
) -> pd.DataFrame:
    """Return paired differences of every method from one, as `summarize` does scores.

    The reference is subtracted on the same participants and images. Both are resampled
    together, trainings apart; a pair counts only if both scores are defined.
    """
    tables = _tables(scores)
    base = tables.pop(reference)
    return _intervals(tables, base, seed, resamples)


def _tables(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the scores of each method by seed, subject and image."""
    indexed = scores.set_index(["method", "seed", "subject", "image"])
    groups = indexed.groupby("method", sort=False)
    return {method: table.droplevel("method") for method, table in groups}


def _intervals(
    tables: dict[str, pd.DataFrame],
    base: pd.DataFrame | None,
    seed: int,
    resamples: int,
) -> pd.DataFrame:
    """Summarize each table, or its difference from ``base`` on the same subjects."""
    frames = []
    for method, table in tables.items():
        paired = None
        if base is not None:
            subjects = table.index.unique("subject")
            paired = _array(base[base.index.isin(subjects, level="subject")])
        rng = np.random.default_rng(seed)
        rows = bootstrap_intervals(
            _array(table), paired, rng=rng, n_resamples=resamples
        )
        rows.insert(0, "method", method)
        rows.insert(1, "metric", table.columns)
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)


def _array(table: pd.DataFrame) -> np.ndarray:
    """Return the scores of one method as seeds, subjects, images, metrics."""
    table = table.sort_index()
    levels = table.index.remove_unused_levels().levels
    return table.to_numpy(float).reshape(*map(len, levels), -1)
