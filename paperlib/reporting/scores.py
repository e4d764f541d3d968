"""The comparison of methods as table rows, captions, sentences and figure."""

from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paperlib.evaluation.comparison import (
    CEILING,
    MAIN_METRICS,
    TRAINING_MEAN,
    compare_with,
)
from paperlib.models.linear import FITS
from paperlib.reporting.figures import COLORS, PAGE
from paperlib.reporting.tables import MISSING, format_interval

_KINDS = {  # color of a row -> what is drawn in it
    "generated": "ours",
    "baseline": "other methods",
    "cross": "trained on another participant",
    "control": "knows no image, or another one",
    "ceiling": "other half of the repetitions",
}
_FEW = 10  # participants; intervals over fewer are told to be too narrow
_COSTS = {  # column of the budgets -> heading, format
    "parameters": ("Learned numbers", "{:,.0f}"),
    "steps": ("Steps", "{:,.0f}"),
    "seconds": ("Training (s)", "{:.1f}"),
    "sampling_seconds": ("Sampling (s)", "{:.1f}"),
    "seconds_a_signal": ("A signal (s)", "{:.2g}"),
    "sample_variance": ("Variance of samples / of trials", "{:.2f}"),
}


def with_published(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Append the published values, marked as such and without intervals.

    Parameters
    ----------
    summary
        Measured scores.
    published
        Columns method, metric, mean, from ``tables/published/``.
    """
    marked = published.assign(method="Published: " + published["method"])
    rows = [*summary.to_dict("records"), *marked.to_dict("records")]
    return pd.DataFrame(rows, columns=summary.columns)


def caption(
    summary: pd.DataFrame,
    *,
    simulated: bool,
    dataset: str,
    resamples: int,
    seeds: Sequence[int],
    chance: dict[str, float] | None = None,
) -> str:
    """Say what a table's numbers are.

    Parameters
    ----------
    summary
        Measured scores, for the numbers of subjects and images.
    simulated
        Whether the participants are simulated.
    dataset
        Name of the data set.
    resamples
        Of the bootstrap.
    seeds
        Trainings of each row.
    chance
        Chance levels of identification, where the table shows it.
    """
    about = {"simulated": simulated, "dataset": dataset, "resamples": resamples}
    text = f"{_conditions(summary, 'mean', **about)} {_trainings(summary, seeds)} "
    if chance:
        levels = ", ".join(
            f"{name.replace('_', ' ')} {level:.1%}" for name, level in chance.items()
        )
        return text + f"Chance of identification: {levels}."
    if simulated:
        return text + (
            "Rows marked Published are the paper's, measured on the real recordings: "
            "they are beside, not comparable with, values from simulated participants."
        )
    return text + "Rows marked Published are the paper's."


def difference_caption(
    differences: pd.DataFrame,
    reference: str,
    *,
    simulated: bool,
    dataset: str,
    resamples: int,
    seeds: Sequence[int],
) -> str:
    """Say what paired differences are.

    Parameters
    ----------
    differences
        From :func:`paperlib.evaluation.comparison.compare_with`.
    reference
        The row that is subtracted.
    simulated, dataset, resamples, seeds
        As for :func:`caption`.
    """
    about = {"simulated": simulated, "dataset": dataset, "resamples": resamples}
    what = f"paired differences from {reference}, mean"
    return f"{_conditions(differences, what, **about)} {_trainings(differences, seeds)}"


def across_caption(
    summary: pd.DataFrame,
    *,
    simulated: bool,
    dataset: str,
    resamples: int,
    seeds: Sequence[int],
) -> str:
    """Say what correlations over images are.

    Parameters
    ----------
    summary
        Correlations of the methods and of the ceilings.
    simulated, dataset, resamples, seeds
        As for :func:`caption`.
    """
    about = {"simulated": simulated, "dataset": dataset, "resamples": resamples}
    what = (
        "correlation over test images with the mean of half of the repetitions, mean "
        "over channels and times"
    )
    return f"{_conditions(summary, what, **about)} {_trainings(summary, seeds)}"


def budget_table(budgets: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Lay the cost of each method out as text, beside its scores.

    Parameters
    ----------
    budgets
        From :func:`paperlib.evaluation.predictions.read_budgets`.
    summary
        Measured scores.
    """
    means = summary.pivot(index="method", columns="metric", values="mean")
    both = budgets.join(means)
    scores = {metric: (heading, "{:.3f}") for metric, heading in MAIN_METRICS.items()}
    columns = {
        heading: both[name].map(form.format).replace("nan", MISSING)
        for name, (heading, form) in (_COSTS | scores).items()
    }
    return pd.DataFrame(columns).rename_axis(index="Method")


def conclude(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    chance: float,
    seed: int,
    resamples: int,
) -> list[str]:
    """Say in sentences what the numbers decide, and what they leave open.

    Parameters
    ----------
    scores
        From :func:`paperlib.evaluation.comparison.tidy_scores`.
    summary
        Their means.
    rows
        From :func:`paperlib.evaluation.predictions.comparison_rows`; those that show a
        model once more (cross-subject, other image) are left out.
    chance
        Of the right image being among the best five.
    seed, resamples
        Of the bootstrap.
    """
    own = rows[~rows["cross_subject"] & ~rows["other_image"]]
    bootstrap = {"seed": seed, "resamples": resamples}
    correlations = scores[scores["metric"] == "pearson"]
    from_mean = compare_with(correlations, TRAINING_MEAN, **bootstrap)
    from_mean = from_mean[from_mean["method"].isin(own.index)]
    pearson, top5 = (
        summary[summary["metric"] == metric].set_index("method")
        for metric in ("pearson", "top5")
    )
    best = pearson.loc[own.index, "mean"].idxmax()
    return [
        f"Pearson above that of the training mean, interval without zero: "
        f"{_listed(from_mean[from_mean['low'] > 0])}; below it: "
        f"{_listed(from_mean[from_mean['high'] < 0])}.",
        _identification(top5.loc[own.index].reset_index(), chance),
        *_lead(correlations, pearson["mean"], own["kind"], **bootstrap),
        f"The best Pearson is {pearson.loc[best, 'mean']:.3f} ({best}); half of "
        f"the repetitions reaches {pearson.loc[CEILING, 'mean']:.3f} against the rest.",
    ]


def plot_scores(
    summary: pd.DataFrame,
    *,
    kinds: dict[str, str],
    metrics: dict[str, str],
    chance: dict[str, float],
) -> Figure:
    """Draw means and 95 % intervals, a panel a metric and a line a method.

    Parameters
    ----------
    summary
        Measured scores.
    kinds
        Method -> kind, see :func:`paperlib.evaluation.predictions.row_kinds`, from top
        to bottom; a method that has none of these scores is left out.
    metrics
        Metric -> axis label.
    chance
        Metric -> level drawn as a dashed line.
    """
    defined = summary[summary["metric"].isin(metrics) & summary["mean"].notna()]
    rows = [method for method in kinds if method in set(defined["method"])]
    size = (PAGE, 1.0 + 0.2 * len(rows))
    fig, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True)
    table = summary.set_index(["metric", "method"])
    places = -np.arange(len(rows))
    colors = [COLORS[kinds[method]] for method in rows]
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        shown = table.loc[metric].reindex(rows)
        ax.hlines(places, shown["low"], shown["high"], color=colors)
        ax.scatter(shown["mean"], places, c=colors, s=14, zorder=3)
        if metric in chance:
            ax.axvline(chance[metric], color=COLORS["control"], ls="--", lw=0.6)
        ax.set_xlabel(label)
    axes[0].set_yticks(places, rows)
    axes[0].set_ylim(0.3 - len(rows), 0.7)
    present = {kinds[method] for method in rows}
    drawn = [kind for kind in _KINDS if kind in present]
    handles = [Line2D([], [], color=COLORS[kind], marker="o", ms=4) for kind in drawn]
    labels = [_KINDS[kind] for kind in drawn]
    if chance:
        handles.append(Line2D([], [], color=COLORS["control"], ls="--", lw=0.6))
        labels.append("chance")
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig


def _conditions(
    summary: pd.DataFrame, what: str, *, simulated: bool, dataset: str, resamples: int
) -> str:
    """Say who saw how many images, and what the cells hold."""
    fewest, most = summary["n_subjects"].min(), summary["n_subjects"].max()
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    who = "participant" if most == 1 else "participants"
    kind = f"simulated {who}" if simulated else who
    rows = "" if fewest == most else " (n; cross-subject rows lack the one trained on)"
    drawn = "images" if most == 1 else "participants and images"
    few = (
        f" Resamples of {most} participants vary too little to speak of others."
        if 1 < most < _FEW
        else ""
    )
    return (
        f"{dataset}, {number} {kind}{rows}, {summary['n_images'].max()} test images: "
        f"{what} [95 % bootstrap interval over {drawn}, {resamples:,} resamples].{few}"
    )


def _trainings(summary: pd.DataFrame, seeds: Sequence[int]) -> str:
    """Say how many trainings stand behind a row, and how far they are apart."""
    if len(seeds) == 1:
        return "1 training of each row and participant."
    largest = summary.groupby("metric")["seed_sd"].max()
    shown = ", ".join(
        f"{heading.split()[0]} {largest[metric]:.3f}"
        for metric, heading in MAIN_METRICS.items()
        if metric in largest
    )
    return (
        f"{len(seeds)} trainings of each row and participant are averaged; over them "
        f"these means have a standard deviation of at most {shown}."
    )


def _listed(differences: pd.DataFrame) -> str:
    shown = (f"{row.method} ({row.mean:+.3f})" for row in differences.itertuples())
    return ", ".join(shown) or "none"


def _identification(top5: pd.DataFrame, chance: float) -> str:
    """Tell the methods that identify the image above chance from those that do not."""
    above = top5["low"] > chance
    known, unknown = (
        ", ".join(f"{row.method} ({row.mean:.0%})" for row in found.itertuples())
        for found in (top5[above], top5[~above])
    )
    return (
        f"The image is among the best five more often than by chance ({chance:.0%}, "
        f"interval above it): {known or 'none'}; not: {unknown or 'none'}."
    )


def _lead(
    correlations: pd.DataFrame,
    means: pd.Series,
    kinds: pd.Series,
    *,
    seed: int,
    resamples: int,
) -> Iterator[str]:
    """Compare the best linear encoder with the best diffusion transformer, if any."""
    linear, ours = kinds.index[kinds.isin(list(FITS))], kinds.index[kinds == "dit"]
    if linear.empty or ours.empty:
        return
    best_linear, best_ours = means[linear].idxmax(), means[ours].idxmax()
    two = correlations[correlations["method"].isin([best_linear, best_ours])]
    row = compare_with(two, best_ours, seed=seed, resamples=resamples).iloc[0]
    verdict = "is not told apart from"
    if row["low"] > 0 or row["high"] < 0:
        verdict = "beats" if row["low"] > 0 else "is behind"
    difference = format_interval(row["mean"], row["low"], row["high"])
    yield (
        f"The best linear encoder, {best_linear}, {verdict} the best of ours, "
        f"{best_ours}: {difference} in Pearson."
    )
