"""Read what a comparison scores: generated signals of trained runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from paperlib.evaluation.comparison import derangement


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
