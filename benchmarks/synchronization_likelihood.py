"""Time of the synchronization likelihood, beside other implementations of it.

Beside paperlib's kernel, compiled by Numba, run the one it replaced (NumPy: sums over
flattened squares, integers partitioned), ``torch.topk`` on 16 signals at a time, and
plain loops over signals. All find the same recurrences. Repeats alternate, so that
other programs on the machine disturb all alike: read the ratios.

Run: ``python benchmarks/synchronization_likelihood.py`` (one core, half a minute;
writes the .json beside it).
"""

import json
import os
import platform
import resource
import time
from datetime import date
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numba
import numpy as np
import torch
from machine import processor

from paperlib.atomic import write_text
from paperlib.evaluation.synchronization import DelayEmbedding, recurrences

SIZES = {  # channels, samples, delay
    "THINGS-EEG2": (63, 250, 5),
    "THINGS-MEG": (271, 200, 4),
}
DIM, NEIGHBORS = 10, 10
IMAGES, RUNS = 2, 5


def paperlib_kernel(x: np.ndarray, delay: int) -> np.ndarray:
    return recurrences(x, DelayEmbedding(DIM, delay, NEIGHBORS))[0]


def numpy_kernel(x: np.ndarray, delay: int) -> np.ndarray:
    n_times, span = x.shape[-1], (DIM - 1) * delay
    n_points, step = n_times - span, delay * (n_times + 1)
    squares = np.empty((n_times, n_times), x.dtype)
    sums = np.empty((n_points, n_times), x.dtype)
    size = sums.size - span
    lagged = [squares.ravel()[lag * step :][:size] for lag in range(DIM)]
    order = sums[:, :n_points].view(np.int32)
    ranked = np.empty((n_points, n_points), np.int32)
    packed = np.empty((len(x), n_points, -(-n_points // 8)), np.uint8)
    for signal, bits in zip(x, packed, strict=True):
        signal = np.ldexp(signal, -np.frexp(np.ptp(signal))[1])
        np.subtract(signal[:, None], signal, out=squares)
        np.multiply(squares, squares, out=squares)
        total = sums.ravel()[:size]
        total[:] = lagged[0]
        for later in lagged[1:]:
            total += later
        np.fill_diagonal(sums[:, :n_points], np.inf)
        ranked[:] = order
        ranked.partition(NEIGHBORS - 1, axis=-1)
        near = order <= ranked[:, NEIGHBORS - 1, None]
        bits[:] = np.packbits(near, axis=-1)
    return packed


def torch_topk(x: np.ndarray, delay: int) -> np.ndarray:
    n_points = x.shape[-1] - (DIM - 1) * delay
    parts = []
    for part in torch.from_numpy(x).split(16):
        squares = (part[:, :, None] - part[:, None, :]) ** 2
        distances = sum(
            squares[:, lag : lag + n_points, lag : lag + n_points]
            for lag in range(0, DIM * delay, delay)
        )
        distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        nearest = distances.topk(NEIGHBORS, largest=False, sorted=False).indices
        near = torch.zeros_like(distances, dtype=torch.bool)
        parts.append(near.scatter_(-1, nearest, True))
    return torch.cat(parts).numpy()


def plain_loop(x: np.ndarray, delay: int) -> np.ndarray:
    n_points = x.shape[-1] - (DIM - 1) * delay
    near = np.zeros((len(x), n_points, n_points), bool)
    for signal, rows in zip(x, near, strict=True):
        states = signal[np.arange(n_points)[:, None] + np.arange(DIM) * delay]
        for i, state in enumerate(states):
            distances = ((states - state) ** 2).sum(axis=-1)
            distances[i] = np.inf
            rows[i, np.argsort(distances)[:NEIGHBORS]] = True
    return near


def unpacked(near: np.ndarray) -> np.ndarray:
    """Return booleans, of bits packed by the first two."""
    if near.dtype == np.uint8:
        near = np.unpackbits(near, axis=-1)[..., : near.shape[-2]]
    return near.astype(bool)


KERNELS = (paperlib_kernel, numpy_kernel, torch_topk, plain_loop)


def measured(n_channels: int, n_times: int, delay: int) -> dict[str, float]:
    """Return processor milliseconds a signal, and how many times paperlib's that is."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((IMAGES * n_channels, n_times), dtype=np.float32)
    np.cumsum(x, axis=-1, out=x)  # brown noise
    expected = unpacked(paperlib_kernel(x, delay))
    costs = {kernel.__name__: [] for kernel in KERNELS}
    for run in range(RUNS):
        for kernel in KERNELS:
            part = x[:16] if kernel is plain_loop else x
            began = time.process_time()
            near = kernel(part, delay)
            costs[kernel.__name__].append((time.process_time() - began) / len(part))
            if run == 0:  # near ties may differ where sums are in another order
                tolerance = 0 if kernel in KERNELS[:2] else 1e-5
                assert np.mean(unpacked(near) != expected[: len(part)]) <= tolerance
    best = {name: round(1e3 * min(seconds), 3) for name, seconds in costs.items()}
    ratios = {name: round(best[name] / best["paperlib_kernel"], 3) for name in best}
    return {"milliseconds_a_signal": best, "ratio": ratios}


def main() -> None:
    torch.set_num_threads(1)
    load, results = os.getloadavg()[0], {}
    for name, size in SIZES.items():
        results[name] = measured(*size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    report = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, one core, {platform.machine()}",
        "versions": {m.__name__: m.__version__ for m in (numba, np, torch)},
        "note": f"processor time, minima of {RUNS} alternating runs",
        "load_average_before": round(load, 2),
        "peak_megabytes": round(peak),
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    write_text(Path(__file__).with_suffix(".json"), text + "\n")


if __name__ == "__main__":
    main()
