"""The comparison of methods as table rows, caption and figure."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paperlib.evaluation.comparison import methods_in_order
from paperlib.reporting.figures import COLORS, PAGE
from paperlib.reporting.tables import MISSING

_KINDS = (  # what a method's name contains -> its color
    ("Zero", "control"),
    ("Training mean", "control"),
    ("other image", "control"),
    ("Split half", "ceiling"),
    ("cross-subject", "cross"),
    ("Ours+", "plus"),
)


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
    chance
        Chance levels of identification, where the table shows it.
    """
    n_subjects = summary["n_subjects"].max()
    who = "participant" if n_subjects == 1 else "participants"
    kind = f"simulated {who}" if simulated else who
    text = (
        f"{dataset}, {n_subjects} {kind}, "
        f"{summary['n_images'].max()} test images: mean [95 % bootstrap "
        f"interval over participants and images, {resamples:,} resamples]. "
    )
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


def across_table(tidy: pd.DataFrame) -> pd.DataFrame:
    """Lay correlations over images out: a row a method, a column a subject.

    Parameters
    ----------
    tidy
        Columns method and correlation, subjects in the index.
    """
    scores = tidy.reset_index("subject")
    wide = scores.pivot(index="method", columns="subject", values="correlation")
    wide = wide.reindex(methods_in_order(scores)).rename(columns="Subject {}".format)
    text = (
        wide.assign(Mean=wide.mean(axis=1)).map("{:.3f}".format).replace("nan", MISSING)
    )
    return text.rename_axis(index="Method", columns=None)


def budget_table(budgets: pd.DataFrame) -> pd.DataFrame:
    """Lay the cost of each run out as text.

    Parameters
    ----------
    budgets
        From :func:`paperlib.evaluation.predictions.read_budgets`.
    """
    formats = {
        "parameters": ("Learned numbers", "{:,.0f}"),
        "steps": ("Steps", "{:,.0f}"),
        "seconds": ("Training (s)", "{:.1f}"),
        "sample_variance": ("Variance of samples / of trials", "{:.2f}"),
    }
    columns = {
        heading: budgets[name].map(form.format).replace("nan", MISSING)
        for name, (heading, form) in formats.items()
        if name in budgets
    }
    return pd.DataFrame(columns)


def plot_scores(
    summary: pd.DataFrame,
    *,
    rows: Sequence[str],
    metrics: dict[str, str],
    chance: dict[str, float],
) -> Figure:
    """Draw means and intervals, a panel a metric and a line a method.

    Parameters
    ----------
    summary
        Measured scores.
    rows
        Methods from top to bottom.
    metrics
        Metric -> axis label.
    chance
        Metric -> level drawn as a dashed line.
    """
    size = (PAGE, 0.6 + 0.2 * len(rows))
    fig, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True)
    table = summary.set_index(["metric", "method"])
    places = -np.arange(len(rows))
    colors = [COLORS[_kind(method)] for method in rows]
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        shown = table.loc[metric].reindex(rows)
        ax.hlines(places, shown["low"], shown["high"], color=colors)
        ax.scatter(shown["mean"], places, c=colors, s=14, zorder=3)
        if metric in chance:
            ax.axvline(chance[metric], color=COLORS["control"], ls="--", lw=0.6)
        ax.set_xlabel(label)
    axes[0].set_yticks(places, rows)
    return fig


def _kind(method: str) -> str:
    return next((kind for part, kind in _KINDS if part in method), "generated")
