import numpy as np
import pytest

from paperlib.evaluation.identification import (
    chance_levels,
    response_correlations,
    top_hits,
    two_versus_two,
)

BY_HAND = np.array(
    [
        [0.9, 0.1, 0.2, 0.3],  # right image first
        [0.5, 0.4, 0.1, 0.6],  # third
        [0.2, 0.2, 0.2, 0.2],  # four candidates tied
        [0.1, 0.8, 0.3, 0.3],  # tied second with one other
    ]
)


@pytest.fixture
def responses():
    return np.random.default_rng(6).standard_normal((2, 12, 3, 20))


def test_correlations_equal_numpy(responses):
    recorded, generated = responses
    rows = np.vstack([recorded.reshape(12, -1), generated.reshape(12, -1)])
    found = response_correlations(recorded, generated)
    np.testing.assert_allclose(found, np.corrcoef(rows)[:12, 12:], atol=1e-13)


def test_hits_by_hand():
    found = [top_hits(BY_HAND, k=k) for k in (1, 2, 3, 4)]
    expected = [[1, 0, 0.25, 0], [1, 0, 0.5, 0.5], [1, 1, 0.75, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(found, expected)


def test_two_versus_two_by_hand():
    correlations = np.array([[0.5, 0.4, 0.0], [0.4, 0.3, 0.4], [0.0, 0.4, 0.4]])
    # pairs: 0,1: 0.8 against 0.8 (tie); 0,2: won; 1,2: 0.7 against 0.8 (lost)
    np.testing.assert_array_equal(two_versus_two(correlations), [0.75, 0.25, 0.5])


def test_one_response_for_all_images_scores_exactly_at_chance(responses):
    recorded, _ = responses
    mean = np.broadcast_to(recorded.mean(axis=0), recorded.shape)
    correlations = response_correlations(recorded, mean)
    chance = chance_levels(12)
    np.testing.assert_allclose(top_hits(correlations, k=1), chance["top1"])
    np.testing.assert_allclose(top_hits(correlations, k=5), chance["top5"])
    np.testing.assert_allclose(two_versus_two(correlations), chance["two_versus_two"])


def test_more_candidates_than_images():
    correlations = np.array([[0.5, 0.1, 0.7], [0.0, 0.4, 0.1]])
    np.testing.assert_array_equal(top_hits(correlations, k=1), [0, 1])
    np.testing.assert_array_equal(top_hits(correlations, k=2), 1)


def test_undefined_responses_stay_undefined(responses):
    recorded, generated = responses
    generated[3] = 0.1
    correlations = response_correlations(recorded, generated)
    assert np.isnan(correlations[:, 3]).all()
    expected = np.arange(12) == 3
    for scores in (top_hits(correlations, k=5), two_versus_two(correlations)):
        np.testing.assert_array_equal(np.isnan(scores), expected)
