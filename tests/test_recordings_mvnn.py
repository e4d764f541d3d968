import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.recordings.mvnn import (
    noise_covariance,
    shrunk_covariance,
    whiten,
    whitening_matrix,
)


def trials(seed, shape=(5, 3, 4, 6)):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(shape[2], shape[2]))
    return mixing @ rng.normal(size=shape)


def closed_form(observations):
    """Ledoit-Wolf on standardized data, written out."""
    n, p = observations.shape
    scale = observations.std(axis=0)
    z = (observations - observations.mean(axis=0)) / np.where(scale == 0, 1, scale)
    s = z.T @ z / n
    mu = np.trace(s) / p
    delta = ((s**2).sum() - 2 * mu * np.trace(s) + p * mu**2) / p
    beta = ((z**2).sum(axis=1) ** 2).sum() / n - (s**2).sum()
    beta = min(beta / (n * p), delta)
    share = beta / delta if beta > 0 else 0.0
    return np.outer(scale, scale) * ((1 - share) * s + share * mu * np.eye(p))


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(2, 8))
def test_shrunk_covariance_equals_the_closed_form(seed, n, p):
    observations = np.random.default_rng(seed).normal(3, 2, size=(n, p))
    np.testing.assert_allclose(
        shrunk_covariance(observations), closed_form(observations), rtol=0, atol=1e-12
    )


def test_a_constant_channel_has_no_covariance():
    observations = np.random.default_rng(0).normal(size=(9, 3))
    observations[:, 1] = 7.0
    covariance = shrunk_covariance(observations)
    assert not covariance[1].any() and not covariance[:, 1].any()


def test_whitening_makes_channels_uncorrelated_with_unit_variance():
    noise = trials(2, (20, 2, 4, 30))  # with pairs the estimate is not shrunk
    matrix = whitening_matrix(noise_covariance(noise, "time"))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    expected = np.einsum("dc,nrct->nrdt", matrix, noise)
    whiten(noise, matrix)
    np.testing.assert_allclose(noise, expected, atol=1e-12)
    after = noise_covariance(noise, "time")
    np.testing.assert_allclose(after, np.eye(4), atol=1e-10)


def test_singular_covariance_unknown_mode_and_single_repetition():
    epochs = trials(5)
    epochs[:, :, 1] = 2 * epochs[:, :, 0]
    with pytest.raises(ValueError, match="singular: 1 directions.*flat or copies"):
        whitening_matrix(np.cov(epochs.swapaxes(0, 2).reshape(4, -1)))
    with pytest.raises(ValueError, match="mvnn must be one of.*Did you mean 'epochs'"):
        noise_covariance(epochs, "epoch")
    with pytest.raises(ValueError, match="at least 2 repetitions"):
        noise_covariance(epochs[:, :1], "time")
