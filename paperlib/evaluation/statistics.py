"""Intervals for means over participants, images and trainings, and derangements.

Participants, images and trainings are samples of those that one could have had. Every
participant saw the same images, so both are resampled, with replacement and crossed: a
resample takes whole rows and whole columns of the table of scores, never channels or
times. The trainings (seeds) of a method are nested in participants: each time that a
participant is drawn, trainings are drawn among its own, for each method anew. With
several participants the luck of training counts twice, within and between them, which
is on the safe side. Images are independent draws: both test sets show one image of each
concept.

The percentile interval of few levels is too narrow for statements about others: where
only participants differ, that of 2 covers the truth in half of all studies, of 4 in
80 %, of 10 in 92 %; the same holds for few trainings. With one training, the interval
does not contain the luck of training at all.
"""

import numpy as np
import pandas as pd


def bootstrap_intervals(
    scores: np.ndarray,
    reference: np.ndarray | None = None,
    *,
    rng: np.random.Generator,
    n_resamples: int = 10_000,
) -> pd.DataFrame:
    """Return mean scores with 95 % percentile bootstrap intervals, a row a metric.

    Scores are (seeds, subjects, images, metrics); with those of a reference method, the
    rows describe the paired difference, where both are defined. An image with a NaN is
    left out for all seeds and counted in n_undefined. A factor with one level is not
    resampled; low and high are NaN if none can be.
    """
    terms = [scores] if reference is None else [scores, -reference]
    _, n_subjects, n_images, n_metrics = scores.shape
    defined = ~np.any([np.isnan(term).any(axis=0) for term in terms], axis=0)  # P N M
    subjects, images = (
        rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
        for n in (n_subjects, n_images)
    )  # how often each was drawn: B P and B N
    images = images.astype(float)
    totals, means = np.zeros((n_resamples, n_metrics)), np.zeros(n_metrics)
    for term in terms:
        known = np.where(defined, term, 0)  # S P N M
        means += known.mean(axis=0).sum(axis=(0, 1))
        n_seeds = len(term)
        drawn = subjects[..., None]  # B P S, participants times trainings
        if n_seeds > 1:  # each time that a participant was drawn, n_seeds trainings
            even = np.full(n_seeds, 1 / n_seeds)
            drawn = rng.multinomial(subjects * n_seeds, even) / n_seeds
        for subject, seed in np.ndindex(n_subjects, n_seeds):
            totals += drawn[:, subject, seed, None] * (images @ known[seed, subject])
    counts = sum(
        drawn[:, None] * (images @ table.astype(float))
        for drawn, table in zip(subjects.T, defined, strict=True)
    )
    n_defined = defined.sum(axis=(0, 1))
    ends = np.full((2, n_metrics), np.nan)
    resampled = (n_defined > 0) & (max(map(len, terms)) * n_subjects * n_images > 1)
    if resampled.any():
        counts[counts == 0] = np.nan
        drawn_means = totals[:, resampled] / counts[:, resampled]
        ends[:, resampled] = np.nanquantile(drawn_means, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "mean": means / np.where(n_defined, n_defined, np.nan),
            "low": ends[0],
            "high": ends[1],
            "n_seeds": len(scores),
            "n_subjects": n_subjects,
            "n_images": n_images,
            "n_undefined": n_subjects * n_images - n_defined,
        }
    )


def derangement(n_images: int, rng: np.random.Generator) -> np.ndarray:
    """Assign another image to each image, as a control that keeps all else.

    The permutation is one cycle through all images, which leaves nothing in its place.
    """
    if n_images < 2:
        raise ValueError(f"A derangement needs two images or more; got {n_images}.")
    cycle = rng.permutation(n_images)
    order = np.empty(n_images, dtype=int)
    order[cycle] = np.roll(cycle, 1)
    return order
