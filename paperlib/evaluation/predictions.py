"""Read what a comparison scores: generated signals of trained runs."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from paperlib.evaluation.comparison import CEILING, CONTROLS
from paperlib.evaluation.responses import Responses
from paperlib.evaluation.statistics import derangement
from paperlib.validation import check_distinct

_N_SPREAD = 16  # samples of an image whose variance is taken


def comparison_rows(settings: dict, where: Callable[..., Path]) -> pd.DataFrame:
    """Name the rows of a comparison, in its order.

    Parameters
    ----------
    settings
        Of notebook 06: ``comparison`` (entries with run, samples and, if wanted,
        cross_subject and other_image), ``runs``, ``subjects``, ``training_subject``,
        ``seeds`` and ``seed``.
    where
        From :func:`paperlib.paths.locate`.

    Returns
    -------
    DataFrame
        The name, such as ``Ours (v), mean of 16, cross-subject``, is the index;
        columns run, kind (its method), samples (one or mean), cross_subject,
        other_image.

    Raises
    ------
    ValueError
        If two rows have the same name.
    """
    rows = []
    for entry in settings["comparison"]:
        run = settings["runs"][entry["run"]]
        keys = {"subject": settings["training_subject"], "seed": settings["seeds"][0]}
        path = where("samples", run=entry["run"], **keys)
        n_samples = np.load(path, mmap_mode="r").shape[1]
        flags = {key: entry.get(key, False) for key in ("cross_subject", "other_image")}
        name = method_name(run["label"], entry, n_samples)
        rows.append({"method": name, "kind": run["method"], **entry, **flags})
    check_distinct("Rows of the comparison", "names", [row["method"] for row in rows])
    return pd.DataFrame(rows).set_index("method")


def row_kinds(rows: pd.DataFrame) -> dict[str, str]:
    """Say of what kind each row of the table of methods is, in its order.

    Parameters
    ----------
    rows
        From :func:`comparison_rows`.

    Returns
    -------
    dict
        Controls are ``control``, the ceiling ``ceiling``; of the others, answers to
        another image are ``control``, cross-subject rows ``cross``, diffusion
        transformers ``generated`` and all others ``baseline``.
    """
    kinds = dict.fromkeys(CONTROLS, "control")
    for name, row in rows.iterrows():
        kind = "generated" if row["kind"] == "dit" else "baseline"
        kind = "cross" if row["cross_subject"] else kind
        kinds[name] = "control" if row["other_image"] else kind
    return kinds | {CEILING: "ceiling"}


def reference_row(rows: pd.DataFrame, run: str) -> str:
    """Name the first row of a run that answers for its own participant and image.

    Parameters
    ----------
    rows
        From :func:`comparison_rows`.
    run
        A run that has such a row.
    """
    own = (rows["run"] == run) & ~rows["cross_subject"] & ~rows["other_image"]
    return rows.index[own][0]


def read_predictions(
    settings: dict,
    where: Callable[..., Path],
    rows: pd.DataFrame,
    *,
    recorded: dict[int, Responses],
    dim: int,
    delay: int,
    neighbors: int,
) -> Iterator[tuple[str, int, int, Responses]]:
    """Yield the predictions of a comparison, each read and prepared once.

    Parameters
    ----------
    settings, where
        As for :func:`comparison_rows`.
    rows
        From :func:`comparison_rows`.
    recorded
        Subject -> test responses.
    dim, delay, neighbors
        Of the synchronization likelihood.

    Yields
    ------
    method, subject compared with, training seed, responses
        Those of one run, participant and seed after one another: rows that show them
        across subjects or for other images share the recurrences.
    """
    options = {"dim": dim, "delay": delay, "neighbors": neighbors}
    for (run, samples), alike in rows.groupby(["run", "samples"], sort=False):
        for source, seed in product(settings["subjects"], settings["seeds"]):
            tested = [
                (row, subject)
                for row in alike.itertuples()
                for subject in _tested(row.cross_subject, source, settings)
            ]
            if not tested:
                continue
            path = where("samples", run=run, subject=source, seed=seed)
            common = recorded[source].common
            found = read_responses(path, common, samples=samples, **options)
            for row, subject in tested:
                shown = found
                if row.other_image:
                    rng = np.random.default_rng((settings["seed"], subject))
                    shown = found.reorder(derangement(len(found.values), rng))
                yield row.Index, subject, seed, shown


def read_responses(
    path: Path,
    common: np.ndarray,
    *,
    samples: str = "mean",
    dim: int,
    delay: int,
    neighbors: int,
) -> Responses:
    """Read a prediction: one generated signal of each image or the mean of all.

    Parameters
    ----------
    path
        Of generated signals (N, K, C, T).
    common : ndarray of shape (C, T)
        Mean training response of the participant the model was trained on.
    samples
        "one" or "mean".
    dim, delay, neighbors
        Of the synchronization likelihood.
    """
    generated = np.load(path, mmap_mode="r")  # N K C T
    one = samples == "one"
    values = np.array(generated[:, 0]) if one else generated.mean(axis=1)
    options = {"dim": dim, "delay": delay, "neighbors": neighbors}
    return Responses.prepare(values, common, **options)


def read_budgets(
    settings: dict,
    where: Callable[..., Path],
    rows: pd.DataFrame,
    *,
    trial_variance: dict[tuple[str, int], float],
) -> pd.DataFrame:
    """Return what each method of a comparison cost, and how much its samples differ.

    Parameters
    ----------
    settings, where
        As for :func:`comparison_rows`.
    rows
        From :func:`comparison_rows`.
    trial_variance
        What models learn from (mean, single; ``training.repetitions``) and subject ->
        its variance over repetitions of an image.

    Returns
    -------
    DataFrame
        Indexed by method, without the rows that show a model once more (cross-subject,
        other image): learned numbers, optimizer steps, seconds of training and of
        sampling, seconds a generated signal, and the variance over the samples of an
        image as a share of that over trials. Means over subjects and seeds; NaN for
        methods that do not sample.
    """
    found = []
    own = rows[~rows["cross_subject"] & ~rows["other_image"]]
    for row in own.itertuples():
        for subject, seed in product(settings["subjects"], settings["seeds"]):
            keys = {"run": row.run, "subject": subject, "seed": seed}
            training = _read_json(where("training", **keys) / "budget.json")
            recipe = _read_json(where("checkpoint", **keys) / "config.json")
            sampling = _read_json(where("sampling", **keys))["seconds"]
            samples = np.load(where("samples", **keys), mmap_mode="r")  # N K C T
            learned = recipe["training"]["repetitions"]
            share = _spread(samples[:, :_N_SPREAD]) / trial_variance[learned, subject]
            each = sampling / (samples.shape[0] * samples.shape[1])
            used = 1 if row.samples == "one" else samples.shape[1]
            cost = {
                "sampling_seconds": each * samples.shape[0] * used,
                "seconds_a_signal": each,
                "sample_variance": share,
            }
            found.append({"method": row.Index, **training, **cost})
    return pd.DataFrame(found).groupby("method", sort=False).mean()


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


def _tested(cross_subject: bool, source: int, settings: dict) -> list[int]:
    """List the participants to whom a row compares predictions made for one."""
    if not cross_subject:
        return [source]
    others = [subject for subject in settings["subjects"] if subject != source]
    return others if source == settings["training_subject"] else []


def _spread(samples: np.ndarray) -> float:
    """Return the variance over the samples (N, K, C, T) of an image."""
    return samples.var(axis=1, ddof=1).mean() if samples.shape[1] > 1 else np.nan


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
