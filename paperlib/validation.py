"""Checks whose messages say what was expected, what was given and what to do."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or nothing."""
    spellings = {str(name).lower(): name for name in known}
    nearest = get_close_matches(str(word).lower(), spellings, n=1, cutoff=0.6)
    return f" Did you mean {spellings[nearest[0]]!r}?" if nearest else ""


def check_option(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        listed = ", ".join(repr(option) for option in allowed)
        hint = did_you_mean(str(value), [str(option) for option in allowed])
        raise ValueError(f"{name} must be one of {listed}; got {value!r}.{hint}")


def check_distinct(owners: str, kind: str, names: Sequence[str]) -> None:
    """Raise ValueError if two ``owners`` ("Runs") share a name ("labels")."""
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{owners} need {kind} of their own; two are called {repeated[0]!r}."
        )


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise ValueError, with counts and a place, if ``array`` holds NaN or infinity."""
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name} holds {int((~finite).sum())} values that are NaN or infinite, "
            f"the first at index {first}; expected finite numbers only."
        )
