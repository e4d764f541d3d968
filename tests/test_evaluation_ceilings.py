import numpy as np
import pytest

from paperlib.evaluation.ceilings import Halves, split_halves
from paperlib.evaluation.statistics import bootstrap_intervals


def seeded():
    return np.random.default_rng(9)


def simulated(n_images, n_repetitions, noise):
    """One channel and time per column: signal of variance 1, noise of variance s^2."""
    rng = np.random.default_rng(10)
    signal = rng.standard_normal((n_images, 2, 3))
    shape = (n_images, n_repetitions, 2, 3)
    return signal, signal[:, None] + noise * rng.standard_normal(shape)


def over_images(prediction, target):
    """Mean over channels and times of NumPy's correlations over images."""
    columns = (np.reshape(part, (len(part), -1)).T for part in (prediction, target))
    pairs = zip(*columns, strict=True)
    return np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])


@pytest.mark.parametrize("n_repetitions", [2, 5, 8])
def test_halves_are_disjoint_equal_and_random(n_repetitions):
    # Repetition r is 2**r everywhere, so that a half tells its members.
    half = n_repetitions // 2
    values = 2.0 ** np.arange(n_repetitions)
    repetitions = np.broadcast_to(values[:, None, None], (3, n_repetitions, 2, 4))
    splits = list(split_halves(repetitions, n_splits=20, rng=seeded()))
    assert len(splits) == 20
    seen = set()
    for a, b in splits:
        assert a.shape == b.shape == (3, 2, 4)
        members = [int(round(part[0, 0, 0] * half)) for part in (a, b)]
        assert members[0] & members[1] == 0
        assert [member.bit_count() for member in members] == [half, half]
        seen.add(members[0])
    assert len(seen) > 1


def test_halves_are_means_over_the_same_repetitions_of_every_image(tmp_path):
    """Also of a memory map."""
    _, repetitions = simulated(6, 4, 1.0)
    np.save(tmp_path / "test.npy", repetitions.astype(np.float32))
    mapped = np.load(tmp_path / "test.npy", mmap_mode="r")
    order = seeded().permutation(4)
    halves = next(split_halves(mapped, n_splits=1, rng=seeded()))
    for half, chosen in zip(halves, (order[:2], order[2:]), strict=True):
        assert half.dtype == np.float32 and type(half) is np.ndarray
        np.testing.assert_allclose(half, repetitions[:, chosen].mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_ceilings_have_their_expected_values(noise):
    signal, repetitions = simulated(4000, 16, noise)
    halves = Halves.draw(repetitions, n_splits=4, rng=seeded())
    perfect, blind = (halves.correlate(p) for p in (signal, np.zeros_like(signal)))
    half, full = noise**2 / 8, noise**2 / 16  # noise variance of the means
    lower = 1 / (1 + half)
    upper = (1 + full) / np.sqrt((1 + full) * (1 + half))
    assert halves.lower.shape == halves.upper.shape == perfect.shape == (4000, 2, 3)
    np.testing.assert_allclose(halves.lower.mean(), lower, atol=0.02)
    np.testing.assert_allclose(halves.upper.mean(), upper, atol=0.01)
    np.testing.assert_allclose(perfect.mean(), np.sqrt(lower), atol=0.02)
    assert np.isnan(blind).all()


def test_correlations_are_means_over_images_and_halvings():
    signal, repetitions = simulated(30, 6, 1.0)
    found = Halves.draw(repetitions, n_splits=3, rng=seeded())
    halves = list(split_halves(repetitions, n_splits=3, rng=seeded()))
    shared = 10 * seeded().standard_normal((2, 3))
    for values, predictions in (
        (found.correlate(signal), [signal] * 3),
        (found.correlate(signal + shared), [signal] * 3),  # the same for all images
        (found.lower, [other for _, other in halves]),
        (found.upper, [repetitions.mean(axis=1)] * 3),
    ):
        expected = [
            over_images(prediction, first)
            for prediction, (first, _) in zip(predictions, halves, strict=True)
        ]
        np.testing.assert_allclose(values.mean(), np.mean(expected))


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_intervals_of_correlations_are_those_of_resampled_images(noise):
    signal, repetitions = simulated(150, 2, noise)
    target = repetitions[:, 0]
    halves = Halves.draw(target[:, None].repeat(2, axis=1), n_splits=1, rng=seeded())
    rng = np.random.default_rng(11)
    drawn = (rng.integers(150, size=150) for _ in range(1000))
    direct = [over_images(signal[i], target[i]) for i in drawn]
    wanted = np.quantile(direct, [0.025, 0.975])
    values = halves.correlate(signal).mean(axis=(1, 2))[None, None, :, None]
    found = bootstrap_intervals(values, rng=rng, n_resamples=4000)
    width = wanted[1] - wanted[0]
    np.testing.assert_allclose(found[["low", "high"]].iloc[0], wanted, atol=width / 8)


def test_faults_are_named():
    _, repetitions = simulated(4, 6, 1.0)
    with pytest.raises(ValueError, match="2 or more of each image; got 1"):
        next(split_halves(repetitions[:, :1], n_splits=1, rng=seeded()))
    repetitions[2, :, 1, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN .* first at index \(2, 1, 0\)"):
        next(split_halves(repetitions, n_splits=1, rng=seeded()))
