import numpy as np
import pytest
from scipy.stats import pearsonr

from paperlib.evaluation.metrics import (
    correlation,
    cosine_similarity,
    log_psd_distance,
    mean_squared_error,
    pearson,
    pearson_flattened,
)

PER_IMAGE = [mean_squared_error, pearson, pearson_flattened, cosine_similarity]
SHAPE = (5, 3, 40)


@pytest.fixture
def responses():
    generated, recorded = np.random.default_rng(4).standard_normal((2, *SHAPE))
    return generated, recorded + 0.4 * generated


def test_mean_squared_error_by_hand():
    generated = np.zeros((2, 1, 2))
    recorded = np.array([[[1.0, 2.0]], [[3.0, 0.0]]])
    np.testing.assert_allclose(mean_squared_error(generated, recorded), [2.5, 4.5])


def test_pearson_is_the_mean_over_channels_of_correlations_over_time(responses):
    generated, recorded = responses
    expected = [
        np.mean([pearsonr(g, r).statistic for g, r in zip(*pair, strict=True)])
        for pair in zip(generated, recorded, strict=True)
    ]
    np.testing.assert_allclose(pearson(generated, recorded), expected, rtol=1e-12)


def test_pearson_flattened_equals_scipy(responses):
    generated, recorded = responses
    expected = [
        pearsonr(g.ravel(), r.ravel()).statistic
        for g, r in zip(generated, recorded, strict=True)
    ]
    np.testing.assert_allclose(pearson_flattened(generated, recorded), expected)


def test_cosine_by_hand():
    generated = np.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    recorded = np.array([[[0.0, 2.0]], [[-3.0, -3.0]]])
    np.testing.assert_allclose(
        cosine_similarity(generated, recorded), [0, -1], atol=1e-15
    )


def test_correlations_ignore_gain_and_offset_per_channel(responses):
    generated, recorded = responses
    changed = generated * np.array([1.0, 2.0, 5.0])[:, None] + np.arange(3)[:, None]
    np.testing.assert_allclose(
        pearson(changed, recorded), pearson(generated, recorded), atol=1e-12
    )
    assert not np.allclose(
        pearson_flattened(changed, recorded), pearson_flattened(generated, recorded)
    )


def test_perfect_prediction(responses):
    _, recorded = responses
    np.testing.assert_array_equal(mean_squared_error(recorded, recorded), 0)
    for metric in (pearson, pearson_flattened, cosine_similarity):
        np.testing.assert_allclose(metric(recorded, recorded), 1)


def test_the_zero_prediction_has_an_error_but_no_correlation(responses):
    _, recorded = responses
    zero = np.zeros(SHAPE)
    np.testing.assert_allclose(
        mean_squared_error(zero, recorded), (recorded**2).mean(axis=(1, 2))
    )
    for metric in (pearson, pearson_flattened, cosine_similarity):
        assert np.isnan(metric(zero, recorded)).all()


def test_a_constant_that_does_not_average_to_itself_is_still_constant(responses):
    generated, recorded = (part.astype(np.float32) for part in responses)
    generated[2, 1] = 0.1
    undefined = np.isnan(pearson(generated, recorded))
    np.testing.assert_array_equal(undefined, [False, False, True, False, False])
    assert np.isfinite(pearson_flattened(generated, recorded)).all()


def test_small_units_in_single_precision(responses):
    generated, recorded = responses
    volts = [(1e-14 * part).astype(np.float32) for part in responses]
    for metric in (pearson, pearson_flattened, cosine_similarity):
        np.testing.assert_allclose(
            metric(*volts), metric(generated, recorded), atol=1e-6
        )


@pytest.mark.parametrize("axis", [0, (0, 2), (0, 1, 2)])
def test_correlations_over_images_equal_numpy(responses, axis):
    """Over images, per channel and pooled: what others call by these names."""
    generated, recorded = responses
    order = {0: (1, 2, 0), (0, 2): (1, 0, 2), (0, 1, 2): (0, 1, 2)}[axis]
    rows = {0: 3 * 40, (0, 2): 3, (0, 1, 2): 1}[axis]
    pairs = zip(
        generated.transpose(order).reshape(rows, -1),
        recorded.transpose(order).reshape(rows, -1),
        strict=True,
    )
    expected = np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])
    found = correlation(generated, recorded, axis)
    assert found.shape == (5,)
    np.testing.assert_allclose(found.mean(), expected)


def test_pseudo_values_are_correlation_plus_influence():
    """Leaving an image out changes the correlation by its influence / (n - 1)."""
    generated, recorded = np.random.default_rng(5).standard_normal((2, 400, 1, 1))
    recorded += generated
    found = correlation(generated, recorded, 0)
    without = [
        np.corrcoef(*(np.delete(part, i) for part in (generated, recorded)))[0, 1]
        for i in range(20)
    ]
    influence = 399 * (found.mean() - np.array(without))
    np.testing.assert_allclose(found[:20] - found.mean(), influence, atol=0.02)


def test_what_is_the_same_for_all_images_has_no_correlation_over_them(responses):
    _, recorded = responses
    same = np.broadcast_to(recorded[0], SHAPE)
    assert np.isnan(correlation(same, recorded, 0)).all()
    assert np.isfinite(correlation(same, recorded, (0, 1, 2))).all()


@pytest.mark.parametrize("metric", PER_IMAGE)
def test_faults_are_named(metric, responses):
    generated, recorded = responses
    with pytest.raises(
        ValueError, match=r"one shape .* got \(4, 3, 40\) and \(5, 3, 40"
    ):
        metric(generated[:4], recorded)
    with pytest.raises(ValueError, match=r"one shape .* got \(3, 40\)"):
        metric(generated[0], recorded[0])
    recorded[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="recorded holds 1 values that are NaN"):
        metric(generated, recorded)


def test_doubled_amplitude_is_six_decibels_away():
    rng = np.random.default_rng(0)
    recorded = rng.standard_normal((5, 3, 200))
    distance = log_psd_distance(2 * recorded, recorded, sfreq=200)
    np.testing.assert_allclose(distance, 20 * np.log10(2))
    np.testing.assert_allclose(log_psd_distance(recorded, recorded, sfreq=200), 0)
    assert np.isnan(log_psd_distance(0 * recorded, recorded, sfreq=200)).all()
