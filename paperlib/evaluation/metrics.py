"""Metrics of predicted responses (appendix F, and what others report).

Every metric takes predicted and recorded responses of shape (n_images, n_channels,
n_times) and returns one value an image. A correlation with a constant signal, or the
cosine with a zero signal, is undefined: it is NaN here and stays NaN in the mean over
channels; `statistics` counts such images.
"""

from collections.abc import Callable
from functools import wraps

import numpy as np
from scipy.signal.windows import hann

from paperlib.validation import check_finite


def _per_image(metric: Callable[..., float]) -> Callable[..., np.ndarray]:
    """Apply a metric of float64 responses (C, T) to each of N images."""

    @wraps(metric)
    def of_all(predicted: np.ndarray, recorded: np.ndarray, **options) -> np.ndarray:
        if recorded.ndim != 3 or predicted.shape != recorded.shape:
            raise ValueError(
                "predicted and recorded must have one shape (n_images, n_channels, "
                f"n_times); got {predicted.shape} and {recorded.shape}."
            )
        values = np.empty(len(recorded))
        for image, (p, r) in enumerate(zip(predicted, recorded, strict=True)):
            check_finite("predicted", p)
            check_finite("recorded", r)
            values[image] = metric(p.astype(float), r.astype(float), **options)
        return values

    return of_all


@_per_image
def mean_squared_error(predicted: np.ndarray, recorded: np.ndarray) -> float:
    """Return the squared error averaged over channels and times, per image."""
    return np.mean((predicted - recorded) ** 2)


@_per_image
def pearson(predicted: np.ndarray, recorded: np.ndarray) -> float:
    """Return the correlation over time, averaged over channels, per image.

    The response that all images share already correlates with every recording: read
    this beside the same metric of the mean training response.
    """
    return np.mean(standardized(predicted, 1) * standardized(recorded, 1))


@_per_image
def pearson_flattened(predicted: np.ndarray, recorded: np.ndarray) -> float:
    """Return the correlation over channels and times together, per image."""
    return np.mean(standardized(predicted, (0, 1)) * standardized(recorded, (0, 1)))


@_per_image
def cosine_similarity(predicted: np.ndarray, recorded: np.ndarray) -> float:
    """Return the cosine between responses as vectors of channels x times, per image."""
    norms = np.linalg.norm(predicted) * np.linalg.norm(recorded)
    return np.vdot(predicted, recorded) / norms if norms else np.nan


@_per_image
def log_psd_distance(
    predicted: np.ndarray, recorded: np.ndarray, *, sfreq: float
) -> float:
    """Return how far apart the power spectra are (dB, 1 to 40 Hz), per image.

    It penalizes a prediction that is smoother than the recording, which the squared
    error rewards.
    """
    return spectral_distance(*(power_spectrum(x, sfreq) for x in (predicted, recorded)))


def power_spectrum(signals: np.ndarray, sfreq: float) -> np.ndarray:
    """Return the power (..., F) of signals (..., T), 1 to 40 Hz, up to a constant."""
    n_times = signals.shape[-1]
    centered = signals - signals.mean(axis=-1, keepdims=True)
    power = np.abs(np.fft.rfft(centered * hann(n_times, sym=False))) ** 2
    frequencies = np.fft.rfftfreq(n_times, 1 / sfreq)
    return power[..., (frequencies >= 1) & (frequencies <= 40)]


def spectral_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the log-spectral distance (dB) of power (C, F), averaged over channels.

    The root mean square over frequencies; NaN where a channel has no power at one.
    """
    first, second = (
        10 * np.log10(np.where(power > 0, power, np.nan)) for power in (first, second)
    )
    return np.sqrt(((first - second) ** 2).mean(axis=-1)).mean()


def correlation(
    predicted: np.ndarray, recorded: np.ndarray, axis: int | tuple[int, ...]
) -> np.ndarray:
    """Return a correlation over images (and more) as one value an image.

    ``axis`` is what one correlation runs over; those of the other axes are averaged. 0:
    images, for each channel and time, so that the response that all images share
    cancels (Gifford et al., NeuroImage 264, 2022). (0, 2): images and times, for each
    channel. (0, 1, 2): everything (the pooled correlation).

    A correlation over images has no value for a single image. These are pseudo-values
    of the infinitesimal jackknife, correlation plus influence of the image: their mean
    is the correlation, and resampling them as if they were scores gives its interval to
    first order.
    """
    x, y = (standardized(responses, axis) for responses in (predicted, recorded))
    return pseudo_values(x, y, y**2, axis).mean(axis=(1, 2))


def standardized(responses: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Return float64 responses of mean 0 and variance 1 over ``axis``, NaN if constant.

    The mean of the product of two such is their correlation.
    """
    constant = np.ptp(responses, axis=axis, keepdims=True) == 0
    centered = responses - responses.mean(axis=axis, keepdims=True, dtype=np.float64)
    deviation = np.sqrt((centered**2).mean(axis=axis, keepdims=True))
    return centered / np.where(constant, np.nan, deviation)


def pseudo_values(
    x: np.ndarray, y: np.ndarray, y_squared: np.ndarray, axis: int | tuple[int, ...]
) -> np.ndarray:
    """Return correlation plus influence, of `standardized` arrays or means of such."""
    r = (x * y).mean(axis=axis, keepdims=True)
    return r + x * y - r * (x**2 + y_squared) / 2
