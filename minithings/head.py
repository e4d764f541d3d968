"""Head model: what a current dipole in the brain does to electrodes and MEG sensors.

The head is a sphere around the origin of the head coordinate frame (x right, y front,
z up): four conducting shells for EEG, and for MEG the field outside any such sphere.
Nothing is downloaded; positions come with MNE-Python.
"""

from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Head:
    """A spherical head, and how the cap is turned on it.

    ``rotation`` is a rotation vector in radians, from the cap's standard position; the
    head is turned the other way in the MEG helmet.
    """

    radius: float = 0.092  # m, of the scalp
    rotation: np.ndarray = field(default_factory=lambda: np.zeros(3))


def eeg_info(head: Head) -> mne.Info:
    """Return the 63 electrodes in raw order, then the reference, placed on a head."""
    names = [*RAW_CHANNELS, REFERENCE]
    turn = Rotation.from_rotvec(head.rotation)
    positions = head.radius * turn.apply(_electrode_directions())
    montage = mne.channels.make_dig_montage(
        dict(zip(names, positions, strict=True)), coord_frame="head"
    )
    info = mne.create_info(names, 1000.0, "eeg")
    return info.set_montage(montage, verbose="error")


@cache
def meg_info(sfreq: float = 1200.0) -> mne.Info:
    """Return the 271 axial gradiometers of THINGS-MEG (type ``mag``) in its order."""
    kept = sorted(ctf_helmet().keys() - {*_NOT_RECORDED, *_REMOVED})
    info = sensor_info([f"{name}-{_SERIAL}" for name in kept], sfreq)
    to_head = np.eye(4)
    to_head[:3, 3] = -_CENTER_IN_HELMET
    info["dev_head_t"] = mne.transforms.Transform("meg", "head", to_head)
    return info


def eeg_lead_field(
    head: Head, positions: np.ndarray, orientations: np.ndarray
) -> np.ndarray:
    """Compute potentials against the reference per unit of dipole moment.

    ``positions`` (n, 3) are in meters, in head coordinates, ``orientations`` unit
    vectors. The result, (63, n), is in volts per ampere meter, electrodes in raw order.
    """
    potentials = _forward(eeg_info(head), head.radius, positions, orientations)
    return potentials[:-1] - potentials[-1]


def meg_lead_field(
    head: Head, positions: np.ndarray, orientations: np.ndarray
) -> np.ndarray:
    """Compute the gradiometers' output per unit of dipole moment.

    Parameters and result are those of `eeg_lead_field`, in teslas per ampere meter for
    the 271 sensors of `meg_info`.
    """
    turn = Rotation.from_rotvec(head.rotation).inv()
    turned = turn.apply(positions), turn.apply(orientations)
    return _forward(meg_info(), head.radius, *turned)


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
    info: mne.Info, radius: float, positions: np.ndarray, orientations: np.ndarray
) -> np.ndarray:
    sphere = mne.make_sphere_model((0, 0, 0), radius, verbose="error")
    sources = mne.setup_volume_source_space(
        pos={"rr": positions, "nn": orientations}, sphere_units="m", verbose="error"
    )
    solution = mne.make_forward_solution(
        info, trans=None, src=sources, bem=sphere, mindist=0.0, verbose="error"
    )
    solution = mne.convert_forward_solution(solution, force_fixed=True, verbose="error")
    return solution["sol"]["data"]
