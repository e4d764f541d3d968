"""CLIP Scores as tables and figures (paper, Figures 4, 5 and 8, Tables 7 and 8)."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from paperlib.evaluation.clip_score import EDGES
from paperlib.reporting.figures import COLORS, COLUMN
from paperlib.reporting.tables import MISSING, format_interval

_LINE = 30  # letters of a caption under a picture half a column wide


def score_table(
    measured: pd.DataFrame,
    published: pd.DataFrame,
    *,
    subjects: Mapping[str, Sequence[int]],
) -> pd.DataFrame:
    """Put the published distributions of each data set below the measured ones.

    ``measured`` is from `describe_scores`, of one captioner; the participants of a data
    set share a row. The encoder of a published row is ``"Published: <captioner>"``.
    """
    ranges = measured["dataset"].map(lambda name: participant_range(subjects[name]))
    ours = measured.assign(participants=ranges)
    theirs = published.assign(encoder="Published: " + published["captioner"])
    theirs = theirs[theirs["dataset"].isin(ours["dataset"])]
    places = {dataset: i for i, dataset in enumerate(ours["dataset"].unique())}
    both = pd.concat([ours, theirs])
    both = both.sort_values("dataset", key=lambda d: d.map(places), kind="stable")
    columns = [*measured.columns]
    columns.insert(columns.index("dataset") + 1, "participants")
    return both[columns].reset_index(drop=True)


def participant_range(subjects: Sequence[int]) -> str:
    """Name participants who share a row, as ``"1-4"`` or ``"1, 3"``."""
    first, last = min(subjects), max(subjects)
    if len(subjects) > 1 and sorted(subjects) == list(range(first, last + 1)):
        return f"{first}-{last}"
    return ", ".join(map(str, subjects))


def distribution_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Lay `score_table` out as text, a row a distribution and a column a range."""
    rows = []
    for row in scores.to_dict("records"):
        viewers = row["participants"]
        same = "" if viewers.isdigit() else " (same images)"
        viewers = "all participants" if viewers == "all" else f"P{viewers}{same}"
        is_published = row["encoder"].startswith("Published")
        formula = "" if is_published else f", {row['score']}"
        cells = {
            "Data set": f"{row['dataset']}, {viewers}",
            "Score": row["encoder"] + formula,
            "n": f"{row['n_images']:,}",
            "Mean": format_interval(row["mean"], row["low"], row["high"]),
            "SD": format_interval(row["sd"]),
            "Other concept": format_interval(row["other_mean"]),
        }
        for low, high in pairwise(EDGES):
            heading = f"[{low}, {high}{']' if high == 1 else ')'}"
            cells[heading] = _share(row[f"share_{low}"], row[f"count_{low}"])
        rows.append(cells)
    return pd.DataFrame(rows).set_index("Data set")


def table_caption(captioner: str, *, simulated: bool) -> str:
    """Return the caption of a table of CLIP Scores."""
    kind = "Simulated participants, rendered images, small models. "
    beside = ", measured on real pictures: not comparable with the others"
    return (
        f"{kind if simulated else ''}CLIP Scores of all captions by {captioner}: n "
        "images, mean [95 % bootstrap interval over concepts, whose images are "
        "resampled together], SD over images, mean with captions of images of other "
        "concepts, share of the scores in each range (count). Scores above 1 count in "
        "the last range. Participants of a data set saw the same images, which are "
        "captioned once, so they share a row. The paper does not state its formula. "
        f"Rows marked Published are the paper's{beside if simulated else ''}."
    )


def plot_captioned(
    pictures: Sequence[Image.Image], captions: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Show pictures side by side, each above its caption."""
    texts = [textwrap.fill(caption, _LINE) for caption in captions]
    n_lines = max(text.count("\n") + 1 for text in texts)
    size = (COLUMN, COLUMN / len(texts) + 0.4 + 0.12 * n_lines)
    fig, axes = plt.subplots(1, len(texts), figsize=size, squeeze=False)
    rows = zip(axes.flat, pictures, texts, titles, strict=True)
    for ax, picture, text, title in rows:
        ax.imshow(picture)
        ax.set(xticks=[], yticks=[], anchor="N")
        ax.set_title(title, fontsize=7, parse_math=False)
        ax.set_xlabel(text, fontsize=7, ha="left", x=0, parse_math=False)
        ax.spines[:].set_visible(False)
    return fig


def plot_distributions(
    scores: pd.DataFrame,
    *,
    hue: str,
    subjects: Mapping[str, Sequence[int]],
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Draw the distribution of scores, a column a data set and a row a formula.

    Each value of the column ``hue`` has a color; light lines are the edges of the
    paper's ranges, dark ones the published means.
    """
    datasets, formulas, names = (
        list(scores[key].unique()) for key in ("dataset", "score", hue)
    )
    palette = dict(zip(names, sns.color_palette(n_colors=len(names)), strict=True))
    other = {"ls": ":", "label": "Mean with captions of other concepts"}
    paper = {"color": COLORS["recorded"], "label": "Published mean, real data"}
    size = (COLUMN * len(datasets) + 0.25, 1.4 * len(formulas) + 0.9)
    layout = {"sharex": "row", "sharey": "row", "squeeze": False}
    fig, axes = plt.subplots(len(formulas), len(datasets), figsize=size, **layout)
    bars = {"stat": "percent", "common_norm": False, "element": "step", "bins": 100}
    look = {"palette": palette, "alpha": 0.3, "lw": 0.8, "legend": False}
    for (formula, dataset), part in scores.groupby(["score", "dataset"]):
        ax = axes[formulas.index(formula), datasets.index(dataset)]
        limits = (0, max(1, part["value"].max()))
        sns.histplot(part, ax=ax, x="value", hue=hue, binrange=limits, **bars, **look)
        for name, mean in part.groupby(hue)["other_value"].mean().items():
            ax.axvline(mean, color=palette[name], **other)
        for edge in EDGES:
            ax.axvline(edge, color=COLORS["control"], lw=0.4, zorder=0)
        if published is not None:
            ax.axvline(published[dataset], **paper)
        ax.set(xlabel=formula, ylabel="Captions (%)")
        if formula == formulas[0]:
            viewers, n = (
                participant_range(subjects[dataset]),
                part["image_id"].nunique(),
            )
            ax.set_title(f"{dataset}, P{viewers}: {n:,} images")
    patches = [Patch(color=color, label=name) for name, color in palette.items()]
    lines = [Line2D([], [], color=COLORS["control"], **other)]
    lines += [] if published is None else [Line2D([], [], **paper)]
    legend = fig.legend(handles=patches + lines, loc="outside lower center", ncols=2)
    plt.setp(legend.get_texts(), parse_math=False)
    return fig


def _share(share: float, count: float) -> str:
    """Write a share and its count, which may not be stated."""
    if pd.isna(share):
        return MISSING
    if share == 0 or pd.isna(count):
        return f"{share:.1%}"
    return f"{share:.1%} ({count:,.0f})"
