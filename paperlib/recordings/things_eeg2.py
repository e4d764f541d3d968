"""Files of THINGS-EEG2 (Gifford et al., 2022): raw sessions and published signals.

A participant's raw folder holds ``ses-01`` to ``ses-04``, each with
``raw_eeg_training.npy`` and ``raw_eeg_test.npy``: 63 electrodes in volts and a trigger
row. A published folder holds ``preprocessed_eeg_training.npy`` and
``preprocessed_eeg_test.npy``, in one of two containers. Nothing is reordered here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import mne
import numpy as np

from paperlib.recordings.unpickling import load_dict
from paperlib.validation import check_finite, did_you_mean

PARTITIONS = ("training", "test")
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
_RAW_KEYS = ("raw_eeg_data", "ch_names", "ch_types", "sfreq")
_PUBLISHED_KEYS = ("preprocessed_eeg_data", "ch_names", "times")
_NICE_CUT = 50  # samples that NICE cuts from the data but leaves in `times`


@dataclass(frozen=True)
class PublishedSignals:
    """Preprocessed responses as published.

    Attributes
    ----------
    data : ndarray of shape (n_images, n_repetitions, n_channels, n_times)
        Whitened, in units of the noise standard deviation.
    ch_names : tuple of str
        In the order of the file, without the trigger row.
    times : ndarray of shape (n_times,)
        In seconds from image onset.
    """

    data: np.ndarray
    ch_names: tuple[str, ...]
    times: np.ndarray


def session_folders(folder: Path) -> list[Path]:
    """List ``ses-*`` of a participant's raw folder, in order.

    Raises
    ------
    FileNotFoundError
        If there is none, or a session lacks one of its two files.
    """
    sessions = sorted(path for path in folder.glob("ses-*") if path.is_dir())
    if not sessions:
        raise FileNotFoundError(
            f"{folder} holds no session: expected ses-01 to ses-04, each with "
            f"raw_eeg_training.npy and raw_eeg_test.npy. Unpack the raw data of "
            f"THINGS-EEG2 there."
        )
    files = [raw_file(session, p) for session in sessions for p in PARTITIONS]
    if missing := [str(path) for path in files if not path.is_file()]:
        raise FileNotFoundError(f"missing raw recordings: {', '.join(missing)}.")
    return sessions


def raw_file(session: Path, partition: str) -> Path:
    """Return the path of a session's training or test recording."""
    return session / f"raw_eeg_{partition}.npy"


def published_file(folder: Path, partition: str) -> Path:
    """Return the path of a participant's published training or test signals."""
    return folder / f"preprocessed_eeg_{partition}.npy"


def load_raw_session(path: Path) -> mne.io.RawArray:
    """Load and check one raw recording.

    Parameters
    ----------
    path
        ``raw_eeg_training.npy`` or ``raw_eeg_test.npy`` of one session.

    Returns
    -------
    mne.io.RawArray
        EEG channels in volts, in the order of the file, and the channel ``stim``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or refused (see `load_dict`), or its keys, channels,
        sampling rate or values are not those of a THINGS-EEG2 recording.
    """
    content = load_dict(path, "a raw session of THINGS-EEG2")
    _check_keys(path, content, _RAW_KEYS)
    data = _float_array(path, content, "raw_eeg_data")
    ch_names = list(content["ch_names"])
    ch_types, sfreq = list(content["ch_types"]), content["sfreq"]
    _check_rows(path, data, ch_names, ch_types)
    _check_channels(path, ch_names, ch_types)
    if not isinstance(sfreq, Real) or not sfreq > 0:
        raise ValueError(
            f"{path}: 'sfreq' must be a sampling rate in Hz; got {sfreq!r}."
        )
    check_finite(f"{path}: 'raw_eeg_data'", data)
    info = mne.create_info(ch_names, float(sfreq), ch_types)
    return mne.io.RawArray(data, info, verbose="error")


def stimulus_events(raw: mne.io.RawArray) -> tuple[np.ndarray, int]:
    """Find the image onsets of a recording.

    Parameters
    ----------
    raw
        As returned by `load_raw_session`.

    Returns
    -------
    events : ndarray of int, shape (n_events, 2)
        Sample of the onset and condition (image number, from 1), in order of time.
    n_targets : int
        Catch trials left out.

    Raises
    ------
    ValueError
        If the trigger row holds something other than condition numbers.
    """
    triggers = raw.get_data(picks=[raw.ch_names.index("stim")])[0]
    if (triggers < 0).any() or (triggers != np.rint(triggers)).any():
        raise ValueError(
            f"the row 'stim' must hold 0 and positive condition numbers; its values "
            f"run from {triggers.min()} to {triggers.max()}."
        )
    found = mne.find_events(raw, stim_channel="stim", verbose="error")
    events = found[:, [0, 2]]  # sample, previous value, code -> sample, code
    is_target = events[:, 1] == TARGET_CODE
    return events[~is_target], int(is_target.sum())


def load_published(path: Path) -> PublishedSignals:
    """Load preprocessed responses as their authors published them.

    Both containers are read: the official one (17 electrodes, or 63 and a trigger row
    that is dropped) and that of NICE and ATM, whose 300 ``times`` belong to epochs from
    which the 50 samples before the image were cut.

    Parameters
    ----------
    path
        ``preprocessed_eeg_training.npy`` or ``preprocessed_eeg_test.npy``.

    Returns
    -------
    PublishedSignals

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or refused (see `load_dict`), or its parts disagree.
    """
    content = load_dict(path, "preprocessed signals of THINGS-EEG2")
    _check_keys(path, content, _PUBLISHED_KEYS)
    data = _float_array(path, content, "preprocessed_eeg_data")
    times = _float_array(path, content, "times")
    ch_names = list(content["ch_names"])
    if data.ndim != 4 or data.shape[2] != len(ch_names):
        raise ValueError(
            f"{path}: 'preprocessed_eeg_data' must have shape (images, repetitions, "
            f"{len(ch_names)} channels, times); got {data.shape}."
        )
    if ch_names[-1:] == ["stim"]:
        data, ch_names = data[:, :, :-1], ch_names[:-1]  # N R 64 T -> N R 63 T
    _check_names(path, ch_names)
    if len(times) == data.shape[3] + _NICE_CUT:
        times = times[_NICE_CUT:]
    if len(times) != data.shape[3]:
        raise ValueError(
            f"{path}: 'times' has {len(times)} entries but the data have "
            f"{data.shape[3]} samples; expected as many, or {_NICE_CUT} more."
        )
    return PublishedSignals(data, tuple(ch_names), times)


def check_channels(
    path: Path, available: Sequence[str], channels: Iterable[str]
) -> None:
    """Raise ValueError unless a file has all channels that are asked for.

    Parameters
    ----------
    path
        The file, for the message.
    available
        Its channels.
    channels
        What is asked for.
    """
    for name in channels:
        if name not in available:
            raise ValueError(
                f"{path} has no channel {name!r} among its {len(available)}. Set "
                f"preprocessing.channels to what it has.{did_you_mean(name, available)}"
            )


def _check_keys(path: Path, content: dict, expected: Sequence[str]) -> None:
    if missing := [key for key in expected if key not in content]:
        raise ValueError(
            f"{path} lacks {', '.join(map(repr, missing))}; it has {list(content)}. "
            f"Check that it is the file you meant."
        )


def _float_array(path: Path, content: dict, key: str) -> np.ndarray:
    """Return an entry that must be an array of floating-point numbers."""
    array = np.asarray(content[key])
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{path}: {key!r} must be an array of floating-point numbers; got "
            f"{type(content[key]).__name__} of type {array.dtype}."
        )
    return array


def _check_rows(
    path: Path, data: np.ndarray, ch_names: list[str], ch_types: list[str]
) -> None:
    """Raise unless there is a name and a type for each row."""
    if data.ndim != 2 or not data.shape[0] == len(ch_names) == len(ch_types):
        raise ValueError(
            f"{path}: 'raw_eeg_data' must have a row for each channel; got shape "
            f"{data.shape}, {len(ch_names)} names and {len(ch_types)} types."
        )


def _check_channels(path: Path, ch_names: list[str], ch_types: list[str]) -> None:
    """Raise unless the channels are known electrodes (eeg) and one trigger row."""
    expected = ["stim" if name == "stim" else "eeg" for name in ch_names]
    if ch_names.count("stim") != 1 or list(ch_types) != expected:
        wrong = [
            f"{name} ({kind})"
            for name, kind, want in zip(ch_names, ch_types, expected, strict=True)
            if kind != want
        ]
        raise ValueError(
            f"{path}: expected channels of type 'eeg' and exactly one named 'stim' of "
            f"type 'stim'; got {ch_names.count('stim')} named 'stim', and of another "
            f"type: {', '.join(wrong) or 'none'}."
        )
    _check_names(path, [name for name in ch_names if name != "stim"])


def _check_names(path: Path, ch_names: Iterable[str]) -> None:
    """Raise for an electrode that is unknown or listed twice."""
    seen = set()
    for name in ch_names:
        if name not in RAW_CHANNELS:
            raise ValueError(
                f"{path}: unknown channel {name!r}; expected the {len(RAW_CHANNELS)} "
                f"electrodes of THINGS-EEG2.{did_you_mean(name, RAW_CHANNELS)}"
            )
        if name in seen:
            raise ValueError(f"{path}: channel {name!r} is listed twice.")
        seen.add(name)
