import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from paperlib.evaluation import synchronization
from paperlib.evaluation.synchronization import (
    matched_chance,
    recurrence_agreement,
    recurrences,
    synchronization_likelihood,
)

EEG = {"dim": 10, "delay": 5, "neighbors": 10}


def delay_vectors(x, dim, delay):
    n_points = len(x) - (dim - 1) * delay
    return np.array([x[i : i + dim * delay : delay] for i in range(n_points)], float)


def reference_neighbors(x, dim, delay, neighbors, theiler=0):
    """Plain loops: the set of neighbors of each time, ties at the k-th included."""
    states = delay_vectors(x, dim, delay)
    sets = []
    for i, state in enumerate(states):
        distance = {
            j: float(((state - other) ** 2).sum())
            for j, other in enumerate(states)
            if abs(i - j) > theiler
        }
        radius = sorted(distance.values())[neighbors - 1]
        sets.append({j for j, value in distance.items() if value <= radius})
    return sets


def reference_likelihood(x, y, **parameters):
    pairs = list(
        zip(
            reference_neighbors(x, **parameters),
            reference_neighbors(y, **parameters),
            strict=True,
        )
    )
    common = sum(len(a & b) for a, b in pairs)
    return 2 * common / sum(len(a) + len(b) for a, b in pairs)


def unpacked_neighbors(packed):
    bits = np.unpackbits(packed, axis=-1)
    return [set(np.flatnonzero(row).tolist()) for row in bits]


def colored_noise(rng, shape, exponent):
    spectrum = np.fft.rfft(rng.standard_normal(shape))
    frequency = np.arange(1, spectrum.shape[-1] + 1)
    return np.fft.irfft(spectrum / frequency ** (exponent / 2), n=shape[-1])


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def test_hand_worked_eight_of_ten():
    # Neighbors of 0, 1, 3, 7 among the rest are the same; those of the last are
    # {7, 3} in x and {0, 1} in y: 8 of 10 agree.
    x = np.array([0.0, 1.0, 3.0, 7.0, 15.0])
    y = np.array([0.0, 1.0, 3.0, 7.0, -4.5])
    assert synchronization_likelihood(x, y, dim=1, delay=1, neighbors=2) == 0.8


@pytest.mark.parametrize("theiler", [0, 1, 7])
@pytest.mark.parametrize(("dim", "delay"), [(1, 1), (3, 2), (10, 4)])
def test_equals_plain_loops(rng, dim, delay, theiler):
    parameters = {"dim": dim, "delay": delay, "neighbors": 6, "theiler": theiler}
    x, y = colored_noise(rng, (2, 90), 1.5)
    expected = reference_likelihood(x, y, **parameters)
    assert synchronization_likelihood(x, y, **parameters) == expected
    neighbors = unpacked_neighbors(recurrences(x, **parameters))
    assert neighbors == reference_neighbors(x, **parameters)


def test_neighbors_equal_those_of_a_k_d_tree(rng):
    x = colored_noise(rng, (250,), 1)
    states = delay_vectors(x, 10, 5)
    _, nearest = cKDTree(states).query(states, k=11)  # the first is the state itself
    expected = [set(row[1:].tolist()) for row in nearest]
    assert unpacked_neighbors(recurrences(x, **EEG)) == expected


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=36, max_size=36),
    theiler=st.integers(0, 3),
)
def test_ties_are_all_neighbors(values, theiler):
    x, y = np.array(values).reshape(2, 18)
    parameters = {"dim": 2, "delay": 3, "neighbors": 4, "theiler": theiler}
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    expected = reference_likelihood(x, y, **parameters)
    assert synchronization_likelihood(x, y, **parameters) == expected


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gain=st.floats(0.1, 10) | st.floats(-10, -0.1),
    offset=st.floats(-100, 100),
)
def test_ignores_gain_sign_and_offset(seed, gain, offset):
    x = np.random.default_rng(seed).standard_normal(80)
    y = gain * x + offset
    assert synchronization_likelihood(x, y, dim=3, delay=2, neighbors=5) == 1


def test_a_nonlinear_map_is_not_ignored(rng):
    x = rng.standard_normal(250)
    assert 0.3 < synchronization_likelihood(x, x**3, **EEG) < 0.95


@pytest.mark.parametrize("unit", [1e-25, 1e-14, 1e15])
def test_units_do_not_matter(rng, unit):
    x = rng.standard_normal((5, 120)).astype(np.float32)
    y = np.float32(unit) * x
    likelihood = synchronization_likelihood(x, y, dim=4, delay=2, neighbors=5)
    np.testing.assert_allclose(likelihood, 1, atol=2e-3)  # x was rounded once more


def test_is_symmetric(rng):
    x, y = rng.standard_normal((2, 4, 250))
    forth = synchronization_likelihood(x, y, **EEG)
    np.testing.assert_array_equal(forth, synchronization_likelihood(y, x, **EEG))


@pytest.mark.parametrize("theiler", [0, 5])
def test_theiler_window_excludes_its_boundary(rng, theiler):
    ramp = np.cumsum(rng.uniform(1, 2, 40))  # the nearest states are the next in time
    neighbors = unpacked_neighbors(
        recurrences(ramp, dim=1, delay=1, neighbors=2, theiler=theiler)
    )
    apart = [abs(i - j) for i, near in enumerate(neighbors) for j in near]
    assert min(apart) == theiler + 1


def test_distance_is_euclidean():
    # From the first state, (0, 0), the second is (3, 0) and the third (2.5, 2.5):
    # nearest by Euclid is the second, by the maximum norm the third.
    x = np.array([0.0, 3.0, 2.5, 90.0, 0.0, 0.0, 2.5, 90.0])
    neighbors = unpacked_neighbors(recurrences(x, dim=2, delay=4, neighbors=1))
    assert neighbors[0] == {1}


def test_an_offset_does_not_cancel_in_float32(rng):
    x = (colored_noise(rng, (2, 250), 1) + 1e4).astype(np.float32)
    packed = recurrences(x, **EEG)
    for signal, bits in zip(x, packed, strict=True):
        assert unpacked_neighbors(bits) == reference_neighbors(signal, **EEG)


def nominal_chance(n_times, dim, delay, neighbors, theiler=0):
    """Mean over times of neighbors / candidates: the likelihood of white noise."""
    times = range(n_times - (dim - 1) * delay)
    candidates = [sum(abs(i - j) > theiler for j in times) for i in times]
    return np.mean([neighbors / number for number in candidates])


@pytest.mark.parametrize(
    ("n_times", "delay", "theiler"), [(250, 5, 0), (250, 5, 45), (200, 4, 36)]
)
def test_independent_white_noise_is_at_nominal_chance(rng, n_times, delay, theiler):
    parameters = {"dim": 10, "delay": delay, "neighbors": 10, "theiler": theiler}
    x, y = rng.standard_normal((2, 200, n_times), dtype=np.float32)
    likelihood = synchronization_likelihood(x, y, **parameters)
    error = likelihood.std() / np.sqrt(len(likelihood))
    chance = nominal_chance(n_times, **parameters)
    assert abs(likelihood.mean() - chance) < 4 * error < 0.006


def coupled_henon_maps(rng, coupling, n_times):
    x, u, y, v = rng.uniform(0, 0.1, 4)
    path = np.empty((n_times + 1000, 2))
    for i in range(len(path)):
        mixed = coupling * x * y + (1 - coupling) * y * y
        x, u, y, v = 1.4 - x * x + 0.3 * u, x, 1.4 - mixed + 0.3 * v, y
        path[i] = x, y
    return path[1000:].T


def test_coupled_henon_maps_rise_from_chance_to_one():
    # near a coupling of 0.7 synchronization sets in, after long transients
    parameters = {"dim": 10, "delay": 1, "neighbors": 50}
    likelihood = {}
    for coupling in (0.0, 0.4, 0.75, 0.8):
        x, y = coupled_henon_maps(np.random.default_rng(3), coupling, 1000)
        likelihood[coupling] = synchronization_likelihood(x, y, **parameters)
    assert likelihood[0.0] == pytest.approx(50 / 990, abs=0.03)
    assert likelihood[0.0] < likelihood[0.4] < 0.9
    assert likelihood[0.75] == likelihood[0.8] == 1  # identical synchronization


@pytest.mark.parametrize("block", [1, 300, 5000, 2**22])
def test_result_does_not_depend_on_the_block_size(rng, monkeypatch, block):
    x, y = rng.standard_normal((2, 3, 5, 100), dtype=np.float32)
    parameters = {"dim": 5, "delay": 3, "neighbors": 4, "theiler": 2}
    expected = synchronization_likelihood(x, y, **parameters)
    monkeypatch.setattr(synchronization, "_BLOCK", block)
    np.testing.assert_array_equal(
        synchronization_likelihood(x, y, **parameters), expected
    )


def test_result_does_not_depend_on_the_number_of_threads(rng):
    x, y = rng.standard_normal((2, 30, 200))
    expected = synchronization_likelihood(x, y, **EEG)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = synchronization_likelihood(x, y, **EEG)
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(found, expected)


def test_arrays_tensors_and_types_agree(rng):
    x, y = rng.standard_normal((2, 2, 3, 120)).astype(np.float32)
    parameters = {"dim": 4, "delay": 2, "neighbors": 6}
    single = synchronization_likelihood(x, y, **parameters)
    double = synchronization_likelihood(x.astype(float), y.astype(float), **parameters)
    tensor = synchronization_likelihood(
        torch.from_numpy(x).requires_grad_(), torch.from_numpy(y), **parameters
    )
    assert isinstance(single, np.ndarray) and isinstance(tensor, torch.Tensor)
    assert single.shape == tuple(tensor.shape) == (2, 3)
    assert single.dtype == np.float64 and tensor.dtype == torch.float64
    np.testing.assert_array_equal(single, double)
    np.testing.assert_array_equal(single, tensor.numpy())


def test_takes_views_and_does_not_write(rng):
    x = np.asfortranarray(rng.standard_normal((4, 3, 130)))[:, ::2, 5:105]
    x.flags.writeable = False
    y = rng.standard_normal(x.shape)
    parameters = {"dim": 3, "delay": 2, "neighbors": 5}
    np.testing.assert_array_equal(
        synchronization_likelihood(x, y, **parameters),
        synchronization_likelihood(x.copy(), y, **parameters),
    )
    assert synchronization_likelihood(x[:0], y[:0], **parameters).shape == (0, 2)


def test_windows_may_share_their_distances(rng):
    x = rng.standard_normal((4, 3, 100))
    parameters = {"dim": 5, "delay": 2, "neighbors": 4}
    together = recurrences(x, **parameters, theiler=(8, 0, 3))
    assert together.shape == (3, 4, 3, 92, 12)
    for window, found in zip((8, 0, 3), together, strict=True):
        alone = recurrences(x, **parameters, theiler=window)
        np.testing.assert_array_equal(found, alone)
    one = recurrences(x, **parameters, theiler=[3])
    np.testing.assert_array_equal(one, together[2:])
    with pytest.raises(ValueError, match="theiler=44 leaves 3 candidates"):
        recurrences(x, **parameters, theiler=(0, 44))


def test_stored_recurrences_give_the_same_likelihood(rng):
    x, y = rng.standard_normal((2, 4, 3, 100))
    parameters = {"dim": 5, "delay": 2, "neighbors": 4, "theiler": 3}
    in_x, in_y = recurrences(x, **parameters), recurrences(y, **parameters)
    assert in_x.shape == (4, 3, 92, 12) and in_x.dtype == np.uint8
    np.testing.assert_array_equal(
        recurrence_agreement(in_x, in_y),
        synchronization_likelihood(x, y, **parameters),
    )


def test_matched_chance_never_meets_the_own_image(rng):
    x = recurrences(rng.standard_normal((6, 2, 150)), dim=5, delay=2, neighbors=8)
    chance = matched_chance(x, x, n_derangements=20, rng=rng)
    assert chance.shape == (6, 2)
    assert (chance < 0.2).all()  # the own image would add 1 / 20 each time it came
    np.testing.assert_allclose(chance.mean(), 8 / 141, atol=0.01)
    with pytest.raises(ValueError, match="two images or more; got 1"):
        matched_chance(x[:1], x[:1], n_derangements=1, rng=rng)


def test_matched_chance_of_two_images_is_the_other(rng):
    x, y = (
        recurrences(rng.standard_normal((2, 100)), dim=2, delay=2, neighbors=5)
        for _ in range(2)
    )
    chance = matched_chance(x, y, n_derangements=3, rng=rng)
    np.testing.assert_allclose(chance, recurrence_agreement(x, y[::-1]))


def peak_memory(n_signals):
    x = np.random.default_rng(0).standard_normal((n_signals, 100), dtype=np.float32)
    tracemalloc.start()
    synchronization_likelihood(x, x, dim=3, delay=2, neighbors=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_extra_memory_does_not_grow_with_the_number_of_signals():
    assert peak_memory(2000) < peak_memory(200) + 200_000
    assert peak_memory(200) < 30e6


def test_one_long_signal_needs_little_memory(rng):
    x = rng.standard_normal(6000).astype(np.float32)  # 144 MB of distances at once
    tracemalloc.start()
    assert synchronization_likelihood(x, x, **EEG) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def with_fault(value):
    x = np.random.default_rng(1).standard_normal((3, 4, 120))
    x[2, 1] = value
    return x


def test_a_constant_signal_is_named():
    x = with_fault(0.1)
    with pytest.raises(ValueError, match=r"y\[2, 1\] of 120 samples is constant"):
        synchronization_likelihood(with_fault(np.arange(120)), x, **EEG)
    with pytest.raises(ValueError, match=r"x\[2, 1\] of 120 samples is constant"):
        recurrences(x, **EEG)
    with pytest.raises(ValueError, match="signal x of 120 samples is constant"):
        recurrences(x[2, 1], **EEG)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_signal_with_nan_is_named(value):
    x = with_fault(np.arange(120))
    x[2, 1, 7] = value
    with pytest.raises(ValueError, match=r"x\[2, 1\] .* is not finite"):
        synchronization_likelihood(x, x, **EEG)


def test_shapes_must_agree(rng):
    x = rng.standard_normal((3, 100))
    with pytest.raises(ValueError, match=r"same shape; got \(3, 100\) and \(2, 100\)"):
        synchronization_likelihood(x, x[:2], **EEG)
    packed = recurrences(x, dim=2, delay=2, neighbors=5)
    with pytest.raises(ValueError, match="same parameters"):
        recurrence_agreement(packed, recurrences(x, dim=3, delay=2, neighbors=5))


def test_too_short_signals_name_the_numbers(rng):
    x = rng.standard_normal(55)
    assert synchronization_likelihood(x[:56], x, dim=10, delay=5, neighbors=9) == 1
    with pytest.raises(ValueError, match="55 samples are too few: .* leave 10 states"):
        synchronization_likelihood(x, x, **EEG)
    with pytest.raises(ValueError, match="theiler=3 leaves 3 candidates"):
        synchronization_likelihood(x, x, **EEG, theiler=3)


@pytest.mark.parametrize("name", ["dim", "delay", "neighbors"])
def test_parameters_must_be_positive(name):
    with pytest.raises(ValueError, match="must be 1 or more"):
        recurrences(np.arange(250.0), **{**EEG, name: 0})
    with pytest.raises(ValueError, match="theiler 0 or more"):
        recurrences(np.arange(250.0), **EEG, theiler=-1)
