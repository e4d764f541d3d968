import numpy as np
import pytest
from paperlib.evaluation.ablations import (
    FULL,
    RETRAINED,
    ZEROED,
    compare_regions,
    region_row,
    score_without_region,
)
from paperlib.evaluation.predictions import read_responses
from paperlib.evaluation.responses import Responses

from paperlib.evaluation.comparison import score, tidy_scores

EMBEDDING = {"dim": 3, "delay": 2, "neighbors": 5}
COMMON = np.zeros((4, 60), np.float32)
KEPT = np.array([0, 2, 3])


@pytest.fixture
def responses():
    return np.random.default_rng(0).standard_normal((12, 4, 60)).astype(np.float32)


@pytest.fixture
def recorded(responses):
    return Responses.prepare(responses, COMMON, **EMBEDDING)


@pytest.mark.parametrize("part", ["channels", "images"])
def test_a_part_is_what_it_would_be_if_prepared_alone(responses, recorded, part):
    """The recurrences are not computed again, and are those of the part."""
    order = np.roll(np.arange(12), 3)
    if part == "channels":
        found = recorded.select(KEPT)
        alone = Responses.prepare(responses[:, KEPT], COMMON[KEPT], **EMBEDDING)
    else:
        found = recorded.reorder(order)
        alone = Responses.prepare(responses[order], COMMON, **EMBEDDING)
    np.testing.assert_array_equal(found.values, alone.values)
    np.testing.assert_array_equal(found.common, alone.common)
    assert set(found.recurrences) == {"sl", "sl_theiler"}
    for metric, bits in found.recurrences.items():
        np.testing.assert_array_equal(bits, alone.recurrences[metric])


def test_a_constant_channel_has_no_recurrences(responses, recorded):
    responses = responses.copy()
    responses[5, 1] = 2.0
    silent = Responses.prepare(responses, COMMON, **EMBEDDING)
    for pair in ((silent, recorded), (recorded, silent)):
        found = score(*pair, sfreq=100.0)
        assert np.isnan(found["sl"]).all() and np.isnan(found["sl_chance"]).all()
        assert not np.isnan(found["mse"]).any()


def test_three_readings_of_removing_a_region(responses, recorded):
    noise = np.random.default_rng(1).standard_normal((12, 3, 60)).astype(np.float32)
    retrained = Responses.prepare(noise, COMMON[KEPT], **EMBEDDING)
    found = score_without_region(recorded, retrained, recorded, kept=KEPT, sfreq=100.0)
    np.testing.assert_allclose(found[FULL]["mse"], 0, atol=1e-12)
    expected = np.square(noise - responses[:, KEPT]).mean(axis=(1, 2))
    np.testing.assert_allclose(found[RETRAINED]["mse"], expected, rtol=1e-5)
    silent = np.square(responses[:, 1]).mean(axis=-1) / 4
    np.testing.assert_allclose(found[ZEROED]["mse"], silent, rtol=1e-5)
    assert np.isnan(found[ZEROED]["pearson"]).all()
    assert np.isnan(found[ZEROED]["sl"]).all()
    assert not np.isnan(found[ZEROED]["cosine"]).any()


def test_a_region_is_compared_on_the_channels_that_are_left():
    base = np.random.default_rng(2).standard_normal(30)
    shifts = {FULL: 0.0, RETRAINED: -0.25, ZEROED: 7.0}
    scored = [
        (region_row(region, variant), 1, 0, {"mse": base + shift * sign})
        for region, sign in (("Occipital", 1), ("Frontal", 2))
        for variant, shift in shifts.items()
    ]
    scores = tidy_scores(scored, [row[0] for row in scored])
    found = compare_regions(scores, ["Frontal", "Occipital"], seed=0, resamples=50)
    assert found["method"].tolist() == ["Frontal", "Occipital"]
    np.testing.assert_allclose(found["mean"], [-0.5, -0.25])
    np.testing.assert_allclose(found["low"], found["mean"])


@pytest.mark.parametrize("samples", ["one", "mean"])
def test_a_prediction_is_a_sample_or_the_mean_of_all(tmp_path, samples):
    generated = np.random.default_rng(3).standard_normal((2, 3, 4, 60))
    np.save(tmp_path / "samples.npy", generated)
    path = tmp_path / "samples.npy"
    found = read_responses(path, COMMON, samples=samples, **EMBEDDING)
    expected = generated[:, 0] if samples == "one" else generated.mean(axis=1)
    np.testing.assert_array_equal(found.values, expected)
    assert set(found.recurrences) == {"sl", "sl_theiler"}
