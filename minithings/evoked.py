"""Evoked activity: what every trial adds to the dipoles' currents.

======================  ========================================================
targets, catch images   a threefold parietal response
latency jitter          6 ms for the trial, 4 ms for each dipole
gain jitter             factor exp(N(0, 0.2)) for the trial and for each dipole
======================  ========================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minithings.participants import Participant
from minithings.scenes import Scene, sample_scene
from minithings.sources import image_drives, source_areas, time_course

_TARGET_SEED = 99999
_TARGET_PARIETAL_GAIN = 3.0
_TRIAL_JITTER, _JITTER = 0.006, 0.004  # s
_GAIN_SD = 0.2
_DURATION = 1.6  # s after which the slowest response has died away


@dataclass(frozen=True)
class Responses:
    """What each image evokes; the last row is the target (or a catch image)."""

    strength: np.ndarray  # images x sources, see `sources.image_drives`
    shift: np.ndarray  # of each image, s


def image_responses(scenes: Sequence[Scene]) -> Responses:
    """Compute what images evoke, and the target after them."""
    target = sample_scene(np.random.default_rng(_TARGET_SEED))
    strength, shift = image_drives([*scenes, target])
    parietal = np.array([area == "parietal" for area, _ in source_areas()])
    strength[-1, parietal] *= _TARGET_PARIETAL_GAIN
    return Responses(strength, shift)


def evoked_currents(
    participant: Participant,
    responses: Responses,
    *,
    rows: np.ndarray,
    onsets: np.ndarray,
    n_samples: int,
    sfreq: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Add up the dipole moments evoked by all trials.

    Parameters
    ----------
    participant, responses
        Who sees it and what it evokes.
    rows : ndarray of shape (n_trials,)
        Row of ``responses`` that each trial shows.
    onsets : ndarray of shape (n_trials,)
        Samples of image onset.
    n_samples
        Length of the recording; the last response must fit into it.
    sfreq
        Sampling rate in Hz.
    rng
        Source of trial-to-trial variability.

    Returns
    -------
    ndarray of shape (n_sources, n_samples)
        float32, in ampere meters.
    """
    n_sources = participant.moments.size
    size = (rows.size, n_sources)
    gain = np.exp(
        rng.normal(0, _GAIN_SD, (rows.size, 1)) + rng.normal(0, _GAIN_SD, size)
    )
    late = rng.normal(0, _TRIAL_JITTER, (rows.size, 1)) + rng.normal(0, _JITTER, size)
    moments = gain * responses.strength[rows] * participant.moments
    peaks = participant.peaks + late + responses.shift[rows, None]
    n_times = round(_DURATION * sfreq)
    times = (np.arange(n_times) / sfreq).astype(np.float32)
    columns = np.float32([participant.widths, participant.rebounds])[..., None]
    currents = np.zeros((n_sources, n_samples), np.float32)
    for onset, moment, peak in zip(onsets, moments, peaks, strict=True):
        course = time_course(times, np.float32(peak)[:, None], *columns)
        currents[:, onset : onset + n_times] += np.float32(moment)[:, None] * course
    return currents
