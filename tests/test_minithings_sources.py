from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minithings.head import eeg_lead_field
from minithings.participants import draw_participant
from minithings.scenes import CATEGORY_SHAPES, Scene, sample_scene
from minithings.sources import image_drives, source_areas, time_course
from paperlib.recordings.things_eeg2 import RAW_CHANNELS

AREA_OF = [area for area, _ in source_areas()]
SIDE_OF = np.array([side for _, side in source_areas()])
BALL = Scene("ball", "white", "checkered", "small", "center", "gray")


def of(area, side=None):
    return [
        i for i, (a, s) in enumerate(source_areas()) if a == area and side in (None, s)
    ]


def scenes(n, **attributes):
    rng = np.random.default_rng(5)
    return [replace(sample_scene(rng), **attributes) for _ in range(n)]


@cache
def drives_of_lateral_scenes():
    """Animals in the left and in the right of the picture: strength and shift."""
    sides = [
        f"{row} {side}" for side in ("left", "right") for row in ("upper", "lower")
    ]
    shown = [
        replace(scene, position=place, shape="cat", size="large")
        for place in sides
        for scene in scenes(15)
    ]
    return image_drives(shown)


def potentials(subject, areas):
    """Scalp potentials without noise at the peak of some areas, N C."""
    person = draw_participant(subject, seed=0)
    lead_field = eeg_lead_field(person.head, person.positions, person.orientations)
    strength, shift = drives_of_lateral_scenes()
    time = person.peaks[[i for area in areas for i in of(area)]].mean()
    peaks = person.peaks + shift[:, None]
    course = time_course(time, peaks, person.widths, person.rebounds)
    return (strength * course * person.moments) @ lead_field.T


def test_the_same_scenes_give_the_same_drives_in_any_company():
    shown = scenes(6)
    strength, shift = image_drives(shown)
    alone, alone_shift = image_drives(shown[2:3])
    np.testing.assert_allclose(alone[0], strength[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone_shift[0], shift[2], rtol=1e-5)


def test_early_areas_see_the_opposite_quadrant():
    fields = [(row, side) for row in ("upper", "lower") for side in ("left", "right")]
    shown = [replace(BALL, position=f"{row} {side}") for row, side in fields]
    strength, _ = image_drives(shown)
    for area in ("V1", "V2"):
        columns = [  # the cortex that should see each quadrant
            of(f"{area} {row}", 1 if side == "left" else -1) for row, side in fields
        ]
        responses = strength[:, np.ravel(columns)]  # N, quadrant
        assert (responses.argmax(axis=1) == np.arange(4)).all()
        assert (np.diag(responses) > 1.3 * np.median(responses, axis=1)).all()


def test_high_contrast_is_answered_earlier_and_more_strongly_but_saturates():
    names = ("night", "sky", "sand", "grass")
    strength, shift = image_drives([replace(BALL, background=name) for name in names])
    assert shift[3] < shift[0]
    assert strength[3, of("V1 upper")].min() > strength[0, of("V1 upper")].max()
    everything, _ = image_drives(scenes(100))
    assert everything[:, of("V1 upper") + of("V1 lower")].max() < 2


def test_animals_drive_the_fusiform_cortex_most():
    shown = scenes(400)
    strength = image_drives(shown)[0][:, of("IT posterior")].mean(axis=1)
    categories = np.array([scene.category for scene in shown])
    means = {name: strength[categories == name].mean() for name in CATEGORY_SHAPES}
    assert max(means, key=means.get) == "animal"


def test_later_areas_are_not_additive_in_the_attributes():
    shown = [
        replace(BALL, shape=shape, texture=texture)
        for shape in ("star", "fish")
        for texture in ("plain", "dotted")
    ]
    strength, _ = image_drives(shown)
    interaction = strength[0] - strength[1] - strength[2] + strength[3]
    main_effect = strength[0] - strength[2]
    for area in ("LOC", "IT posterior", "IT anterior"):
        columns = of(area)
        assert (
            np.abs(interaction[columns]).max()
            > 0.2 * np.abs(main_effect[columns]).max()
        )


@given(st.floats(0.05, 0.4), st.floats(0.01, 0.07), st.floats(-0.5, 0.5))
def test_a_deflection_peaks_rebounds_and_is_sustained(peak, width, rebound):
    times = peak + np.array([-1.0, 0.0, 6.0, 24.0]) * width
    before, first, sustained, after = time_course(times, peak, width, rebound)
    assert first == pytest.approx(1.162 + 0.310 * rebound, abs=1e-3)
    assert sustained == pytest.approx(0.5 + 0.135 * rebound, abs=1e-3)
    assert before < first
    assert abs(after) < 1e-3


@pytest.mark.parametrize("subject", [1, 2, 3])
def test_p1_is_occipital_and_contralateral(subject):
    p1 = potentials(subject, ["V2 upper", "V2 lower"])
    assert RAW_CHANNELS[p1.mean(axis=0).argmax()].startswith(("O", "PO"))
    left, right = p1.reshape(2, 30, -1).mean(axis=1)
    lateral = dict(zip(RAW_CHANNELS, left - right, strict=True))
    over_right = np.mean([lateral[name] for name in ("O2", "PO4", "PO8")])
    over_left = np.mean([lateral[name] for name in ("O1", "PO3", "PO7")])
    assert over_right - over_left > 0.3e-6  # contralateral minus ipsilateral


@pytest.mark.parametrize("subject", [1, 2, 3])
def test_n170_is_negative_over_temporal_and_positive_over_central_electrodes(subject):
    n170 = potentials(subject, ["IT posterior"]).mean(axis=0)
    n170 = dict(zip(RAW_CHANNELS, n170, strict=True))
    assert max(n170["P8"], n170["P7"]) < -1e-6
    assert n170["Cz"] > max(n170["P8"], n170["P7"])


def test_participants_differ_in_head_latency_gain_and_geometry():
    first, second = (draw_participant(subject, seed=0) for subject in (1, 2))
    assert first.head.radius != second.head.radius
    for values, spread in (("peaks", 0.01), ("moments", 0.1)):
        assert np.std(getattr(first, values) / getattr(second, values)) > spread
    cosine = (first.orientations * second.orientations).sum(axis=1)
    assert np.degrees(np.arccos(cosine)).mean() > 15
    distance = np.linalg.norm(first.positions - second.positions, axis=1)
    assert 0.003 < distance.mean() < 0.02


def test_dipoles_lie_in_the_brain_and_on_their_side():
    for subject in range(1, 6):
        person = draw_participant(subject, seed=1)
        depth = np.linalg.norm(person.positions, axis=1) / person.head.radius
        assert 0.5 < depth.min() and depth.max() <= 0.86 + 1e-9
        lateral = np.array([not area.startswith("V1") for area in AREA_OF])
        assert (np.sign(person.positions[lateral, 0]) == SIDE_OF[lateral]).all()
