"""Metrics of predicted responses (appendix F, and what others report).

Every metric takes predicted and recorded responses of shape (n_images, n_channels,
n_times) and returns one value an image. A correlation with a constant signal, or the
cosine with a zero signal, is undefined: it is NaN here and stays NaN in the mean over
channels; `statistics` counts such images.
"""

from collections.abc import Callable

import numpy as np
from scipy.signal.windows import hann

from paperlib.validation import check_finite


def mean_squared_error(predicted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the squared error averaged over channels and times, per image."""
    return _per_image(lambda p, r: np.mean((p - r) ** 2), predicted, recorded)


def pearson(predicted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the correlation over time, averaged over channels, per image.

    The response that all images share already correlates with every recording: read
    this beside the same metric of the mean training response.
    """
    return _per_image(
        lambda p, r: np.mean(standardized(p, 1) * standardized(r, 1)),
        predicted,
        recorded,
    )


def pearson_flattened(predicted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the correlation over channels and times together, per image."""
    return _per_image(
        lambda p, r: np.mean(standardized(p, (0, 1)) * standardized(r, (0, 1))),
        predicted,
        recorded,
    )


def cosine_similarity(predicted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return the cosine between responses as vectors of channels x times, per image."""
    return _per_image(
        lambda p, r: np.vdot(p, r) / (np.linalg.norm(p) * np.linalg.norm(r) or np.nan),
        predicted,
        recorded,
    )


def log_psd_distance(
    predicted: np.ndarray, recorded: np.ndarray, *, sfreq: float
) -> np.ndarray:
    """Return how far apart the power spectra are, in decibels, per image.

    The root mean square, over frequencies from 1 to 40 Hz, of the difference of the
    log power (log-spectral distance), averaged over channels; NaN where a channel has
    no power at a frequency. It penalizes a prediction that is smoother than the
    recording, which the squared error rewards.
    """
    return _per_image(
        lambda p, r: spectral_distance(
            power_spectrum(p, sfreq), power_spectrum(r, sfreq)
        ),
        predicted,
        recorded,
    )


def power_spectrum(signals: np.ndarray, sfreq: float) -> np.ndarray:
    """Return the power (..., F) of signals (..., T) from 1 to 40 Hz, one Hann window.

    In a unit that is the same for all signals of one length.
    """
    n_times = signals.shape[-1]
    centered = signals - signals.mean(axis=-1, keepdims=True)
    power = np.abs(np.fft.rfft(centered * hann(n_times, sym=False))) ** 2
    frequencies = np.fft.rfftfreq(n_times, 1 / sfreq)
    return power[..., (frequencies >= 1) & (frequencies <= 40)]


def spectral_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the log-spectral distance of power (C, F), mean over channels, in dB."""
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


def _per_image(
    measure: Callable[[np.ndarray, np.ndarray], float],
    predicted: np.ndarray,
    recorded: np.ndarray,
) -> np.ndarray:
    """Apply ``measure`` to the float64 responses (C, T) to each image."""
    if recorded.ndim != 3 or predicted.shape != recorded.shape:
        raise ValueError(
            "predicted and recorded must have one shape (n_images, n_channels, "
            f"n_times); got {predicted.shape} and {recorded.shape}."
        )
    values = np.empty(len(recorded))
    for image, (p, r) in enumerate(zip(predicted, recorded, strict=True)):
        check_finite("predicted", p)
        check_finite("recorded", r)
        values[image] = measure(p.astype(np.float64), r.astype(np.float64))
    return values
