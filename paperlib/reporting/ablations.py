"""Figure 6: scores without the channels of a brain region."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from paperlib.evaluation.ablations import FULL, RETRAINED, ZEROED, region_row
from paperlib.reporting.figures import COLORS, PAGE

_LOOK = {  # variant -> marker, color, place beside the region's line
    FULL: ("o", COLORS["recorded"], 0.22),
    RETRAINED: ("s", COLORS["generated"], 0.0),
    ZEROED: ("D", COLORS["baseline"], -0.22),
}


def plot_regions(
    summary: pd.DataFrame, *, regions: list[str], metrics: dict[str, str]
) -> Figure:
    """Draw scores without each region: a panel a metric, a line a region (Figure 6).

    Parameters
    ----------
    summary
        From :func:`paperlib.evaluation.comparison.summarize`; methods are named by
        :func:`paperlib.evaluation.ablations.region_row`.
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
