"""One progress bar: redrawn on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress_bar(
    items: Iterable | None = None,
    *,
    total: int | None = None,
    done: int = 0,
    label: str,
    unit: str,
) -> tqdm:
    """Wrap ``items`` in a bar that shows the rate and an estimate of the time left.

    Parameters
    ----------
    items
        What to iterate over; None for a bar that is advanced by ``update``.
    total, done
        How many there are, and how many of them an earlier run had finished.
    label, unit
        What is being done, to what; bytes (``"B"``) are shown as kB, MB, GB.

    Returns
    -------
    tqdm
    """
    seconds = 0.2 if sys.stderr.isatty() else 20
    return tqdm(
        items,
        total=total,
        initial=done,
        desc=label,
        unit=unit,
        unit_scale=unit == "B",
        mininterval=seconds,
    )
