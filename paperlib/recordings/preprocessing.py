"""From the files of a THINGS-EEG2 participant to signals for each image.

One chain of steps with two published parameter sets: that of the data set's authors
(Gifford et al., 2022) and that of NICE (Song et al., 2024), which the paper uses.
Memory holds one recording and the kept trials of one session, in double precision.
"""

from collections.abc import Sequence
from math import ceil, log2
from pathlib import Path
from typing import NamedTuple

import mne
import numpy as np
import pandas as pd
import scipy.signal
from tqdm.auto import tqdm

from paperlib.config import EEGPreprocessing
from paperlib.recordings import things_eeg2
from paperlib.recordings.mvnn import noise_covariance, whiten, whitening_matrix
from paperlib.recordings.signals import PARTITIONS, create_signals, release_memory
from paperlib.recordings.things_eeg2 import check_channels, load_recording
from paperlib.recordings.trials import select_trials
from paperlib.validation import check_finite, check_option, reading

COUNTS = ["partition", "session", "recorded", "catch", "incomplete", "surplus", "kept"]
CHANNEL_SETS = {
    "all": things_eeg2.NICE_CHANNELS,  # 63 electrodes in the order of NICE
    "posterior": things_eeg2.POSTERIOR_CHANNELS,  # 17 in the order of the raw files
}
_TRIALS_PER_BLOCK = 25  # cut out and resampled at once: about 0.1 GB at full size
_IMAGES_PER_BLOCK = 256  # checked and copied at once


class Recording(NamedTuple):
    """Trials of one recording: those that are complete, and how many are left out."""

    events: np.ndarray  # (n_events, 2): sample of the image onset, condition from 1
    sfreq: float  # Hz
    n_targets: int  # catch trials
    n_incomplete: int  # that leave the recording


def preprocess_recordings(
    raw_folder: Path, signals_folder: Path, options: EEGPreprocessing
) -> tuple[pd.DataFrame, np.ndarray]:
    """Cut, select, resample and whiten the trials of one participant.

    All sessions of ``raw_folder`` (``ses-01`` and so on) are used; all recordings are
    checked before the first trial is cut out. The noise covariance is estimated from
    training trials, or (``covariance: both``) averaged with that of test trials.

    Returns
    -------
    counts : DataFrame
        Trials recorded, left out and kept, a row for each partition and session.
    noise_covariances : ndarray of shape (n_sessions, n_channels, n_channels)
        Before whitening, in volt squared; no sessions for mvnn ``'none'``.
    """
    names = channel_names(options.channels)
    sessions = things_eeg2.session_folders(raw_folder)
    recordings = _survey(sessions, names, options)
    n_times = _n_times(options, recordings["test"][sessions[0].name].sfreq)
    selections, shapes, counts, covariances = {}, {}, [], []
    for p, n_sessions_each in (("training", 2), ("test", len(sessions))):
        events = {name: recording.events for name, recording in recordings[p].items()}
        selections[p], n_images, n_repetitions = select_trials(
            events, partition=p, n_sessions_each=n_sessions_each, seed=options.seed
        )
        shapes[p] = n_images, n_repetitions, len(names), n_times
        for name, (shown, _, n_targets, n_incomplete) in recordings[p].items():
            n_kept = selections[p][name].onsets.size
            left_out = n_targets, n_incomplete, len(shown) - n_kept
            counts.append((p, name, n_kept + sum(left_out), *left_out, n_kept))
    with create_signals(
        signals_folder,
        shapes,
        ch_names=names,
        sfreq=options.sfreq,
        tmin=options.keep_from,
        unit="V" if options.mvnn == "none" else "noise SD",
    ) as products:
        for session in tqdm(sessions, desc="Preprocessing", unit="session"):
            kept = {p: selections[p][session.name] for p in PARTITIONS}
            trials = {  # N R C T
                p: cut_trials(
                    load_recording(session, p), kept[p].onsets, names, options
                )
                for p in PARTITIONS
            }
            if options.mvnn != "none":
                used = PARTITIONS if options.covariance == "both" else ("training",)
                estimates = [noise_covariance(trials[p], options.mvnn) for p in used]
                covariances.append(np.mean(estimates, axis=0))
                for p in PARTITIONS:
                    whiten(trials[p], whitening_matrix(covariances[-1]))
            for p in PARTITIONS:
                products[p][kept[p].rows[:, None], kept[p].slots] = trials[p]
                release_memory(products[p])
            del trials  # before those of the next session are cut out
    table = pd.DataFrame(counts, columns=COUNTS)
    return table, np.array(covariances).reshape(-1, len(names), len(names))


def _survey(
    sessions: Sequence[Path], channels: Sequence[str], options: EEGPreprocessing
) -> dict[str, dict[str, Recording]]:
    """Load and check all recordings; list the trials of each partition and session."""
    recordings = {p: {} for p in PARTITIONS}
    rates = set()
    for session in tqdm(sessions, desc="Checking", unit="session"):
        for p in PARTITIONS:
            recording = _list_trials(session, p, channels, options)
            for name, earlier in recordings[p].items():
                if np.array_equal(recording.events, earlier.events):
                    raise ValueError(
                        f"the {p} recordings of {name} and {session.name} are the same "
                        f"one. Get that of {session.name} from the source again."
                    )
            recordings[p][session.name] = recording
            rates.add(recording.sfreq)
    if len(rates) > 1:
        raise ValueError(
            f"the recordings in {sessions[0].parent} must share one sampling rate; got "
            f"{sorted(rates)} Hz. Use those of one participant."
        )
    return recordings


def _list_trials(
    session: Path, partition: str, channels: Sequence[str], options: EEGPreprocessing
) -> Recording:
    raw = load_recording(session, partition)
    source = f"the {partition} recording in {session}"
    check_channels(source, raw.ch_names, channels)
    with reading(source):
        events, n_targets = things_eeg2.stimulus_events(raw)
    first, last = _offsets(options, raw.info["sfreq"])
    complete = (events[:, 0] + first >= 0) & (events[:, 0] + last < raw.n_times)
    if not complete.any():
        raise ValueError(
            f"{source} has no complete trial: {len(events)} image onsets in "
            f"{raw.duration:.1f} s, trials from {options.tmin:g} to {options.tmax:g} "
            f"s. Check the file and preprocessing.tmax."
        )
    n_incomplete = int((~complete).sum())
    return Recording(events[complete], raw.info["sfreq"], n_targets, n_incomplete)


def import_published(
    published_folder: Path, signals_folder: Path, channels: str | Sequence[str]
) -> None:
    """Copy signals in a format of `load_published` into the project's own.

    Channels get the order of ``channels``; ``'all'`` of signals that `save_signals`
    wrote are those that they have. Both files are held in memory meanwhile: 10.4 GB for
    63 electrodes at 250 Hz in double precision.
    """
    published = {p: things_eeg2.load_published(published_folder, p) for p in PARTITIONS}
    first, times = published["training"], published["training"].times
    if times.shape != published["test"].times.shape or not np.allclose(
        times, published["test"].times
    ):
        raise ValueError(
            f"training and test signals in {published_folder} differ in their times. "
            f"Check that both files were published together."
        )
    is_own = (published_folder / "info.json").is_file() and channels == "all"
    names = list(first.ch_names) if is_own else channel_names(channels)
    for signals in published.values():
        check_channels(signals.path, signals.ch_names, names)
    with create_signals(
        signals_folder,
        {p: (*x.data.shape[:2], len(names), len(times)) for p, x in published.items()},
        ch_names=names,
        sfreq=round((len(times) - 1) / (times[-1] - times[0]), 6),
        tmin=round(float(times[0]), 6),
        unit=first.unit,
    ) as products:
        for p, signals in published.items():
            rows = [signals.ch_names.index(name) for name in names]
            for start in range(0, len(signals.data), _IMAGES_PER_BLOCK):
                data = signals.data[start : start + _IMAGES_PER_BLOCK]
                check_finite(f"{signals.path}: images from {start} on", data)
                products[p][start : start + _IMAGES_PER_BLOCK] = data[:, :, rows]


def channel_names(channels: str | Sequence[str]) -> list[str]:
    """Return the names of a set of `CHANNEL_SETS`; a list is returned as it is."""
    if isinstance(channels, str):
        check_option("channels", channels, tuple(CHANNEL_SETS))
        return list(CHANNEL_SETS[channels])
    return list(channels)


def cut(
    raw: mne.io.BaseRaw,
    onsets: np.ndarray,
    channels: Sequence[str],
    options: EEGPreprocessing,
) -> np.ndarray:
    """Cut trials (n C T, volts) out of a recording, both end points included.

    ``onsets`` are samples; channels of the result are in the order of ``channels``.
    """
    rows = [raw.ch_names.index(name) for name in channels]
    first, last = _offsets(options, raw.info["sfreq"])
    return np.stack([raw[rows, t + first : t + last + 1][0] for t in onsets])


def subtract_baseline(
    trials: np.ndarray, raw_sfreq: float, options: EEGPreprocessing
) -> np.ndarray:
    """Subtract from each trial and channel (..., T) the mean from ``tmin`` to 0 s."""
    first, _ = _offsets(options, raw_sfreq)
    return trials - trials[..., : 1 - first].mean(axis=-1, keepdims=True)


def resample(data: np.ndarray, raw_sfreq: float, sfreq: float) -> np.ndarray:
    """Resample (..., T) in the frequency domain, padded as by `mne.Epochs.resample`.

    MNE treats one channel of one trial after the other; this is the same computation
    for all at once. Labelled times are off by up to a few milliseconds if the padded
    length is not a whole number of output samples (at 100 Hz, not at 250 Hz).
    """
    n_samples, ratio = data.shape[-1], sfreq / raw_sfreq
    n_padded = 2 ** ceil(log2(n_samples + 2 * min(n_samples // 8, 100)))
    left = (n_padded - n_samples) // 2
    width = [(0, 0)] * (data.ndim - 1) + [(left, n_padded - n_samples - left)]
    padded = np.pad(data, width, mode="edge")
    resampled = scipy.signal.resample(padded, round(ratio * n_padded), axis=-1)
    first = round(ratio * left)
    return resampled[..., first : first + round(ratio * n_samples)]


def cut_trials(
    raw: mne.io.BaseRaw,
    onsets: np.ndarray,
    channels: Sequence[str],
    options: EEGPreprocessing,
) -> np.ndarray:
    """Cut out, center and resample trials (N R C T, volts) at ``onsets`` (N R)."""
    raw_sfreq = raw.info["sfreq"]
    shape = len(channels), _n_times(options, raw_sfreq)
    trials = np.empty((onsets.size, *shape))  # NR C T
    for start in range(0, onsets.size, _TRIALS_PER_BLOCK):
        block = slice(start, start + _TRIALS_PER_BLOCK)
        data = cut(raw, onsets.ravel()[block], channels, options)
        data = subtract_baseline(data, raw_sfreq, options)
        trials[block] = resample(data, raw_sfreq, options.sfreq)[..., -shape[1] :]
    return trials.reshape(*onsets.shape, *shape)  # N R C T


def _offsets(options: EEGPreprocessing, raw_sfreq: float) -> tuple[int, int]:
    """Return first and last sample of a trial, relative to the image onset."""
    return round(options.tmin * raw_sfreq), round(options.tmax * raw_sfreq)


def _n_times(options: EEGPreprocessing, raw_sfreq: float) -> int:
    """Return the number of resampled points that are kept of a trial."""
    first, last = _offsets(options, raw_sfreq)
    n_cut = round((options.keep_from - options.tmin) * options.sfreq)
    return round((last - first + 1) * options.sfreq / raw_sfreq) - n_cut
