"""Brain regions of the sensors (paper, Appendix B.1).

Regions are given in the paper's order, which differs between EEG and MEG.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from paperlib.validation import check_option, did_you_mean

EEG_REGIONS = {
    "Frontal": tuple(
        "Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 "
        "FC5 FC3 FC1 FCz FC2 FC4 FC6".split()
    ),
    "Central": tuple("C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6".split()),
    "Temporal": tuple("FT9 FT7 FT8 FT10 T7 T8 TP9 TP7 TP8 TP10".split()),
    "Parietal": tuple("P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8".split()),
    "Occipital": tuple("O1 Oz O2".split()),
}
"""Electrodes of each region: 22, 14, 10, 14 and 3."""

MEG_REGIONS = {
    "Frontal": "F",
    "Central": "C",
    "Parietal": "P",
    "Occipital": "O",
    "Temporal": "T",
}
"""Third letter of a CTF sensor name in each region."""

_EEG_REGION_OF = {
    name: region for region, names in EEG_REGIONS.items() for name in names
}
_MEG_REGION_OF = {letter: region for region, letter in MEG_REGIONS.items()}
_CTF_SENSOR = re.compile(r"M[LRZ](?P<region>[CFOPT])\d\d(-\d+)?")


def channel_regions(ch_names: Iterable[str]) -> list[str]:
    """Name the brain region of each channel.

    Parameters
    ----------
    ch_names
        Electrodes of the 10-10 system (``"PO7"``) or CTF sensors (``"MLO11"`` or,
        with the serial number of the helmet, ``"MLO11-1609"``).

    Returns
    -------
    list of str
        One of the keys of `EEG_REGIONS` and `MEG_REGIONS` for each channel.

    Raises
    ------
    ValueError
        If a name is neither an electrode of Appendix B nor a CTF sensor.
    """
    return [_region(name) for name in ch_names]


def channels_outside(ch_names: Sequence[str], region: str | None) -> np.ndarray:
    """Return the channels outside a region, for the ablation of section 4.4.

    Parameters
    ----------
    ch_names
        As for :func:`channel_regions`.
    region
        A region that some channel has; None leaves nothing out.

    Returns
    -------
    ndarray of int
        Positions in ``ch_names``, sorted.
    """
    regions = channel_regions(ch_names)
    if region is not None:
        check_option("region", region, tuple(dict.fromkeys(regions)))
    return np.flatnonzero([name != region for name in regions])


def _region(name: str) -> str:
    """Region of one channel."""
    if name in _EEG_REGION_OF:
        return _EEG_REGION_OF[name]
    if sensor := _CTF_SENSOR.fullmatch(name):
        return _MEG_REGION_OF[sensor["region"]]
    raise ValueError(
        f"channel {name!r} has no brain region: expected one of the "
        f"{len(_EEG_REGION_OF)} electrodes of THINGS-EEG2 or a CTF sensor such as "
        f"'MLO11'."
        f"{did_you_mean(name, _EEG_REGION_OF)}"
    )
