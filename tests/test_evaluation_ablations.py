import numpy as np
import pytest

from paperlib.evaluation.ablations import (
    FULL,
    RETRAINED,
    ZEROED,
    score_without_region,
)
from paperlib.evaluation.comparison import Recordings, score
from paperlib.evaluation.predictions import read_mean

EMBEDDING = {"sfreq": 100.0, "dim": 3, "delay": 2, "neighbors": 5}
KEPT = np.array([0, 2, 3])


@pytest.fixture
def responses():
    return np.random.default_rng(0).standard_normal((12, 4, 60)).astype(np.float32)


@pytest.fixture
def recorded(responses):
    return Recordings.prepare(responses, np.zeros((4, 60), np.float32), **EMBEDDING)


def test_selected_channels_score_as_recordings_of_their_own(responses, recorded):
    """The recurrences are not computed again, and are those of the channels."""
    generated = responses[::-1][:, KEPT]
    common = np.zeros((3, 60), np.float32)
    alone = Recordings.prepare(responses[:, KEPT], common, **EMBEDDING)
    one, other = (score(generated, r) for r in (recorded.select(KEPT), alone))
    for metric, values in one.items():
        np.testing.assert_array_equal(values, other[metric])


def test_three_readings_of_removing_a_region(responses, recorded):
    noise = np.random.default_rng(1).standard_normal((12, 3, 60)).astype(np.float32)
    found = score_without_region(responses, noise, recorded, KEPT)
    np.testing.assert_allclose(found[FULL]["mse"], 0, atol=1e-12)
    expected = np.square(noise - responses[:, KEPT]).mean(axis=(1, 2))
    np.testing.assert_allclose(found[RETRAINED]["mse"], expected, rtol=1e-5)
    silent = np.square(responses[:, 1]).mean(axis=-1) / 4
    np.testing.assert_allclose(found[ZEROED]["mse"], silent, rtol=1e-5)
    assert np.isnan(found[ZEROED]["pearson"]).all()
    assert np.isnan(found[ZEROED]["sl"]).all()
    assert not np.isnan(found[ZEROED]["cosine"]).any()


def test_the_mean_is_over_samples(tmp_path):
    samples = np.arange(24.0).reshape(2, 3, 2, 2)
    np.save(tmp_path / "samples.npy", samples)
    np.testing.assert_array_equal(
        read_mean(tmp_path / "samples.npy"), samples.mean(axis=1)
    )
