"""Is a file of recordings there and whole? In milliseconds, without reading it."""

from dataclasses import dataclass
from pathlib import Path

import mne

from paperlib.recordings.unpickling import check_container

MISSING = "missing"
_CTF_MAGIC = b"MEG4"  # of signals (.meg4) and of their header (.res4)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file.

    Attributes
    ----------
    path : Path
    what : str
        :data:`MISSING`, or what was expected and what was found.
    """

    path: Path
    what: str


def find_fault(path: Path, *, size: int | None = None) -> Fault | None:
    """Look at the size and the header of a file, or of the parts of a CTF run.

    Parameters
    ----------
    path
        File, or folder of a CTF run.
    size
        Bytes that it must have, if known; of a run, its signals.

    Returns
    -------
    Fault or None
        None if nothing is wrong.
    """
    if path.suffix == ".ds" and path.is_dir():
        return _run_fault(path, size)
    if not path.is_file():
        return Fault(path, MISSING)
    n_bytes = path.stat().st_size
    if size not in (None, n_bytes):
        return Fault(path, f"has {n_bytes:,} bytes; expected {size:,}")
    if n_bytes == 0:
        return Fault(path, "is empty")
    return _header_fault(path)


def _header_fault(path: Path) -> Fault | None:
    """Look at the header of a file of a kind that has one."""
    try:
        if path.suffix == ".npy":
            check_container(path, "a dictionary of THINGS-EEG2")
        elif path.suffix == ".fif":
            mne.io.read_info(path, verbose="error")
    except Exception as error:  # a damaged file can raise almost anything
        return Fault(path, f"has an unreadable header ({error})")
    return None


def _run_fault(run: Path, size: int | None) -> Fault | None:
    """Look at signals and header of a CTF run."""
    for suffix, n_bytes in ((".res4", None), (".meg4", size)):
        path = run / f"{run.stem}{suffix}"
        if fault := find_fault(path, size=n_bytes):
            return fault
        with path.open("rb") as file:
            if file.read(len(_CTF_MAGIC)) != _CTF_MAGIC:
                return Fault(
                    path, f"has an unreadable header: no {_CTF_MAGIC.decode()}"
                )
    return None
