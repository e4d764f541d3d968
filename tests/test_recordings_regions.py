from collections import Counter

import pytest

from paperlib.recordings.regions import (
    EEG_REGIONS,
    MEG_REGIONS,
    channel_regions,
    channels_outside,
)
from paperlib.recordings.things_eeg2 import NICE_CHANNELS

# Numbers of the THINGS-MEG sensors whose region does not have them all, by prefix.
LEFT = {
    "C": "11-17 21-25 31 32 41 42 51-55 61-63",
    "F": "11-14 21-24 31-35 41-46 51-56 61-67",
    "O": "11-14 21-24 31-34 41-44 51-53",
    "P": "11 12 21-23 31-35 41-45 51-57",
    "T": "11-16 21-27 31-37 41-47 51-57",
}
RIGHT = {
    **LEFT,
    "F": "11-14 21-25 31-35 41 42 44-46 51-56 61-67",
    "O": "11 12 14 21-24 31-34 41-44 51-53",
}
MIDLINE = {"C": "1-4", "F": "1-3", "O": "1-3", "P": "1"}


def sensors():
    for side, regions in (("L", LEFT), ("R", RIGHT), ("Z", MIDLINE)):
        for letter, spans in regions.items():
            for span in spans.split():
                first, _, last = span.partition("-")
                for number in range(int(first), int(last or first) + 1):
                    name = f"M{side}{letter}{number:02d}"
                    if name != "MRO11":  # broken; removed before publication
                        yield name


def test_eeg_regions_have_the_sizes_of_appendix_b():
    counts = Counter(channel_regions(NICE_CHANNELS))
    assert [counts[region] for region in EEG_REGIONS] == [22, 14, 10, 14, 3]
    examples = ["Fp1", "AFz", "FC6", "CP5", "FT10", "TP9", "PO7", "Oz"]
    assert channel_regions(examples) == [
        *("Frontal", "Frontal", "Frontal", "Central"),
        *("Temporal", "Temporal", "Parietal", "Occipital"),
    ]


def test_electrodes_that_other_data_sets_have():
    assert channel_regions(["Fz", "PO9", "Iz"]) == ["Frontal", "Parietal", "Occipital"]


def test_meg_regions_have_the_sizes_of_appendix_b():
    names = list(sensors())
    counts = Counter(channel_regions(names))
    assert len(names) == 271
    assert [counts[region] for region in MEG_REGIONS] == [67, 52, 45, 39, 68]


def test_serial_number_of_the_helmet_is_ignored():
    with_serial = [f"{name}-1609" for name in sensors()]
    assert channel_regions(with_serial) == channel_regions(sensors())


@pytest.mark.parametrize(
    "name", ["MRX11", "MLO1", "MLO11-", "BG1-1609", "M1", "POzz", "stim"]
)
def test_unknown_channel(name):
    with pytest.raises(ValueError, match=f"channel '{name}' has no brain region"):
        channel_regions(["Oz", name])


def test_channels_outside_a_region_are_all_but_its_own():
    names = ["Oz", "Cz", "O1", "F1"]
    assert channels_outside(names, "Occipital").tolist() == [1, 3]
    assert channels_outside(names, None).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="one of 'Occipital', 'Central', 'Frontal'"):
        channels_outside(names, "Parietal")
