"""Brain regions of the sensors (paper, Appendix B.1).

Regions are given in the paper's order, which differs between EEG and MEG.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from paperlib.validation import check_option

EEG_REGIONS = {
    "Frontal": ("Fp", "AF", "F", "FC"),
    "Central": ("C", "CP"),
    "Temporal": ("FT", "T", "TP"),
    "Parietal": ("P", "PO"),
    "Occipital": ("O", "I"),
}
"""Letters of the electrodes; THINGS-EEG2 has 22, 14, 10, 14 and 3 of each region."""

MEG_REGIONS = {
    "Frontal": ("F",),
    "Central": ("C",),
    "Parietal": ("P",),
    "Occipital": ("O",),
    "Temporal": ("T",),
}
"""Third letter of a CTF sensor name; THINGS-MEG has 67, 52, 45, 39 and 68 of each."""

_ELECTRODE = re.compile(r"(?P<letters>[A-Z]+p?)(z|\d{1,2})")
_CTF_SENSOR = re.compile(r"M[LRZ](?P<letters>[CFOPT])\d\d(-\d+)?")


def channel_regions(ch_names: Iterable[str]) -> list[str]:
    """Name the brain region of each channel.

    Channels are electrodes of the 10-10 system (``"PO7"``) or CTF sensors, with or
    without the serial number of the helmet (``"MLO11-1609"``); others raise ValueError.
    """
    return [_region(name) for name in ch_names]


def _region(name: str) -> str:
    for pattern, regions in ((_ELECTRODE, EEG_REGIONS), (_CTF_SENSOR, MEG_REGIONS)):
        match = pattern.fullmatch(name)
        for region, letters in regions.items():
            if match and match["letters"] in letters:
                return region
    raise ValueError(
        f"channel {name!r} has no brain region: expected an electrode of the 10-10 "
        f"system such as 'PO7' or a CTF sensor such as 'MLO11'."
    )


def channels_outside(ch_names: Sequence[str], region: str | None) -> np.ndarray:
    """Return the positions of channels outside a region (ablation of section 4.4).

    A region that no channel has raises ValueError; None leaves nothing out.
    """
    regions = channel_regions(ch_names)
    if region is not None:
        check_option("region", region, tuple(dict.fromkeys(regions)))
    return np.flatnonzero([name != region for name in regions])
