"""Checks whose messages say what was expected, what was given and what to do."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten

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


def check_file(path: Path, cure: str) -> None:
    """Raise FileNotFoundError, with what to do, unless ``path`` is a file."""
    if not os.path.isfile(path):  # unlike Path.is_file, for names of any length too
        raise FileNotFoundError(f"{path} is missing. {cure}")


@contextmanager
def reading(source: str | Path, cure: str = "Download it again.") -> Iterator[None]:
    """Name a file or model that a library failed to read, and what to do."""
    try:
        yield
    except Exception as error:  # libraries raise of every kind at damaged files
        if isinstance(error, OSError) and not Path(source).exists():
            raise  # not there, or not reachable: says so itself
        text = f"{type(error).__name__}: {str(error)[:1000]}"
        reason = shorten(text, 300, placeholder=" ...")
        raise ValueError(
            f"{source} is damaged, incomplete or not what was expected ({reason}). "
            f"{cure}"
        ) from error
