import numpy as np
import pytest
from scipy.signal import periodogram
from scipy.stats import pearsonr

from paperlib.evaluation.metrics import (
    correlation,
    cosine_similarity,
    log_psd_distance,
    mean_squared_error,
    pearson,
    pearson_flattened,
    power_spectrum,
)

PER_IMAGE = [mean_squared_error, pearson, pearson_flattened, cosine_similarity]
SHAPE = (5, 3, 40)


@pytest.fixture
def responses():
    generated, recorded = np.random.default_rng(4).standard_normal((2, *SHAPE))
    return generated, recorded + 0.4 * generated


def test_errors_and_cosines_by_hand():
    generated, recorded = np.array([[[[3.0, 0]], [[1, 1]]], [[[0, 2]], [[-3, -3]]]])
    np.testing.assert_array_equal(mean_squared_error(generated, recorded), [6.5, 16])
    cosines = cosine_similarity(generated, recorded)
    np.testing.assert_allclose(cosines, [0, -1], atol=1e-15)


def test_correlations_equal_those_of_scipy(responses):
    """Over time, averaged over channels, and over both."""
    images = list(zip(*responses, strict=True))
    means = [np.mean(pearsonr(g, r, axis=1).statistic) for g, r in images]
    np.testing.assert_allclose(pearson(*responses), means, rtol=1e-12)
    flat = [pearsonr(g.ravel(), r.ravel()).statistic for g, r in images]
    np.testing.assert_allclose(pearson_flattened(*responses), flat)


def test_the_zero_prediction_has_an_error_but_no_correlation(responses):
    _, recorded = responses
    zero, power = np.zeros(SHAPE), (recorded**2).mean(axis=(1, 2))
    np.testing.assert_allclose(mean_squared_error(zero, recorded), power)
    for metric in (pearson, pearson_flattened, cosine_similarity):
        assert np.isnan(metric(zero, recorded)).all()


def test_a_constant_that_does_not_average_to_itself_is_still_constant(responses):
    generated, recorded = (part.astype(np.float32) for part in responses)
    generated[2, 1] = 0.1
    undefined = np.isnan(pearson(generated, recorded))
    np.testing.assert_array_equal(undefined, [False, False, True, False, False])
    assert np.isfinite(pearson_flattened(generated, recorded)).all()


def test_small_units_in_single_precision(responses):
    volts = [(1e-14 * part).astype(np.float32) for part in responses]
    for metric in (pearson, pearson_flattened, cosine_similarity):
        np.testing.assert_allclose(metric(*volts), metric(*responses), atol=1e-6)


@pytest.mark.parametrize("axis", [0, (0, 2), (0, 1, 2)])
def test_correlations_over_images_equal_numpy(responses, axis):
    """Over images, per channel and pooled: what others call by these names."""
    generated, recorded = responses
    order = {0: (1, 2, 0), (0, 2): (1, 0, 2), (0, 1, 2): (0, 1, 2)}[axis]
    rows = {0: 3 * 40, (0, 2): 3, (0, 1, 2): 1}[axis]
    flat = (part.transpose(order).reshape(rows, -1) for part in responses)
    pairs = zip(*flat, strict=True)
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
    with pytest.raises(ValueError, match=r"got \(4, 3, 40\) and \(5, 3, 40"):
        metric(generated[:4], recorded)
    with pytest.raises(ValueError, match=r"one shape .* got \(3, 40\)"):
        metric(generated[0], recorded[0])
    recorded[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="recorded holds 1 values that are NaN"):
        metric(generated, recorded)
    generated[3, 2, 1] = np.inf
    with pytest.raises(ValueError, match="predicted holds 1 values that are NaN"):
        metric(generated, recorded)


def test_power_is_that_of_scipy_up_to_a_constant():
    signals = np.random.default_rng(0).standard_normal((3, 250)) + 5
    frequencies, power = periodogram(signals, 200, window="hann")
    inside = (frequencies >= 1) & (frequencies <= 40)
    ratio = power_spectrum(signals, 200) / power[:, inside]
    np.testing.assert_allclose(ratio, np.full((3, 49), ratio[0, 0]))


def test_doubled_amplitude_is_six_decibels_away():
    rng = np.random.default_rng(0)
    recorded = rng.standard_normal((5, 3, 200))
    distance = log_psd_distance(2 * recorded, recorded, sfreq=200)
    np.testing.assert_allclose(distance, 20 * np.log10(2))
    np.testing.assert_allclose(log_psd_distance(recorded, recorded, sfreq=200), 0)
    assert np.isnan(log_psd_distance(0 * recorded, recorded, sfreq=200)).all()
