from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from paperlib.evaluation.distribution import (
    METRICS,
    coverage,
    crps,
    disjoint_averages,
    energy_score,
    perfect_coverage,
    random_responses,
    score_distribution,
    with_residuals,
)


@pytest.fixture
def rng():
    return np.random.default_rng(30)


def test_crps_of_a_gaussian_is_its_closed_form(rng):
    """Gneiting and Raftery (2007), equation 21, at one observation."""
    sd, y = 1.5, 0.7
    samples = sd * rng.standard_normal((40, 200, 500))
    z = y / sd
    expected = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    found = crps(samples, np.full((1, 200, 500), y))
    assert found == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("score", [crps, energy_score])
def test_fair_scores_do_not_depend_on_the_number_of_samples(rng, score):
    truth = rng.standard_normal((3, 20, 30))
    few, many = (
        np.mean([score(rng.standard_normal((k, 20, 30)), truth) for _ in range(60)])
        for k in (2, 40)
    )
    assert few == pytest.approx(many, rel=0.01)


@pytest.mark.parametrize("k", [1, 5])
def test_scores_by_plain_loops(rng, k):
    samples, truth = rng.standard_normal((k, 2, 3)), rng.standard_normal((4, 2, 3))
    for score, distance in (
        (crps, lambda x, y: np.abs(x - y).mean()),
        (energy_score, lambda x, y: np.linalg.norm(x - y) / np.sqrt(6)),
    ):
        error = np.mean([distance(x, y) for x in samples for y in truth])
        pairs = [distance(x, y) for x, y in combinations(samples, 2)]
        expected = error - sum(pairs) / max(k * (k - 1), 1)
        assert score(samples, truth) == pytest.approx(expected)


def test_coverage_is_that_of_numpys_quantiles(rng):
    samples, truth = rng.standard_normal((32, 6, 7)), rng.standard_normal((9, 6, 7))
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    assert coverage(samples, truth) == np.mean((low <= truth) & (truth <= high))


@pytest.mark.parametrize(("n_samples", "atol"), [(10, 0.03), (32, 0.01)])
def test_a_perfect_ensemble_is_calibrated(rng, n_samples, atol):
    """Even where each image has another mean and each channel another spread."""
    mean, sd = rng.standard_normal((30, 1, 4, 1)), np.array([1, 2, 3, 4.0])[:, None]
    samples = mean + sd * rng.standard_normal((30, n_samples, 4, 200))
    truth = (mean + sd * rng.standard_normal((30, 6, 4, 200))).astype(np.float32)
    found = score_distribution(samples, truth, sfreq=200.0).mean()
    assert list(found.index) == list(METRICS)
    assert found["spread_skill"] == pytest.approx(1, abs=0.02)
    assert found["coverage"] == pytest.approx(perfect_coverage(n_samples), abs=atol)
    assert perfect_coverage(32) == pytest.approx(0.845, abs=0.001)
    assert found["spectrum"] < 0.5 and found["covariance"] < 0.05


def test_faults_of_an_ensemble_show_where_they_should(rng):
    truth = rng.standard_normal((20, 5, 3, 200)).astype(np.float32)
    wide, perfect = rng.standard_normal((2, 20, 16, 3, 200))
    shared = np.repeat(perfect[:, :, :1], 3, axis=2)  # all channels the same
    ensembles = {"perfect": perfect, "wide": 2 * wide, "shared": shared}
    ensembles["point"] = 0 * perfect[:, :1]
    found = {
        name: score_distribution(samples, truth, sfreq=200.0).mean()
        for name, samples in ensembles.items()
    }
    assert found["wide"]["spread_skill"] == pytest.approx(2, rel=0.1)
    assert found["wide"]["coverage"] > 0.95
    assert found["wide"]["spectrum"] == pytest.approx(20 * np.log10(2), abs=0.5)
    assert found["wide"]["crps"] > found["perfect"]["crps"]
    assert found["shared"]["crps"] == pytest.approx(found["perfect"]["crps"], rel=0.01)
    assert found["shared"]["covariance"] > 1
    assert found["point"][["spread_skill", "coverage"]].isna().all()


def test_spread_over_skill_has_pseudo_values(rng):
    """Their mean is the ratio of all images, not the mean of the images' ratios."""
    scale = rng.uniform(0.2, 5, (50, 1, 1, 1))
    samples = scale * rng.standard_normal((50, 8, 2, 50))
    truth = scale * rng.standard_normal((50, 3, 2, 50))
    found = score_distribution(samples, truth, sfreq=100.0)["spread_skill"]
    variance = 9 / 8 * samples.var(axis=1, ddof=1).mean()
    error = np.mean((truth - samples.mean(axis=1, keepdims=True)) ** 2)
    assert found.mean() == pytest.approx(np.sqrt(variance / error), rel=1e-5)


def test_averages_are_disjoint_and_the_same_for_all_images(rng):
    values = 2.0 ** np.arange(9)
    repetitions = np.broadcast_to(values[:, None, None], (3, 9, 2, 4))
    found = disjoint_averages(repetitions, 4, rng)
    assert found.shape == (3, 2, 2, 4) and found.dtype == np.float32
    members = [int(round(4 * mean)) for mean in found[0, :, 0, 0]]
    assert members[0] & members[1] == 0
    assert [member.bit_count() for member in members] == [4, 4]
    np.testing.assert_array_equal(found[0], found[2])


def test_controls_are_training_responses_and_predictions_with_residuals(rng):
    responses = rng.standard_normal((50, 2, 3))
    drawn = list(random_responses(responses, 4, 8, rng))
    assert len(drawn) == 4 and drawn[0].shape == (8, 2, 3)
    assert all((sample == responses).all(axis=(1, 2)).any() for sample in drawn[0])
    predictions = 100 * np.arange(4.0)[:, None, None] + np.zeros((4, 2, 3))
    for image, samples in enumerate(with_residuals(predictions, responses, 8, rng)):
        residuals = samples - 100 * image
        errors = np.abs(residuals[:, None] - responses).max(axis=(2, 3)).min(axis=1)
        np.testing.assert_allclose(errors, 0, atol=1e-9)
