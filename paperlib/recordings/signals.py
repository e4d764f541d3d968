"""Preprocessed signals on disk: what notebook 01 writes and all later ones read.

A folder holds ``training.npy`` and ``test.npy``, float32, of shape (images,
repetitions, channels, times), and ``info.json``. Row i belongs to condition i + 1. The
end of notebook 01 says how a data set of your own comes in.
"""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field, FiniteFloat

from paperlib.atomic import atomic_path, write_text
from paperlib.config import Distinct
from paperlib.validation import check_file, check_finite, check_option, reading

PARTITIONS = ("training", "test")
CONCEPTS = ("all_concepts", "zero_shot")
_CURE = "Delete it and run 01_preprocess again."
_BLOCK_BYTES = 64 * 2**20
_N_SAMPLED = 16  # images of each partition that are checked when signals are loaded


@dataclass(frozen=True)
class Signals:
    """Responses of one participant, memory-mapped and read-only."""

    training: np.memmap  # N R C T: single trials of images
    test: np.memmap
    ch_names: tuple[str, ...]
    sfreq: float  # Hz
    times: np.ndarray  # (T,), s from image onset
    unit: str  # "V", "noise SD" (whitened) or "baseline SD" (by the trial's baseline)
    concepts: str = "all_concepts"  # which training images: see `select_concepts`


class _Info(BaseModel):
    """Content of ``info.json``."""

    ch_names: Annotated[tuple[str, ...], Distinct] = Field(min_length=1)
    sfreq: FiniteFloat = Field(ge=10, le=1e5)  # Hz, not kHz
    tmin: FiniteFloat = Field(ge=-10, le=10)  # s, not ms
    unit: str
    concepts: Literal[CONCEPTS]


@contextmanager
def create_signals(
    folder: Path, shapes: dict[str, tuple[int, ...]], **info: object
) -> Iterator[dict[str, np.memmap]]:
    """Yield the arrays of a new folder of signals to fill, by partition.

    ``info`` is the content of ``info.json``. All is kept if the block succeeds; after
    an error nothing new is left and older files are untouched.
    """
    info = _Info(**{"concepts": "all_concepts"} | info)
    with ExitStack() as files:
        arrays = {}
        for p in PARTITIONS:
            partial = files.enter_context(atomic_path(folder / f"{p}.npy"))
            shape = tuple(int(size) for size in shapes[p])
            arrays[p] = open_memmap(partial, "w+", np.float32, shape)
        yield arrays
        for array in arrays.values():
            array.flush()
    write_text(folder / "info.json", info.model_dump_json(indent=2) + "\n")


def save_signals(
    folder: Path,
    training: ArrayLike,
    test: ArrayLike,
    *,
    ch_names: Sequence[str],
    sfreq: float,
    tmin: float,
    unit: str,
) -> None:
    """Write the recordings of one participant as signals, from any source.

    Parameters
    ----------
    training, test : array_like of shape (n_images, n_repetitions, n_channels, n_times)
        Finite single trials; the rows are in the order of the list of images.
    ch_names
        Channels, in the order of the arrays.
    sfreq, tmin
        Sampling rate in Hz, and time of the first sample in seconds from image onset.
    unit
        As in `Signals`.
    """
    arrays = {"training": np.asarray(training), "test": np.asarray(test)}
    _check_trials({f"{p} signals": array for p, array in arrays.items()}, len(ch_names))
    for p, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{p} signals must be real numbers; got {array.dtype}.")
        check_finite(f"{p} signals", array)
    shapes = {p: array.shape for p, array in arrays.items()}
    info = {"ch_names": ch_names, "sfreq": sfreq, "tmin": tmin, "unit": unit}
    with create_signals(Path(folder), shapes, **info) as products:
        for p, array in arrays.items():
            products[p][:] = array


def load_signals(folder: Path) -> Signals:
    """Open the signals of one participant, reading only a sample to check it."""
    file, *paths = (Path(folder, f) for f in ("info.json", "training.npy", "test.npy"))
    for path in (file, *paths):
        check_file(path, "Run notebook 01_preprocess.")
    with reading(file, _CURE):
        info = _Info.model_validate_json(file.read_bytes())
    arrays = {}
    for path in paths:
        with reading(path, _CURE):
            arrays[path] = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_trials(arrays, len(info.ch_names))
    for path, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"{path} must hold floating-point numbers; got {array.dtype}. {_CURE}"
            )
        sampled = np.unique(np.linspace(0, len(array) - 1, _N_SAMPLED).astype(int))
        check_finite(f"{path} (a sample of images)", array[sampled])
    training, test = arrays.values()
    times = info.tmin + np.arange(test.shape[-1]) / info.sfreq
    return Signals(
        training, test, info.ch_names, info.sfreq, times, info.unit, info.concepts
    )


def _check_trials(arrays: dict[str | Path, np.ndarray], n_channels: int) -> None:
    """Raise ValueError unless named arrays hold trials of equal channels and times."""
    n_times = next(iter(arrays.values())).shape[-1:]
    for name, array in arrays.items():
        fits = array.ndim == 4 and array.shape[2:] == (n_channels, *n_times)
        if not fits or not array.size:
            raise ValueError(
                f"{name} must have shape (images, repetitions, {n_channels} channels, "
                f"times), with equal times in training and test; got {array.shape}."
            )


def release_memory(array: np.memmap) -> None:
    """Free the memory that pages of a mapped array occupy once used; content stays."""
    array.base.madvise(mmap.MADV_DONTNEED)


def select_concepts(images: pd.DataFrame, concepts: str) -> pd.DataFrame:
    """Select the training images by their concepts; all test images stay.

    ``'zero_shot'`` leaves out training images of test concepts: none in THINGS-EEG2, in
    THINGS-MEG all but 19 848 of 22 248. ``'all_concepts'`` leaves out nothing.
    """
    check_option("concepts", concepts, CONCEPTS)
    if concepts == "all_concepts":
        return images
    is_test = images["partition"] == "test"
    return images[is_test | ~images["concept"].isin(images.loc[is_test, "concept"])]


def check_counts(signals: Signals, images: pd.DataFrame) -> None:
    """Raise ValueError unless each row of a list of images has one response."""
    for p in PARTITIONS:
        n_signals, n_images = len(getattr(signals, p)), (images["partition"] == p).sum()
        if n_signals != n_images:
            raise ValueError(
                f"the {p} signals belong to {n_signals} images but the image set has "
                f"{n_images} {p} images. Use images and recordings of one data set."
            )


def average_repetitions(
    trials: np.ndarray, chosen: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Average all or chosen repetitions of trials (N R C T), as float32 (N C T)."""
    averages = np.empty((len(trials), *trials.shape[2:]), np.float32)
    for block in _blocks(trials):
        averages[block] = trials[block, chosen].mean(axis=1, dtype=np.float64)
    return averages


def mean_response(trials: np.ndarray) -> np.ndarray:
    """Average all trials of all images (N R C T), as C T."""
    sums = [trials[block].sum(axis=(0, 1), dtype=float) for block in _blocks(trials)]
    return np.sum(sums, axis=0) / (trials.shape[0] * trials.shape[1])


def training_targets(signals: Signals, repetitions: str) -> np.ndarray:
    """Return the responses (N R C T) that a model is trained on.

    One average for each image (``'mean'``, R is 1) or every trial (``'single'``),
    mapped if nothing is averaged.
    """
    check_option("repetitions", repetitions, ("mean", "single"))
    if repetitions == "single" or signals.training.shape[1] == 1:
        return signals.training
    return average_repetitions(signals.training)[:, None]  # N C T -> N 1 C T


def split_half_reliability(trials: np.ndarray) -> np.ndarray:
    """Estimate how well each channel's image-specific response repeats, from N R C T.

    Averages of odd and even repetitions, without the mean over images, are correlated
    over images and times and corrected to the full number of repetitions. The result
    (C,) is 1 if the mean response is free of noise, near 0 if it is all noise.
    """
    if min(trials.shape[:2]) < 2:
        raise ValueError(
            f"reliability needs at least 2 images and 2 repetitions; got "
            f"{trials.shape[0]} and {trials.shape[1]}."
        )
    halves = np.stack([average_repetitions(trials[:, half::2]) for half in (0, 1)])
    halves -= halves.mean(axis=1, keepdims=True)  # 2 N C T
    first, second = np.moveaxis(halves, 2, 1).reshape(2, trials.shape[2], -1)  # C NT
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    r = (first * second).sum(axis=1) / spread
    return 2 * r / (1 + r)  # of all repetitions, from that of halves (Spearman-Brown)


def _blocks(trials: np.ndarray) -> Iterator[slice]:
    """Yield slices of images that are small enough for a copy in double precision."""
    step = max(1, _BLOCK_BYTES // (8 * trials[0].size))
    for start in range(0, len(trials), step):
        yield slice(start, start + step)
        if isinstance(trials.base, mmap.mmap):
            release_memory(trials)
