"""Tables of trials, as the data sets publish them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paperlib.validation import check_file, reading


def read_trials(
    path: Path, kinds: Mapping[str, str], whole: Sequence[str], *, separator: str = "\t"
) -> pd.DataFrame:
    """Read a table of trials and check its types of trials and its numbers.

    ``kinds`` maps each type of trial that the table may have to its name in the column
    ``kind``. ``whole`` lists columns of whole numbers, which only trials of kinds other
    than ``"training"`` and ``"test"`` may lack (but not ``sample``); they get -1.
    """
    check_file(path, "It comes with the recordings: unpack or download it again.")
    with reading(path):
        table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", low_memory=False)
    if missing := [name for name in ("trial_type", *whole) if name not in table]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}; it has {list(table)}."
        )
    table["kind"] = table["trial_type"].map(kinds)
    if table["kind"].isna().any() or not len(table):
        unknown = table.loc[table["kind"].isna(), "trial_type"].unique()
        raise ValueError(
            f"{path} must hold trials of the types {', '.join(kinds)}; got "
            f"{', '.join(map(repr, unknown)) or 'none'}."
        )
    shown = table["kind"].isin(("training", "test"))
    for column in whole:
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        wrong = ~(numbers >= 0) | (numbers % 1 != 0) | (numbers > 2**31)
        optional = table[column].isna() & ~shown & (column != "sample")
        if len(rows := table.index[wrong & ~optional]):
            raise ValueError(
                f"{path}: {column} must be a whole number; line {rows[0] + 2} has "
                f"{table[column][rows[0]]}. Get the file from the source again."
            )
        table[column] = numbers.fillna(-1).astype(np.int64)
    return table
