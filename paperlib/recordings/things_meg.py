"""The released recordings of THINGS-MEG (Hebart et al., 2023) as signals per image.

Four participants saw 22 248 training images once and 200 test images twelve times.
The released epochs are low-passed at 40 Hz, sampled at 200 Hz and standardized: each
trial and sensor is in units of its standard deviation over the 0.1 s before the image.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import mne
import numpy as np
import pandas as pd

from paperlib.progress import progress_bar
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.signals import (
    new_arrays,
    release_memory,
    save_info,
    select_concepts,
)
from paperlib.recordings.things_eeg2 import PARTITIONS
from paperlib.validation import check_finite

TRIAL_TABLE = "sourcedata/sample_attributes_P1.csv"
"""Trials of the first participant; all participants saw the same images."""

TRIAL_TYPES = {"exp": "training", "test": "test", "catch": "catch"}
CATCH_NUMBER = 999999  # stands for all artificial images of the catch trials
STANDARDIZED_UNIT = "baseline SD"
REGION_SIZES = {
    "Frontal": 67,
    "Central": 52,
    "Parietal": 45,
    "Occipital": 39,
    "Temporal": 68,
}
"""Sensors of each region: 271, without four that failed (paper, Appendix B.1)."""

DURATION = 1.0  # s from image onset, end point excluded: 200 samples at 200 Hz
_TRIALS_PER_BLOCK = 200  # read at once: 0.1 GB of released epochs


def list_images(folder: Path) -> pd.DataFrame:
    """List the images of THINGS-MEG in the order of the signals.

    Training images come first; within a partition, images are in the order of their
    numbers in THINGS. Images of catch trials are left out.

    Parameters
    ----------
    folder
        The data set's folder, which holds `TRIAL_TABLE`.

    Returns
    -------
    DataFrame
        Columns image_number (row in the list of THINGS, from 1), partition
        (``"training"`` or ``"test"``), concept and file (its name).

    Raises
    ------
    FileNotFoundError
        If there is no trial table.
    ValueError
        If the table cannot be read, lacks a column or a number, or names two files for
        one number.
    """
    path = Path(folder) / TRIAL_TABLE
    columns = ("trial_type", "things_image_nr", "image_path")
    trials = read_table(path, columns, separator=",")
    partitions = trials["trial_type"].map(TRIAL_TYPES)
    shown = trials[partitions.isin(PARTITIONS)]
    if shown[list(columns)].isna().any(axis=None):
        raise ValueError(f"{path} lacks the number or the path of an image.")
    files = [PurePosixPath(image_path).name for image_path in shown["image_path"]]
    images = pd.DataFrame(
        {
            "image_number": shown["things_image_nr"].astype(int),
            "partition": partitions[shown.index],
            "concept": [file.rpartition("_")[0] for file in files],
            "file": files,
        }
    ).drop_duplicates()
    if len(repeated := images.loc[images["image_number"].duplicated(), "image_number"]):
        raise ValueError(
            f"{path} gives {len(repeated)} images two files or two types, the first "
            f"number {repeated.iloc[0]}; expected one of each."
        )
    by_number = images.sort_values("image_number")
    parts = [by_number[by_number["partition"] == p] for p in PARTITIONS]
    return pd.concat(parts, ignore_index=True)


def import_epochs(
    epochs_file: Path, signals_folder: Path, *, images: pd.DataFrame, concepts: str
) -> pd.DataFrame:
    """Sort the released epochs of a participant by image.

    Epochs are read a block at a time, so that memory holds 0.1 GB of them.

    Parameters
    ----------
    epochs_file
        ``preprocessed_P*-epo.fif``; its further parts must lie beside it.
    signals_folder
        Gets what `load_signals` reads, complete or not at all: the first second of
        each trial, a row for each image in the order of ``images``, repetitions in
        order of time.
    images
        From `list_images`.
    concepts
        Which training images to keep, as for `select_concepts`.

    Returns
    -------
    DataFrame
        As from `count_trials`.

    Raises
    ------
    FileNotFoundError
        If the file or one of its further parts is missing.
    ValueError
        If a file is damaged, a channel is not a CTF sensor, the epochs are too short,
        images are shown other than the list says, or a value is not finite.
    """
    epochs = open_epochs(epochs_file)
    check_sensors(epochs.ch_names, source=epochs_file)
    sfreq = epochs.info["sfreq"]
    kept = first_second(epochs.times, sfreq, source=epochs_file)
    numbers = epochs.events[:, 2]
    trials = place_trials(numbers, images, concepts=concepts, source=epochs_file)
    shapes = signal_shapes(trials, (len(epochs.ch_names), kept.stop - kept.start))
    with new_arrays(signals_folder, shapes) as products:
        with progress_bar(total=len(trials), label="Sorting", unit="epoch") as bar:
            for block in trial_blocks(trials, _TRIALS_PER_BLOCK):
                data = _read_block(epochs, block.index, source=epochs_file)
                store_trials(products, block, data[..., kept], source=epochs_file)
                bar.update(len(block))
    save_info(
        signals_folder,
        ch_names=epochs.ch_names,
        sfreq=sfreq,
        tmin=0,
        unit=STANDARDIZED_UNIT,
        concepts=concepts,
    )
    return count_trials(numbers, images, trials)


def open_epochs(path: Path) -> mne.BaseEpochs:
    """Open split epochs of MNE without reading them.

    Parameters
    ----------
    path
        The first part.

    Raises
    ------
    FileNotFoundError
        If a part is missing.
    ValueError
        If a part is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; expected released epochs of THINGS-MEG (OpenNeuro "
            f"ds004212, derivatives/preprocessed)."
        )
    try:
        return mne.read_epochs(path, proj=False, preload=False, verbose="error")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} has further parts, of which one is missing ({error}). Download "
            f"all of {path.stem}.fif, {path.stem}-1.fif and so on."
        ) from error
    except Exception as error:  # a damaged file can raise almost anything
        raise _damaged(path, error) from error


def check_sensors(ch_names: Sequence[str], *, source: Path) -> None:
    """Check that channels are CTF sensors; warn unless they are the usual 271.

    Raises
    ------
    ValueError
        If a channel is not a CTF sensor, or 271 sensors are not those of the paper.
    """
    try:
        sizes = Counter(channel_regions(ch_names))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if sizes == REGION_SIZES:
        return
    found = f"{source} holds {len(ch_names)} sensors, by region {dict(sizes)}; "
    if sizes.total() == sum(REGION_SIZES.values()):
        raise ValueError(f"{found}expected {REGION_SIZES}.")
    warnings.warn(
        f"{found}the paper has {REGION_SIZES}. Results will not be comparable.",
        stacklevel=2,
    )


def first_second(times: np.ndarray, sfreq: float, *, source: Path) -> slice:
    """Find the samples from image onset to one second, end point excluded.

    Raises
    ------
    ValueError
        If a trial does not have them all.
    """
    start = int(np.abs(times).argmin())
    stop = start + round(DURATION * sfreq)
    if abs(times[start]) * sfreq > 0.01 or stop > len(times):
        raise ValueError(
            f"{source}: trials run from {times[0]:g} to {times[-1]:g} s at {sfreq:g} "
            f"Hz; expected samples at 0 s and up to {DURATION:g} s."
        )
    return slice(start, stop)


def place_trials(
    numbers: np.ndarray, images: pd.DataFrame, *, concepts: str, source: Path
) -> pd.DataFrame:
    """Find the place of each trial in the signals.

    Parameters
    ----------
    numbers : ndarray of int, shape (n_trials,)
        Image number of each trial in order of time; `CATCH_NUMBER` for catch trials.
    images
        From `list_images`.
    concepts
        Which training images to keep, as for `select_concepts`.
    source
        Where the trials come from, for messages.

    Returns
    -------
    DataFrame
        Columns partition, row and repetition (both from 0) of each trial that is kept,
        in order of time; the index is its position in ``numbers``.

    Raises
    ------
    ValueError
        If an image is not in the list, or those of a partition are not shown equally
        often.
    """
    shown = pd.Series(numbers)[numbers != CATCH_NUMBER]
    _check_shown(shown, images, source)
    rows = select_concepts(images, concepts).set_index("image_number")[["partition"]]
    rows["row"] = rows.groupby("partition").cumcount()
    shown = shown[shown.isin(rows.index)]
    trials = rows.loc[shown].set_axis(shown.index)
    trials["repetition"] = shown.groupby(shown).cumcount()
    return trials


def signal_shapes(
    trials: pd.DataFrame, grid: tuple[int, int]
) -> dict[str, tuple[int, int, int, int]]:
    """Return the shape of the signals of each partition.

    Parameters
    ----------
    trials
        From `place_trials`.
    grid
        Numbers of channels and times.
    """
    sizes = trials.groupby("partition")[["row", "repetition"]].max() + 1
    return {p: (*sizes.loc[p].tolist(), *grid) for p in PARTITIONS}


def trial_blocks(trials: pd.DataFrame, n_trials: int) -> Iterator[pd.DataFrame]:
    """Yield ``n_trials`` rows at a time."""
    for start in range(0, len(trials), n_trials):
        yield trials.iloc[start : start + n_trials]


def store_trials(
    products: dict[str, np.memmap],
    trials: pd.DataFrame,
    data: np.ndarray,
    *,
    source: Path,
) -> None:
    """Write trials to their places.

    Parameters
    ----------
    products
        Array of each partition, as `new_arrays` yields them.
    trials
        Some rows of `place_trials`.
    data : ndarray of shape (n_trials, n_channels, n_times)
        Their signals.
    source
        Where they come from, for messages.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    first, last = trials.index[0], trials.index[-1]
    check_finite(f"{source}: trials {first} to {last}", data)
    for partition, product in products.items():
        chosen = (trials["partition"] == partition).to_numpy()
        places = trials[chosen]
        product[places["row"], places["repetition"]] = data[chosen]
        release_memory(product)


def count_trials(
    numbers: np.ndarray, images: pd.DataFrame, trials: pd.DataFrame
) -> pd.DataFrame:
    """Count the trials of a participant.

    Parameters
    ----------
    numbers, images
        As for `place_trials`.
    trials
        Its result.

    Returns
    -------
    DataFrame
        Columns kind (training, test, catch), recorded and kept.
    """
    kinds = images.set_index("image_number")["partition"]
    recorded = pd.Series(numbers).map(kinds).fillna("catch").value_counts()
    counts = {"recorded": recorded, "kept": trials["partition"].value_counts()}
    order = [kind for kind in TRIAL_TYPES.values() if kind in recorded.index]
    table = pd.DataFrame(counts, index=pd.Index(order, name="kind"))
    return table.fillna(0).astype(int).reset_index()


def read_table(path: Path, columns: Sequence[str], *, separator: str) -> pd.DataFrame:
    """Read a table of trials and check its columns and types of trials.

    Parameters
    ----------
    path
        Text file with a header.
    columns
        What it must hold, ``trial_type`` among them.
    separator
        Between columns.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a table.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it comes with THINGS-MEG (OpenNeuro ds004212)."
        )
    try:
        table = pd.read_csv(path, sep=separator)
    except ValueError as error:  # not text, not a table, or empty
        raise ValueError(f"{path} is not a table of trials ({error}).") from error
    if missing := [name for name in columns if name not in table]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}; it has {list(table)}."
        )
    if unknown := set(table["trial_type"]) - set(TRIAL_TYPES):
        raise ValueError(
            f"{path}: trial_type must be one of {', '.join(TRIAL_TYPES)}; got "
            f"{', '.join(map(repr, sorted(unknown, key=str)))}."
        )
    return table


def _read_block(
    epochs: mne.BaseEpochs, positions: pd.Index, *, source: Path
) -> np.ndarray:
    """Read some epochs from disk: N C T."""
    try:
        return epochs.get_data(item=positions.to_numpy(), copy=False, verbose="error")
    except Exception as error:  # a damaged file can raise almost anything
        raise _damaged(source, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    """Say that a file of epochs or one of its further parts is damaged."""
    return ValueError(
        f"{path} or one of its further parts is damaged or cut short "
        f"({type(error).__name__}: {error}). Compare their sizes with the source and "
        f"download again what differs."
    )


def _check_shown(shown: pd.Series, images: pd.DataFrame, source: Path) -> None:
    """Raise unless all images, and no others, are shown equally often."""
    unknown = shown[~shown.isin(images["image_number"])]
    if len(unknown):
        raise ValueError(
            f"{source} shows {unknown.nunique()} images that are not in {TRIAL_TABLE}, "
            f"the first number {unknown.iloc[0]}. Use files of the same data set."
        )
    times_shown = images["image_number"].map(shown.value_counts()).fillna(0).astype(int)
    for partition, counts in times_shown.groupby(images["partition"]):
        usual = counts.mode().iloc[0]
        if len(others := counts[counts != usual]):
            raise ValueError(
                f"{source} does not show all {partition} images equally often: "
                f"{len(others)} of {len(counts)} not {usual} times; the first is "
                f"{images['file'][others.index[0]]}, shown {others.iloc[0]} times. "
                f"Check that all parts and runs are there."
            )
