"""From the files of a THINGS-EEG2 participant to signals for each image.

One chain of steps with two published parameter sets: that of the data set's authors
(Gifford et al., 2022) and that of NICE (Song et al., 2024), which the paper uses.
Sessions are handled one after the other and only kept trials are cut out and resampled:
memory holds one recording and the kept trials of one session, in double precision.
"""

from collections.abc import Sequence
from math import ceil, log2
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import scipy.signal
from numpy.typing import DTypeLike

from paperlib.progress import progress_bar
from paperlib.recordings.mvnn import noise_covariance, whiten, whitening_matrix
from paperlib.recordings.signals import new_arrays, release_memory, save_info
from paperlib.recordings.things_eeg2 import (
    NICE_CHANNELS,
    PARTITIONS,
    POSTERIOR_CHANNELS,
    check_channels,
    load_published,
    load_raw_session,
    published_file,
    raw_file,
    session_folders,
)
from paperlib.recordings.trials import (
    Recording,
    Selection,
    TrialWindow,
    select_trials,
    survey_recording,
    trial_counts,
)
from paperlib.validation import check_finite, check_option

CHANNEL_SETS = {"all": NICE_CHANNELS, "posterior": POSTERIOR_CHANNELS}
"""63 electrodes in the order of NICE, and 17 in the order of the raw files."""

SESSIONS_PER_TRAINING_IMAGE = 2
WHITENED_UNIT = "noise SD"
_TRIALS_PER_BLOCK = 25  # cut out and resampled at once: about 0.1 GB at full size
_IMAGES_PER_BLOCK = 256  # checked and copied at once


def preprocess_recordings(
    raw_folder: Path,
    signals_folder: Path,
    *,
    channels: str | Sequence[str],
    tmin: float,
    tmax: float,
    keep_from: float,
    sfreq: float,
    mvnn: str,
    covariance: str,
    seed: int,
    dtype: DTypeLike = np.float32,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Cut, select, resample and whiten the trials of one participant.

    Parameters
    ----------
    raw_folder
        Holds the sessions ``ses-01`` and so on; all of them are used.
    signals_folder
        Gets what `load_signals` reads, complete or not at all.
    channels
        A key of `CHANNEL_SETS` or a list of names.
    tmin, tmax
        First and last time of a trial, in seconds from image onset. The mean up to
        time 0 is subtracted from each trial.
    keep_from
        First time that is kept, in seconds; what lies before is cut after resampling.
    sfreq
        Sampling rate after resampling, in hertz.
    mvnn : {'epochs', 'time', 'none'}
        How the noise covariance of a session is estimated (see `noise_covariance`).
    covariance : {'training', 'both'}
        Estimate it from the training trials, or average that with the estimate from
        the test trials.
    seed
        For the choice among surplus trials and the order of repetitions.
    dtype
        Of the arrays written.

    Returns
    -------
    counts : DataFrame
        Trials recorded, left out and kept, a row for each partition and session.
    noise_covariances : ndarray of shape (n_sessions, n_channels, n_channels)
        Before whitening, in volt squared; no sessions for mvnn ``'none'``.

    Raises
    ------
    FileNotFoundError
        If recordings are missing.
    ValueError
        If an option is unknown, a recording is not valid, or the sessions do not show
        the images as the design of the data set says. All recordings are read and
        checked for this before the first trial is cut out.
    """
    check_option("mvnn", mvnn, ("epochs", "time", "none"))
    check_option("covariance", covariance, ("training", "both"))
    names, sessions = channel_names(channels), session_folders(raw_folder)
    window = TrialWindow(tmin, tmax, keep_from=keep_from, sfreq=sfreq)
    recordings = _survey(sessions, names, window)
    selections = _select(recordings, seed)
    grid = len(names), _n_times(recordings, window)
    shapes = {p: (*_n_rows_and_slots(selections[p]), *grid) for p in PARTITIONS}
    covariances = np.empty((0, len(names), len(names)))
    with new_arrays(signals_folder, shapes, dtype=dtype) as products:
        for session in progress_bar(sessions, label="Preprocessing", unit="session"):
            kept = {p: selections[p][session.name] for p in PARTITIONS}
            trials = {
                p: cut_trials(
                    load_raw_session(raw_file(session, p)),
                    kept[p].onsets,
                    channels=names,
                    window=window,
                )
                for p in PARTITIONS
            }
            if mvnn != "none":
                noise = session_covariance(trials, mvnn, covariance=covariance)
                covariances = np.concatenate([covariances, [noise]])
                whitener = whitening_matrix(noise)
                for p in PARTITIONS:
                    whiten(trials[p], whitener)
            for p in PARTITIONS:
                products[p][kept[p].rows[:, None], kept[p].slots] = trials[p]
                release_memory(products[p])
            del trials  # before those of the next session are cut out
    unit = "V" if mvnn == "none" else WHITENED_UNIT
    save_info(signals_folder, ch_names=names, sfreq=sfreq, tmin=keep_from, unit=unit)
    return _counts(recordings, selections), covariances


def import_published(
    published_folder: Path,
    signals_folder: Path,
    *,
    channels: str | Sequence[str],
    dtype: DTypeLike = np.float32,
) -> None:
    """Copy published preprocessed signals into the project's format.

    Both files are held in memory meanwhile: 10.4 GB for 63 electrodes at 250 Hz.

    Parameters
    ----------
    published_folder
        Holds ``preprocessed_eeg_training.npy`` and ``preprocessed_eeg_test.npy``.
    signals_folder
        Gets what `load_signals` reads, complete or not at all.
    channels
        As for `preprocess_recordings`; the copy has this order.
    dtype
        Of the arrays written.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is not valid (see `load_published`), a channel is missing, a value is
        not finite, or the two files differ in their times.
    """
    names = channel_names(channels)
    paths = {p: published_file(published_folder, p) for p in PARTITIONS}
    published = {p: load_published(paths[p]) for p in PARTITIONS}
    times = published["training"].times
    test_times = published["test"].times
    if len(times) != len(test_times) or not np.allclose(times, test_times):
        raise ValueError(
            f"training and test signals in {published_folder} differ in their times. "
            f"Check that both files were published together."
        )
    shapes = {}
    for p in PARTITIONS:
        check_channels(paths[p], published[p].ch_names, names)
        n_images, n_repetitions = published[p].data.shape[:2]
        shapes[p] = n_images, n_repetitions, len(names), len(times)
    with new_arrays(signals_folder, shapes, dtype=dtype) as products:
        for p in PARTITIONS:
            rows = [published[p].ch_names.index(name) for name in names]
            _copy_channels(published[p].data, rows, products[p], source=paths[p])
    sfreq = round((len(times) - 1) / (times[-1] - times[0]), 6)
    tmin = round(float(times[0]), 6)
    save_info(
        signals_folder, ch_names=names, sfreq=sfreq, tmin=tmin, unit=WHITENED_UNIT
    )


def channel_names(channels: str | Sequence[str]) -> list[str]:
    """Return the names behind the option ``channels``.

    Parameters
    ----------
    channels
        A key of `CHANNEL_SETS` or a list of names, which is returned as it is.

    Raises
    ------
    ValueError
        If the set is unknown.
    """
    if isinstance(channels, str):
        check_option("channels", channels, tuple(CHANNEL_SETS))
        return list(CHANNEL_SETS[channels])
    return list(channels)


def cut_trials(
    raw: mne.io.RawArray,
    onsets: np.ndarray,
    *,
    channels: Sequence[str],
    window: TrialWindow,
) -> np.ndarray:
    """Cut trials out of a recording, subtract their baseline and resample them.

    Parameters
    ----------
    raw
        Recording.
    onsets : ndarray of int, shape (n_conditions, n_repetitions)
        Samples of the image onsets, in any order.
    channels
        Names, in the order of the result.
    window
        Times of a trial and their sampling.

    Returns
    -------
    ndarray of shape (n_conditions, n_repetitions, n_channels, n_times)
        In volts.
    """
    raw_sfreq = raw.info["sfreq"]
    shape = len(channels), window.n_samples(raw_sfreq)
    trials = np.empty((onsets.size, *shape))  # NR C T
    in_time = np.argsort(onsets, axis=None)
    for start in range(0, onsets.size, _TRIALS_PER_BLOCK):
        block = in_time[start : start + _TRIALS_PER_BLOCK]
        events = np.column_stack([onsets.flat[block], *np.ones((2, len(block)), int)])
        epochs = mne.Epochs(
            raw,
            events,
            tmin=window.tmin,
            tmax=window.tmax,
            baseline=(None, 0),
            picks=channels,
            preload=True,
            verbose="error",
        )
        data = epochs.get_data(picks=channels, copy=False)
        data = resample(data, raw_sfreq=raw_sfreq, sfreq=window.sfreq)
        trials[block] = data[..., window.n_cut :]
    return trials.reshape(*onsets.shape, *shape)  # N R C T


def resample(data: np.ndarray, *, raw_sfreq: float, sfreq: float) -> np.ndarray:
    """Resample in the frequency domain, with the padding of `mne.Epochs.resample`.

    MNE treats one channel of one trial after the other; this is the same computation
    for all at once. Labelled times are off by up to a few milliseconds where the padded
    length is not a whole number of output samples (at 100 Hz, not at 250 Hz).

    Parameters
    ----------
    data : ndarray of shape (..., n_times)
        Sampled at ``raw_sfreq``.
    raw_sfreq, sfreq
        Sampling rates before and after, in hertz.

    Returns
    -------
    ndarray of shape (..., round(n_times * sfreq / raw_sfreq))
    """
    n_times, ratio = data.shape[-1], sfreq / raw_sfreq
    n_padded = 2 ** ceil(log2(n_times + 2 * min(n_times // 8, 100)))
    left = (n_padded - n_times) // 2
    width = [(0, 0)] * (data.ndim - 1) + [(left, n_padded - n_times - left)]
    padded = np.pad(data, width, mode="edge")
    resampled = scipy.signal.resample(padded, round(ratio * n_padded), axis=-1)
    first = round(ratio * left)
    return resampled[..., first : first + round(ratio * n_times)]


def session_covariance(
    trials: dict[str, np.ndarray], mvnn: str, *, covariance: str
) -> np.ndarray:
    """Estimate the noise covariance of a session.

    Parameters
    ----------
    trials
        For ``'training'`` and ``'test'``, ndarray of shape (n_conditions,
        n_repetitions, n_channels, n_times).
    mvnn, covariance
        As for `preprocess_recordings`.

    Returns
    -------
    ndarray of shape (n_channels, n_channels)
    """
    training = noise_covariance(trials["training"], mvnn)
    if covariance == "training":
        return training
    return (training + noise_covariance(trials["test"], mvnn)) / 2


def _survey(
    sessions: Sequence[Path], channels: Sequence[str], window: TrialWindow
) -> dict[str, dict[str, Recording]]:
    """Check every recording before any is processed; by partition and session."""
    return {
        p: {
            session.name: survey_recording(
                raw_file(session, p), channels, window=window
            )
            for session in progress_bar(sessions, label=f"Checking {p}", unit="session")
        }
        for p in PARTITIONS
    }


def _select(
    recordings: dict[str, dict[str, Recording]], seed: int
) -> dict[str, dict[str, Selection]]:
    """Select the trials of both partitions."""
    n_sessions = {
        "training": SESSIONS_PER_TRAINING_IMAGE,
        "test": len(recordings["test"]),
    }
    return {
        p: select_trials(
            {name: recording.events for name, recording in recordings[p].items()},
            partition=p,
            n_sessions_each=n_sessions[p],
            seed=seed,
        )
        for p in PARTITIONS
    }


def _n_times(recordings: dict[str, dict[str, Recording]], window: TrialWindow) -> int:
    """Length of a trial in the product; all recordings must agree on it."""
    rates = {r.sfreq for sessions in recordings.values() for r in sessions.values()}
    if len(rates) > 1:
        raise ValueError(
            f"the recordings of a participant must share one sampling rate; "
            f"got {sorted(rates)} Hz."
        )
    return window.n_samples(rates.pop())


def _n_rows_and_slots(selections: dict[str, Selection]) -> tuple[int, int]:
    """Count the images of a partition and the repetitions of each."""
    selected = selections.values()
    return max(s.rows.max() for s in selected) + 1, max(
        s.slots.max() for s in selected
    ) + 1


def _counts(
    recordings: dict[str, dict[str, Recording]],
    selections: dict[str, dict[str, Selection]],
) -> pd.DataFrame:
    """Trial counts of both partitions in one table."""
    tables = {p: trial_counts(recordings[p], selections[p]) for p in PARTITIONS}
    counts = pd.concat(tables, names=["partition", None])
    return counts.reset_index(level="partition").reset_index(drop=True)


def _copy_channels(
    data: np.ndarray, rows: Sequence[int], product: np.memmap, *, source: Path
) -> None:
    """Copy the given channels, a block of images at a time, and check the values."""
    for start in range(0, len(data), _IMAGES_PER_BLOCK):
        block = slice(start, start + _IMAGES_PER_BLOCK)
        check_finite(f"{source}: images from {start} on", data[block])
        product[block] = data[block][:, :, rows]
