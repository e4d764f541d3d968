"""Ongoing activity: which dipoles make it, with which spectra.

======================  ========================================================
1/f activity            3 microvolts rms at the scalp, power as f^-1.3, 400 cortical
                        dipoles that are coherent over 2 cm
alpha activity          2 microvolts rms at the scalp, 0.8 Hz wide, 40 posterior dipoles
======================  ========================================================

Coherence: scalp potentials need synchrony over several square centimeters of cortex
(Tao et al., 2005); exponent of the 1/f activity: Donoghue et al. (2020).
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

CORTEX_RMS, ALPHA_RMS = 3e-6, 2e-6  # V, mean over the electrodes
_COHERENCE = 0.02  # m, standard deviation of a Gaussian
_ALPHA_WIDTH = 0.8  # Hz


@dataclass(frozen=True)
class Sensors:
    """How a participant's activity reaches C electrodes (V) or MEG sensors (T).

    ``cortex`` and ``alpha`` are roots of the covariance of the 1/f and of the alpha
    activity: they mix independent noise of variance 1.
    """

    lead_field: np.ndarray  # C x sources of evoked activity, per A m
    cortex: np.ndarray  # C rows
    alpha: np.ndarray  # C rows


@dataclass(frozen=True)
class Generators:
    """Dipoles that are always active: positions (m) and orientations, (n, 3)."""

    positions: np.ndarray
    orientations: np.ndarray

    def coherence(self) -> np.ndarray:
        """Return how much of each dipole's activity its neighbors share."""
        distance = cdist(self.positions, self.positions)
        return np.exp(-0.5 * (distance / _COHERENCE) ** 2)


def draw_generators(
    head_radius: float, *, rng: np.random.Generator
) -> tuple[Generators, Generators]:
    """Draw the dipoles of the 1/f activity and of the alpha activity."""
    cortex = head_radius * _draw_positions(rng, 400, lowest=-0.5, foremost=1.0)
    alpha = head_radius * _draw_positions(rng, 40, lowest=-0.1, foremost=-0.3)
    return (
        Generators(cortex, _draw_orientations(rng, 400)),
        Generators(alpha, _draw_orientations(rng, 40)),
    )


def cortex_spectrum(frequencies: np.ndarray) -> np.ndarray:
    """Return the amplitude of 1/f activity, flat below 0.5 Hz, in any unit."""
    return (frequencies**2 + 0.5**2) ** -0.325


def alpha_spectrum(frequencies: np.ndarray, center: float) -> np.ndarray:
    """Return the amplitude of alpha activity around ``center`` (Hz), in any unit."""
    return np.exp(-0.25 * ((frequencies - center) / _ALPHA_WIDTH) ** 2)


def unit_variance(spectrum: np.ndarray) -> np.ndarray:
    """Scale amplitudes so that noise has variance 1.

    They multiply Fourier coefficients whose real and imaginary parts have variance 1;
    the inverse transform must not divide by its length.
    """
    return spectrum / (2 * np.linalg.norm(spectrum))


def draw_noise(
    spectrum: np.ndarray, mixing: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw Fourier coefficients of Gaussian noise with a spectrum and a covariance.

    Parameters
    ----------
    spectrum : ndarray of shape (F,)
        Amplitude at the lowest frequencies, in any unit.
    mixing : ndarray of shape (C, n)
        Root of the covariance of the channels.
    rng
        Source of randomness.

    Returns
    -------
    ndarray of shape (C, F)
        Coefficients of ``scipy.fft.irfft(…, norm="forward")``.
    """
    size = (mixing.shape[1], 2 * spectrum.size)
    draws = rng.standard_normal(size, dtype=np.float32).view(np.complex64)
    return (np.float32(mixing) @ draws) * np.float32(unit_variance(spectrum))


def _draw_positions(
    rng: np.random.Generator, number: int, *, lowest: float, foremost: float
) -> np.ndarray:
    """Draw positions in the cortex of a unit head, above a height, behind a plane."""
    rays = rng.standard_normal((20 * number, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    rays = rays[(rays[:, 2] > lowest) & (rays[:, 1] < foremost)][:number]
    return rng.uniform(0.55, 0.85, (number, 1)) * rays


def _draw_orientations(rng: np.random.Generator, number: int) -> np.ndarray:
    orientations = rng.standard_normal((number, 3))
    return orientations / np.linalg.norm(orientations, axis=1, keepdims=True)
