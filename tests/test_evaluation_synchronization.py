import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from paperlib.evaluation.synchronization import (
    DelayEmbedding,
    recurrences,
    synchronization_likelihood,
)

EEG = DelayEmbedding(dim=10, delay=5, neighbors=10)


def likelihood(x, y, *, theiler=0, **embedding):
    return synchronization_likelihood(
        x, y, DelayEmbedding(**embedding), theiler=theiler
    )


def packed_recurrences(x, *, theiler=0, **embedding):
    return recurrences(x, DelayEmbedding(**embedding), theilers=[theiler])[0]


def reference_states(x, dim, delay):
    n_points = len(x) - (dim - 1) * delay
    return np.array([x[i : i + dim * delay : delay] for i in range(n_points)], float)


def reference_neighbors(x, dim, delay, neighbors, theiler=0):
    """Plain loops: the set of neighbors of each time, ties at the k-th included."""
    states = reference_states(x, dim, delay)
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
    neighbors = (reference_neighbors(signal, **parameters) for signal in (x, y))
    pairs = list(zip(*neighbors, strict=True))
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
    assert likelihood(x, y, dim=1, delay=1, neighbors=2) == 0.8


@pytest.mark.parametrize("theiler", [0, 1, 7])
@pytest.mark.parametrize(("dim", "delay"), [(1, 1), (3, 2), (7, 4), (10, 4)])
def test_equals_plain_loops(rng, dim, delay, theiler):
    parameters = {"dim": dim, "delay": delay, "neighbors": 6, "theiler": theiler}
    x, y = colored_noise(rng, (2, 90), 1.5)
    expected = reference_likelihood(x, y, **parameters)
    assert likelihood(x, y, **parameters) == expected
    neighbors = unpacked_neighbors(packed_recurrences(x, **parameters))
    assert neighbors == reference_neighbors(x, **parameters)


def test_neighbors_equal_those_of_a_k_d_tree(rng):
    x = colored_noise(rng, (250,), 1)
    states = reference_states(x, 10, 5)
    _, nearest = cKDTree(states).query(states, k=11)  # the first is the state itself
    expected = [set(row[1:].tolist()) for row in nearest]
    assert unpacked_neighbors(recurrences(x, EEG)[0]) == expected


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-3, 3), min_size=36, max_size=36),
    theiler=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_ties_are_all_neighbors(values, theiler, dtype):
    x, y = np.array(values, dtype).reshape(2, 18)
    parameters = {"dim": 2, "delay": 3, "neighbors": 4, "theiler": theiler}
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    expected = reference_likelihood(x, y, **parameters)
    assert likelihood(x, y, **parameters) == expected


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gain=st.floats(0.1, 10) | st.floats(-10, -0.1),
    offset=st.floats(-100, 100),
)
def test_ignores_gain_sign_and_offset(seed, gain, offset):
    x = np.random.default_rng(seed).standard_normal(80)
    y = gain * x + offset
    assert likelihood(x, y, dim=3, delay=2, neighbors=5) == 1


def test_a_nonlinear_map_is_not_ignored(rng):
    x = rng.standard_normal(250)
    assert 0.3 < synchronization_likelihood(x, x**3, EEG) < 0.95


@pytest.mark.parametrize("unit", [1e-25, 1e-14, 1e15])
def test_units_do_not_matter(rng, unit):
    x = rng.standard_normal((5, 120)).astype(np.float32)
    y = np.float32(unit) * x
    found = likelihood(x, y, dim=4, delay=2, neighbors=5)
    np.testing.assert_allclose(found, 1, atol=2e-3)  # x was rounded once more


def test_is_symmetric(rng):
    x, y = rng.standard_normal((2, 4, 250))
    forth = synchronization_likelihood(x, y, EEG)
    np.testing.assert_array_equal(forth, synchronization_likelihood(y, x, EEG))


@pytest.mark.parametrize("theiler", [0, 5])
def test_theiler_window_excludes_its_boundary(rng, theiler):
    ramp = np.cumsum(rng.uniform(1, 2, 40))  # the nearest states are the next in time
    neighbors = unpacked_neighbors(
        packed_recurrences(ramp, dim=1, delay=1, neighbors=2, theiler=theiler)
    )
    apart = [abs(i - j) for i, near in enumerate(neighbors) for j in near]
    assert min(apart) == theiler + 1


def test_distance_is_euclidean():
    # From the first state, (0, 0), the second is (3, 0) and the third (2.5, 2.5):
    # nearest by Euclid is the second, by the maximum norm the third.
    x = np.array([0.0, 3.0, 2.5, 90.0, 0.0, 0.0, 2.5, 90.0])
    neighbors = unpacked_neighbors(packed_recurrences(x, dim=2, delay=4, neighbors=1))
    assert neighbors[0] == {1}


def test_an_offset_does_not_cancel_in_float32(rng):
    x = (colored_noise(rng, (2, 250), 1) + 1e4).astype(np.float32)
    for signal, bits in zip(x, recurrences(x, EEG)[0], strict=True):
        assert unpacked_neighbors(bits) == reference_neighbors(signal, **vars(EEG))


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
    found = likelihood(x, y, **parameters)
    error = found.std() / np.sqrt(len(found))
    chance = nominal_chance(n_times, **parameters)
    assert abs(found.mean() - chance) < 4 * error < 0.006


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
    found = {}
    for coupling in (0.0, 0.4, 0.75, 0.8):
        x, y = coupled_henon_maps(np.random.default_rng(3), coupling, 1000)
        found[coupling] = likelihood(x, y, **parameters)
    assert found[0.0] == pytest.approx(50 / 990, abs=0.03)
    assert found[0.0] < found[0.4] < 0.9
    assert found[0.75] == found[0.8] == 1  # identical synchronization


def test_result_does_not_depend_on_the_number_of_threads(rng, monkeypatch):
    x, y = rng.standard_normal((2, 70, 200))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(synchronization_likelihood(x, y, EEG))
    np.testing.assert_array_equal(*found)
    each = [synchronization_likelihood(*pair, EEG) for pair in zip(x, y, strict=True)]
    np.testing.assert_array_equal(found[0], each)


def test_types_agree(rng):
    x, y = rng.standard_normal((2, 2, 3, 120)).astype(np.float32)
    single = synchronization_likelihood(x, y, EEG)
    double = synchronization_likelihood(x.astype(float), y.astype(float), EEG)
    assert single.shape == (2, 3) and single.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=0.01)  # near ties may differ
    half = synchronization_likelihood(x.astype(np.float16), y, EEG)
    np.testing.assert_allclose(half, single, atol=0.05)


def test_windows_may_share_their_distances(rng):
    x = rng.standard_normal((4, 3, 100))
    parameters = {"dim": 5, "delay": 2, "neighbors": 4}
    together = recurrences(x, DelayEmbedding(**parameters), theilers=(0, 3, 8))
    assert together.shape == (3, 4, 3, 92, 16) and together.dtype == np.uint8
    for window, found in zip((0, 3, 8), together, strict=True):
        alone = packed_recurrences(x, **parameters, theiler=window)
        np.testing.assert_array_equal(found, alone)


def peak_memory(n_signals):
    x = np.random.default_rng(0).standard_normal((n_signals, 100), dtype=np.float32)
    tracemalloc.start()
    recurrences(x, DelayEmbedding(3, 2, 5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - n_signals * 96 * 16  # without the result


def test_extra_memory_does_not_grow_with_the_number_of_signals(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert peak_memory(2000) < peak_memory(200) + 200_000
    assert peak_memory(200) < 1e6


def with_fault(value):
    x = np.random.default_rng(1).standard_normal((3, 4, 120))
    x[2, 1] = value
    return x


def test_undefined_signals_are_named():
    """Constant ones, and those with a single value that is not finite."""
    right, constant = with_fault(np.arange(120)), with_fault(0.1)
    with pytest.raises(ValueError, match=r"signal at \[2, 1\] is constant"):
        synchronization_likelihood(right, constant, EEG)
    with pytest.raises(ValueError, match=r"signal at \[\] is constant"):
        recurrences(constant[2, 1], EEG)
    for value in (np.nan, np.inf):
        right[2, 1, 7] = value
        with pytest.raises(ValueError, match=r"at \[2, 1\] is not finite"):
            synchronization_likelihood(right, right, EEG)


def test_shapes_must_agree(rng):
    x = rng.standard_normal((3, 100))
    with pytest.raises(ValueError, match=r"same shape; got \(3, 100\) and \(2, 100\)"):
        synchronization_likelihood(x, x[:2], EEG)


def test_too_short_signals_name_the_numbers(rng):
    x = rng.standard_normal(55)
    nine = DelayEmbedding(10, 5, 9)
    assert synchronization_likelihood(x, x, nine) == 1
    with pytest.raises(ValueError, match="55 samples are too few: .* leaves 10 states"):
        synchronization_likelihood(x, x, EEG)
    with pytest.raises(ValueError, match="theiler=3 leaves 3 candidates"):
        synchronization_likelihood(x, x, EEG, theiler=3)


@pytest.mark.parametrize("windows", [[-1], [8, 3]])
def test_windows_that_do_not_ascend_from_zero_are_refused(rng, windows):
    with pytest.raises(ValueError, match="must be 0 or more and ascend; got "):
        recurrences(rng.standard_normal(250), EEG, theilers=windows)


@pytest.mark.parametrize("name", ["dim", "delay", "neighbors"])
def test_parameters_must_be_positive(name):
    with pytest.raises(ValueError, match="must be 1 or more"):
        DelayEmbedding(**vars(EEG) | {name: 0})


@pytest.mark.parametrize(("sfreq", "delay"), [(250.0, 5), (200.0, 4), (100.0, 2)])
def test_the_delay_is_the_same_time_at_every_sampling_rate(sfreq, delay):
    found = DelayEmbedding.at(sfreq, dim=10, delay=0.02, neighbors=10)
    assert found == DelayEmbedding(10, delay, 10) and found.span == 9 * delay


@pytest.mark.parametrize("delay", [0.001, 0.025])
def test_the_delay_is_a_whole_number_of_samples(delay):
    with pytest.raises(ValueError, match="whole number of samples; .* at 100 Hz"):
        DelayEmbedding.at(100.0, dim=10, delay=delay, neighbors=10)
