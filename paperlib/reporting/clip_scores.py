"""CLIP Scores as tables and figures (paper, Figures 4, 5 and 8, Tables 7 and 8)."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from paperlib.evaluation.clip_score import EDGES, implied_spread
from paperlib.reporting.figures import COLORS, COLUMN
from paperlib.reporting.tables import MISSING, format_interval

_LINE = 30  # letters of a caption under a picture half a column wide
_OTHER = {"ls": ":", "label": "Mean with captions of other concepts"}
_PUBLISHED = {"color": COLORS["recorded"], "label": "Published mean, real data"}


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
        From :func:`paperlib.evaluation.clip_score.describe_scores`: one captioner.
    published
        From ``tables/published/``: captioner, dataset, participants, n_images, mean,
        and counts and shares as far as the paper states them. Rows of data sets that
        were not measured are left out.
    subjects
        Data set -> its participants, who share a measured row: all saw its images.

    Returns
    -------
    DataFrame
        The columns of both; encoder is ``"Published: <captioner>"`` in published rows.
    """
    names = "Published: " + published["captioner"]
    shared = measured["dataset"].map(lambda name: participant_range(subjects[name]))
    ours = measured.assign(participants=shared).to_dict("records")
    places = {dataset: i for i, dataset in enumerate(measured["dataset"].unique())}
    theirs = published.assign(encoder=names)
    theirs = theirs[theirs["dataset"].isin(places)].to_dict("records")
    rows = sorted(ours + theirs, key=lambda row: places[row["dataset"]])
    columns = [*measured.columns]
    columns.insert(columns.index("dataset") + 1, "participants")
    return pd.DataFrame(rows, columns=columns)


def participant_range(subjects: Sequence[int]) -> str:
    """Name participants who share a row, as ``"1-4"`` or ``"1, 3"``."""
    first, last = min(subjects), max(subjects)
    if len(subjects) > 1 and sorted(subjects) == list(range(first, last + 1)):
        return f"{first}-{last}"
    return ", ".join(map(str, subjects))


def distribution_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Lay distributions out as text, a row for each and a column a range.

    Parameters
    ----------
    scores
        From :func:`score_table`.
    """
    lead = {
        "Data set": [_viewers(row) for row in scores.itertuples()],
        "Score": [_score(row) for row in scores.itertuples()],
        "n": scores["n_images"].map("{:,}".format),
        "Mean": [format_interval(r.mean, r.low, r.high) for r in scores.itertuples()],
        "SD": scores["sd"].map(_number),
        "Other concept": scores["other_mean"].map(_number),
    }
    ranges = {
        heading: [
            _share(*pair)
            for pair in zip(scores[f"share_{low}"], scores[f"count_{low}"], strict=True)
        ]
        for low, heading in zip(EDGES, _headings(), strict=False)
    }
    return pd.DataFrame(lead | ranges).set_index("Data set")


def table_caption(captioner: str, *, simulated: bool) -> str:
    """Say what a table of CLIP Scores holds.

    Parameters
    ----------
    captioner
        Whose captions were scored.
    simulated
        Whether images and recordings are.
    """
    kind = "Simulated data set: rendered images, small models. " if simulated else ""
    beside = ": beside, not comparable with, the others" if simulated else ""
    return (
        f"{kind}CLIP Scores of all captions by {captioner}: n images, mean [95 % "
        "bootstrap interval over concepts, whose images are drawn together], SD over "
        "images, mean with captions of images of other concepts, share of the scores "
        "in each range (count). Scores above 1 count in the last range. Participants "
        "of a data set saw the same images, and an image is captioned once, so they "
        f"share a row. Rows marked Published are the paper's{beside}."
    )


def reading_note(published: pd.DataFrame, *, spread: float, simulated: bool) -> str:
    """Say in two sentences what each formula asks of the published cosines.

    Only cosines of real pictures can tell which formula the paper may have used.

    Parameters
    ----------
    published
        Of the main captioner; the first row states mean and shares.
    spread
        SD of the cosines measured for the main captioner, by the first encoder.
    simulated
        Whether these are of simulated pictures.
    """
    row = published.iloc[0]
    implied = implied_spread(row["mean"], row["share_0.4"], 0.6)
    needs = " and ".join(f"{sd:.3f} under {name}" for name, sd in implied.items())
    if simulated:
        found = f"are of simulated pictures: their SD of {spread:.3f} cannot decide it"
    else:
        nearest = min(implied, key=lambda name: abs(np.log(implied[name] / spread)))
        found = f"have {spread:.3f}, by ratio nearer to that of {nearest}"
    return (
        "The paper does not state its formula. For the published mean of "
        f"{row['mean']} with {row['share_0.4']:.1%} below 0.6, normally distributed "
        f"cosines need an SD of {needs}; those measured for Figure 5 {found}."
    )


def participants_note(published: pd.DataFrame) -> str:
    """Say how far published counts differ between participants who saw the same.

    Parameters
    ----------
    published
        Of one captioner.

    Returns
    -------
    str
        Empty if no data set has two counts.
    """
    counted = published.dropna(subset="count_0.4")
    return " ".join(
        f"Published counts in [0.4, 0.6) run from {rows['count_0.4'].min():,.0f} to "
        f"{rows['count_0.4'].max():,.0f} over {len(rows)} participants of {dataset}, "
        "who saw the same images."
        for dataset, rows in counted.groupby("dataset", sort=False)
        if len(rows) > 1
    )


def plot_captioned(
    pictures: Sequence[Image.Image], captions: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Show pictures side by side, each above its caption.

    Parameters
    ----------
    pictures, captions, titles
        Of the same number.
    """
    texts = [textwrap.fill(caption, _LINE) for caption in captions]
    n_lines = max(text.count("\n") + 1 for text in texts)
    width = COLUMN / len(texts)
    size = (COLUMN, width + 0.4 + 0.12 * n_lines)
    fig, axes = plt.subplots(1, len(texts), figsize=size, squeeze=False)
    rows = zip(axes.flat, pictures, texts, titles, strict=True)
    for ax, picture, text, title in rows:
        ax.imshow(picture)
        ax.set(xticks=[], yticks=[], anchor="N")
        ax.set_title(title, fontsize=7)
        ax.set_xlabel(text, fontsize=7, ha="left", x=0)
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
        From :func:`paperlib.evaluation.clip_score.score_cosines`, with dataset.
    hue
        Column told apart by color.
    subjects
        Data set -> the participants its panels stand for.
    published
        Data set -> mean to draw into its panels.
    """
    datasets, formulas, names = (
        list(scores[key].unique()) for key in ("dataset", "score", hue)
    )
    palette = dict(zip(names, sns.color_palette(n_colors=len(names)), strict=True))
    size = (COLUMN * len(datasets) + 0.25, 1.4 * len(formulas) + 0.9)
    layout = {"sharex": "row", "sharey": "row", "squeeze": False}
    fig, axes = plt.subplots(len(formulas), len(datasets), figsize=size, **layout)
    for row, formula in zip(axes, formulas, strict=True):
        for ax, dataset in zip(row, datasets, strict=True):
            chosen = (scores["score"] == formula) & (scores["dataset"] == dataset)
            _draw_histograms(ax, scores[chosen], hue=hue, palette=palette)
            ax.set(xlabel=formula, ylabel="Captions (%)")
            if published is not None:
                ax.axvline(published[dataset], **_PUBLISHED)
    for ax, dataset in zip(axes[0], datasets, strict=True):
        n_images = scores.loc[scores["dataset"] == dataset, "image_id"].nunique()
        who = participant_range(subjects[dataset])
        ax.set_title(f"{dataset}, P{who}: {n_images:,} images")
    handles = [Patch(color=color, label=name) for name, color in palette.items()]
    handles += [Line2D([], [], color=COLORS["control"], **_OTHER)]
    handles += [] if published is None else [Line2D([], [], **_PUBLISHED)]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _draw_histograms(
    ax: plt.Axes, scores: pd.DataFrame, *, hue: str, palette: dict[str, tuple]
) -> None:
    """Draw scores, and the mean of those with captions of other images."""
    bins = {"bins": 100, "binrange": (0, max(1, scores["value"].max()))}
    share = {"stat": "percent", "common_norm": False}
    look = {"element": "step", "alpha": 0.3, "lw": 0.8, "legend": False}
    hues = {"x": "value", "hue": hue, "palette": palette}
    sns.histplot(scores, ax=ax, **hues, **bins, **share, **look)
    for name, mean in scores.groupby(hue)["other_value"].mean().items():
        ax.axvline(mean, color=palette[name], **_OTHER)
    for edge in EDGES:
        ax.axvline(edge, color=COLORS["control"], lw=0.4, zorder=0)


def _viewers(row) -> str:
    """Name the data set and the participants whose images were scored."""
    if row.participants == "all":
        return f"{row.dataset}, all participants"
    several = "-" in row.participants or "," in row.participants
    return f"{row.dataset}, P{row.participants}{' (same images)' if several else ''}"


def _score(row) -> str:
    """Name encoder and formula, or the source of a published row."""
    published = row.encoder.startswith("Published")
    return row.encoder if published else f"{row.encoder}, {row.score}"


def _headings() -> list[str]:
    """Name the ranges as the paper does."""
    pairs = list(zip(EDGES, EDGES[1:], strict=False))
    return [f"[{low}, {high}{']' if high == 1 else ')'}" for low, high in pairs]


def _number(value: float) -> str:
    return MISSING if pd.isna(value) else f"{value:.3f}"


def _share(share: float, count: float) -> str:
    """Write share and count; either may not be stated."""
    if pd.isna(share):
        return MISSING
    if share == 0 or pd.isna(count):
        return f"{share:.1%}"
    return f"{share:.1%} ({count:,.0f})"
