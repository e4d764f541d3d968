"""Tables as CSV (full precision), Markdown and LaTeX (rounded)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paperlib.atomic import write_text
from paperlib.reporting.figures import SIMULATED

MISSING = "–"
_SYMBOLS = str.maketrans({"↓": r"$\downarrow$", "↑": r"$\uparrow$", "ε": r"$\epsilon$"})


def format_interval(mean: float, low: float = np.nan, high: float = np.nan) -> str:
    """Write ``mean [low, high]``; a value that is not defined becomes a dash."""
    if np.isnan(mean):
        return MISSING
    return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def wide_table(
    scores: pd.DataFrame, *, rows: Sequence[str], metrics: dict[str, str]
) -> pd.DataFrame:
    """Lay tidy scores out as the paper does: a row a method, a column a metric.

    ``metrics`` have column headings; the column n is the number of participants.
    """
    n_subjects = scores.groupby("method")["n_subjects"].max().reindex(rows)
    cells = {
        (row.method, row.metric): format_interval(row.mean, row.low, row.high)
        for row in scores.itertuples()
    }
    table = {"n": n_subjects.map("{:.0f}".format).replace("nan", MISSING).tolist()}
    table |= {
        heading: [cells.get((method, metric), MISSING) for method in rows]
        for metric, heading in metrics.items()
    }
    return pd.DataFrame(table, index=pd.Index(rows, name="Method"))


def save_table(
    stem: str | Path,
    *,
    tidy: pd.DataFrame,
    wide: pd.DataFrame,
    caption: str,
    simulated: bool,
) -> list[Path]:
    """Write ``<stem>.csv`` (tidy), ``<stem>.md`` and ``<stem>.tex`` (wide).

    ``wide`` is what a reader sees; the name of its index heads the first column. If
    participants are simulated, the caption and a column of the CSV say so, there except
    for rows in which a name begins with "Published: ", which are the paper's.
    """
    stem = Path(stem)
    if simulated and "simulated participant" not in caption.lower():
        caption = f"{SIMULATED}. {caption}"
    published = tidy.astype(str).apply(lambda c: c.str.startswith("Published: "))
    marked = tidy.assign(simulated=simulated & ~published.any(axis=1))
    # Ten digits: more than any reader needs, fewer than differ between runs.
    texts = {
        ".csv": marked.to_csv(index=False, float_format="%.10g", lineterminator="\n"),
        ".md": f"{wide.to_markdown(disable_numparse=True)}\n\n{caption}\n",
        ".tex": _latex(wide, caption=caption, label=f"tab:{stem.name}"),
    }
    for ending, text in texts.items():
        write_text(f"{stem}{ending}", text)
    return [Path(f"{stem}{ending}") for ending in texts]


def _latex(wide: pd.DataFrame, *, caption: str, label: str) -> str:
    styled = wide.reset_index().style.hide(axis="index").format(escape="latex")
    styled = styled.format_index(lambda text: text.translate(_SYMBOLS), axis="columns")
    return styled.to_latex(
        hrules=True,
        caption=re.sub(r"([%$&#_])", r"\\\1", caption).translate(_SYMBOLS),
        label=label,
        column_format="l" + "r" * wide.shape[1],
        position_float="centering",
    )
