import numpy as np
import pytest

from paperlib.evaluation.statistics import bootstrap_intervals, derangement


def seeded(seed=11):
    return np.random.default_rng(seed)


def bootstrap_interval(scores, **options):
    """Return the interval of one training and metric: subjects, images."""
    return bootstrap_intervals(scores[None, ..., None], **options).iloc[0]


def half_width(interval):
    return (interval.high - interval.low) / 2


def test_equal_scores_have_no_spread():
    interval = bootstrap_interval(np.full((3, 7), 0.25), rng=seeded())
    assert interval[["mean", "low", "high"]].eq(0.25).all()
    sizes = interval[["n_seeds", "n_subjects", "n_images", "n_undefined"]]
    assert sizes.tolist() == [1, 3, 7, 0]


@pytest.mark.parametrize("axis", [0, 1])
def test_one_subject_or_one_image_gives_the_plain_bootstrap(axis):
    values = seeded(1).standard_normal(400)
    interval = bootstrap_interval(np.expand_dims(values, axis), rng=seeded())
    assert interval["mean"] == pytest.approx(values.mean())
    error = values.std() / 20
    assert half_width(interval) == pytest.approx(1.96 * error, rel=0.05)
    assert (interval.n_subjects, interval.n_images) == ((1, 400), (400, 1))[axis]


def test_agrees_with_a_bootstrap_by_indexing():
    scores = seeded(2).exponential(size=(6, 15))
    rng = seeded(3)
    subjects = rng.integers(6, size=(40_000, 6, 1))
    images = rng.integers(15, size=(40_000, 1, 15))
    means = scores[subjects, images].mean(axis=(1, 2))
    interval = bootstrap_interval(scores, rng=seeded(), n_resamples=40_000)
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)


@pytest.mark.parametrize(("n_subjects", "covered"), [(2, 0.5), (4, 0.8), (10, 0.92)])
def test_coverage_of_few_subjects_is_what_the_notes_say(n_subjects, covered):
    rng, n_simulations = seeded(12), 1000
    inside = 0
    for _ in range(n_simulations):
        scores = rng.standard_normal((n_subjects, 1)).repeat(2, axis=1)
        interval = bootstrap_interval(scores, rng=rng, n_resamples=400)
        inside += interval.low <= 0 <= interval.high
    assert inside / n_simulations == pytest.approx(covered, abs=0.04)


def test_a_mostly_undefined_table_still_has_an_interval():
    scores = np.full((3, 4), np.nan)
    scores[0, 0], scores[1, 2] = 1.0, 3.0
    interval = bootstrap_interval(scores, rng=seeded())
    assert (interval.low, interval["mean"], interval.high) == (1, 2, 3)
    assert interval.n_undefined == 10


@pytest.mark.parametrize(
    ("scores", "mean", "n_undefined"), [([[0.5]], 0.5, 0), ([[np.nan] * 3], np.nan, 3)]
)
def test_no_interval_without_a_sample(scores, mean, n_undefined):
    interval = bootstrap_interval(np.array(scores), rng=seeded())
    np.testing.assert_equal(interval["mean"], mean)
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.n_undefined == n_undefined


def test_metrics_are_resampled_together():
    """Each has the interval that it has alone, undefined scores or not."""
    tables = seeded(9).standard_normal((1, 4, 25, 3))
    tables[0, 1, 3, 0] = np.nan
    tables[..., 2] = np.nan
    together = bootstrap_intervals(tables, rng=seeded())
    for metric in range(3):
        alone = bootstrap_interval(tables[0, ..., metric], rng=seeded())
        np.testing.assert_allclose(together.loc[metric], alone)
    assert together["n_undefined"].tolist() == [1, 0, 100]


def test_intervals_contain_the_luck_of_training():
    """Trainings whose scores differ by as much as anything else widen the interval."""
    luck = seeded(13).standard_normal((9, 1, 1, 1))
    noise = 0.01 * seeded(14).standard_normal((9, 1, 200, 1))
    (lucky,) = bootstrap_intervals(luck + noise, rng=seeded()).itertuples()
    assert half_width(lucky) == pytest.approx(1.96 * luck.std() / 3, rel=0.1)
    averaged = bootstrap_interval((luck + noise).mean(axis=0)[..., 0], rng=seeded())
    assert averaged["mean"] == pytest.approx(lucky.mean)
    assert half_width(averaged) < half_width(lucky) / 50


def test_trainings_are_nested_in_participants():
    """Their luck averages out over participants, one training each or several."""
    luck = seeded(15).standard_normal((6, 40, 1, 1))
    (interval,) = bootstrap_intervals(luck, rng=seeded()).itertuples()
    within = luck.var(axis=0).mean() / 6 / 40
    between = luck.mean(axis=0).var() / 40  # holds what is within once more
    expected = 1.96 * np.sqrt(within + between)
    assert half_width(interval) == pytest.approx(expected, rel=0.05)


def test_paired_differences_share_participants_and_images_but_not_trainings():
    base = seeded(16).standard_normal((1, 5, 30, 1))
    shifted = np.concatenate([base + 0.5, base + 0.7])
    (same,) = bootstrap_intervals(base + 0.5, base, rng=seeded()).itertuples()
    np.testing.assert_allclose([same.mean, same.low, same.high], 0.5)
    for pair in ((shifted, base), (-base, -shifted)):
        (two,) = bootstrap_intervals(*pair, rng=seeded()).itertuples()
        assert two.mean == pytest.approx(0.6)
        assert half_width(two) == pytest.approx(1.96 * 0.1 / np.sqrt(10), rel=0.35)


@pytest.mark.parametrize("n", [2, 3, 60])
def test_a_derangement_moves_everything(n):
    order = derangement(n, np.random.default_rng(0))
    assert sorted(order) == list(range(n))
    assert (order != np.arange(n)).all()
    with pytest.raises(ValueError, match="two images or more; got 1"):
        derangement(1, np.random.default_rng(0))
