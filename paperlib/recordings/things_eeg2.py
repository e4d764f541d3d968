"""Files of THINGS-EEG2 (Gifford et al., 2022): raw sessions and published signals.

A participant's raw folder holds ``ses-01`` to ``ses-04``, each with
``raw_eeg_training.npy`` and ``raw_eeg_test.npy`` (63 electrodes in volts and a trigger
row) or, as in the BIDS edition of NEMAR (nm000232), a folder ``eeg`` with five runs of
task ``train`` and one of task ``test``. Published signals come in one of four formats
(see `load_published`). Nothing is reordered here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import mne
import numpy as np
from mne_bids import BIDSPath, find_matching_paths

from paperlib.recordings.signals import PARTITIONS, load_signals
from paperlib.recordings.tables import read_trials
from paperlib.recordings.unpickling import load_dict
from paperlib.validation import check_distinct, check_finite, did_you_mean, reading

SESSIONS = ("ses-01", "ses-02", "ses-03", "ses-04")

RAW_CHANNELS = tuple(
    "Fp1 F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 Cz "
    "C4 T8 FT10 FC6 FC2 F4 F8 Fp2 AF7 AF3 AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 "
    "PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 FT8 F6 F2 AF4 AF8".split()
)
"""The 63 electrodes in the order of the raw files; the reference was Fz."""

NICE_CHANNELS = tuple(
    "Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 "
    "FC4 FC6 FT8 FT10 T7 C5 C3 C1 Cz C2 C4 C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 "
    "TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2".split()
)
"""The same electrodes from front to back, as NICE (Song et al., 2024) orders them."""

POSTERIOR_CHANNELS = tuple(name for name in RAW_CHANNELS if name[0] in "OP")
"""The 17 parietal and occipital electrodes of the official preprocessing, raw order."""

TARGET_CODE = 99999  # trigger of the catch trials
_BIDS_TASKS = {"training": "train", "test": "test"}
_BIDS_TRIALS = {"target": "catch", "rest_marker": "rest"}
_NICE_CUT = 50  # samples that NICE cuts from the data but leaves in `times`


@dataclass(frozen=True)
class PublishedSignals:
    """Preprocessed responses of a partition as published."""

    path: Path
    data: np.ndarray  # N R C T
    ch_names: tuple[str, ...]  # in the order of the file, without the trigger row
    times: np.ndarray  # (T,), s from image onset
    unit: str = "noise SD"


def session_folders(folder: Path) -> list[Path]:
    """List the sessions of a participant's raw folder; all must be complete."""
    sessions = sorted(path for path in folder.glob("ses-*") if path.is_dir())
    missing = [
        str(raw_file(session, p))
        for session in sessions or [folder / "ses-01"]
        for p in PARTITIONS
        if not raw_file(session, p).is_file() and not bids_runs(session, p)
    ]
    if missing:
        raise FileNotFoundError(
            f"missing raw recordings: {', '.join(missing)} (or, in BIDS, "
            f"{folder.name}_ses-01_task-train_run-01_eeg.bdf and so on in the "
            f"sessions' folders eeg). Unpack the raw data of THINGS-EEG2 in {folder}."
        )
    return sessions


def raw_file(session: Path, partition: str) -> Path:
    """Return the path of a session's training or test recording."""
    return session / f"raw_eeg_{partition}.npy"


def bids_runs(session: Path, partition: str) -> list[BIDSPath]:
    """List the runs of a session's training or test recording in BIDS."""
    if not (session / "eeg").is_dir():
        return []
    return find_matching_paths(
        session.parents[1],
        subjects=session.parent.name.removeprefix("sub-"),
        sessions=session.name.removeprefix("ses-"),
        tasks=_BIDS_TASKS[partition],
        suffixes="eeg",
        extensions=[".bdf", ".vhdr"],
    )


def load_recording(session: Path, partition: str) -> mne.io.RawArray:
    """Load and check a session's ``'training'`` or ``'test'`` recording.

    Runs in BIDS are joined, as the data set's authors did in their files.
    """
    path = raw_file(session, partition)
    if path.is_file():
        return load_raw_session(path)
    runs = [_load_run(run, partition) for run in bids_runs(session, partition)]
    rates = sorted({sfreq for _, sfreq in runs})
    if len(rates) > 1:
        raise ValueError(f"the runs in {session} differ in their rate: {rates} Hz.")
    types = ["eeg"] * len(RAW_CHANNELS) + ["stim"]
    info = mne.create_info([*RAW_CHANNELS, "stim"], rates[0], types)
    data = np.concatenate([data for data, _ in runs], axis=1)
    return mne.io.RawArray(data, info, verbose="error")


def load_raw_session(path: Path) -> mne.io.RawArray:
    """Load and check ``raw_eeg_training.npy`` or ``raw_eeg_test.npy`` of a session.

    It has EEG channels in volts, in the order of the file, and the channel ``stim``.
    """
    content = load_dict(path, "a raw session of THINGS-EEG2")
    data = _floats(path, content, "raw_eeg_data")
    ch_names = _names(path, content, "ch_names")
    ch_types = _names(path, content, "ch_types")
    expected = ["stim" if name == "stim" else "eeg" for name in ch_names]
    fits = data.ndim == 2 and len(data) == len(ch_names) and ch_types == expected
    if not fits or ch_names.count("stim") != 1:
        raise ValueError(
            f"{path}: 'raw_eeg_data' must have rows of type 'eeg' and exactly one "
            f"named 'stim' of type 'stim'; got shape {data.shape}, the names "
            f"{ch_names} and the types {ch_types}."
        )
    _check_electrodes(path, [name for name in ch_names if name != "stim"])
    sfreq = _entry(path, content, "sfreq")
    if not isinstance(sfreq, Real) or not 1 <= sfreq <= 1e6:
        raise ValueError(
            f"{path}: 'sfreq' must be a sampling rate in Hz; got {sfreq!r}."
        )
    check_finite(f"{path}: 'raw_eeg_data'", data)
    info = mne.create_info(ch_names, float(sfreq), ch_types)
    return mne.io.RawArray(data, info, verbose="error")


def _load_run(run: BIDSPath, partition: str) -> tuple[np.ndarray, float]:
    """Load a run in BIDS, with its events as trigger row, and its sampling rate."""
    table = run.copy().update(suffix="events", extension=".tsv").fpath
    kinds = {"image": partition, **_BIDS_TRIALS}
    trials = read_trials(table, kinds, ("sample", "tot_img_number"))
    with reading(run.fpath):
        raw = mne.io.read_raw(run.fpath, verbose="error")
        data = raw.get_data(picks=list(RAW_CHANNELS))
    trials = trials[trials["kind"] != "rest"]
    if trials["sample"].max() >= raw.n_times:
        raise ValueError(
            f"{table}: the last trial is at sample {trials['sample'].max()}, but the "
            f"recording has {raw.n_times}. Download both files again."
        )
    triggers = np.zeros(raw.n_times)
    is_target = trials["kind"] == "catch"
    triggers[trials["sample"]] = trials["tot_img_number"].mask(is_target, TARGET_CODE)
    return np.vstack([data, triggers]), round(raw.info["sfreq"], 3)


def stimulus_events(raw: mne.io.RawArray) -> tuple[np.ndarray, int]:
    """Find the image onsets of a recording and count the catch trials left out.

    The events (n_events, 2) are the sample of the onset and the condition (image
    number, from 1), in order of time.
    """
    triggers = raw.get_data(picks=[raw.ch_names.index("stim")])[0]
    lowest, highest = triggers.min(), triggers.max()
    if lowest < 0 or highest > TARGET_CODE or (triggers != np.rint(triggers)).any():
        raise ValueError(
            f"the row 'stim' must hold 0, condition numbers and {TARGET_CODE} for "
            f"targets; its values run from {lowest} to {highest}."
        )
    onsets = mne.find_events(raw, stim_channel="stim", verbose="error")
    events = onsets[:, [0, 2]]  # sample, previous value, code -> sample, code
    is_target = events[:, 1] == TARGET_CODE
    return events[~is_target], int(is_target.sum())


def load_published(folder: Path, partition: str) -> PublishedSignals:
    """Load preprocessed responses as their authors published them.

    Four formats are read: the official one (``preprocessed_eeg_training.npy``; 17
    electrodes, or 63 and a trigger row that is dropped); that of NICE and ATM, of the
    same name, whose 300 ``times`` belong to epochs from which the 50 samples before
    the image were cut; that of UBP (``train.pt``, ``test.pt``: whitened, float16, the
    same ``times``); and signals of any data set that `save_signals` wrote.
    """
    if (folder / "info.json").is_file():
        own = load_signals(folder)
        path, data = folder / f"{partition}.npy", getattr(own, partition)
        return PublishedSignals(path, data, own.ch_names, own.times, own.unit)
    path, key = folder / f"preprocessed_eeg_{partition}.npy", "preprocessed_eeg_data"
    whitened = folder / f"{_BIDS_TASKS[partition]}.pt"
    if whitened.is_file() and not path.is_file():
        path, key = whitened, "eeg"
    content = load_dict(path, "preprocessed signals of THINGS-EEG2")
    data, times = (_floats(path, content, k) for k in (key, "times"))
    ch_names = _names(path, content, "ch_names")
    if data.ndim != 4 or data.shape[2] != len(ch_names) or not data.size:
        raise ValueError(
            f"{path}: {key!r} must have shape (images, repetitions, {len(ch_names)} "
            f"channels, times); got {data.shape}."
        )
    if ch_names[-1:] == ["stim"]:
        data, ch_names = data[:, :, :-1], ch_names[:-1]  # N R 64 T -> N R 63 T
    _check_electrodes(path, ch_names)
    if len(times) == data.shape[3] + _NICE_CUT:
        times = times[_NICE_CUT:]
    if times.shape != data.shape[3:]:
        raise ValueError(
            f"{path}: 'times' has {len(times)} entries but the data have "
            f"{data.shape[3]} samples; expected as many, or {_NICE_CUT} more."
        )
    steps = np.diff(times.astype(float))
    step = (times[-1] - times[0]) / max(1, len(steps))
    if not (0 < step < 0.1) or not np.abs(steps - step).max() <= 0.05 * step:
        raise ValueError(
            f"{path}: 'times' must ascend evenly, in seconds from image onset; got "
            f"{times[0]:g}, {times[min(1, len(times) - 1)]:g} ... {times[-1]:g}. "
            f"Times in milliseconds must be divided by 1000."
        )
    return PublishedSignals(path, data, tuple(ch_names), times)


def check_channels(
    source: Path | str, available: Sequence[str], channels: Iterable[str]
) -> None:
    """Raise ValueError unless a file has all channels that are asked for."""
    for name in channels:
        if name not in available:
            raise ValueError(
                f"{source} has no channel {name!r} among its {len(available)}. Set "
                f"preprocessing.channels to what it has.{did_you_mean(name, available)}"
            )


def _check_electrodes(path: Path, ch_names: Sequence[str]) -> None:
    check_distinct(f"{path}: channels", "names", ch_names)
    for name in ch_names:
        if name not in RAW_CHANNELS:
            raise ValueError(
                f"{path}: unknown channel {name!r}; expected the {len(RAW_CHANNELS)} "
                f"electrodes of THINGS-EEG2.{did_you_mean(name, RAW_CHANNELS)}"
            )


def _entry(path: Path, content: dict, key: str) -> object:
    if key not in content:
        raise ValueError(
            f"{path} lacks {key!r}; it has {list(content)}. Check that it is the file "
            f"you meant."
        )
    return content[key]


def _floats(path: Path, content: dict, key: str) -> np.ndarray:
    array = _entry(path, content, key)
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{path}: {key!r} must be an array of floating-point numbers; got a "
            f"{type(array).__name__} of type {getattr(array, 'dtype', None)}."
        )
    return array


def _names(path: Path, content: dict, key: str) -> list[str]:
    names = _entry(path, content, key)
    is_list = isinstance(names, list | tuple | np.ndarray)
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {key!r} must be a list of names.")
    return [str(name) for name in names]
