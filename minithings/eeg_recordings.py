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

from pathlib import Path

import numpy as np
from scipy.fft import irfft, next_fast_len

from minithings.eeg_stimuli import draw_eeg_stimuli
from minithings.evoked import Responses, evoked_currents, image_responses
from minithings.head import eeg_lead_field
from minithings.ongoing import (
    ALPHA_RMS,
    CORTEX_RMS,
    Generators,
    Sensors,
    alpha_spectrum,
    cortex_spectrum,
    draw_generators,
    draw_noise,
)
from minithings.participants import Participant, draw_participant
from minithings.world import World
from paperlib.atomic import atomic_path
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


def simulate_eeg(folder: Path, world: World, *, subject: int) -> None:
    """Write the raw sessions of a participant, ``ses-01`` to ``ses-04``."""
    sizes, start = world.eeg, [world.seed, subject]
    participant = draw_participant(subject, seed=world.seed)
    sensors = eeg_sensors(participant, rng=np.random.default_rng([*start, 101]))
    stimuli = draw_eeg_stimuli(world)
    halves = training_halves(
        sizes.n_concepts, sizes.n_images, rng=np.random.default_rng([*start, 102])
    )
    tests = np.arange(1, sizes.n_test_concepts + 1)
    shown = {
        "training": [np.repeat(half, TRAINING_REPETITIONS) for half in halves],
        "test": [np.repeat(tests, sizes.n_test_repetitions)] * len(SESSIONS),
    }
    for number, partition in enumerate(PARTITIONS, start=1):
        responses = image_responses([image.scene for image in stimuli[partition]])
        for session, planned in enumerate(shown[partition], start=1):
            rng = np.random.default_rng([*start, session, number])
            codes = presentation_order(planned, partition=partition, rng=rng)
            data = simulate_recording(
                participant, sensors, responses, codes=codes, rng=rng
            )
            write_recording(raw_file(folder / SESSIONS[session - 1], partition), data)


def training_halves(
    n_concepts: int, n_images: int, *, rng: np.random.Generator
) -> list[np.ndarray]:
    """Divide the training conditions (from 1) among the four sessions.

    Sessions 1 and 2 together hold each condition once, and so do 3 and 4; a concept
    stays together.
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
    """Shuffle a session's planned conditions, with targets and extra trials added.

    The codes fill whole sequences; about 1 % are extra presentations of random
    conditions, as in the published orders.
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


def eeg_sensors(participant: Participant, *, rng: np.random.Generator) -> Sensors:
    """Compute a participant's lead fields and draw the dipoles of ongoing activity."""
    cortex, alpha = draw_generators(participant.head.radius, rng=rng)
    return Sensors(
        lead_field=eeg_lead_field(
            participant.head, participant.positions, participant.orientations
        ),
        cortex=CORTEX_RMS * _mixing(participant, cortex),
        alpha=ALPHA_RMS * _mixing(participant, alpha),
    )


def simulate_recording(
    participant: Participant,
    sensors: Sensors,
    responses: Responses,
    *,
    codes: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Simulate the file of trials with ``codes``: 63 electrodes in volts, triggers."""
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
    """Write a recording as THINGS-EEG2 does: a pickled dictionary in an npy file."""
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
    spectrum = sum(draw_noise(shape, mixing, rng=rng) for shape, mixing in parts)
    spectrum /= np.sqrt(1 + (frequencies / _LOW_PASS) ** 16)
    return irfft(n_fft * spectrum, n_fft)[:, :n_samples]


def _mixing(participant: Participant, generators: Generators) -> np.ndarray:
    """Return the square root of the dipoles' covariance, of mean variance 1."""
    lead_field = eeg_lead_field(
        participant.head, generators.positions, generators.orientations
    )
    lead_field = lead_field @ generators.coherence()
    covariance = lead_field @ lead_field.T
    values, vectors = np.linalg.eigh(covariance / np.diag(covariance).mean())
    return vectors * np.sqrt(np.maximum(values, 0))
