"""A THINGS-MEG participant in the public formats, with as few samples as possible."""

import os

import mne
import numpy as np

from paperlib.paths import ROOT

EXCERPT = ROOT / "tests/things_meg_images_excerpt.csv"
"""3 training concepts, 14 test images of which one is of these concepts, 10 catch."""

WHOLE = os.environ.get(
    "THINGS_MEG_IMAGES", ROOT.parent / "shared/reference/things_meg_images.csv.gz"
)
"""All 22 648 images of the experiment, if the file is there."""

CATCH = 999999
N_REPETITIONS = 12
SENSORS = ("MLO11-1609", "MZF01-1609", "MRT57-1609")


def helmet():
    """The 271 sensors: the whole helmet without the four that failed."""
    names = [name.split("-")[0] for name in mne.channels.read_layout("CTF-275").names]
    return [n for n in names if n not in ("MLF25", "MRF43", "MRO13", "MRO11")]


def trial_table(images, rng):
    """Show each training image once, the others 12 times, in random order."""
    repeats = np.where(images["trial_type"] == "exp", 1, N_REPETITIONS)
    trials = images.loc[images.index.repeat(repeats)].rename(
        columns={"file_path": "image_path"}
    )
    return trials.sample(frac=1, random_state=rng).reset_index(drop=True)


def image_numbers(trials):
    return trials["things_image_nr"].fillna(CATCH).to_numpy().astype(int)


def write_trial_table(folder, trials):
    (folder / "sourcedata").mkdir(parents=True, exist_ok=True)
    trials.to_csv(folder / "sourcedata/sample_attributes_P1.csv", index=False)


def traceable(positions):
    """Values that tell trial, channel and time apart, exact in single precision."""
    channels, times = np.arange(len(SENSORS)), np.arange(28)
    trial, channel, time = np.ix_(positions, channels, times)
    return trial + channel / 4 + time / 128


def write_epochs(path, numbers, *, data=None, ch_names=SENSORS, split_size="2GB"):
    """Write epochs from -0.1 s on at 20 Hz, as the data set's authors did at 200 Hz."""
    data = traceable(np.arange(len(numbers))) if data is None else data
    samples = 7 * np.arange(len(numbers)) + 5
    epochs = mne.EpochsArray(
        data,
        mne.create_info(list(ch_names), 20.0, "mag"),
        np.column_stack([samples, np.zeros_like(samples), numbers]),
        tmin=-0.1,
        event_id={str(number): int(number) for number in np.unique(numbers)},
        verbose="error",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs.save(path, fmt="single", split_size=split_size, verbose="error")
