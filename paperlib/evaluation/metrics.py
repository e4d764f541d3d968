"""Mean squared error, Pearson correlation and cosine similarity (appendix F).

Every metric takes generated and recorded signals of shape (n_images, n_channels,
n_times) in the same unit, works image by image in float64, so that memory maps are
never read as a whole, and returns one value an image.

A correlation with a constant signal, or the cosine with a zero signal, is undefined.
It is NaN here and stays NaN in the mean over channels; `statistics` counts such
images and reports how many there were.
"""

from collections.abc import Callable

import numpy as np
from scipy.signal.windows import hann

from paperlib.validation import check_finite, check_shape


def mean_squared_error(generated: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the squared error averaged over channels and times, per image.

    Parameters
    ----------
    generated, recorded : ndarray of shape (n_images, n_channels, n_times)
        Signals in the same unit.

    Returns
    -------
    ndarray of shape (n_images,)
        In the squared unit of the signals.

    Raises
    ------
    ValueError
        If the shapes differ or a value is NaN or infinite.
    """
    return _per_image(lambda g, r: np.mean((g - r) ** 2), generated, recorded)


def pearson(generated: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the correlation over time, averaged over channels, per image.

    Parameters
    ----------
    generated, recorded : ndarray of shape (n_images, n_channels, n_times)
        Signals in any units.

    Returns
    -------
    ndarray of shape (n_images,)
        NaN where a channel is constant in time.

    Raises
    ------
    ValueError
        If the shapes differ or a value is NaN or infinite.

    Notes
    -----
    The response that all images share already correlates with every recording: read
    this beside the same metric of the mean training response.
    """
    return _per_image(lambda g, r: _correlation(g, r).mean(), generated, recorded)


def pearson_flattened(generated: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the correlation over channels and times together, per image.

    Parameters
    ----------
    generated, recorded : ndarray of shape (n_images, n_channels, n_times)
        Signals in any units.

    Returns
    -------
    ndarray of shape (n_images,)
        NaN where the whole response is constant.

    Raises
    ------
    ValueError
        If the shapes differ or a value is NaN or infinite.
    """
    return _per_image(
        lambda g, r: _correlation(g.ravel(), r.ravel()), generated, recorded
    )


def cosine_similarity(generated: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the cosine between responses as vectors of channels x times, per image.

    Parameters
    ----------
    generated, recorded : ndarray of shape (n_images, n_channels, n_times)
        Signals in any units; zero must mean the same in both.

    Returns
    -------
    ndarray of shape (n_images,)
        NaN where the whole response is zero.

    Raises
    ------
    ValueError
        If the shapes differ or a value is NaN or infinite.
    """
    return _per_image(_cosine, generated, recorded)


def log_psd_distance(
    generated: np.ndarray, recorded: np.ndarray, *, sfreq: float
) -> np.ndarray:
    """Return how far apart the power spectra are, per image.

    The root mean square, over frequencies from 1 to 40 Hz, of the difference of the
    log power (log-spectral distance), averaged over channels. A prediction that is
    smoother than the recording, which the squared error rewards, is punished.

    Parameters
    ----------
    generated, recorded : ndarray of shape (n_images, n_channels, n_times)
        Signals in the same unit.
    sfreq
        Sampling rate in Hz.

    Returns
    -------
    ndarray of shape (n_images,)
        In decibels; NaN where a channel has no power at a frequency.

    Raises
    ------
    ValueError
        If the shapes differ or a value is NaN or infinite.
    """

    def distance(g: np.ndarray, r: np.ndarray) -> float:
        difference = _log_power(g, sfreq) - _log_power(r, sfreq)
        return np.sqrt((difference**2).mean(axis=-1)).mean()

    return _per_image(distance, generated, recorded)


def standardized_over_images(responses: np.ndarray) -> np.ndarray:
    """Return responses of mean 0 and length 1 over images, per channel and time.

    The sum over images of two such is their correlation over images. The response that
    all images share cancels, so that this correlation measures what a prediction knows
    about the single image (Gifford et al., NeuroImage 264, 2022).

    Parameters
    ----------
    responses : ndarray of shape (n_images, n_channels, n_times)
        In any unit.

    Returns
    -------
    ndarray of shape (n_images, n_channels, n_times), float64
        NaN where all images have the same value.
    """
    constant = np.ptp(responses, axis=0) == 0
    centered = responses - responses.mean(axis=0, dtype=np.float64)
    return centered / np.where(constant, np.nan, np.linalg.norm(centered, axis=0))


def _log_power(signals: np.ndarray, sfreq: float) -> np.ndarray:
    """Return the log power of signals (C, T) from 1 to 40 Hz, in decibels.

    Relative to a unit that is the same for all signals of one length.
    """
    n_times = signals.shape[-1]
    centered = signals - signals.mean(axis=-1, keepdims=True)
    power = np.abs(np.fft.rfft(centered * hann(n_times, sym=False))) ** 2
    frequencies = np.fft.rfftfreq(n_times, 1 / sfreq)
    inside = (frequencies >= 1) & (frequencies <= 40)
    return 10 * np.log10(np.where(power > 0, power, np.nan)[:, inside])


def _per_image(
    measure: Callable[[np.ndarray, np.ndarray], float],
    generated: np.ndarray,
    recorded: np.ndarray,
) -> np.ndarray:
    """Apply ``measure`` to the float64 responses (C, T) to each image."""
    check_shape("recorded", recorded, (None, None, None))
    check_shape("generated", generated, recorded.shape)
    pairs = zip(generated, recorded, strict=True)
    return np.array([measure(*_in_float64(g, r)) for g, r in pairs])


def _in_float64(
    generated: np.ndarray, recorded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return finite float64 copies of both."""
    check_finite("generated", generated)
    check_finite("recorded", recorded)
    return generated.astype(np.float64), recorded.astype(np.float64)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation over the last axis; NaN where either is constant."""
    constant = (np.ptp(a, axis=-1) == 0) | (np.ptp(b, axis=-1) == 0)
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / np.where(constant, np.nan, norms)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two arrays as vectors; NaN where either is zero."""
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return np.vdot(a, b) / norms if norms else np.nan
