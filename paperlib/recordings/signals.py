"""Preprocessed signals on disk: what notebook 01 writes and all later ones read.

A folder holds ``training.npy`` and ``test.npy``, float32, of shape (images,
repetitions, channels, times), and ``info.json``. Row i belongs to condition i + 1.
"""

import json
import mmap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from paperlib.atomic import atomic_path, write_text
from paperlib.validation import check_finite, check_option, check_shape

CONCEPTS = ("all_concepts", "zero_shot")
"""Which training images a folder holds: see `select_concepts`."""

_REQUIRED = ("ch_names", "sfreq", "tmin", "unit", "concepts")
_BLOCK_BYTES = 64 * 2**20
_N_SAMPLED = 16  # images of each partition that are checked when signals are loaded


@dataclass(frozen=True)
class Signals:
    """Responses of one participant, memory-mapped and read-only.

    Attributes
    ----------
    training, test : memmap of shape (n_images, n_repetitions, n_channels, n_times)
        Single trials in `unit`.
    ch_names : tuple of str
        Channels, in the order of the arrays.
    sfreq : float
        Sampling rate in hertz.
    times : ndarray of shape (n_times,)
        In seconds from image onset.
    unit : str
        ``"V"``, ``"noise SD"`` after noise normalization, or ``"baseline SD"`` where
        each trial was standardized by its baseline.
    concepts : {'all_concepts', 'zero_shot'}
        Which training images of the data set are there (see `select_concepts`).
    """

    training: np.memmap
    test: np.memmap
    ch_names: tuple[str, ...]
    sfreq: float
    times: np.ndarray
    unit: str
    concepts: str = "all_concepts"


@contextmanager
def new_arrays(
    folder: Path, shapes: dict[str, tuple[int, ...]], *, dtype: DTypeLike = np.float32
) -> Iterator[dict[str, np.memmap]]:
    """Yield arrays on disk to fill; they are kept if the block succeeds.

    Parameters
    ----------
    folder
        Where the ``.npy`` files go.
    shapes
        Shape of each array by its name, such as ``"training"``.
    dtype
        Of the arrays.

    Yields
    ------
    dict of str to memmap
        Writable. After an error no part of them is left, and files that stood in the
        folder before are untouched.
    """
    with ExitStack() as files:
        arrays = {}
        for name, shape in shapes.items():
            partial = files.enter_context(atomic_path(folder / f"{name}.npy"))
            shape = tuple(int(size) for size in shape)
            arrays[name] = open_memmap(partial, "w+", dtype=dtype, shape=shape)
        yield arrays
        for array in arrays.values():
            array.flush()


def release_memory(array: np.memmap) -> None:
    """Hand back the memory of a mapped array; what was written to it stays.

    Pages that were read or written count as memory of the process until it ends, which
    for an array larger than memory is too long.

    Parameters
    ----------
    array
        As `new_arrays` yields it, or mapped to read; it can be used further.
    """
    array.base.madvise(mmap.MADV_DONTNEED)


def save_info(
    folder: Path,
    *,
    ch_names: Sequence[str],
    sfreq: float,
    tmin: float,
    unit: str,
    concepts: str = "all_concepts",
) -> None:
    """Write ``info.json``, which makes a folder of arrays complete.

    Parameters
    ----------
    folder
        Holds ``training.npy`` and ``test.npy``.
    ch_names
        Channels, in the order of the arrays.
    sfreq, tmin
        Sampling rate in hertz, first time in seconds from image onset.
    unit, concepts
        As in `Signals`.
    """
    grid = {"sfreq": float(sfreq), "tmin": float(tmin)}
    info = {"ch_names": list(ch_names), **grid, "unit": unit, "concepts": concepts}
    write_text(folder / "info.json", json.dumps(info, indent=2) + "\n")


def load_signals(folder: Path) -> Signals:
    """Open the signals of one participant without reading them.

    Parameters
    ----------
    folder
        Of one participant, as notebook 01 writes it.

    Returns
    -------
    Signals

    Raises
    ------
    FileNotFoundError
        If one of the three files is missing.
    ValueError
        If a file is truncated, shapes and ``info.json`` disagree, or one of the images
        that are sampled for a check holds NaN or infinite values.
    """
    info = _load_info(folder / "info.json")
    ch_names = tuple(info["ch_names"])
    training = _open_array(folder / "training.npy")
    test = _open_array(folder / "test.npy")
    n_times = training.shape[-1]
    for name, array in (("training", training), ("test", test)):
        place = f"{folder / name}.npy"
        check_shape(place, array, (None, None, len(ch_names), n_times))
        sampled = np.linspace(0, len(array) - 1, _N_SAMPLED).astype(int)
        check_finite(f"{place} (a sample of images)", array[np.unique(sampled)])
    times = info["tmin"] + np.arange(n_times) / info["sfreq"]
    about = info["sfreq"], times, info["unit"], info["concepts"]
    return Signals(training, test, ch_names, *about)


def select_concepts(images: pd.DataFrame, concepts: str) -> pd.DataFrame:
    """Choose the training images by their concepts; all test images stay.

    Parameters
    ----------
    images
        Table with columns ``partition`` ('training' or 'test') and ``concept``.
    concepts : {'all_concepts', 'zero_shot'}
        ``'zero_shot'`` leaves out training images of test concepts. In THINGS-EEG2
        there are none; in THINGS-MEG it makes 19 848 of 22 248.

    Returns
    -------
    DataFrame
        Some of the rows, in the same order.

    Raises
    ------
    ValueError
        If the option is unknown.
    """
    check_option("concepts", concepts, CONCEPTS)
    if concepts == "all_concepts":
        return images
    is_test = images["partition"] == "test"
    is_tested = images["concept"].isin(images.loc[is_test, "concept"])
    return images[is_test | ~is_tested]


def check_counts(signals: Signals, images: pd.DataFrame) -> None:
    """Raise ValueError unless there is one response for each image.

    Parameters
    ----------
    signals
        Responses.
    images
        Table with a column ``partition`` ('training' or 'test'), a row for each image.
    """
    for partition in ("training", "test"):
        n_signals = len(getattr(signals, partition))
        n_images = int((images["partition"] == partition).sum())
        if n_signals != n_images:
            raise ValueError(
                f"the {partition} signals belong to {n_signals} images but the image "
                f"set has {n_images} {partition} images. Check that images and "
                f"recordings come from the same data set and are complete."
            )


def average_repetitions(trials: np.ndarray) -> np.ndarray:
    """Average the repetitions of each image, a block of images at a time.

    Parameters
    ----------
    trials : ndarray or memmap of shape (n_images, n_repetitions, n_channels, n_times)
        Single trials.

    Returns
    -------
    ndarray of float32, shape (n_images, n_channels, n_times)
        Mean over repetitions, in the unit of ``trials``.
    """
    n_images, _, *grid = trials.shape
    averages = np.empty((n_images, *grid), np.float32)
    for images in _blocks(trials):
        averages[images] = trials[images].mean(axis=1, dtype=np.float64)
    return averages


def mean_response(trials: np.ndarray) -> np.ndarray:
    """Average all trials of all images, a block of images at a time.

    Parameters
    ----------
    trials : ndarray or memmap of shape (n_images, n_repetitions, n_channels, n_times)
        Single trials.

    Returns
    -------
    ndarray of shape (n_channels, n_times)
        In the unit of ``trials``.
    """
    sums = [trials[images].sum(axis=(0, 1), dtype=float) for images in _blocks(trials)]
    if isinstance(trials.base, mmap.mmap):
        release_memory(trials)
    return np.sum(sums, axis=0) / (trials.shape[0] * trials.shape[1])


def training_targets(signals: Signals, repetitions: str) -> np.ndarray:
    """Return what a model is trained on.

    Parameters
    ----------
    signals
        Responses of one participant.
    repetitions : {'mean', 'single'}
        One average for each image, or every trial.

    Returns
    -------
    ndarray or memmap of shape (n_images, n_repetitions, n_channels, n_times)
        With one repetition for ``'mean'``; mapped where nothing is averaged.

    Raises
    ------
    ValueError
        If ``repetitions`` is unknown.
    """
    check_option("repetitions", repetitions, ("mean", "single"))
    if repetitions == "single" or signals.training.shape[1] == 1:
        return signals.training
    averages = average_repetitions(signals.training)
    release_memory(signals.training)
    return averages[:, None]  # N C T -> N 1 C T


def standard_deviation(targets: np.ndarray, rows: Sequence[int]) -> float:
    """Compute the standard deviation of all values of some images, one at a time.

    Parameters
    ----------
    targets : ndarray or memmap of shape (n_images, n_repetitions, n_channels, n_times)
        From :func:`training_targets`.
    rows
        Images to use: those of the training split only.

    Returns
    -------
    float
        In the unit of ``targets``.
    """
    images = (targets[row].astype(np.float64) for row in rows)
    moments = [(image.sum(), np.square(image).sum(), image.size) for image in images]
    total, squares, size = np.sum(moments, axis=0)
    return float(np.sqrt(squares / size - (total / size) ** 2))


def split_half_reliability(trials: np.ndarray) -> np.ndarray:
    """Estimate how well each channel's image-specific response repeats.

    The mean over images is subtracted, so that the response common to all images does
    not count. Odd and even repetitions are averaged and correlated over images and
    times; `spearman_brown` gives the reliability of the mean of all.

    Parameters
    ----------
    trials : ndarray or memmap of shape (n_images, n_repetitions, n_channels, n_times)
        Single trials; at least two images and two repetitions.

    Returns
    -------
    ndarray of shape (n_channels,)
        1 where the mean response is free of noise, about 0 where it is all noise.

    Raises
    ------
    ValueError
        If there are fewer than two images or repetitions.
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
    correlation = (first * second).sum(axis=1) / spread
    return spearman_brown(correlation)


def spearman_brown(correlation: np.ndarray) -> np.ndarray:
    """Return the reliability of all repetitions from the correlation of two halves.

    Parameters
    ----------
    correlation : ndarray
        Correlation of the means of two halves, above -1.

    Returns
    -------
    ndarray
        2 r / (1 + r). The mean of all repetitions cannot correlate with any
        prediction by more than its square root.
    """
    return 2 * correlation / (1 + correlation)


def _blocks(trials: np.ndarray) -> Iterator[slice]:
    """Yield slices of images that are small enough for a copy in double precision."""
    block = max(1, _BLOCK_BYTES * len(trials) // (8 * trials.size))
    for start in range(0, len(trials), block):
        yield slice(start, start + block)


def _load_info(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; notebook 01_preprocess writes it.")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); run 01_preprocess.") from error
    if missing := [key for key in _REQUIRED if key not in info]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; run 01_preprocess again.")
    return info


def _open_array(path: Path) -> np.memmap:
    """Map a float array of four dimensions, read-only."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; notebook 01_preprocess writes it.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged or cut short "
            f"({error}). Delete it and run 01_preprocess again."
        ) from error
    check_shape(str(path), array, (None, None, None, None))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path} must hold floating-point numbers; got {array.dtype}.")
    return array
