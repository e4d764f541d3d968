"""Time and memory of the linear encoders at the size of THINGS-EEG2.

Random features and responses of 16540 images. Ridge regression is measured on one block
of responses, which has the same time and memory in every block; RidgeCV stands beside a
singular value decomposition in single precision, shared by all blocks. PLSRegression,
its first latent variable only, stands beside a deflation of covariances. Every fit has
a process of its own, so that its peak is its own.

Run: ``python benchmarks/linear.py [NAME ...]`` (updates the .json beside it).
"""

import json
import multiprocessing
import platform
import resource
import sys
import time
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np
from machine import processor
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import RidgeCV
from threadpoolctl import threadpool_limits

from paperlib.atomic import write_text
from paperlib.config import HALF_DECADES
from paperlib.models.linear import fit_kernel_regression, fit_pls

N_IMAGES, N_TARGETS, BLOCK = 16_540, 63 * 250, 2000
N_FEATURES, N_COMPONENTS, N_LATENT = 4096, 1000, 25
REPORT = Path(__file__).with_suffix(".json")


def simulate(n_features: int, n_targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) with a decaying spectrum, and noisy linear responses."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N_IMAGES, 200), dtype=np.float32)
    latent *= np.geomspace(10, 0.1, 200, dtype=np.float32)
    features = latent @ rng.standard_normal((200, n_features), dtype=np.float32)
    features += rng.standard_normal(features.shape, dtype=np.float32)
    responses = latent @ rng.standard_normal((200, n_targets), dtype=np.float32)
    responses += 30 * rng.standard_normal(responses.shape, dtype=np.float32)
    return features, responses


def ridge_block(scores: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Return ridge weights (P, T) by RidgeCV, as fit_ridge does for each block."""
    return RidgeCV(HALF_DECADES, alpha_per_target=True).fit(scores, responses).coef_.T


def ridge_block_by_svd(scores: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Return ridge weights (P, T) by leave-one-out errors in single precision."""
    basis, lengths, axes = np.linalg.svd(scores - scores.mean(0), full_matrices=False)
    gains = lengths / (lengths**2 + np.float32(HALF_DECADES)[:, None])  # A P
    remainders = 1 - 1 / len(basis) - (gains * lengths) @ basis.T**2  # A N
    centered = responses - responses.mean(axis=0)
    projected = basis.T @ centered  # P T
    errors = []
    for gain, remainder in zip(gains * lengths, remainders, strict=True):
        residuals = centered - basis @ (gain[:, None] * projected)
        residuals /= remainder[:, None]
        errors.append(np.einsum("nt,nt->t", residuals, residuals))
    return axes.T @ (gains[np.argmin(errors, axis=0)].T * projected)


def pls(features: np.ndarray, responses: np.ndarray) -> None:
    fit_pls(features, responses, n_components=N_LATENT)


def pls_scikit_learn(features: np.ndarray, responses: np.ndarray) -> None:
    PLSRegression(1, scale=False).fit(features, responses)


def kernel_regression(features: np.ndarray, responses: np.ndarray) -> None:
    fit_kernel_regression(features, responses, n_components=N_COMPONENTS, seed=0)


FITS = {  # features and responses
    ridge_block: (N_COMPONENTS, BLOCK),
    ridge_block_by_svd: (N_COMPONENTS, BLOCK),
    pls: (N_FEATURES, N_TARGETS),
    pls_scikit_learn: (N_FEATURES, N_TARGETS),
    kernel_regression: (N_FEATURES, N_TARGETS),
}


def peak() -> float:
    """Return the peak memory of this process in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def measure(name: str, results: dict) -> None:
    """Run one fit in this process, on one thread."""
    fit, size = next((f, size) for f, size in FITS.items() if f.__name__ == name)
    with threadpool_limits(1):
        data = simulate(*size)
        before, began = peak(), time.process_time()
        fit(*data)
        seconds = time.process_time() - began
    results[name] = {
        "features": size[0],
        "targets": size[1],
        "core_seconds": round(seconds, 1),
        "peak_gib": peak(),
        "peak_gib_of_data": before,
    }


def main() -> None:
    names = sys.argv[1:] or [fit.__name__ for fit in FITS]
    report = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, 1 core, {platform.machine()}",
        "versions": {p: metadata.version(p) for p in ("numpy", "scikit-learn")},
        "images": N_IMAGES,
        "components": N_COMPONENTS,
        "latent_variables": {"pls": N_LATENT, "pls_scikit_learn": 1},
        "penalties": len(HALF_DECADES),
        "note": "other programs ran on the same core",
        "results": {},
    }
    if REPORT.is_file():
        report["results"] = json.loads(REPORT.read_text())["results"]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        for name in names:
            results = manager.dict()
            process = context.Process(target=measure, args=(name, results))
            process.start()
            process.join()
            report["results"][name] = results.get(name, "no result: killed")
            write_text(REPORT, json.dumps(report, indent=2) + "\n")
            print(name, report["results"][name], flush=True)


if __name__ == "__main__":
    main()
