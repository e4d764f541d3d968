"""Positions of the sensors."""

from collections.abc import Sequence
from functools import cache

import mne
import numpy as np
from mne.io.constants import FIFF

from paperlib.validation import did_you_mean


def sensor_info(ch_names: Sequence[str], sfreq: float) -> mne.Info:
    """Return an MNE Info with the positions of electrodes or of MEG sensors.

    Channels are electrodes of the extended 10-05 system (type ``eeg``) or CTF sensors
    with or without the serial number of the helmet (MNE's type ``mag``, in device
    coordinates); unknown sensors raise ValueError. ``sfreq`` is in Hz.
    """
    bare = [without_serial(name) for name in ch_names]
    montage = mne.channels.make_standard_montage("colin27_1005")
    known, kind, system = list(ctf_helmet()), "mag", "sensors of the CTF helmet"
    if set(known).isdisjoint(bare):
        known, kind, system = montage.ch_names, "eeg", "electrodes of the 10-05 system"
        bare = ch_names
    if unknown := [name for name in bare if name not in known]:
        raise ValueError(
            f"No position is known for {unknown}; expected {system}."
            f"{did_you_mean(unknown[0], known)}"
        )
    info = mne.create_info(list(ch_names), sfreq, kind)
    if kind == "eeg":
        return info.set_montage(montage)
    for channel, name in zip(info["chs"], bare, strict=True):
        channel["loc"] = ctf_helmet()[name].copy()
        channel["coil_type"] = FIFF.FIFFV_COIL_CTF_GRAD
        channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
    return info


def without_serial(name: str) -> str:
    """Return a sensor's name without the serial number of its helmet."""
    return name.split("-")[0]


@cache
def ctf_helmet() -> dict[str, np.ndarray]:
    """Return 12 numbers for each coil, in device coordinates: position (m), three axes.

    MNE's canonical CTF-275 helmet lacks MLO42, which THINGS-MEG recorded; it is set at
    the mirror image of MRO42.
    """
    info = mne.channels.read_meg_canonical_info("ctf275", verbose="error")
    helmet = {without_serial(ch["ch_name"]): ch["loc"] for ch in info["chs"]}
    axes = helmet["MRO42"].reshape(4, 3) * [-1, 1, 1]
    axes[1] *= -1  # right-handed again
    return helmet | {"MLO42": axes.ravel()}
