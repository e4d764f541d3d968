"""CLIP Scores as tables and figures (paper, Figures 4, 5 and 8, Tables 7 and 8)."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
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

    Parameters
    ----------
    measured
        From `describe_scores`, of one captioner.
    published
        From ``tables/published/``. Data sets that were not measured are left out;
        encoder becomes ``"Published: <captioner>"``.
    subjects
        Data set -> its participants. They share a measured row: all saw its images.
    """
    ranges = measured["dataset"].map(lambda name: participant_range(subjects[name]))
    ours = measured.assign(participants=ranges)
    theirs = published.assign(encoder="Published: " + published["captioner"])
    theirs = theirs[theirs["dataset"].isin(ours["dataset"])]
    places = {dataset: i for i, dataset in enumerate(ours["dataset"].unique())}
    both = pd.DataFrame([*ours.to_dict("records"), *theirs.to_dict("records")])
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
        viewers = f"P{row['participants']}"
        if row["participants"] == "all":
            viewers = "all participants"
        elif not row["participants"].isdigit():
            viewers += " (same images)"
        source = row["encoder"]
        if not source.startswith("Published"):
            source += f", {row['score']}"
        cells = {
            "Data set": f"{row['dataset']}, {viewers}",
            "Score": source,
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

    Gray lines are the edges of the paper's ranges.

    Parameters
    ----------
    scores
        From `score_cosines`, with a column dataset.
    hue
        Column whose values have a color each.
    subjects
        Data set -> the participants of its panels.
    published
        Data set -> mean to draw into its panels.
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
    for (formula, dataset), part in scores.groupby(["score", "dataset"]):
        ax = axes[formulas.index(formula), datasets.index(dataset)]
        sns.histplot(
            part,
            ax=ax,
            x="value",
            hue=hue,
            palette=palette,
            bins=100,
            binrange=(0, max(1, part["value"].max())),
            stat="percent",
            common_norm=False,
            element="step",
            alpha=0.3,
            lw=0.8,
            legend=False,
        )
        for name, mean in part.groupby(hue)["other_value"].mean().items():
            ax.axvline(mean, color=palette[name], **other)
        for edge in EDGES:
            ax.axvline(edge, color=COLORS["control"], lw=0.4, zorder=0)
        if published is not None:
            ax.axvline(published[dataset], **paper)
        ax.set(xlabel=formula, ylabel="Captions (%)")
    for ax, dataset in zip(axes[0], datasets, strict=True):
        n_images = scores.loc[scores["dataset"] == dataset, "image_id"].nunique()
        viewers = participant_range(subjects[dataset])
        ax.set_title(f"{dataset}, P{viewers}: {n_images:,} images")
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=c, label=n) for n, c in palette.items()
    ]
    handles += [plt.Line2D([], [], color=COLORS["control"], **other)]
    handles += [] if published is None else [plt.Line2D([], [], **paper)]
    legend = fig.legend(handles=handles, loc="outside lower center", ncols=2)
    plt.setp(legend.get_texts(), parse_math=False)
    return fig


def _share(share: float, count: float) -> str:
    """Write a share and its count, which may not be stated."""
    if pd.isna(share):
        return MISSING
    if share == 0 or pd.isna(count):
        return f"{share:.1%}"
    return f"{share:.1%} ({count:,.0f})"
