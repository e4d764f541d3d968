"""The comparison of methods as table rows, captions and figures."""

import textwrap
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paperlib.reporting.figures import COLORS, PAGE
from paperlib.reporting.tables import MISSING

_KINDS = {  # color of a row -> what is drawn in it
    "generated": "ours",
    "baseline": "other methods",
    "cross": "trained on another participant",
    "control": "no image, or another one",
    "ceiling": "recorded responses",
}
_LABEL_WIDTH = 50  # characters of a line
_FEW = 10  # levels; intervals over fewer are too narrow
_COSTS = {  # column of the budgets -> heading, format
    "parameters": ("Parameters", "{:,.0f}"),
    "steps": ("Steps", "{:,.0f}"),
    "seconds": ("Training (s)", "{:.1f}"),
    "sampling_seconds": ("Sampling (s)", "{:.1f}"),
}


def with_published(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Append published values (method, metric, mean), marked and without intervals."""
    marked = published.assign(method="Published: " + published["method"])
    return pd.concat([summary, marked], ignore_index=True)[summary.columns]


def caption(
    summary: pd.DataFrame,
    what: str = "mean",
    *,
    dataset: str,
    simulated: bool,
    resamples: int,
) -> str:
    """Describe the participants, images and intervals of a table.

    ``what`` the cells show may be ``"paired differences from Ours, mean"``.
    """
    seeds, subjects = (_range(summary[f"n_{name}"]) for name in ("seeds", "subjects"))
    most = {"participants": summary["n_subjects"].max()}
    most["trainings"] = summary["n_seeds"].max()
    few = [name for name, number in most.items() if 1 < number < _FEW]
    drawn = ["images", *(name for name, number in most.items() if number > 1)]
    who = "simulated " * simulated + "participant" + "s" * (subjects != "1")
    fewer = " (n; cross-subject rows lack the one trained on)" * ("to" in subjects)
    text = (
        f"{dataset}, {subjects} {who}{fewer}, {summary['n_images'].max()} test images, "
        f"{seeds} training{'s' * (seeds != '1')} of each row and participant: {what} "
        f"[95 % bootstrap interval over {_list(drawn)}, {resamples:,} resamples]."
    )
    if few:
        text += f" So few {_list(few)} make intervals too narrow for others."
    return text


def published_note(*, simulated: bool) -> str:
    """Explain the rows of :func:`with_published`."""
    note = "Rows marked Published were measured on the real recordings"
    ending = ": not comparable with simulated participants." if simulated else "."
    return note + ending


def _range(numbers: pd.Series) -> str:
    low, high = numbers.min(), numbers.max()
    return f"{high}" if low == high else f"{low} to {high}"


def _list(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def budget_table(
    budgets: pd.DataFrame, summary: pd.DataFrame, metrics: dict[str, str]
) -> pd.DataFrame:
    """Lay the cost of each method out as text, beside its scores.

    ``budgets`` has a row a method; columns parameters, steps, seconds (of training) and
    sampling_seconds.
    """
    both = budgets.join(summary.pivot(index="method", columns="metric", values="mean"))
    shown = _COSTS | {metric: (name, "{:.3f}") for metric, name in metrics.items()}
    columns = {
        heading: both[name].map(form.format).replace("nan", MISSING)
        for name, (heading, form) in shown.items()
    }
    return pd.DataFrame(columns).rename_axis(index="Method")


def order_table(
    differences: pd.DataFrame, published: pd.DataFrame, full: str
) -> pd.DataFrame:
    """Compare the published effect of each ablation with the measured one.

    Differences are those from the full model (`comparison.compare_with`) with a column
    run; published values have columns metric, mean and runs (names of those that show
    the same). as_published says whether the measured interval has the published sign
    ("yes"), the opposite one ("reversed") or holds zero ("open").
    """
    means = published.assign(run=published["runs"].str.split()).explode("run")
    means = means.set_index(["run", "metric"])["mean"]
    ablated = means.reindex(pd.MultiIndex.from_frame(differences[["run", "metric"]]))
    complete = means.get(full, pd.Series(dtype=float)).reindex(differences["metric"])
    effects = differences.assign(published=ablated.to_numpy() - complete.to_numpy())
    effects = effects.dropna(subset="published")
    ends = effects[["low", "high"]].mul(np.sign(effects["published"]), axis=0)
    has_sign, is_opposite = (ends > 0).all(axis=1), (ends < 0).all(axis=1)
    verdicts = np.select([has_sign, is_opposite], ["yes", "reversed"], "open")
    columns = ["method", "metric", "published", "mean", "low", "high", "as_published"]
    return effects.assign(as_published=verdicts)[columns].reset_index(drop=True)


def draw_intervals(
    ax: Axes,
    summary: pd.DataFrame,
    rows: Iterable[str],
    *,
    colors: list[str],
    marker: str = "o",
    shift: float = 0.0,
) -> None:
    """Draw the means and intervals of one metric, one line a row from top to bottom."""
    shown = summary.set_index("method").reindex(rows)
    places = shift - np.arange(len(shown))
    ax.hlines(places, shown["low"], shown["high"], color=colors)
    ax.scatter(shown["mean"], places, c=colors, s=14, marker=marker, zorder=3)


def plot_scores(
    summary: pd.DataFrame,
    *,
    kinds: dict[str, str],
    metrics: dict[str, str],
    levels: dict[str, float],
    level_label: str = "chance",
) -> Figure:
    """Draw means and 95 % intervals, a panel a metric and a line a method.

    ``kinds`` of methods (`comparison.row_kinds`) stand from top to bottom; a method
    without any of these scores is left out. ``metrics`` have axis labels, ``levels``
    are dashed lines.
    """
    defined = summary[summary["metric"].isin(metrics) & summary["mean"].notna()]
    rows = [method for method in kinds if method in set(defined["method"])]
    size = (PAGE, 1.0 + 0.2 * len(rows))
    fig, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True)
    colors = [COLORS[kinds[method]] for method in rows]
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        draw_intervals(ax, summary[summary["metric"] == metric], rows, colors=colors)
        if metric in levels:
            ax.axvline(levels[metric], color=COLORS["control"], ls="--", lw=0.6)
        ax.set_xlabel(label)
        ax.grid(axis="y", lw=0.3)
    wrapped = [textwrap.fill(row, _LABEL_WIDTH) for row in rows]
    axes[0].set_yticks(-np.arange(len(rows)), wrapped)
    axes[0].set_ylim(0.3 - len(rows), 0.7)
    drawn = [kind for kind in _KINDS if kind in {kinds[method] for method in rows}]
    handles = [Line2D([], [], color=COLORS[kind], marker="o", ms=4) for kind in drawn]
    labels = [_KINDS[kind] for kind in drawn]
    if levels:
        handles.append(Line2D([], [], color=COLORS["control"], ls="--", lw=0.6))
        labels.append(level_label)
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig
