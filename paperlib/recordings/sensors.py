"""Where the sensors are."""

from collections.abc import Sequence

import mne

from paperlib.validation import did_you_mean


def sensor_info(ch_names: Sequence[str], sfreq: float) -> mne.Info:
    """Return an MNE Info with the positions of scalp electrodes.

    Parameters
    ----------
    ch_names
        Electrodes of the extended 10-05 system, in the order of the data.
    sfreq
        Sampling rate in Hz.

    Returns
    -------
    Info

    Raises
    ------
    ValueError
        If an electrode is unknown.
    """
    montage = mne.channels.make_standard_montage("colin27_1005")
    unknown = [name for name in ch_names if name not in montage.ch_names]
    if unknown:
        raise ValueError(
            f"No position is known for {unknown}; expected electrodes of the 10-05 "
            f"system.{did_you_mean(unknown[0], montage.ch_names)}"
        )
    info = mne.create_info(list(ch_names), sfreq, ch_types="eeg")
    info.set_montage(montage)
    return info
