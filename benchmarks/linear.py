"""Time and memory of the linear encoders at the size of THINGS-EEG2.

Random features and responses of 16540 images; 63 channels x 250 samples. Two
alternatives are measured as well: ridge regression by one singular value decomposition
for all blocks of responses, in single precision, instead of RidgeCV; and PLSRegression,
its first latent variable only, instead of a deflation of covariances. Every fit has a
process of its own, so that its peak is its own.

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
from threadpoolctl import threadpool_limits

from paperlib.atomic import write_text
from paperlib.config import HALF_DECADES
from paperlib.models.linear import fit_kernel_regression, fit_pls, fit_ridge

N_IMAGES, N_TARGETS = 16_540, 63 * 250
N_FEATURES, N_COMPONENTS, N_LATENT, N_COMPARED, BLOCK = 4096, 1000, 25, 1, 2000
REPORT = Path(__file__).with_suffix(".json")


def simulate(n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) with a decaying spectrum, and noisy linear responses."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((N_IMAGES, 200), dtype=np.float32)
    latent *= np.geomspace(10, 0.1, 200, dtype=np.float32)
    features = latent @ rng.standard_normal((200, n_features), dtype=np.float32)
    features += rng.standard_normal(features.shape, dtype=np.float32)
    responses = latent @ rng.standard_normal((200, N_TARGETS), dtype=np.float32)
    responses += 30 * rng.standard_normal(responses.shape, dtype=np.float32)
    return features, responses


def shared_svd(scores: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Return ridge weights (P, T) by leave-one-out errors from one decomposition."""
    basis, lengths, axes = np.linalg.svd(scores - scores.mean(0), full_matrices=False)
    gains = lengths / (lengths**2 + np.float32(HALF_DECADES)[:, None])  # A P
    remainders = 1 - 1 / len(basis) - (gains * lengths) @ basis.T**2  # A N
    weights = np.empty((scores.shape[1], responses.shape[1]), responses.dtype)
    for i in range(0, responses.shape[1], BLOCK):
        block = responses[:, i : i + BLOCK] - responses[:, i : i + BLOCK].mean(axis=0)
        projected = basis.T @ block  # P block
        errors = []
        for gain, remainder in zip(gains * lengths, remainders, strict=True):
            residuals = block - basis @ (gain[:, None] * projected)
            residuals /= remainder[:, None]
            errors.append(np.einsum("nt,nt->t", residuals, residuals))
        best = np.argmin(errors, axis=0)
        weights[:, i : i + BLOCK] = axes.T @ (gains[best].T * projected)
    return weights


def ridge() -> None:
    fit_ridge(
        *simulate(N_COMPONENTS),
        n_components=N_COMPONENTS,
        alphas=HALF_DECADES,
        block=BLOCK,
        seed=0,
    )


def ridge_shared_svd() -> None:
    shared_svd(*simulate(N_COMPONENTS))


def pls() -> None:
    fit_pls(*simulate(N_FEATURES), n_components=N_LATENT)


def pls_scikit_learn() -> None:
    PLSRegression(N_COMPARED, scale=False).fit(*simulate(N_FEATURES))


def kernel_regression() -> None:
    fit_kernel_regression(*simulate(N_FEATURES), n_components=N_COMPONENTS, seed=0)


def data_only() -> None:
    simulate(N_FEATURES)


FITS = (data_only, ridge_shared_svd, pls, ridge, pls_scikit_learn, kernel_regression)


def measure(name: str, results: dict) -> None:
    """Run one fit in this process, on one thread."""
    with threadpool_limits(1):
        began = time.process_time()
        globals()[name]()
        seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    results[name] = {"core_seconds": round(seconds, 1), "peak_gib": round(peak, 2)}


def main() -> None:
    names = sys.argv[1:] or [fit.__name__ for fit in FITS]
    report = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, 1 core, {platform.machine()}",
        "versions": {p: metadata.version(p) for p in ("numpy", "scikit-learn")},
        "sizes": {
            "images": N_IMAGES,
            "targets": N_TARGETS,
            "features": {"ridge": N_COMPONENTS, "pls and kernel": N_FEATURES},
            "components": N_COMPONENTS,
            "latent_variables": {"pls": N_LATENT, "pls_scikit_learn": N_COMPARED},
            "penalties": len(HALF_DECADES),
            "block": BLOCK,
        },
        "note": "data_only is part of all; other programs ran on the same cores",
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
