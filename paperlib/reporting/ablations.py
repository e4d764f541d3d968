"""Ablations as tables and as Figure 6."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from paperlib.evaluation.ablations import FULL, RETRAINED, ZEROED
from paperlib.reporting.figures import COLORS, PAGE
from paperlib.reporting.scores import caption

_LOOK = {  # variant -> marker, color, place beside the region's line
    FULL: ("o", COLORS["recorded"], 0.22),
    RETRAINED: ("s", COLORS["generated"], 0.0),
    ZEROED: ("D", COLORS["baseline"], -0.22),
}


def ablation_caption(
    summary: pd.DataFrame,
    *,
    seeds: list[int],
    simulated: bool,
    dataset: str,
    resamples: int,
) -> str:
    """Say what the scores of an ablation are.

    Parameters
    ----------
    summary, simulated, dataset, resamples
        As for :func:`paperlib.reporting.scores.caption`.
    seeds
        Trainings of each row.
    """
    about = {"simulated": simulated, "dataset": dataset, "resamples": resamples}
    return f"{caption(summary, **about)} {_trainings(seeds)}"


def difference_caption(
    reference: str, *, seeds: list[int], simulated: bool, dataset: str, resamples: int
) -> str:
    """Say what the paired differences of an ablation are.

    Parameters
    ----------
    reference
        The row that is subtracted.
    seeds, simulated, dataset, resamples
        As for :func:`ablation_caption`.
    """
    kind = "simulated participants" if simulated else "participants"
    return (
        f"{dataset}, {kind}: paired differences from {reference}, mean [95 % bootstrap "
        f"interval over participants and images, {resamples:,} resamples]. "
        f"{_trainings(seeds)}"
    )


def region_row(region: str, variant: str) -> str:
    """Name a row of Figure 6, such as ``Occipital: trained without the region``."""
    return f"{region}: {variant}"


def _trainings(seeds: list[int]) -> str:
    trainings = "training" if len(seeds) == 1 else "trainings"
    return f"{len(seeds)} {trainings} of each row and participant."


def plot_regions(
    summary: pd.DataFrame, *, regions: list[str], metrics: dict[str, str]
) -> Figure:
    """Draw scores without each region: a panel a metric, a line a region (Figure 6).

    Parameters
    ----------
    summary
        From :func:`paperlib.evaluation.comparison.summarize`; methods are named by
        :func:`region_row`.
    regions
        From top to bottom.
    metrics
        Metric -> axis label.
    """
    size = (PAGE, 0.9 + 0.32 * len(regions))
    panels = {"figsize": size, "sharey": True, "squeeze": False}
    fig, (axes,) = plt.subplots(1, len(metrics), **panels)
    table = summary.set_index(["metric", "method"])
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        for variant, (marker, color, shift) in _LOOK.items():
            names = [region_row(region, variant) for region in regions]
            shown = table.loc[metric].reindex(names)
            places = [shift - row for row in range(len(regions))]
            ax.hlines(places, shown["low"], shown["high"], color=color)
            ax.scatter(shown["mean"], places, c=color, s=14, marker=marker, zorder=3)
        ax.set_xlabel(label)
    axes[0].set_yticks([-row for row in range(len(regions))], regions)
    axes[0].set_ylabel("Region removed")
    handles = [
        plt.Line2D([], [], color=color, marker=marker, markersize=4, label=variant)
        for variant, (marker, color, _) in _LOOK.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig
