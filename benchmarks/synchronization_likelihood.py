"""Time and memory of the synchronization likelihood at the sizes of both data sets.

Two plain implementations of the same definition run beside it, on fewer images: one
pair of signals at a time in NumPy, and 16 pairs at a time with ``torch.topk``. All
three must give the same values. Each size has a process of its own, so that its peak
memory is its own.

Run: ``python benchmarks/synchronization_likelihood.py`` (writes the .json beside it).
"""

import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import processor

from paperlib.atomic import write_text
from paperlib.evaluation.synchronization import (
    recurrence_agreement,
    recurrences,
    synchronization_likelihood,
)

SIZES = {
    "THINGS-EEG2": {"shape": (200, 63, 250), "delay": 5},
    "THINGS-MEG": {"shape": (200, 271, 200), "delay": 4},
}
DIM, NEIGHBORS = 10, 10
RUNS = 3  # the minimum counts: other programs may hold the cores in the meantime


def one_pair_at_a_time(x: np.ndarray, y: np.ndarray, delay: int) -> np.ndarray:
    scores = [
        _pair(a, b, delay)
        for a, b in zip(
            x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True
        )
    ]
    return np.reshape(scores, x.shape[:-1])


def _pair(x: np.ndarray, y: np.ndarray, delay: int) -> float:
    near_x, near_y = _nearest(x, delay), _nearest(y, delay)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(near_x, near_y, strict=True)]
    return np.mean(shared) / NEIGHBORS


def _nearest(x: np.ndarray, delay: int) -> np.ndarray:
    n_points = len(x) - (DIM - 1) * delay
    lags = np.arange(DIM) * delay
    states = x[np.arange(n_points)[:, None] + lags]
    distances = ((states[:, None] - states) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=-1)[:, :NEIGHBORS]


def torch_topk(x: np.ndarray, y: np.ndarray, delay: int) -> np.ndarray:
    chunks = zip(
        torch.from_numpy(x).flatten(end_dim=-2).split(16),
        torch.from_numpy(y).flatten(end_dim=-2).split(16),
        strict=True,
    )
    scores = [
        (_topk_mask(a, delay) & _topk_mask(b, delay)).float().mean(dim=(-2, -1))
        for a, b in chunks
    ]
    n_points = x.shape[-1] - (DIM - 1) * delay
    return torch.cat(scores).numpy().reshape(x.shape[:-1]) * n_points / NEIGHBORS


def _topk_mask(x: torch.Tensor, delay: int) -> torch.Tensor:
    n_points = x.shape[-1] - (DIM - 1) * delay
    squares = (x[:, :, None] - x[:, None, :]) ** 2
    distances = sum(
        squares[:, lag : lag + n_points, lag : lag + n_points]
        for lag in range(0, DIM * delay, delay)
    )
    distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = distances.topk(NEIGHBORS, largest=False, sorted=False).indices
    return torch.zeros_like(distances, dtype=torch.bool).scatter_(-1, nearest, True)


def measured(name: str) -> dict[str, float]:
    """Return seconds and MB for one data set; runs in its own process."""
    delay, shape = SIZES[name]["delay"], SIZES[name]["shape"]
    parameters = {"dim": DIM, "delay": delay, "neighbors": NEIGHBORS}
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    for signals in (x, y):
        np.cumsum(signals, axis=-1, out=signals)  # brown noise
    before = _peak_megabytes()
    whole, scores = _fastest(lambda: synchronization_likelihood(x, y, **parameters))
    extra = _peak_megabytes() - before

    recorded = recurrences(x, **parameters)
    reused, again = _fastest(
        lambda: recurrence_agreement(recorded, recurrences(y, **parameters))
    )
    np.testing.assert_array_equal(again, scores)

    torch.set_num_threads(1)
    topk, few = _fastest(lambda: torch_topk(x[:4], y[:4], delay))
    np.testing.assert_allclose(few, scores[:4], atol=1e-3)  # near ties may differ
    pairs, few = _fastest(lambda: one_pair_at_a_time(x[:1, :16], y[:1, :16], delay))
    np.testing.assert_allclose(few, scores[:1, :16], atol=1e-3)
    n_pairs = shape[0] * shape[1]
    return {
        "pairs": n_pairs,
        "seconds": whole.wall,
        "processor_seconds": whole.processor,
        "seconds_with_stored_recurrences": reused.wall,
        "processor_seconds_with_stored_recurrences": reused.processor,
        "peak_extra_megabytes": extra,
        "stored_recurrences_megabytes": recorded.nbytes / 1e6,
        "processor_ms_a_pair": 1e3 * whole.processor / n_pairs,
        "processor_ms_a_pair_torch_topk": 1e3 * topk.processor / (4 * shape[1]),
        "processor_ms_a_pair_numpy_pair_by_pair": 1e3 * pairs.processor / 16,
    }


class Cost(NamedTuple):
    """What one run took."""

    wall: float  # s
    processor: float  # s, all threads together


def _fastest(work: Callable[[], np.ndarray]) -> tuple[Cost, np.ndarray]:
    costs = []
    for _ in range(RUNS):
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        costs.append((time.perf_counter() - wall, time.process_time() - processor))
    return Cost(*np.min(costs, axis=0).tolist()), result


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    load, results = os.getloadavg()[0], {}
    for name in SIZES:
        with spawn.Pool(1) as pool:
            results[name] = pool.apply(measured, (name,))
    report = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "parameters": {"dim": DIM, "neighbors": NEIGHBORS, "sizes": SIZES},
        "note": f"minima of {RUNS} runs; where other programs run (see the load), "
        "compare processor seconds (all threads together), not seconds",
        "load_average_before": round(load, 2),
        "results": {
            name: {key: round(value, 3) for key, value in values.items()}
            for name, values in results.items()
        },
    }
    text = json.dumps(report, indent=2)
    print(text)
    write_text(Path(__file__).with_suffix(".json"), text + "\n")


if __name__ == "__main__":
    main()
