from collections import Counter

import mne
import numpy as np

from minithings.head import (
    REFERENCE,
    Head,
    eeg_info,
    eeg_lead_field,
    meg_info,
    meg_lead_field,
)
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.things_eeg2 import RAW_CHANNELS

RADIUS = 0.09
HEAD = Head(RADIUS)


def sensor_places(info):
    places = np.array([channel["loc"][:3] for channel in info["chs"]])
    if info["dev_head_t"] is None:
        return places
    return mne.transforms.apply_trans(info["dev_head_t"], places)


def test_electrodes_lie_on_the_sphere_in_raw_order():
    info = eeg_info(HEAD)
    assert info["ch_names"] == [*RAW_CHANNELS, REFERENCE]
    np.testing.assert_allclose(np.linalg.norm(sensor_places(info), axis=1), RADIUS)


def test_the_cap_can_be_turned():
    turned = eeg_info(Head(RADIUS, np.array([0, 0, np.pi / 2])))
    x, y, z = sensor_places(eeg_info(HEAD)).T
    expected = np.column_stack([-y, x, z])
    np.testing.assert_allclose(sensor_places(turned), expected, atol=1e-6)


def test_meg_sensors_are_those_of_things_meg():
    names = [name.removesuffix("-1609") for name in meg_info()["ch_names"]]
    assert Counter(channel_regions(names)) == {
        "Frontal": 67,
        "Central": 52,
        "Parietal": 45,
        "Occipital": 39,
        "Temporal": 68,
    }
    assert not {"MLF25", "MRF43", "MRO13", "MRO11"} & set(names)
    assert "MLO42" in names
    assert set(meg_info().get_channel_types()) == {"mag"}


def test_meg_sensors_surround_the_head_at_a_small_distance():
    distance = np.linalg.norm(sensor_places(meg_info()), axis=1) - RADIUS
    assert distance.min() > 0.01
    assert np.median(distance) < 0.05


def test_the_sensor_that_mne_lacks_fits_between_its_neighbors():
    info = meg_info()
    places = dict(zip(info["ch_names"], sensor_places(info), strict=True))
    beside = [places["MLO41-1609"], places["MLO43-1609"]]
    assert np.linalg.norm(places["MLO42-1609"] - np.mean(beside, axis=0)) < 0.005


def test_a_radial_dipole_is_seen_by_eeg_right_above_it_and_not_by_meg():
    toward_oz = sensor_places(eeg_info(HEAD))[RAW_CHANNELS.index("Oz")] / RADIUS
    place = 0.8 * RADIUS * toward_oz[None]
    tangent = np.cross(toward_oz, [1.0, 0, 0])
    eeg = eeg_lead_field(HEAD, place, toward_oz[None])
    assert RAW_CHANNELS[eeg[:, 0].argmax()] == "Oz"
    radial, tangential = (
        np.abs(meg_lead_field(HEAD, place, axis[None])).max()
        for axis in (toward_oz, tangent / np.linalg.norm(tangent))
    )
    assert radial < 1e-6 * tangential


def test_potentials_are_against_fz():
    info = eeg_info(HEAD)
    place, axis = np.array([[0.0, -0.05, 0.04]]), np.array([[0.0, 0.6, 0.8]])
    field = eeg_lead_field(HEAD, place, axis)
    sphere = mne.make_sphere_model((0, 0, 0), RADIUS, verbose="error")
    dipole = mne.Dipole([0.0], place, [1.0], axis, [100.0])
    forward, _ = mne.make_forward_dipole(dipole, sphere, info, verbose="error")
    potentials = forward["sol"]["data"]
    np.testing.assert_allclose(
        field, potentials[:-1] - potentials[-1], rtol=1e-5, atol=1e-5 * field.max()
    )


def test_a_dipole_of_10_nanoampere_meters_gives_microvolts_and_femtoteslas():
    place, axis = np.array([[0.02, -0.065, 0.02]]), np.array([[1.0, 0.0, 0.0]])
    eeg = eeg_lead_field(HEAD, place, axis)
    meg = meg_lead_field(HEAD, place, axis)
    assert 0.5e-6 < np.abs(eeg).max() * 10e-9 < 5e-6
    assert 50e-15 < np.abs(meg).max() * 10e-9 < 500e-15
