"""Synchronization likelihood: whether two signals revisit states at the same times.

1. Embed: the state of a signal x at time i is
   X_i = (x[i], x[i + delay], ..., x[i + (dim - 1) * delay]).
2. Measure the distances |X_i - X_j| of all states.
3. Exclude times j within the Theiler window of i, |i - j| <= theiler.
4. The recurrences of i are its nearest neighbors among the rest.
5. The likelihood is the overlap: the fraction of the recurrences of x that are
   recurrences of y as well (Stam and van Dijk, Physica D 163:236, 2002; appendix F of
   the paper), with a fixed number of neighbors in place of a fixed radius.

It ignores amplitude, offset and polarity and does not search for a time shift. With
``theiler=0`` it rewards smooth signals: compare it with the likelihood of signals of
other images and of a control prediction, and only under equal parameters.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_SIGNALS_AT_ONCE = 32  # of one call of compiled code: little memory, few calls
_UNROLLED = 5  # values of a state in one turn of a loop; states are padded with zeros


@dataclass(frozen=True)
class DelayEmbedding:
    """Parameters of the synchronization likelihood.

    States tied at the k-th distance all count as neighbors, so that the result never
    depends on an order.
    """

    dim: int  # embedding dimension, m in the literature
    delay: int  # embedding delay in samples, tau
    neighbors: int  # nearest neighbors of each state, k

    def __post_init__(self):
        if min(self.dim, self.delay, self.neighbors) < 1:
            raise ValueError(f"dim, delay and neighbors must be 1 or more; got {self}.")

    @classmethod
    def at(
        cls, sfreq: float, *, dim: int, delay: float, neighbors: int
    ) -> "DelayEmbedding":
        """Convert a delay in seconds, a whole number of samples at ``sfreq`` Hz."""
        samples = delay * sfreq
        if samples < 0.5 or abs(samples - round(samples)) > 1e-6:
            raise ValueError(
                "evaluation.delay must be a whole number of samples; "
                f"{delay} s are {samples:g} at {sfreq:g} Hz."
            )
        return cls(dim, round(samples), neighbors)

    @property
    def span(self) -> int:
        """Samples from the first to the last value of a state, (m - 1) tau."""
        return (self.dim - 1) * self.delay


def synchronization_likelihood(
    x: np.ndarray, y: np.ndarray, embedding: DelayEmbedding, *, theiler: int = 0
) -> np.ndarray:
    """Return the synchronization likelihood of each signal in x with its twin in y.

    Parameters
    ----------
    x, y : ndarray of shape (..., n_times)
        Signals in any unit. Anything below float32 is computed in float32.
    theiler
        Times no further than this from i, in samples, are no neighbors of i. The state
        itself never is.

    Returns
    -------
    ndarray of shape (...)
        Values in 0...1; 1 for x = a y + b with any a != 0.

    Raises
    ------
    ValueError
        If the shapes differ, the signals are too short for the parameters, or one of
        them is constant or holds NaN or infinity.
    """
    if np.shape(x) != np.shape(y):
        raise ValueError(
            f"x and y must have the same shape; got {np.shape(x)} and {np.shape(y)}."
        )
    in_x, in_y = (recurrences(s, embedding, theilers=[theiler])[0] for s in (x, y))
    return recurrence_agreement(in_x, in_y)


def recurrences(
    x: np.ndarray, embedding: DelayEmbedding, *, theilers: Sequence[int] = (0,)
) -> np.ndarray:
    """Return which times are recurrences of which, one bit a pair of times.

    Kept and compared by `recurrence_agreement`, they are computed once for several
    comparisons of a signal. Errors as in `synchronization_likelihood`.

    Parameters
    ----------
    x : ndarray of shape (..., n_times)
    theilers
        Theiler windows in samples, ascending; they share the distances.

    Returns
    -------
    ndarray of shape (n_windows, ..., n_points, n_bytes), uint8
        With n_points = n_times - span: row i holds the recurrences of time i as packed
        by `numpy.packbits`, padded to whole words of 8 bytes.
    """
    x = np.asarray(x)
    x = x.astype(np.result_type(x.dtype, np.float32), copy=False)
    n_points = x.shape[-1] - embedding.span
    candidates = n_points - 2 * max(theilers) - 1
    if candidates < embedding.neighbors:
        raise ValueError(
            f"{x.shape[-1]} samples are too few: {embedding} leaves "
            f"{max(n_points, 0)} states, theiler={max(theilers)} leaves "
            f"{max(candidates, 0)} candidates to some of them; expected "
            f"{embedding.neighbors} or more. Use longer signals or smaller values."
        )
    if min(theilers) < 0 or sorted(theilers) != list(theilers):
        raise ValueError(
            f"Theiler windows must be 0 or more and ascend; got {list(theilers)}."
        )
    _check_signals(x)
    signals = x.reshape(-1, x.shape[-1])
    windows = np.array(theilers, np.int64)
    n_bytes = 8 * -(-n_points // 64)  # whole words, which are counted faster
    packed = np.empty((len(windows), len(signals), n_points, n_bytes), np.uint8)
    dim = _UNROLLED * -(-embedding.dim // _UNROLLED)
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())
    at_once = min(_SIGNALS_AT_ONCE, -(-len(signals) // threads) or 1)

    def fill(start: int) -> None:
        part = signals[start : start + at_once]
        exponents = np.frexp(np.ptp(part, axis=-1, keepdims=True))[1]
        part = np.ldexp(part, -exponents)  # near 1 by a power of two: exact
        # Further values are zero and add nothing; further states are at infinity.
        states = np.zeros((len(part), dim, 8 * n_bytes), x.dtype)
        states[..., n_points:] = np.inf
        lagged = sliding_window_view(part, n_points, axis=-1)[:, :: embedding.delay]
        states[:, : embedding.dim, :n_points] = lagged
        distances = np.empty(8 * n_bytes, x.dtype)
        # As integers, the bits of floats >= 0 have the same order, and can be halved.
        order = distances.view(f"i{x.itemsize}")
        bits = packed[:, start : start + len(part)]
        _pack_nearest(states, embedding.neighbors, windows, distances, order, bits)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, len(signals), at_once)))
    return packed.reshape(len(windows), *x.shape[:-1], *packed.shape[2:])


def recurrence_agreement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the synchronization likelihood from the `recurrences` of both signals.

    Twice the common recurrences over the sum of both numbers: the mean over i of
    |N_x(i) & N_y(i)| / k, where no distances are tied.
    """
    common, in_x, in_y = (
        np.bitwise_count(bits.view(np.uint64)).sum(axis=(-2, -1), dtype=np.int64)
        for bits in (x & y, x, y)
    )
    return 2 * common / (in_x + in_y)


@numba.njit
def _radius(order, infinity, neighbors, guess):
    """Return a radius that holds the nearest neighbors and all tied with the last.

    It is an integer, as ``order`` is. Counting vectorizes, sorting does not. Steps from
    the guess, the last row's radius, double until they have passed the k-th distance;
    then the interval is halved.
    """
    low, high = -1, np.int64(infinity)  # too few are <= low, enough are <= high
    step = high >> 11  # any value is right
    while high - low > 1:
        bound, count = order.dtype.type(guess), 0
        for j in range(len(order)):
            count += order[j] <= bound
        if count == neighbors:
            return guess
        low, high = (guess, high) if count < neighbors else (low, guess)
        step = min(2 * step, (high - low) // 2)
        guess = low + step if count < neighbors else high - step
    return high


# Float32 and float64, compiled when this is imported or read from __pycache__.
_TYPES = "(f{0}[:,:,::1], i8, i8[::1], f{0}[::1], i{0}[::1], u1[:,:,:,:])"


@numba.njit([_TYPES.format(4), _TYPES.format(8)], nogil=True, cache=True)
def _pack_nearest(states, neighbors, windows, distances, order, packed):
    """Fill ``packed`` (windows, signals, points, bytes), row by row of the distances.

    ``distances`` and ``order`` are one memory. Sums of squared differences: an
    expansion into norms and products would cancel where a signal has an offset.
    """
    radii = np.zeros(len(windows), np.int64)
    for s in range(len(states)):
        for i in range(packed.shape[2]):
            distances[:] = 0
            for first in range(0, states.shape[1], _UNROLLED):
                for j in range(len(distances)):
                    total = distances[j]
                    for row in range(first, first + _UNROLLED):
                        k = np.uint64(row)  # an index that cannot be negative is faster
                        difference = states[s, k, i] - states[s, k, j]
                        total += difference * difference
                    distances[j] = total
            for w in range(len(windows)):
                distances[max(0, i - windows[w]) : i + windows[w] + 1] = np.inf
                radii[w] = _radius(order, order[i], neighbors, radii[w])
                radius = order.dtype.type(radii[w])
                for byte in range(packed.shape[3]):
                    bits = 0
                    for bit in range(8):
                        bits = 2 * bits + (order[8 * byte + bit] <= radius)
                    packed[w, s, i, byte] = bits


def _check_signals(x: np.ndarray) -> None:
    """Raise ValueError for the first signal that is constant or not finite."""
    finite = np.isfinite(x).all(axis=-1)
    bad = ~finite | (x.max(axis=-1) == x.min(axis=-1))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        fault = "constant" if finite[first] else "not finite (NaN or infinity)"
        raise ValueError(
            f"The signal at {list(first)} is {fault}: its synchronization likelihood "
            "is undefined. Leave it out and count it."
        )
