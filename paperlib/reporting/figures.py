"""The theme of every figure, and how one is saved."""

from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from paperlib.atomic import atomic_path

COLUMN = 3.25  # inches, one column of the conference's page
PAGE = 6.75  # inches, both columns
SIMULATED = "Simulated participants"  # what every figure of them says

# What a color means, everywhere.
COLORS = {
    "recorded": "#404040",
    "generated": "#0173b2",
    "baseline": "#de8f05",
    "control": "#949494",
    "ceiling": "#ca9161",
    "plus": "#029e73",
    "cross": "#cc78bc",
}
REGION_COLORS = {
    "Frontal": "#0173b2",
    "Central": "#de8f05",
    "Temporal": "#029e73",
    "Parietal": "#cc78bc",
    "Occipital": "#d55e00",
}


def set_theme() -> None:
    """Set sizes for a printed page: text 8 and 7 pt, thin lines, no top spines."""
    text = {"font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8}
    small = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    lines = {"axes.linewidth": 0.6, "lines.linewidth": 1.0, "lines.markersize": 4.8}
    ticks = {"xtick.major.width": 0.6, "ytick.major.width": 0.6}
    files = {"pdf.fonttype": 42, "savefig.dpi": 300, "figure.dpi": 110}
    layout = {"figure.constrained_layout.use": True, "legend.frameon": False}
    spines = {"axes.spines.top": False, "axes.spines.right": False}
    patches = {"patch.edgecolor": "white", "patch.force_edgecolor": True}
    colors = {"axes.prop_cycle": cycler(color=list(REGION_COLORS.values()))}
    mpl.rcdefaults()
    mpl.rcParams.update(text | dict.fromkeys(small, 7) | lines | ticks | files)
    mpl.rcParams.update(layout | spines | patches | colors)


def save_figure(fig: Figure, stem: str | Path, *, simulated: bool) -> list[Path]:
    """Write ``<stem>.pdf`` and ``<stem>.png`` (300 dpi), the same bytes at every run.

    A figure of simulated participants says so. The size is kept.
    """
    # No dates and no versions in the files: a re-run must not change them.
    metadata = {
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        ".png": {"Software": None},
    }
    if simulated:
        gray = COLORS["control"]
        fig.suptitle(SIMULATED, x=0.01, ha="left", size=7, color=gray)
    written = []
    for ending, fields in metadata.items():
        written.append(Path(f"{stem}{ending}"))
        with atomic_path(written[-1]) as partial:
            fig.savefig(partial, metadata=fields)
    return written
