"""Simulated recordings in the raw format of THINGS-EEG2.

A sensor signal is the sum of the responses to all images, which overlap because a new
image comes every 200 ms, and of ongoing activity. Values follow physiology and the
published experiment. Moments, modulation and noise were revised several times while the
simulator was being written, until averages of 80 presentations repeated and the
variance of the response to an image lay between 0.02 and 0.1 of the trial-to-trial
variance after whitening, the range that the published scores suggest; the last of these
revisions came after a draft of the transformer had learned nothing from a noisier
draft. Since then they are fixed.

======================  ========================================================
images                  100 ms on, one every 200 ms, 20 a sequence
pause                   1 s between sequences (about 2.5 s in the experiment)
targets                 0.5 % of the trials
drift of electrodes     1.5 microvolts rms below 0.5 Hz
noise of the amplifier  0.3 microvolt rms, differs by electrode and recording
amplifier               low-pass at 100 Hz, reference Fz
======================  ========================================================

Trial-to-trial jitter is described in `minithings.evoked`, 1/f and alpha
activity in `minithings.ongoing`. Eye blinks, muscle activity, line noise and
bad electrodes are left out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.fft import irfft, next_fast_len

from paperlib.atomic import atomic_path
from minithings.evoked import Responses, evoked_currents, image_responses
from minithings.head import eeg_info, eeg_lead_field
from minithings.ongoing import (
    ALPHA_RMS,
    CORTEX_RMS,
    Generators,
    alpha_spectrum,
    cortex_spectrum,
    draw_generators,
    unit_variance,
)
from minithings.participants import Participant, draw_participant
from minithings.stimuli import draw_stimuli
from paperlib.recordings.things_eeg2 import (
    PARTITIONS,
    RAW_CHANNELS,
    SESSIONS,
    TARGET_CODE,
    raw_file,
)

SFREQ = 1000  # Hz
TRAINING_REPETITIONS = 2  # a session
_SOA = 200  # samples
_SEQUENCE = 20  # images
_PAUSE = 1000  # samples between sequences
_MARGIN = 2000  # samples before the first and after the last image
# Shares of the planned presentations, from the published stimulus orders.
_TARGETS = {"training": 90 / 16540, "test": 24 / 4000}
_EXTRA = {"training": 170 / 16540, "test": 56 / 4000}
_DRIFT_RMS, _AMPLIFIER_RMS = 1.5e-6, 0.3e-6  # V
_LOW_PASS = 100  # Hz


@dataclass(frozen=True)
class Sensors:
    """How a participant's activity reaches the electrodes.

    Attributes
    ----------
    lead_field : ndarray of shape (63, n_sources)
        In volts per ampere meter.
    cortex, alpha : ndarray of shape (63, 63)
        Square roots of the covariance of the 1/f and of the alpha activity, in volts.
    """

    lead_field: np.ndarray
    cortex: np.ndarray
    alpha: np.ndarray


def simulate_participant(
    folder: Path,
    *,
    subject: int,
    seed: int,
    n_concepts: int,
    n_images: int,
    n_test_concepts: int,
    n_test_repetitions: int,
) -> None:
    """Write ``ses-01`` to ``ses-04`` of a participant; files that exist are kept.

    Parameters
    ----------
    folder
        The participant's raw folder.
    subject
        Number of the participant.
    seed, n_concepts, n_images, n_test_concepts
        As for `minithings.stimuli.draw_stimuli`.
    n_test_repetitions
        Presentations of a test image in one session.
    """
    participant = draw_participant(subject, seed=seed)
    sensors = make_sensors(participant, rng=np.random.default_rng([seed, subject, 101]))
    stimuli = draw_stimuli(
        seed=seed,
        n_concepts=n_concepts,
        n_images=n_images,
        n_test_concepts=n_test_concepts,
    )
    halves = training_halves(
        n_concepts, n_images, rng=np.random.default_rng([seed, subject, 102])
    )
    tests = np.arange(1, n_test_concepts + 1)
    shown = {
        "training": [np.repeat(half, TRAINING_REPETITIONS) for half in halves],
        "test": [np.repeat(tests, n_test_repetitions)] * len(SESSIONS),
    }
    for number, partition in enumerate(PARTITIONS, start=1):
        responses = image_responses([image.scene for image in stimuli[partition]])
        for session, planned in enumerate(shown[partition], start=1):
            path = raw_file(folder / SESSIONS[session - 1], partition)
            if not path.exists():
                rng = np.random.default_rng([seed, subject, session, number])
                codes = presentation_order(planned, partition=partition, rng=rng)
                data = simulate_recording(
                    participant, sensors, responses, codes=codes, rng=rng
                )
                write_recording(path, data)


def training_halves(
    n_concepts: int, n_images: int, *, rng: np.random.Generator
) -> list[np.ndarray]:
    """Divide the training conditions among the four sessions.

    Parameters
    ----------
    n_concepts, n_images
        Training concepts and images of each.
    rng
        Source of randomness.

    Returns
    -------
    list of ndarray
        Conditions (from 1) of sessions 1 to 4. Sessions 1 and 2 together hold each
        condition once, and so do 3 and 4; a concept stays together.
    """
    numbers = np.arange(1, n_concepts * n_images + 1).reshape(n_concepts, n_images)
    halves = []
    for _ in range(len(SESSIONS) // 2):
        shuffled = rng.permutation(n_concepts)
        middle = (n_concepts + 1) // 2
        for concepts in (shuffled[:middle], shuffled[middle:]):
            halves.append(numbers[np.sort(concepts)].ravel())
    return halves


def presentation_order(
    planned: np.ndarray, *, partition: str, rng: np.random.Generator
) -> np.ndarray:
    """Shuffle a session's trials, with targets and extra trials between them.

    Parameters
    ----------
    planned : ndarray of shape (n_planned,)
        Condition of every planned presentation.
    partition
        ``"training"`` or ``"test"``.
    rng
        Source of randomness.

    Returns
    -------
    ndarray of shape (n_trials,)
        Codes in order; the number of trials fills whole sequences. About 1 % are extra
        presentations of random conditions, as in the published orders.
    """
    n_targets = max(1, round(_TARGETS[partition] * planned.size))
    n_extra = round(_EXTRA[partition] * planned.size)
    n_extra += -(planned.size + n_targets + n_extra) % _SEQUENCE
    extra = np.resize(rng.permutation(np.unique(planned)), n_extra)
    targets = np.full(n_targets, TARGET_CODE)
    return rng.permutation(np.concatenate([planned, extra, targets]))


def onset_samples(n_trials: int) -> np.ndarray:
    """Return the sample of each image onset."""
    trial = np.arange(n_trials)
    return _MARGIN + _SOA * trial + _PAUSE * (trial // _SEQUENCE)


def make_sensors(participant: Participant, *, rng: np.random.Generator) -> Sensors:
    """Compute a participant's lead fields and the covariance of ongoing activity.

    Parameters
    ----------
    participant
        Whose head it is.
    rng
        Draws the dipoles of the ongoing activity.

    Returns
    -------
    Sensors
    """
    cortex, alpha = draw_generators(participant.head_radius, rng=rng)
    return Sensors(
        lead_field=scalp_potentials(
            participant, participant.positions, participant.orientations
        ),
        cortex=CORTEX_RMS * _mixing(participant, cortex),
        alpha=ALPHA_RMS * _mixing(participant, alpha),
    )


def scalp_potentials(
    participant: Participant, positions: np.ndarray, orientations: np.ndarray
) -> np.ndarray:
    """Compute what dipoles in a participant's head do to the electrodes.

    Parameters
    ----------
    participant
        Whose head and cap it is.
    positions, orientations : ndarray of shape (n_dipoles, 3)
        Head coordinates in meters; unit vectors.

    Returns
    -------
    ndarray of shape (63, n_dipoles)
        In volts per ampere meter.
    """
    info = eeg_info(participant.head_radius, cap_rotation=participant.cap_rotation)
    return eeg_lead_field(
        info, positions, orientations, head_radius=participant.head_radius
    )


def simulate_recording(
    participant: Participant,
    sensors: Sensors,
    responses: Responses,
    *,
    codes: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Simulate one file.

    Parameters
    ----------
    participant, sensors, responses
        Who sees it, how it is recorded and what it evokes.
    codes : ndarray of shape (n_trials,)
        As returned by `presentation_order`.
    rng
        Source of trial-to-trial variability and of ongoing activity.

    Returns
    -------
    ndarray of shape (64, n_samples)
        63 electrodes in volts, then the trigger row.
    """
    onsets = onset_samples(codes.size)
    n_samples = int(onsets[-1]) + _MARGIN
    target = responses.shift.size - 1
    currents = evoked_currents(
        participant,
        responses,
        rows=np.where(codes == TARGET_CODE, target, codes - 1),
        onsets=onsets,
        n_samples=n_samples,
        sfreq=SFREQ,
        rng=rng,
    )
    data = np.zeros((len(RAW_CHANNELS) + 1, n_samples))
    data[:-1] = sensors.lead_field @ currents
    data[:-1] += _ongoing_activity(participant, sensors, n_samples, rng)
    data[-1, onsets] = codes
    return data


def write_recording(path: Path, data: np.ndarray) -> None:
    """Write a recording as THINGS-EEG2 does: a pickled dictionary in an npy file.

    Parameters
    ----------
    path
        Name of the file.
    data : ndarray of shape (64, n_samples)
        As returned by `simulate_recording`.
    """
    recording = {
        "raw_eeg_data": data,
        "ch_names": [*RAW_CHANNELS, "stim"],
        "ch_types": ["eeg"] * len(RAW_CHANNELS) + ["stim"],
        "sfreq": SFREQ,
        "highpass": 0.01,
        "lowpass": _LOW_PASS,
    }
    with atomic_path(path) as partial:
        np.save(partial, recording, allow_pickle=True)


def _ongoing_activity(
    participant: Participant,
    sensors: Sensors,
    n_samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw 1/f and alpha activity, drift and amplifier noise in volts."""  # C T
    n_fft = next_fast_len(n_samples, real=True)
    frequencies = np.fft.rfftfreq(n_fft, 1 / SFREQ)
    frequencies = frequencies[frequencies < 1.5 * _LOW_PASS]
    drift = np.where(frequencies < 0.01, 0, 1 / np.maximum(frequencies, 0.01))
    alpha = alpha_spectrum(frequencies, participant.alpha_frequency)
    noisiness = np.exp(rng.normal(0, 0.3, len(RAW_CHANNELS)))
    parts = [
        (cortex_spectrum(frequencies), participant.background * sensors.cortex),
        (alpha, participant.background * sensors.alpha),
        (np.where(frequencies < 0.5, drift, 0), _DRIFT_RMS * np.eye(len(RAW_CHANNELS))),
        (np.ones_like(frequencies), _AMPLIFIER_RMS * np.diag(noisiness)),
    ]
    spectrum = sum(_random_spectrum(shape, mixing, rng) for shape, mixing in parts)
    spectrum /= np.sqrt(1 + (frequencies / _LOW_PASS) ** 16)
    return irfft(n_fft * spectrum, n_fft)[:, :n_samples]


def _random_spectrum(
    shape: np.ndarray, mixing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw Gaussian noise of unit variance with a given amplitude spectrum, mixed."""
    size = (mixing.shape[1], 2 * shape.size)
    draws = rng.standard_normal(size, dtype=np.float32).view(np.complex64)
    return (np.float32(mixing) @ draws) * np.float32(unit_variance(shape))


def _mixing(participant: Participant, generators: Generators) -> np.ndarray:
    """Return the square root of the dipoles' covariance, of mean variance 1."""
    lead_field = scalp_potentials(
        participant, generators.positions, generators.orientations
    )
    lead_field = lead_field @ generators.coherence()
    covariance = lead_field @ lead_field.T
    values, vectors = np.linalg.eigh(covariance / np.diag(covariance).mean())
    return vectors * np.sqrt(np.maximum(values, 0))
