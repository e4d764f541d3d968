"""The released recordings of THINGS-MEG (Hebart et al., 2023) as signals per image.

Four participants saw 22 248 training images once and 200 test images twelve times.
The released epochs are low-passed at 40 Hz, sampled at 200 Hz and standardized: each
trial and sensor is in units of its standard deviation over the 0.1 s before the image.
"""

import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from mne.io.constants import FIFF
from tqdm.auto import tqdm

from paperlib.recordings.regions import MEG_REGIONS, channel_regions
from paperlib.recordings.signals import (
    PARTITIONS,
    create_signals,
    release_memory,
    select_concepts,
)
from paperlib.recordings.tables import read_trials
from paperlib.validation import check_file, check_finite, reading

TRIAL_TABLE = "sourcedata/sample_attributes_P1.csv"
"""Trials of the first participant; all participants saw the same images."""

TRIAL_KINDS = {"exp": "training", "test": "test", "catch": "catch"}
CATCH_NUMBER = 999999  # stands for all artificial images of the catch trials
REGION_SIZES = dict(zip(MEG_REGIONS, (67, 52, 45, 39, 68), strict=True))
"""Sensors of each region: 271, without four that failed (paper, Appendix B.1)."""

DURATION = 1.0  # s from image onset, end point excluded: 200 samples at 200 Hz
_FILE = r"^(?:.*/)?(?P<file>(?P<concept>[^/]+)_\d+[a-z]*\.\w+)$"  # aardvark_01b.jpg
_CURE = "Download it, or that of its further parts that differs from the source, again."
_TRIALS_PER_BLOCK = 200  # read at once: 0.1 GB of released epochs


def list_images(folder: Path) -> pd.DataFrame:
    """List the images of THINGS-MEG in the order of the signals.

    Training images come first; within a partition, images are in the order of their
    numbers in THINGS. Images of catch trials are left out. Columns are image_number
    (row in the list of THINGS, from 1), partition, concept and file (its name).
    """
    path = Path(folder) / TRIAL_TABLE
    trials = _read_trials(path)
    if "image_path" not in trials:
        raise ValueError(f"{path} lacks the column image_path; it has {list(trials)}.")
    paths = trials["image_path"].astype(str)
    images = paths.str.extract(_FILE)
    if images["concept"].isna().any():
        raise ValueError(
            f"{path}: image_path must end with a concept and a number, as in "
            f"'hot_tub_01b.jpg'; got {paths[images['concept'].isna()].iloc[0]!r}."
        )
    images["image_number"], images["partition"] = (
        trials["things_image_nr"],
        trials["kind"],
    )
    images = images[["image_number", "partition", "concept", "file"]].drop_duplicates()
    if len(repeated := images.loc[images["image_number"].duplicated(), "image_number"]):
        raise ValueError(
            f"{path} gives {len(repeated)} images two files or two types, the first "
            f"number {repeated.iloc[0]}; expected one of each."
        )
    by_number = images.sort_values("image_number")
    parts = [by_number[by_number["partition"] == p] for p in PARTITIONS]
    return pd.concat(parts, ignore_index=True)


def _read_trials(path: Path) -> pd.DataFrame:
    """Read a participant's trial table without catch trials."""
    trials = read_trials(path, TRIAL_KINDS, ("things_image_nr",), separator=",")
    return trials[trials["kind"].isin(PARTITIONS)]


def import_epochs(
    folder: Path, signals_folder: Path, *, subject: int, concepts: str
) -> pd.DataFrame:
    """Sort the released epochs of a participant by image, a block at a time.

    ``folder`` is the data set's, with all parts of the epochs in
    ``derivatives/preprocessed``, and ``sourcedata``. The signals hold the first second
    of each trial, a row for each image of `list_images` of these ``concepts`` (see
    `select_concepts`), repetitions in order of time. Trials recorded and kept are
    returned, a row for each kind.
    """
    path = folder / "derivatives/preprocessed" / f"preprocessed_P{subject}-epo.fif"
    epochs = open_epochs(path)
    sfreq = epochs.info["sfreq"]
    check_sensors(epochs.ch_names, source=path)
    kept = first_second(epochs.times, sfreq, source=path)
    trials, counts = place_trials(
        epochs.events[:, 2], folder, subject=subject, concepts=concepts, source=path
    )
    info = {"ch_names": epochs.ch_names, "sfreq": sfreq, "concepts": concepts}
    with create_trials(signals_folder, trials, **info, source=path) as write:
        positions = trials.index.to_numpy()
        for start in range(0, len(positions), _TRIALS_PER_BLOCK):
            block = positions[start : start + _TRIALS_PER_BLOCK]
            with reading(path, _CURE):
                data = epochs.get_data(item=block, copy=False, verbose="error")
            write(block, data[..., kept])
    return counts


def open_epochs(path: Path) -> mne.BaseEpochs:
    """Open split epochs of MNE by the path of their first part, without reading them.

    A part that is missing raises FileNotFoundError, one that is damaged or a copy of an
    earlier one ValueError.
    """
    parts, following = [], path
    while following not in (None, *parts):
        check_file(
            following,
            f"Download all of {path.stem}.fif, {path.stem}-1.fif and so on: released "
            f"epochs of THINGS-MEG (OpenNeuro ds004212, derivatives/preprocessed).",
        )
        parts.append(following)
        with reading(following):
            following = _next_part(following)
    if following is not None:  # MNE would read on forever
        raise ValueError(
            f"{parts[-1]} is a copy of an earlier part: it says that {following.name} "
            f"follows. Download it again."
        )
    with reading(path, _CURE):
        return mne.read_epochs(path, proj=False, preload=False, verbose="error")


def _next_part(path: Path) -> Path | None:
    """Walk through the tags of a part of split epochs; return the file that follows."""
    following, position, size = None, 0, path.stat().st_size
    with path.open("rb") as file:
        while position < size:
            kind, _, length, jump = struct.unpack(">4i", file.read(16))
            if kind == FIFF.FIFF_REF_FILE_NAME:
                following = path.parent / file.read(length).decode()
            if jump == FIFF.FIFFV_NEXT_NONE:
                break
            start, position = position, jump or position + 16 + length
            if position <= start:
                raise ValueError("its tags go round in a circle")
            file.seek(position)
    return following


def check_sensors(ch_names: Sequence[str], *, source: Path) -> None:
    """Raise ValueError unless channels are CTF sensors; warn unless the usual 271."""
    if wrong := [name for name in ch_names if not name.startswith("M")]:
        raise ValueError(f"{source}: channel {wrong[0]!r} is not a CTF sensor.")
    with reading(source):
        sizes = Counter(channel_regions(ch_names))
    if sizes == REGION_SIZES:
        return
    difference = f"{source} holds {len(ch_names)} sensors, by region {dict(sizes)}; "
    if sizes.total() == sum(REGION_SIZES.values()):
        raise ValueError(f"{difference}expected {REGION_SIZES}.")
    warnings.warn(
        f"{difference}the paper has {REGION_SIZES}. Results will not be comparable.",
        stacklevel=2,
    )


def first_second(times: np.ndarray, sfreq: float, *, source: Path) -> slice:
    """Find the samples from image onset to one second, end point excluded."""
    start = int(np.abs(times).argmin())
    stop = start + round(DURATION * sfreq)
    if abs(times[start]) * sfreq > 0.01 or stop > len(times):
        raise ValueError(
            f"{source}: trials run from {times[0]:g} to {times[-1]:g} s at {sfreq:g} "
            f"Hz; expected samples at 0 s and up to {DURATION:g} s."
        )
    return slice(start, stop)


def place_trials(
    numbers: np.ndarray, folder: Path, *, subject: int, concepts: str, source: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the place of each trial in the signals.

    ``numbers`` are image numbers in order of time. The first table has partition, row
    and repetition of each trial that is kept; its index is the position in ``numbers``.
    The second counts trials recorded and kept.
    """
    images = list_images(folder)
    shown = pd.Series(numbers)[numbers != CATCH_NUMBER]
    _check_shown(shown, images, source)
    table = folder / TRIAL_TABLE.replace("P1", f"P{subject}")
    listed = _read_trials(table)["things_image_nr"] if table.is_file() else shown
    if not np.array_equal(shown, listed):
        raise ValueError(
            f"{source} shows the images in another order than {table.name} lists them: "
            f"one of them is another participant's. Download both again."
        )
    rows = select_concepts(images, concepts).set_index("image_number")[["partition"]]
    rows["row"] = rows.groupby("partition").cumcount()
    kept = shown[shown.isin(rows.index)]
    trials = rows.loc[kept].set_axis(kept.index)
    trials["repetition"] = kept.groupby(kept).cumcount()
    kinds = pd.Series(numbers).map(images.set_index("image_number")["partition"])
    counts = pd.DataFrame(
        {
            "recorded": kinds.fillna("catch").value_counts(),
            "kept": trials["partition"].value_counts(),
        }
    ).fillna(0)
    order = [kind for kind in TRIAL_KINDS.values() if kind in counts.index]
    return trials, counts.loc[order].astype(int).rename_axis("kind").reset_index()


def _check_shown(shown: pd.Series, images: pd.DataFrame, source: Path) -> None:
    """Raise ValueError unless all images, and no others, are shown equally often."""
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


@contextmanager
def create_trials(
    signals_folder: Path,
    trials: pd.DataFrame,
    *,
    ch_names: Sequence[str],
    sfreq: float,
    concepts: str,
    source: Path,
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Yield a function that writes trials to their places (see `place_trials`).

    It takes positions of trials and their first second (n C T).
    """
    sizes = trials.groupby("partition")[["row", "repetition"]].max() + 1
    grid = len(ch_names), round(DURATION * sfreq)
    shapes = {p: (*sizes.loc[p], *grid) for p in PARTITIONS}
    info = {"ch_names": ch_names, "sfreq": sfreq, "concepts": concepts}
    with (
        create_signals(
            signals_folder, shapes, **info, tmin=0, unit="baseline SD"
        ) as products,
        tqdm(total=len(trials), desc="Sorting", unit="trial") as bar,
    ):

        def write(positions: np.ndarray, data: np.ndarray) -> None:
            check_finite(f"{source}: trials {positions[0]} to {positions[-1]}", data)
            places = trials.loc[positions]
            for p, product in products.items():
                chosen = (places["partition"] == p).to_numpy()
                rows, repetitions = places["row"][chosen], places["repetition"][chosen]
                product[rows, repetitions] = data[chosen]
                release_memory(product)
            bar.update(len(positions))

        yield write
