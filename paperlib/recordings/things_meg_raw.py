"""Raw runs of THINGS-MEG (BIDS, CTF) as signals per image, up to 100 Hz.

The steps of the data set's authors (Hebart et al., 2023), except for the band and the
resampling: they low-pass at 40 Hz and keep every sixth sample; a band up to 100 Hz, as
in the paper, needs a filter before samples can be left out.
"""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import mne
import numpy as np
import pandas as pd
import scipy.signal
from mne.baseline import rescale
from mne_bids import BIDSPath, find_matching_paths
from tqdm.auto import tqdm

from paperlib.config import MEGPreprocessing
from paperlib.recordings.sensors import without_serial
from paperlib.recordings.tables import read_trials
from paperlib.recordings.things_meg import (
    CATCH_NUMBER,
    TRIAL_KINDS,
    check_sensors,
    create_trials,
    first_second,
    place_trials,
)
from paperlib.validation import reading

BROKEN_SENSOR = "MRO11"
TRIGGER_CHANNEL, TRIGGER_CODE = "UPPT001", 64
DROPOUTS = {  # s into the run; the signal of all sensors is lost for a moment
    "sub-BIGMEG1_ses-11_task-main_run-05_meg": 13.4,
    "sub-BIGMEG2_ses-10_task-main_run-03_meg": 59.8,
}
DROPOUT_DURATION = 0.2  # s
_TRIALS_PER_BLOCK = 25  # cut out and resampled at once: 0.2 GB


class Run(NamedTuple):
    """Trials of a run: path, sensors without the broken one, rate, onsets, images."""

    path: Path
    ch_names: tuple[str, ...]
    sfreq: float  # Hz
    samples: np.ndarray  # of the image onsets, from the first sample, in order of time
    numbers: np.ndarray  # of the images


def preprocess_runs(
    folder: Path, signals_folder: Path, options: MEGPreprocessing, *, subject: int
) -> pd.DataFrame:
    """Filter, cut, standardize and resample the trials of one participant.

    ``folder`` holds ``sub-BIGMEG1`` and so on; signals and counts are as from
    `things_meg.import_epochs`. Memory holds one run in double precision, about 1 GB.
    All runs and event tables are checked before the first run is processed.
    """
    source = folder / f"sub-BIGMEG{subject}"
    n_times = int((options.tmax - options.tmin) * options.sfreq + 1e-6) + 1
    times = options.tmin + np.arange(n_times) / options.sfreq
    kept = first_second(times, options.sfreq, source=source)
    paths = find_runs(folder, subject)
    runs = [survey_run(p, options) for p in tqdm(paths, desc="Checking", unit="run")]
    first = runs[0]
    for run in runs:
        if (run.ch_names, run.sfreq) != (first.ch_names, first.sfreq):
            raise ValueError(
                f"{run.path.name} has {len(run.ch_names)} sensors at {run.sfreq:g} Hz, "
                f"{first.path.name} {len(first.ch_names)} at {first.sfreq:g} Hz; "
                f"expected the same sensors and rate in all runs."
            )
    check_sensors(first.ch_names, source=first.path)
    trials, counts = place_trials(
        np.concatenate([run.numbers for run in runs]),
        folder,
        subject=subject,
        concepts=options.concepts,
        source=source,
    )
    info = options.model_dump(include={"sfreq", "concepts"})
    info |= {"ch_names": first.ch_names, "source": source}
    with create_trials(signals_folder, trials, **info) as write:
        positions, start = trials.index.to_numpy(), 0
        for run in runs:
            raw, stop = clean_run(run, options), start + len(run.numbers)
            inside = positions[(positions >= start) & (positions < stop)]
            for i in range(0, len(inside), _TRIALS_PER_BLOCK):
                block = inside[i : i + _TRIALS_PER_BLOCK]
                data = cut_trials(raw, run.samples[block - start], options)
                write(block, data[..., kept])
            start = stop
    return counts


def find_runs(folder: Path, subject: int) -> list[BIDSPath]:
    """List the runs of a participant in order of time; there must be one."""
    runs = find_matching_paths(
        folder,
        subjects=f"BIGMEG{subject}",
        tasks="main",
        suffixes="meg",
        extensions=[".ds", ".fif"],
    )
    if not runs:
        name = f"sub-BIGMEG{subject}"
        raise FileNotFoundError(
            f"{folder / name} holds no run; expected ses-01/meg/{name}_ses-01_task-main"
            f"_run-01_meg.ds and so on (THINGS-MEG, OpenNeuro ds004212)."
        )
    return sorted(runs, key=lambda run: run.basename)


def survey_run(run: BIDSPath, options: MEGPreprocessing) -> Run:
    """Check a run and its event table.

    It is opened by MNE, not by mne-bids, because the channel tables of the data set
    give all sensors the type OTHER.
    """
    path = run.fpath
    table = run.copy().update(suffix="events", extension=".tsv").fpath
    samples, numbers = read_events(table)
    with reading(path):
        raw = mne.io.read_raw(path, verbose="error")
    sfreq = raw.info["sfreq"]
    first = samples.min() + options.tmin * sfreq
    last = samples.max() + options.tmax * sfreq
    if first < 0 or last >= raw.n_times:
        raise ValueError(
            f"{path}: trials of its event table run from sample {first:.0f} to "
            f"{last:.0f}, but the recording has {raw.n_times} samples. Download both "
            f"files again."
        )
    if TRIGGER_CHANNEL in raw.ch_names:
        codes = raw.get_data(picks=[TRIGGER_CHANNEL])[0]
        n_triggers = np.count_nonzero(np.diff((codes == TRIGGER_CODE).astype(int)) == 1)
        if n_triggers != len(samples):
            raise ValueError(
                f"{table} lists {len(samples)} trials but {TRIGGER_CHANNEL} of "
                f"{path.name} has {n_triggers} triggers of {TRIGGER_CODE}. Check that "
                f"both belong to one run of version 2.0.0 or later of the data set."
            )
    sensors = mne.pick_types(raw.info, meg="mag", ref_meg=False)
    names = (raw.ch_names[i] for i in sensors)
    kept = (name for name in names if without_serial(name) != BROKEN_SENSOR)
    return Run(path, tuple(kept), sfreq, samples, numbers)


def read_events(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read samples and image numbers of the trials of a run, in order of time."""
    events = read_trials(path, TRIAL_KINDS, ("value", "sample"))
    samples = events["sample"].to_numpy()
    if (np.diff(samples) <= 0).any():
        raise ValueError(f"{path} is not in order of time. Download it again.")
    numbers = events["value"].mask(events["kind"] == "catch", CATCH_NUMBER)
    return samples, numbers.to_numpy()


def clean_run(run: Run, options: MEGPreprocessing) -> mne.io.BaseRaw:
    """Load the sensors of a run, set dropouts to the median of the run, and filter."""
    raw = mne.io.read_raw(run.path, verbose="error")
    raw.pick(list(run.ch_names)).load_data(verbose="error")
    if run.path.stem in DROPOUTS:
        start = round(DROPOUTS[run.path.stem] * run.sfreq)
        lost = slice(start, start + round(DROPOUT_DURATION * run.sfreq))
        for row in range(len(raw.ch_names)):
            raw[row, lost] = np.median(raw[row][0])
    return raw.filter(options.l_freq, options.h_freq, verbose="error")


def cut_trials(
    raw: mne.io.BaseRaw, samples: np.ndarray, options: MEGPreprocessing
) -> np.ndarray:
    """Cut out trials, standardize them by their baseline and resample them.

    ``samples`` (n,) are image onsets from the first sample of the filtered run. The
    result (n C T) is in units of the standard deviation of the baseline, and not finite
    where a channel is flat.
    """
    onsets = samples + raw.first_samp
    epochs = mne.Epochs(
        raw,
        np.column_stack([onsets, *np.ones((2, len(onsets)), int)]),
        tmin=options.tmin,
        tmax=options.tmax,
        baseline=None,
        preload=True,
        verbose="error",
    )
    data = epochs.get_data(copy=False)
    with np.errstate(divide="ignore", invalid="ignore"):  # a channel that is flat
        rescale(
            data, epochs.times, options.baseline, "zscore", copy=False, verbose=False
        )
    ratio = Fraction(options.sfreq / raw.info["sfreq"]).limit_denominator(1000)
    return scipy.signal.resample_poly(data, *ratio.as_integer_ratio(), axis=-1)
