"""Head model: what a current dipole in the brain does to electrodes and MEG sensors.

The head is a sphere around the origin of the head coordinate frame (x right, y front,
z up): four conducting shells for EEG, and for MEG the field outside any such sphere.
Nothing is downloaded; positions come with MNE-Python.
"""

from functools import cache

import mne
import numpy as np
from scipy.spatial.transform import Rotation

from paperlib.recordings.sensors import ctf_helmet, sensor_info
from paperlib.recordings.things_eeg2 import RAW_CHANNELS

REFERENCE = "Fz"  # the online reference of THINGS-EEG2
# Sphere center below and behind the center of the MEG helmet's dome, in meters: a head
# of 9 cm then touches the helmet's back and leaves 2 cm to the sensors at the vertex.
_CENTER_IN_HELMET = np.array([0.0, -0.012, -0.010])
_SERIAL = "1609"  # of the helmet of THINGS-MEG
_NOT_RECORDED = ("MLF25", "MRF43", "MRO13")
_REMOVED = ("MRO11",)


def eeg_info(head_radius: float, *, cap_rotation: np.ndarray | None = None) -> mne.Info:
    """Place the cap on a spherical head.

    Parameters
    ----------
    head_radius
        Radius of the scalp in meters.
    cap_rotation : ndarray of shape (3,)
        How the cap is turned from its standard position, as a rotation vector in
        radians.

    Returns
    -------
    Info
        The 63 recorded electrodes in raw order, then the reference.
    """
    names = [*RAW_CHANNELS, REFERENCE]
    turn = Rotation.from_rotvec(np.zeros(3) if cap_rotation is None else cap_rotation)
    places = head_radius * turn.apply(_electrode_directions())
    info = mne.create_info(names, 1000.0, "eeg")
    montage = mne.channels.make_dig_montage(
        dict(zip(names, places, strict=True)), coord_frame="head"
    )
    return info.set_montage(montage, verbose="error")


@cache
def meg_info(sfreq: float = 1200.0) -> mne.Info:
    """Place the helmet of THINGS-MEG around the head.

    Parameters
    ----------
    sfreq
        Sampling rate in Hz.

    Returns
    -------
    Info
        271 axial gradiometers (type ``mag``, in tesla) named and ordered as in
        THINGS-MEG.
    """
    kept = sorted(ctf_helmet().keys() - {*_NOT_RECORDED, *_REMOVED})
    info = sensor_info([f"{name}-{_SERIAL}" for name in kept], sfreq)
    to_head = np.eye(4)
    to_head[:3, 3] = -_CENTER_IN_HELMET
    info["dev_head_t"] = mne.transforms.Transform("meg", "head", to_head)
    return info


def eeg_lead_field(
    info: mne.Info,
    positions: np.ndarray,
    orientations: np.ndarray,
    *,
    head_radius: float,
) -> np.ndarray:
    """Compute potentials against the reference per unit of dipole moment.

    Parameters
    ----------
    info
        As returned by `eeg_info`.
    positions, orientations : ndarray of shape (n_dipoles, 3)
        Head coordinates in meters; unit vectors.
    head_radius
        Radius of the scalp in meters.

    Returns
    -------
    ndarray of shape (63, n_dipoles)
        In volts per ampere meter, electrodes in raw order.
    """
    sphere = mne.make_sphere_model((0, 0, 0), head_radius, verbose="error")
    potentials = _forward(info, sphere, positions, orientations)
    return potentials[:-1] - potentials[-1]


def meg_lead_field(
    positions: np.ndarray, orientations: np.ndarray, *, head_radius: float
) -> np.ndarray:
    """Compute the gradiometers' output per unit of dipole moment.

    Parameters
    ----------
    positions, orientations : ndarray of shape (n_dipoles, 3)
        Head coordinates in meters; unit vectors.
    head_radius
        Radius of the scalp in meters.

    Returns
    -------
    ndarray of shape (271, n_dipoles)
        In teslas per ampere meter, sensors as in `meg_info`.
    """
    sphere = mne.make_sphere_model((0, 0, 0), head_radius, verbose="error")
    return _forward(meg_info(), sphere, positions, orientations)


@cache
def _electrode_directions() -> np.ndarray:
    """Return unit vectors from the center of the best sphere to the electrodes."""
    info = sensor_info([*RAW_CHANNELS, REFERENCE], 1000.0)
    _, center, _ = mne.bem.fit_sphere_to_headshape(
        info, dig_kinds="eeg", units="m", verbose="error"
    )
    rays = np.array([channel["loc"][:3] for channel in info["chs"]]) - center
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _forward(
    info: mne.Info,
    sphere: mne.bem.ConductorModel,
    positions: np.ndarray,
    orientations: np.ndarray,
) -> np.ndarray:
    sources = mne.setup_volume_source_space(
        pos={"rr": positions, "nn": orientations}, sphere_units="m", verbose="error"
    )
    solution = mne.make_forward_solution(
        info, trans=None, src=sources, bem=sphere, mindist=0.0, verbose="error"
    )
    solution = mne.convert_forward_solution(solution, force_fixed=True, verbose="error")
    return solution["sol"]["data"]
