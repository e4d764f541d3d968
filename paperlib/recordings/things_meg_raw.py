"""Raw runs of THINGS-MEG (BIDS, CTF) as signals per image, up to 100 Hz.

The steps of the data set's authors (Hebart et al., 2023), except for the band and the
resampling: they low-pass at 40 Hz and keep every sixth sample; a band up to 100 Hz, as
in the paper, needs a filter before samples can be left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import scipy.signal

from paperlib.progress import progress_bar
from paperlib.recordings.sensors import without_serial
from paperlib.recordings.signals import new_arrays, save_info
from paperlib.recordings.things_meg import (
    CATCH_NUMBER,
    STANDARDIZED_UNIT,
    check_sensors,
    count_trials,
    first_second,
    place_trials,
    read_table,
    signal_shapes,
    store_trials,
    trial_blocks,
)

BROKEN_SENSOR = "MRO11"
TRIGGER_CHANNEL, TRIGGER_CODE = "UPPT001", 64
DROPOUTS = {  # s into the run; the signal of all sensors is lost for a moment
    "sub-BIGMEG1_ses-11_task-main_run-05_meg.ds": 13.4,
    "sub-BIGMEG2_ses-10_task-main_run-03_meg.ds": 59.8,
}
DROPOUT_DURATION = 0.2  # s
_TRIALS_PER_BLOCK = 25  # cut out and resampled at once: 0.2 GB


@dataclass(frozen=True)
class TrialProcessing:
    """How trials are filtered, cut out and standardized.

    Attributes
    ----------
    l_freq, h_freq : float
        Edges of the band-pass, in hertz.
    tmin, tmax : float
        First and last time of a trial, in seconds from image onset.
    baseline : tuple of float
        First and last time over which a trial has mean 0 and standard deviation 1
        afterwards, in seconds.
    sfreq : float
        Sampling rate after resampling, in hertz.
    """

    l_freq: float
    h_freq: float
    tmin: float
    tmax: float
    baseline: tuple[float, float]
    sfreq: float

    @property
    def times(self) -> np.ndarray:
        """Times of a trial after resampling, in seconds from image onset."""
        n_times = int((self.tmax - self.tmin) * self.sfreq + 1e-6) + 1
        return self.tmin + np.arange(n_times) / self.sfreq


@dataclass(frozen=True)
class Run:
    """What a run holds.

    Attributes
    ----------
    path : Path
        Folder of the run.
    ch_names : tuple of str
        Sensors, without the broken one.
    sfreq : float
        Sampling rate in hertz.
    samples, numbers : ndarray of int, shape (n_trials,)
        Image onset from the first sample, and image number; in order of time.
    """

    path: Path
    ch_names: tuple[str, ...]
    sfreq: float
    samples: np.ndarray
    numbers: np.ndarray


def preprocess_runs(
    folder: Path,
    signals_folder: Path,
    *,
    subject: int,
    images: pd.DataFrame,
    concepts: str,
    processing: TrialProcessing,
) -> pd.DataFrame:
    """Filter, cut, standardize and resample the trials of one participant.

    Memory holds one run in double precision, about 1 GB.

    Parameters
    ----------
    folder
        The data set's folder, which holds ``sub-BIGMEG1`` and so on.
    signals_folder
        Gets what `load_signals` reads, as from `things_meg.import_epochs`.
    subject
        Number of the participant.
    images
        From `things_meg.list_images`.
    concepts
        Which training images to keep, as for `select_concepts`.
    processing
        Parameters of the steps.

    Returns
    -------
    DataFrame
        As from `things_meg.count_trials`.

    Raises
    ------
    FileNotFoundError
        If there are no runs, or an event table is missing.
    ValueError
        If a run, an event table or the order of images is not valid. All runs are
        checked before the first is processed.
    """
    source = folder / f"sub-BIGMEG{subject}"
    kept = first_second(processing.times, processing.sfreq, source=source)
    paths = run_folders(folder, subject)
    bar = progress_bar(paths, label="Checking", unit="run")
    runs = [survey_run(path, processing) for path in bar]
    first = runs[0]
    _check_alike(runs)
    check_sensors(first.ch_names, source=first.path)
    numbers = np.concatenate([run.numbers for run in runs])
    trials = place_trials(numbers, images, concepts=concepts, source=source)
    shapes = signal_shapes(trials, (len(first.ch_names), kept.stop - kept.start))
    starts = np.cumsum([0, *(len(run.numbers) for run in runs)])
    with new_arrays(signals_folder, shapes) as products:
        bar = progress_bar(runs, label="Preprocessing", unit="run")
        for run, start in zip(bar, starts, strict=False):
            raw = clean_run(run, processing)
            inside = trials.loc[start : start + len(run.numbers) - 1]
            for block in trial_blocks(inside, _TRIALS_PER_BLOCK):
                data = cut_trials(raw, run.samples[block.index - start], processing)
                store_trials(products, block, data[..., kept], source=run.path)
    save_info(
        signals_folder,
        ch_names=first.ch_names,
        sfreq=processing.sfreq,
        tmin=0,
        unit=STANDARDIZED_UNIT,
        concepts=concepts,
    )
    return count_trials(numbers, images, trials)


def run_folders(folder: Path, subject: int) -> list[Path]:
    """List the runs of a participant in order of time.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    name = f"sub-BIGMEG{subject}"  # not "._sub", as macOS names its companions
    runs = sorted(folder.glob(f"{name}/ses-*/meg/{name}_ses-*_task-main_run-*_meg.ds"))
    if not runs:
        raise FileNotFoundError(
            f"{folder / name} holds no run; expected ses-01/meg/{name}_ses-01_task-main"
            f"_run-01_meg.ds and so on (THINGS-MEG, OpenNeuro ds004212)."
        )
    return runs


def events_file(run: Path) -> Path:
    """Return the path of a run's event table."""
    return run.with_name(run.name.replace("_meg.ds", "_events.tsv"))


def read_run(path: Path) -> mne.io.BaseRaw:
    """Open a CTF run without reading its data."""
    return mne.io.read_raw_ctf(path, verbose="error")


def survey_run(path: Path, processing: TrialProcessing) -> Run:
    """Check a run and its event table.

    Parameters
    ----------
    path
        Folder of the run.
    processing
        Which times belong to a trial.

    Raises
    ------
    FileNotFoundError
        If the event table is missing.
    ValueError
        If the run cannot be read, triggers and event table disagree, or a trial
        leaves the recording.
    """
    samples, numbers = read_events(events_file(path))
    try:
        raw = read_run(path)
    except Exception as error:  # a damaged run can raise almost anything
        raise ValueError(
            f"{path} is not a complete CTF run ({type(error).__name__}: {error}). "
            f"Download it again."
        ) from error
    sfreq = raw.info["sfreq"]
    first = samples.min() + processing.tmin * sfreq
    last = samples.max() + processing.tmax * sfreq
    if first < 0 or last >= raw.n_times:
        raise ValueError(
            f"{path}: trials of its event table run from sample {first:.0f} to "
            f"{last:.0f}, but the recording has {raw.n_times} samples."
        )
    _check_triggers(raw, len(samples), path)
    sensors = [raw.ch_names[i] for i in mne.pick_types(raw.info, meg="mag")]
    kept = (name for name in sensors if without_serial(name) != BROKEN_SENSOR)
    return Run(path, tuple(kept), sfreq, samples, numbers)


def read_events(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the event table of a run.

    Parameters
    ----------
    path
        ``*_events.tsv``; image numbers of catch trials are ``N/A``.

    Returns
    -------
    samples, numbers : ndarray of int, shape (n_trials,)
        Image onset in samples of the recording, and image number.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an event table of THINGS-MEG, in order of time.
    """
    events = read_table(path, ("trial_type", "value", "sample"), separator="\t")
    is_catch = events["trial_type"] == "catch"
    numbers = events["value"].mask(is_catch, CATCH_NUMBER)
    if not len(events) or numbers.isna().any() or events["sample"].isna().any():
        raise ValueError(
            f"{path} must hold trials, each with a sample and, except for catch "
            f"trials, an image number."
        )
    samples = events["sample"].to_numpy().round().astype(int)
    if (np.diff(samples) <= 0).any():
        raise ValueError(f"{path} is not in order of time.")
    return samples, numbers.to_numpy().astype(int)


def clean_run(run: Run, processing: TrialProcessing) -> mne.io.BaseRaw:
    """Load the sensors of a run, repair dropouts and filter.

    Parameters
    ----------
    run
        From `survey_run`.
    processing
        Gives the band.
    """
    raw = read_run(run.path).pick(list(run.ch_names)).load_data(verbose="error")
    if run.path.name in DROPOUTS:
        start = round(DROPOUTS[run.path.name] * run.sfreq)
        lost = slice(start, start + round(DROPOUT_DURATION * run.sfreq))
        raw.apply_function(_replace_by_median, lost=lost)
    return raw.filter(processing.l_freq, processing.h_freq, verbose="error")


def cut_trials(
    raw: mne.io.BaseRaw, samples: np.ndarray, processing: TrialProcessing
) -> np.ndarray:
    """Cut out trials, standardize them by their baseline and resample them.

    Parameters
    ----------
    raw
        Filtered run.
    samples : ndarray of int, shape (n_trials,)
        Image onsets from the first sample.
    processing
        Parameters of the steps.

    Returns
    -------
    ndarray of shape (n_trials, n_channels, n_times)
        At ``processing.times``, in units of the standard deviation of the baseline.
    """
    onsets = samples + raw.first_samp
    epochs = mne.Epochs(
        raw,
        np.column_stack([onsets, *np.ones((2, len(onsets)), int)]),
        tmin=processing.tmin,
        tmax=processing.tmax,
        baseline=None,
        preload=True,
        verbose="error",
    )
    data = standardize(epochs.get_data(copy=False), epochs.times, processing.baseline)
    ratio = Fraction(processing.sfreq / raw.info["sfreq"]).limit_denominator(1000)
    return scipy.signal.resample_poly(data, *ratio.as_integer_ratio(), axis=-1)


def standardize(
    data: np.ndarray, times: np.ndarray, baseline: Sequence[float]
) -> np.ndarray:
    """Give each channel of each trial mean 0 and standard deviation 1 at baseline.

    Parameters
    ----------
    data : ndarray of shape (n_trials, n_channels, n_times)
        Trials.
    times : ndarray of shape (n_times,)
        In seconds.
    baseline
        First and last time, in seconds; both belong to it.

    Returns
    -------
    ndarray of shape (n_trials, n_channels, n_times)
        Not finite where a channel is flat at baseline.
    """
    tolerance = (times[1] - times[0]) / 10
    start, stop = baseline
    inside = (times >= start - tolerance) & (times <= stop + tolerance)
    before = data[..., inside]
    mean, deviation = (f(before, axis=-1, keepdims=True) for f in (np.mean, np.std))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (data - mean) / deviation


def _replace_by_median(signal: np.ndarray, lost: slice) -> np.ndarray:
    """Put a channel's median where its signal was lost."""
    signal[lost] = np.median(signal)
    return signal


def _check_triggers(raw: mne.io.BaseRaw, n_events: int, path: Path) -> None:
    """Raise unless a run has a trigger for each row of its event table."""
    if TRIGGER_CHANNEL not in raw.ch_names:
        return
    codes = raw.get_data(picks=[TRIGGER_CHANNEL])[0]
    n_triggers = np.count_nonzero(np.diff((codes == TRIGGER_CODE).astype(int)) == 1)
    if n_triggers != n_events:
        raise ValueError(
            f"{events_file(path)} lists {n_events} trials but {TRIGGER_CHANNEL} of "
            f"{path.name} has {n_triggers} triggers of {TRIGGER_CODE}. Check that both "
            f"belong to one run and use version 2.0.0 or later of the data set."
        )


def _check_alike(runs: Sequence[Run]) -> None:
    """Raise unless all runs have the same sensors and sampling rate."""
    first = runs[0]
    for run in runs:
        if (run.ch_names, run.sfreq) != (first.ch_names, first.sfreq):
            raise ValueError(
                f"{run.path.name} has {len(run.ch_names)} sensors at {run.sfreq:g} Hz, "
                f"{first.path.name} {len(first.ch_names)} at {first.sfreq:g} Hz; "
                f"expected the same sensors and rate in all runs."
            )
