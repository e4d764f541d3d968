"""Read what a comparison scores: generated signals of trained runs."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from paperlib.evaluation.statistics import derangement

_N_SPREAD = 16  # samples of an image whose variance is taken


def read_predictions(
    settings: dict, where: Callable[..., Path], subject: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the predictions of a comparison for one participant, a seed at a time.

    Parameters
    ----------
    settings
        Of notebook 06: ``comparison`` (entries with run, samples and, if wanted,
        cross_subject and other_image), ``runs``, ``seeds``, ``training_subject`` and
        ``seed``.
    where
        From :func:`paperlib.paths.locate`.
    subject
        Whose recordings will be compared.

    Yields
    ------
    method, prediction of shape (N, C, T)
    """
    source = settings["training_subject"]
    for entry in settings["comparison"]:
        crosses = entry.get("cross_subject", False)
        if crosses and subject == source:
            continue
        for seed in settings["seeds"]:
            keys = {"subject": source if crosses else subject, "seed": seed}
            path = where("samples", run=entry["run"], **keys)
            samples = np.load(path, mmap_mode="r")  # N K C T
            predicted = samples[:, 0] if entry["samples"] == "one" else samples.mean(1)
            if entry.get("other_image", False):
                rng = np.random.default_rng((settings["seed"], subject))
                predicted = predicted[derangement(len(predicted), rng)]
            label = settings["runs"][entry["run"]]["label"]
            yield method_name(label, entry, samples.shape[1]), predicted


def read_mean(path: Path) -> np.ndarray:
    """Return the mean over the samples of each image, of shape (N, C, T).

    Parameters
    ----------
    path
        Of generated signals (N, K, C, T).
    """
    return np.load(path, mmap_mode="r").mean(axis=1)


def read_budgets(
    settings: dict, where: Callable[..., Path], *, trial_variance: dict[int, float]
) -> pd.DataFrame:
    """Return what each run of a comparison cost, and how much its samples differ.

    Parameters
    ----------
    settings, where
        As for :func:`read_predictions`.
    trial_variance
        Subject -> variance over repetitions of an image of what models learn from.

    Returns
    -------
    DataFrame
        A row for each run: its label as Method, learned numbers, optimizer steps,
        seconds of training, and the variance over the samples of an image as a share
        of that over trials. Means over subjects and seeds; NaN for methods that do not
        sample.
    """
    rows = []
    for run in dict.fromkeys(entry["run"] for entry in settings["comparison"]):
        label = settings["runs"][run]["label"]
        for subject, seed in product(settings["subjects"], settings["seeds"]):
            keys = {"run": run, "subject": subject, "seed": seed}
            budget = (where("training", **keys) / "budget.json").read_text()
            samples = np.load(where("samples", **keys), mmap_mode="r")  # N K C T
            share = _spread(samples[:, :_N_SPREAD]) / trial_variance[subject]
            row = {"Method": label, **json.loads(budget), "sample_variance": share}
            rows.append(row)
    return pd.DataFrame(rows).groupby("Method", sort=False).mean()


def _spread(samples: np.ndarray) -> float:
    """Return the variance over the samples (N, K, C, T) of an image."""
    return samples.var(axis=1, ddof=1).mean() if samples.shape[1] > 1 else np.nan


def method_name(label: str, entry: dict, n_samples: int) -> str:
    """Name a row of a comparison, such as ``Ours (v), mean of 16, cross-subject``.

    A method that does not sample (``n_samples`` is 1) is named by its label.
    """
    parts = [label]
    if n_samples > 1:
        one = entry["samples"] == "one"
        parts.append("one sample" if one else f"mean of {n_samples}")
    parts += ["cross-subject"] * entry.get("cross_subject", False)
    parts += ["other image"] * entry.get("other_image", False)
    return ", ".join(parts)
