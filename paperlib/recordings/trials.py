"""Which trials of a THINGS-EEG2 participant enter the product, and where they stand.

Sessions repeat some images more often than planned, so that a fixed number of trials of
each image is drawn; then the repetitions of all sessions are put into one random order.
Both draws are those of the published preprocessing (Gifford et al., 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import shuffle

from paperlib.recordings.things_eeg2 import (
    check_channels,
    load_raw_session,
    stimulus_events,
)


@dataclass(frozen=True)
class TrialWindow:
    """Times that belong to a trial, and how they are sampled.

    Attributes
    ----------
    tmin, tmax : float
        First and last time in the recording, in seconds from image onset.
    keep_from : float
        First time that is kept after resampling, in seconds.
    sfreq : float
        Sampling rate after resampling, in hertz.
    """

    tmin: float
    tmax: float
    keep_from: float
    sfreq: float

    @property
    def n_cut(self) -> int:
        """Number of resampled points before ``keep_from``."""
        return round((self.keep_from - self.tmin) * self.sfreq)

    def offsets(self, raw_sfreq: float) -> tuple[int, int]:
        """Return first and last raw sample of a trial, relative to the onset."""
        return round(self.tmin * raw_sfreq), round(self.tmax * raw_sfreq)

    def n_samples(self, raw_sfreq: float) -> int:
        """Return the number of points that are kept of a trial."""
        first, last = self.offsets(raw_sfreq)
        return round((last - first + 1) * self.sfreq / raw_sfreq) - self.n_cut


@dataclass(frozen=True)
class Recording:
    """What one recording holds.

    Attributes
    ----------
    events : ndarray of int, shape (n_events, 2)
        Sample and condition (from 1) of each image onset whose epoch is complete.
    sfreq : float
        Sampling rate in hertz.
    n_targets, n_incomplete : int
        Trials left out: catch trials, and epochs that leave the recording.
    """

    events: np.ndarray
    sfreq: float
    n_targets: int
    n_incomplete: int


@dataclass(frozen=True)
class Selection:
    """Trials of one recording that are kept, and where they go.

    Attributes
    ----------
    rows : ndarray of int, shape (n_conditions,)
        Image, from 0, of each condition that the session shows.
    onsets : ndarray of int, shape (n_conditions, n_repetitions)
        Samples of the image onsets in the recording.
    slots : ndarray of int, shape (n_conditions, n_repetitions)
        Place of each trial among all repetitions of its image.
    """

    rows: np.ndarray
    onsets: np.ndarray
    slots: np.ndarray


def survey_recording(
    path: Path, channels: Sequence[str], *, window: TrialWindow
) -> Recording:
    """Load a recording, check it and list its trials.

    Parameters
    ----------
    path
        Raw file of one session and partition.
    channels
        Channels that it must have.
    window
        Times that must lie within the recording for a trial to count as complete.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_raw_session` and `stimulus_events`; also if a channel is missing.
    """
    raw = load_raw_session(path)
    check_channels(path, raw.ch_names, channels)
    events, n_targets = stimulus_events(raw)
    if not len(events):
        raise ValueError(f"{path} holds no image onset: its row 'stim' has none.")
    sfreq = raw.info["sfreq"]
    first, last = window.offsets(sfreq)
    complete = (events[:, 0] + first >= 0) & (events[:, 0] + last < raw.n_times)
    return Recording(events[complete], sfreq, n_targets, int((~complete).sum()))


def select_trials(
    events: dict[str, np.ndarray], *, partition: str, n_sessions_each: int, seed: int
) -> dict[str, Selection]:
    """Draw the same number of trials of each image and order the repetitions.

    Parameters
    ----------
    events
        For each session, ndarray of shape (n_events, 2): sample and condition, in order
        of time.
    partition
        ``'training'`` or ``'test'``, for messages.
    n_sessions_each
        Number of sessions in which each image must occur.
    seed
        Of both permutations.

    Returns
    -------
    dict of str to Selection
        For each session. The number of trials kept per image and session is the
        smallest that occurs.

    Raises
    ------
    ValueError
        If a condition between 1 and the largest is not shown in ``n_sessions_each``
        sessions, or the sessions differ in the number of trials they allow.
    """
    n_images = np.concatenate(list(events.values()))[:, 1].max(initial=0)
    counts = np.stack(
        [np.bincount(e[:, 1], minlength=n_images + 1)[1:] for e in events.values()]
    )  # S N
    _check_membership(
        counts > 0,
        list(events),
        n_sessions_each=n_sessions_each,
        partition=partition,
    )
    n_trials = _trials_per_session(counts, list(events), partition=partition)
    earlier = np.cumsum(counts > 0, axis=0) - 1  # S N, sessions with it before this one
    final_slot = np.argsort(_permutation(n_sessions_each * n_trials, seed))
    selections = {}
    for session, (name, shown) in enumerate(events.items()):
        rows = np.flatnonzero(counts[session])
        onsets = _drawn_onsets(shown, rows, n_trials, seed)
        merged = earlier[session, rows, None] * n_trials + np.arange(n_trials)
        selections[name] = Selection(rows, onsets, final_slot[merged])
    return selections


def trial_counts(
    recordings: dict[str, Recording], selections: dict[str, Selection]
) -> pd.DataFrame:
    """Count the trials of one partition.

    Returns
    -------
    DataFrame
        Columns session, recorded, catch, incomplete, surplus, kept; a row per session.
    """
    rows = []
    for name, recording in recordings.items():
        n_complete, n_kept = len(recording.events), selections[name].onsets.size
        left_out = recording.n_targets + recording.n_incomplete
        rows.append(
            {
                "session": name,
                "recorded": n_complete + left_out,
                "catch": recording.n_targets,
                "incomplete": recording.n_incomplete,
                "surplus": n_complete - n_kept,
                "kept": n_kept,
            }
        )
    return pd.DataFrame(rows)


def _permutation(n: int, seed: int) -> np.ndarray:
    """Permutation of range(n) that the published preprocessing draws."""
    return shuffle(np.arange(n), random_state=seed)


def _drawn_onsets(
    events: np.ndarray, rows: np.ndarray, n_trials: int, seed: int
) -> np.ndarray:
    """Draw the onsets of ``n_trials`` trials of each condition."""
    by_condition = events[np.argsort(events[:, 1], kind="stable")]
    starts = np.searchsorted(by_condition[:, 1], rows + 1)
    stops = np.searchsorted(by_condition[:, 1], rows + 1, side="right")
    return np.stack(
        [
            by_condition[start:stop, 0][_permutation(stop - start, seed)[:n_trials]]
            for start, stop in zip(starts, stops, strict=True)
        ]
    )


def _check_membership(
    membership: np.ndarray, sessions: list[str], *, n_sessions_each: int, partition: str
) -> None:
    """Raise unless each condition (column) occurs in the right number of sessions."""
    wrong = np.flatnonzero(membership.sum(axis=0) != n_sessions_each)
    if len(wrong):
        first = wrong[0]
        shown = [sessions[s] for s in np.flatnonzero(membership[:, first])]
        raise ValueError(
            f"{len(wrong)} of {membership.shape[1]} {partition} conditions are not in "
            f"exactly {n_sessions_each} of the {len(sessions)} sessions; the first is "
            f"condition {first + 1}, found in {', '.join(shown) or 'none'}. Check that "
            f"all sessions are there, complete and of the same participant."
        )


def _trials_per_session(
    counts: np.ndarray, sessions: list[str], *, partition: str
) -> int:
    """Smallest number of trials of a condition, which must agree over sessions."""
    fewest = np.where(counts > 0, counts, counts.max() + 1).min(axis=1)  # S
    if len(set(fewest)) > 1:
        short = int(fewest.argmin())
        condition = int(np.flatnonzero(counts[short] == fewest[short])[0]) + 1
        pairs = zip(fewest, sessions, strict=True)
        listed = ", ".join(f"{n} times in {name}" for n, name in pairs)
        raise ValueError(
            f"the sessions do not repeat the {partition} conditions equally often: at "
            f"least {listed}. Condition {condition} is short of trials in "
            f"{sessions[short]}; its recording may be cut off or have lost triggers."
        )
    return int(fewest[0])
