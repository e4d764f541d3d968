"""From the sources that a configuration can name to signals for each image."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from paperlib.recordings.preprocessing import import_published, preprocess_recordings
from paperlib.recordings.things_eeg2 import (
    PARTITIONS,
    SESSIONS,
    published_file,
    raw_file,
)
from paperlib.recordings.things_meg import TRIAL_TABLE, import_epochs, list_images
from paperlib.recordings.things_meg_raw import (
    TrialProcessing,
    events_file,
    preprocess_runs,
    run_folders,
)
from paperlib.validation import check_option

Where = Callable[[str], Path | str]


def write_signals(
    preprocessing: Mapping, where: Where, *, subject: int
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Turn the recordings of one participant into signals.

    Parameters
    ----------
    preprocessing
        Section of the configuration. Its ``source`` is ``raw`` or ``published``
        (THINGS-EEG2: `preprocess_recordings`, `import_published`), ``epochs`` or
        ``raw_ctf`` (THINGS-MEG: `import_epochs`, `preprocess_runs`).
    where
        From :func:`paperlib.paths.locate`.
    subject
        Number of the participant.

    Returns
    -------
    counts : DataFrame
        Trials recorded and kept; empty for published signals.
    noise_covariances : ndarray of shape (n_sessions, n_channels, n_channels) or None
        In volt squared, before whitening; None where nothing is whitened here.

    Raises
    ------
    FileNotFoundError, ValueError
        As the functions named above.
    """
    options = dict(preprocessing)
    source = options.pop("source")
    check_option("source", source, tuple(_SOURCES))
    write, _ = _SOURCES[source]
    return write(options, where, subject)


def source_files(preprocessing: Mapping, where: Where, *, subject: int) -> list[Path]:
    """List what `write_signals` reads.

    Parameters
    ----------
    preprocessing, where, subject
        As for `write_signals`.

    Returns
    -------
    list of Path
        Files, or folders of CTF runs. Further parts of epochs and runs are listed as
        far as they are there.
    """
    source = preprocessing["source"]
    check_option("source", source, tuple(_SOURCES))
    _, files = _SOURCES[source]
    return files(where, subject)


def _write_raw(
    options: dict, where: Where, subject: int
) -> tuple[pd.DataFrame, np.ndarray | None]:
    counts, covariances = preprocess_recordings(
        where("raw"), where("signals"), **options
    )
    return counts, covariances if len(covariances) else None


def _write_published(
    options: dict, where: Where, subject: int
) -> tuple[pd.DataFrame, None]:
    import_published(where("published"), where("signals"), channels=options["channels"])
    return pd.DataFrame(), None


def _write_epochs(
    options: dict, where: Where, subject: int
) -> tuple[pd.DataFrame, None]:
    counts = import_epochs(
        _epochs_file(where, subject),
        where("signals"),
        images=list_images(where("images")),
        concepts=options["concepts"],
    )
    return counts, None


def _write_runs(options: dict, where: Where, subject: int) -> tuple[pd.DataFrame, None]:
    concepts = options.pop("concepts")
    counts = preprocess_runs(
        where("raw"),
        where("signals"),
        subject=subject,
        images=list_images(where("images")),
        concepts=concepts,
        processing=TrialProcessing(**options),
    )
    return counts, None


def _epochs_file(where: Where, subject: int) -> Path:
    return Path(where("published")) / f"preprocessed_P{subject}-epo.fif"


def _raw_files(where: Where, subject: int) -> list[Path]:
    sessions = [Path(where("raw")) / session for session in SESSIONS]
    return [raw_file(session, p) for session in sessions for p in PARTITIONS]


def _published_files(where: Where, subject: int) -> list[Path]:
    return [published_file(Path(where("published")), p) for p in PARTITIONS]


def _epoch_files(where: Where, subject: int) -> list[Path]:
    first = _epochs_file(where, subject)
    parts = sorted(first.parent.glob(f"{first.stem}-*.fif"))
    return [Path(where("images")) / TRIAL_TABLE, first, *parts]


def _run_files(where: Where, subject: int) -> list[Path]:
    runs = run_folders(Path(where("raw")), subject)
    events = [events_file(run) for run in runs]
    return [Path(where("images")) / TRIAL_TABLE, *runs, *events]


_SOURCES = {  # how to write signals, what is read
    "raw": (_write_raw, _raw_files),
    "published": (_write_published, _published_files),
    "epochs": (_write_epochs, _epoch_files),
    "raw_ctf": (_write_runs, _run_files),
}
