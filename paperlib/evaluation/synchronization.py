"""Synchronization likelihood: whether two signals revisit states at the same times.

The state of a signal x at time i is its delay vector (x[i], x[i + delay], ...,
x[i + (dim - 1) * delay]). A time j is a recurrence of i when its state is among the
nearest neighbors of the state at i. The synchronization likelihood is the share of
the recurrences of one signal that are recurrences of the other (Stam and van Dijk,
Physica D 163:236, 2002; appendix F of the paper), here with a fixed number of
neighbors in place of a fixed radius.

It ignores amplitude, offset and polarity, it does not search for a time shift, and
with ``theiler=0`` it rewards smooth signals: compare it with `matched_chance` and a
control prediction, and only under equal parameters.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from paperlib.evaluation.statistics import derangement
from paperlib.validation import check_shape

Signals = TypeVar("Signals", np.ndarray, torch.Tensor)

_BLOCK = 2**18  # numbers in one array of distances: stays in the processor's cache
_BATCH = 256  # blocks that wait for a thread at a time


def synchronization_likelihood(
    x: Signals,
    y: Signals,
    *,
    dim: int,
    delay: int,
    neighbors: int,
    theiler: int = 0,
) -> Signals:
    """Return the synchronization likelihood of each signal in x with its twin in y.

    Parameters
    ----------
    x, y : ndarray or Tensor of shape (..., n_times)
        Signals in any unit. Anything below float32 is computed in float32.
    dim : int
        Embedding dimension, m in the literature.
    delay : int
        Embedding delay in samples, tau.
    neighbors : int
        Nearest neighbors of each state, k. Neighbors tied at the k-th distance are
        all kept, so that the result never depends on an order.
    theiler : int
        Times no further than this from i, in samples, are no neighbors of i. The
        state itself never is.

    Returns
    -------
    ndarray or Tensor of shape (...)
        Values in 0...1 in float64; 1 for x = a y + b with any a != 0. A tensor, on
        the device of x, if x is one; the computation is on the CPU.

    Raises
    ------
    ValueError
        If the shapes differ, the signals are too short for the parameters, or one of
        them is constant or holds NaN or infinity.

    Notes
    -----
    Distances are sums of squared differences (no expansion into norms and products,
    which cancels when there is an offset). Extra memory is a few MB per thread,
    whatever the number of signals; threads are as many as torch uses.

    To score several predictions against the same recordings, keep `recurrences` of
    the recordings and compare them by `recurrence_agreement`.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((2, 63, 250))
    >>> y = -3 * x + 5
    >>> synchronization_likelihood(x, y, dim=10, delay=5, neighbors=10).shape
    (2, 63)
    """
    first, second = _as_array("x", x), _as_array("y", y)
    if first.shape != second.shape:
        raise ValueError(
            f"x and y must have the same shape; got {first.shape[1:]} and "
            f"{second.shape[1:]}."
        )
    embedding = _Embedding(first.shape[-1], dim, delay, neighbors, [theiler])
    _check_signals("x", first)
    _check_signals("y", second)
    likelihood = np.empty(first.shape[:-1])

    def fill(block: tuple[np.ndarray, ...]) -> None:
        found = (
            embedding.recurrences(signals[block])[0] for signals in (first, second)
        )
        likelihood[block] = _agreement(*found)

    _in_threads(fill, _blocks(likelihood.shape, embedding.signals_at_once))
    if isinstance(x, torch.Tensor):
        return torch.as_tensor(likelihood[0], device=x.device)
    return likelihood[0]


def recurrences(
    x: np.ndarray | torch.Tensor,
    *,
    dim: int,
    delay: int,
    neighbors: int,
    theiler: int | Sequence[int] = 0,
) -> np.ndarray:
    """Return which times are recurrences of which, one bit a pair of times.

    Parameters
    ----------
    x, dim, delay, neighbors, theiler
        As in `synchronization_likelihood`. Several values of ``theiler`` share their
        distances, and two take a fifth less time than one after the other.

    Returns
    -------
    ndarray of shape (..., n_points, n_bytes), uint8
        With n_points = n_times - (dim - 1) * delay and n_bytes = ceil(n_points / 8):
        row i holds the recurrences of time i, as packed by `numpy.packbits`. These
        are 5.3 kB for 250 samples at dim 10 and delay 5. One more axis is in
        front where ``theiler`` is a sequence.

    Raises
    ------
    ValueError
        As in `synchronization_likelihood`.
    """
    signals = _as_array("x", x)
    windows = np.atleast_1d(theiler).tolist()
    embedding = _Embedding(signals.shape[-1], dim, delay, neighbors, windows)
    _check_signals("x", signals)
    shape = (embedding.n_points, embedding.n_bytes)
    packed = np.empty((len(windows), *signals.shape[:-1], *shape), np.uint8)

    def fill(block: tuple[np.ndarray, ...]) -> None:
        packed[:, *block] = embedding.recurrences(signals[block])

    _in_threads(fill, _blocks(signals.shape[:-1], embedding.signals_at_once))
    return packed[:, 0] if np.ndim(theiler) else packed[0, 0]


def recurrence_agreement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the synchronization likelihood of signals from their recurrences.

    Parameters
    ----------
    x, y : ndarray of shape (..., n_points, n_bytes), uint8
        From `recurrences`, with the same parameters.

    Returns
    -------
    ndarray of shape (...)
        Twice the common recurrences over the sum of both numbers: the share of common
        neighbors, mean over i of |N_x(i) & N_y(i)| / k, where no distances are tied.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(
            f"The recurrences must have the same shape; got {x.shape} and {y.shape}. "
            "Compute both with the same parameters."
        )
    first, second = x[None], y[None]
    agreement = np.empty(first.shape[:-2])
    size = max(1, _BLOCK // math.prod(x.shape[-2:]))
    for block in _blocks(agreement.shape, size):
        agreement[block] = _agreement(first[block], second[block])
    return agreement[0]


def matched_chance(
    recorded: np.ndarray,
    generated: np.ndarray,
    *,
    n_derangements: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the likelihood with signals of other images: chance on real spectra.

    Each recorded image meets the generated signals of another image, drawn anew for
    each derangement, channel by channel.

    Parameters
    ----------
    recorded, generated : ndarray of shape (n_images, ..., n_points, n_bytes), uint8
        From `recurrences`, with the same parameters.
    n_derangements : int
        How often the images are reassigned.
    rng : numpy.random.Generator
        Draws the derangements.

    Returns
    -------
    ndarray of shape (n_images, ...)
        Means over the derangements.

    Raises
    ------
    ValueError
        If there are fewer than two images or the shapes differ.
    """
    check_shape("generated", generated, recorded.shape)
    total = np.zeros(recorded.shape[:-2])
    for _ in range(n_derangements):
        for image, other in enumerate(derangement(len(recorded), rng)):
            total[image] += recurrence_agreement(recorded[image], generated[other])
    return total / n_derangements


class _Embedding:
    """Delay embedding of signals of one length, and the recurrences in it."""

    def __init__(
        self, n_times: int, dim: int, delay: int, neighbors: int, windows: list[int]
    ):
        if min(dim, delay, neighbors) < 1 or min(windows) < 0:
            raise ValueError(
                "dim, delay and neighbors must be 1 or more and theiler 0 or more; "
                f"got {dim}, {delay}, {neighbors} and {min(windows)}."
            )
        self.n_points = n_times - (dim - 1) * delay
        theiler = max(windows)
        candidates = self.n_points - 2 * theiler - 1
        if candidates < neighbors:
            raise ValueError(
                f"{n_times} samples are too few: dim={dim} and delay={delay} leave "
                f"{max(self.n_points, 0)} states, theiler={theiler} leaves "
                f"{max(candidates, 0)} candidates to some of them; expected "
                f"neighbors={neighbors} or more. Use longer signals or smaller values."
            )
        self.n_bytes = -(-self.n_points // 8)
        self.lags = range(0, dim * delay, delay)
        self.neighbors = neighbors
        self.exclusions = [_exclusion(self.n_points, window) for window in windows]
        self.signals_at_once = max(1, _BLOCK // n_times**2)
        self.times_at_once = max(1, _BLOCK // n_times)

    def recurrences(self, signals: np.ndarray) -> np.ndarray:
        """Return packed recurrences: windows, n_signals, n_points, n_bytes."""
        signals = _scaled(signals)
        shape = (len(self.exclusions), len(signals), self.n_points, self.n_bytes)
        packed = np.empty(shape, np.uint8)
        for start in range(0, self.n_points, self.times_at_once):
            times = slice(start, min(start + self.times_at_once, self.n_points))
            distances = self._squared_distances(signals, times)
            for found, exclusion in zip(packed, self.exclusions, strict=True):
                found[:, times] = self._nearest(distances + exclusion[times])
        return packed

    def _nearest(self, distances: np.ndarray) -> np.ndarray:
        """Return packed bits that tell the nearest states along the last axis."""
        last = self.neighbors - 1
        radius = np.partition(distances, last, axis=-1)[..., last, None]
        return np.packbits(distances <= radius, axis=-1)

    def _squared_distances(self, signals: np.ndarray, times: slice) -> np.ndarray:
        """Return squared distances of the states at some times to all."""
        n_rows = times.stop - times.start
        rows = signals[:, times.start : times.stop + self.lags[-1]]
        squares = rows[:, :, None] - signals[:, None, :]  # signals, rows, n_times
        squares *= squares
        distances = squares[:, :n_rows, : self.n_points].copy()
        for lag in self.lags[1:]:
            distances += squares[:, lag : lag + n_rows, lag : lag + self.n_points]
        return distances  # signals, n_rows, n_points


def _exclusion(n_points: int, window: int) -> np.ndarray:
    """Return inf where two times are within the window, else 0: n_points, n_points."""
    apart = np.abs(np.arange(1 - n_points, n_points))
    exclusion = np.where(apart <= window, np.float32(np.inf), np.float32(0))
    # row i, column j depends on |i - j| only: a view on the 2 n_points - 1 values
    return sliding_window_view(exclusion, n_points)[::-1]


def _agreement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return 2 |x & y| / (|x| + |y|), counting the bits of the last two axes."""
    common, in_x, in_y = (
        np.bitwise_count(bits).sum(axis=(-2, -1), dtype=np.int64)
        for bits in (x & y, x, y)
    )
    return 2 * common / (in_x + in_y)


def _scaled(signals: np.ndarray) -> np.ndarray:
    """Return signals in units near their range; powers of two, so nothing rounds."""
    signals = signals.astype(np.result_type(signals.dtype, np.float32), copy=False)
    _, exponent = np.frexp(np.ptp(signals, axis=-1, keepdims=True))
    return np.ldexp(signals, -exponent)


def _as_array(name: str, signals: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return an array view with one more axis in front, so that blocks have one."""
    if isinstance(signals, torch.Tensor):
        signals = signals.detach().cpu().numpy()
    if signals.ndim == 0:
        raise ValueError(f"{name} must have shape (..., n_times); got a scalar.")
    return signals[None]


def _check_signals(name: str, signals: np.ndarray) -> None:
    """Raise ValueError for the first signal that is constant or not finite."""
    size = max(1, _BLOCK // signals.shape[-1])
    for block in _blocks(signals.shape[:-1], size):
        values = signals[block]
        finite = np.isfinite(values).all(axis=-1)
        bad = ~finite | (values.max(axis=-1) == values.min(axis=-1))
        if bad.any():
            worst = bad.argmax()
            place = [int(axis[worst]) for axis in block[1:]]
            fault = "constant" if finite[worst] else "not finite (NaN or infinity)"
            raise ValueError(
                f"The signal {name}{place or ''} of {signals.shape[-1]} samples is "
                f"{fault}: its synchronization likelihood is undefined. Leave it out "
                "and count it."
            )


def _blocks(shape: tuple[int, ...], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the indices of an array of this shape, ``size`` entries at a time."""
    n_entries = math.prod(shape)
    for start in range(0, n_entries, size):
        entries = np.arange(start, min(start + size, n_entries))
        yield np.unravel_index(entries, shape)


def _in_threads(
    work: Callable[[tuple[np.ndarray, ...]], None],
    blocks: Iterable[tuple[np.ndarray, ...]],
) -> None:
    """Call ``work`` on each block, in as many threads as torch uses."""
    waiting = iter(blocks)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        while batch := list(islice(waiting, _BATCH)):
            list(pool.map(work, batch))
