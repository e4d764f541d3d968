"""Multivariate noise normalization (Guggenmos et al., 2018).

The noise covariance of a session is the mean, over conditions, of shrunk covariances;
its inverse square root makes the noise of all channels uncorrelated, of unit variance.
"""

import numpy as np
from sklearn.covariance import ledoit_wolf

from paperlib.validation import check_option

_BLOCK = 256  # conditions held as an intermediate array at once


def shrunk_covariance(observations: np.ndarray) -> np.ndarray:
    """Estimate a covariance (C C) by Ledoit-Wolf shrinkage of standardized data (n C).

    The divisor is n; channels that do not vary get covariance 0.
    """
    deviation = observations.std(axis=0)
    standardized = observations - observations.mean(axis=0)
    standardized /= np.where(deviation > 0, deviation, 1)
    shrunk, _ = ledoit_wolf(standardized)
    return shrunk * np.outer(deviation, deviation)


def noise_covariance(epochs: np.ndarray, mode: str) -> np.ndarray:
    """Average the covariance of the noise (C C) over the conditions of one session.

    Parameters
    ----------
    epochs : ndarray of shape (n_conditions, n_repetitions, n_channels, n_times)
    mode : {'epochs', 'time'}
        ``'epochs'``: over the time points of each trial, averaged over trials (Song et
        al., 2024). ``'time'``: over the repetitions (at least 2) at each time point,
        averaged over time points (Gifford et al., 2022).
    """
    check_option("mvnn", mode, ("epochs", "time"))
    n_conditions, n_repetitions, _, n_times = epochs.shape
    if mode == "time" and n_repetitions == 1:
        raise ValueError(
            "mvnn 'time' needs at least 2 repetitions of a condition in a session; "
            "got 1. Use mvnn 'epochs'."
        )
    total = 0.0
    if mode == "time" and n_repetitions == 2:  # shrinkage is 0: in closed form
        for start in range(0, n_conditions, _BLOCK):
            pairs = np.moveaxis(epochs[start : start + _BLOCK], 2, 0)  # C N 2 T
            differences = (pairs[:, :, 0] - pairs[:, :, 1]).reshape(len(pairs), -1)
            total = total + differences @ differences.T
        return total / (4 * n_conditions * n_times)
    samples = np.einsum("nrct->nrtc" if mode == "epochs" else "nrct->ntrc", epochs)
    for condition in samples:
        for sample in condition:
            total = total + shrunk_covariance(sample)
    return total / (n_conditions * samples.shape[1])


def whitening_matrix(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric W such that W covariance W is the identity matrix."""
    variances, axes = np.linalg.eigh(covariance)
    floor = variances[-1] * len(variances) * np.finfo(variances.dtype).eps
    if n_null := int(np.count_nonzero(variances <= floor)):
        raise ValueError(
            f"the noise covariance of {len(variances)} channels is singular: {n_null} "
            f"directions have no variance. Look for channels that are flat or copies "
            f"of others, and leave them out."
        )
    return (axes / np.sqrt(variances)) @ axes.T


def whiten(epochs: np.ndarray, matrix: np.ndarray) -> None:
    """Multiply all time points of epochs (N R C T) by a whitening matrix, in place."""
    for trials in epochs:
        trials[:] = matrix @ trials  # R C T
