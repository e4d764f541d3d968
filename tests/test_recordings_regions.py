from collections import Counter

import pytest
from meg_participant import helmet

from paperlib.recordings.regions import (
    EEG_REGIONS,
    MEG_REGIONS,
    channel_regions,
    channels_outside,
)
from paperlib.recordings.things_eeg2 import NICE_CHANNELS


def test_eeg_regions_have_the_sizes_of_appendix_b():
    counts = Counter(channel_regions(NICE_CHANNELS))
    assert [counts[region] for region in EEG_REGIONS] == [22, 14, 10, 14, 3]
    examples = ["Fp1", "AFz", "FC6", "CP5", "FT10", "TP9", "PO7", "Oz"]
    assert channel_regions(examples) == [
        *("Frontal", "Frontal", "Frontal", "Central"),
        *("Temporal", "Temporal", "Parietal", "Occipital"),
    ]


def test_meg_regions_have_the_sizes_of_appendix_b():
    counts = Counter(channel_regions(helmet()))
    assert [counts[region] for region in MEG_REGIONS] == [67, 52, 45, 39, 68]
    with_serial = [f"{name}-1609" for name in helmet()]
    assert channel_regions(with_serial) == channel_regions(helmet())


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
