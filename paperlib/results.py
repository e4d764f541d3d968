"""Which of the tables and figures are asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from paperlib.validation import did_you_mean


def select_results(
    results: Mapping[str, Sequence[str]], beginning: str
) -> dict[str, list[str]]:
    """Keep the tables and figures whose names begin so.

    Parameters
    ----------
    results
        Files of every run that makes tables or figures.
    beginning
        Such as ``"tab07"`` or ``"fig03_things_eeg2"``; empty keeps all.

    Returns
    -------
    dict
        The runs that make some of these files, with those files.

    Raises
    ------
    ValueError
        If no file begins so.
    """
    kept = {
        run: [file for file in files if Path(file).name.startswith(beginning)]
        for run, files in results.items()
    }
    if not any(kept.values()):
        names = {Path(file).stem for files in results.values() for file in files}
        known = sorted({name.split("_")[0] for name in names})
        hint = did_you_mean(beginning, [*known, *sorted(names)])
        raise ValueError(
            f"No table or figure of this configuration begins with {beginning!r}; "
            f"there are {', '.join(known)}.{hint}"
        )
    return {run: files for run, files in kept.items() if files}
