"""Simulated recordings in the preprocessed format of THINGS-MEG.

The participants are drawn like those of the EEG, and so are their responses and their
ongoing activity: the same dipoles, seen by other sensors. What follows is all that
differs, and no value of it was chosen by looking at simulated MEG. It comes out at
0.1 picotesla rms and 0.3 picotesla for the largest evoked fields; between 50 and 400 ms
the z-scores of two participants vary between images by 6 to 7 % of their variance
between trials of an image, 14 to 16 % at occipital sensors.

======================  ========================================================
participants            others than those of the EEG; heads in the helmet are turned
                        like the caps
images                  500 ms on, one every 1.5 s (1.25 to 1.70 s in the experiment)
catch images            images of an object that the participant answers, with a
                        threefold parietal response
1/f and alpha activity  that of `minithings.ongoing`: as strong as it has to be
                        for that many microvolts at the scalp
noise of the sensors    5 femtoteslas per root hertz, differs by sensor and session
                        (Vrba and Robinson, 2001)
======================  ========================================================

What THINGS-MEG did to recordings at 1200 Hz is done while simulating at 200 Hz: the
band-pass of 0.1 to 40 Hz acts on the spectra of noise and currents, with linear flanks
as wide as those of the published filter; then each epoch and channel is z-scored by its
baseline, here by 21 samples in place of 121.

Simpler than recordings: an image that stays for 500 ms evokes no more than one of
100 ms, and its end nothing; heads keep still; no heart beats, eye movements, button
presses or magnetic disturbances from outside. Recordings are probably noisier.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from scipy.fft import irfft, next_fast_len, rfft

from minithings.evoked import Responses, evoked_currents, image_responses
from minithings.head import eeg_lead_field, meg_info, meg_lead_field
from minithings.meg_stimuli import SOA, draw_meg_stimuli, draw_trials
from minithings.ongoing import (
    ALPHA_RMS,
    CORTEX_RMS,
    Generators,
    Sensors,
    alpha_spectrum,
    cortex_spectrum,
    draw_generators,
    unit_variance,
)
from minithings.participants import Participant, draw_participant
from minithings.world import World
from paperlib.recordings.things_meg import CATCH_NUMBER

SFREQ = 200  # Hz
TMIN, TMAX = -0.1, 1.3  # s
_N_PARTS = 4  # files of a participant, as published
_OTHERS = 100  # added to a participant's number: nobody is in both data sets
_SOA = round(SOA * SFREQ)  # samples
_EPOCH = round((TMAX - TMIN) * SFREQ) + 1
_BASELINE = round(-TMIN * SFREQ) + 1
_MARGIN = 2 * _SOA  # samples after the last onset
_FLANKS = ([0.0, 0.1, 40.0, 50.0], [0.0, 1.0, 1.0, 0.0])  # Hz, gain
_SENSOR_NOISE = 5e-15  # T / sqrt(Hz)


def simulate_meg(folder: Path, world: World, *, subject: int) -> None:
    """Write the epochs of a participant, ``preprocessed_P<subject>-epo.fif``."""
    stimuli = draw_meg_stimuli(world)
    trials = draw_trials(stimuli, seed=world.seed, subject=subject)
    responses = image_responses(stimuli.scenes)
    sessions = _simulate_sessions(_OTHERS + subject, responses, trials, world.seed)
    write_epochs(folder / f"preprocessed_P{subject}-epo.fif", sessions, trials)


def meg_sensors(participant: Participant, *, rng: np.random.Generator) -> Sensors:
    """Compute a participant's lead fields and draw the dipoles of ongoing activity."""
    cortex, alpha = draw_generators(participant.head.radius, rng=rng)
    return Sensors(
        lead_field=meg_lead_field(
            participant.head, participant.positions, participant.orientations
        ),
        cortex=_mixing(participant, cortex, scalp_rms=CORTEX_RMS),
        alpha=_mixing(participant, alpha, scalp_rms=ALPHA_RMS),
    )


def simulate_session(
    participant: Participant,
    sensors: Sensors,
    responses: Responses,
    *,
    trials: pd.DataFrame,
    rng: np.random.Generator,
) -> np.ndarray:
    """Simulate a session's trials (rows of the trial table), band-passed.

    Returns 271 sensors x trials x 300 samples from -0.1 s on, float32, in teslas.
    """
    onsets = _BASELINE - 1 + _SOA * np.arange(len(trials))
    n_samples = int(onsets[-1]) + _MARGIN
    currents = evoked_currents(
        participant,
        responses,
        rows=trials["things_image_nr"].fillna(0).to_numpy(int) - 1,
        onsets=onsets,
        n_samples=n_samples,
        sfreq=SFREQ,
        rng=rng,
    )
    n_fft = next_fast_len(n_samples, real=True)
    frequencies = np.fft.rfftfreq(n_fft, 1 / SFREQ)
    gain = np.interp(frequencies, *_FLANKS).astype(np.float32)
    passed = np.flatnonzero(gain)[-1] + 1
    spectrum = rfft(currents, n_fft, norm="forward")[:, :passed]
    spectrum = sensors.lead_field.astype(np.float32) @ spectrum
    spectrum += _ongoing_activity(participant, sensors, frequencies, passed, rng)
    spectrum *= gain[:passed]
    data = irfft(spectrum, n_fft, norm="forward")[:, : _SOA * len(trials)]
    return data.reshape(len(data), len(trials), _SOA)


def baseline_scores(data: np.ndarray) -> np.ndarray:
    """Turn each trial and channel into z-scores of its baseline, 0 s included."""
    baseline = data[..., :_BASELINE]
    scores = data - baseline.mean(axis=-1, keepdims=True)
    scores /= baseline.std(axis=-1, keepdims=True)
    return scores


def write_epochs(
    path: Path, sessions: Iterable[np.ndarray], trials: pd.DataFrame
) -> None:
    """Write sessions, (271, n_trials, 300) each, as epochs with the trials as metadata.

    The files are in float32 and numbered parts; memory holds one session at a time.
    """
    codes = trials["things_image_nr"].fillna(CATCH_NUMBER).astype(int)
    samples = _BASELINE - 1 + _SOA * np.arange(len(trials))
    n_bytes = 4 * len(trials) * len(meg_info().ch_names) * _EPOCH
    scratch = path.with_name(f".{path.stem}.partial")
    shutil.rmtree(scratch, ignore_errors=True)  # of an interrupted run
    scratch.mkdir(parents=True)
    epochs = mne.Epochs(
        _write_raw(scratch, sessions),
        np.column_stack([samples, np.zeros_like(samples), codes]),
        {str(code): int(code) for code in np.unique(codes)},
        tmin=TMIN,
        tmax=TMAX,
        baseline=None,
        metadata=trials,
        reject_by_annotation=False,
        verbose="error",
    )
    limit = n_bytes * (_N_PARTS + 1) // _N_PARTS**2  # one part and a quarter
    parts = epochs.save(scratch / path.name, split_size=limit, verbose="error")
    for part in reversed(parts):  # the first, which makes the file exist, last
        os.replace(part, path.parent / Path(part).name)
    shutil.rmtree(scratch)


def _simulate_sessions(
    person: int, responses: Responses, trials: pd.DataFrame, seed: int
) -> Iterator[np.ndarray]:
    """Yield a person's sessions, z-scored."""
    participant = draw_participant(person, seed=seed)
    sensors = meg_sensors(participant, rng=np.random.default_rng([seed, person, 101]))
    for session, shown in trials.groupby("session_nr"):
        rng = np.random.default_rng([seed, person, session])
        yield baseline_scores(
            simulate_session(participant, sensors, responses, trials=shown, rng=rng)
        )


def _write_raw(folder: Path, sessions: Iterable[np.ndarray]) -> mne.io.BaseRaw:
    """Put sessions on disk one by one and open them as one recording."""
    raws = []
    for number, data in enumerate(sessions):
        raw = mne.io.RawArray(
            data.reshape(len(data), -1), meg_info(SFREQ), verbose="error"
        )
        path = folder / f"{number}_raw.fif"
        (name,) = raw.save(path, buffer_size_sec=SOA, verbose="error")
        raws.append(mne.io.read_raw_fif(name, verbose="error"))
    return mne.concatenate_raws(raws).set_annotations(None)


def _ongoing_activity(
    participant: Participant,
    sensors: Sensors,
    frequencies: np.ndarray,
    passed: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the first Fourier coefficients of ongoing activity and of sensor noise."""
    alpha = alpha_spectrum(frequencies, participant.alpha_frequency)
    parts = [
        (cortex_spectrum(frequencies), participant.background * sensors.cortex),
        (alpha, participant.background * sensors.alpha),
    ]
    noisiness = np.exp(rng.normal(0, 0.3, (len(sensors.cortex), 1)))
    rms = _SENSOR_NOISE * np.sqrt(SFREQ / 2) * noisiness
    noise = unit_variance(np.ones_like(frequencies))[:passed]
    coefficients = np.float32(rms) * _draw_parts(noise, len(rms), rng)
    for shape, mixing in parts:
        draws = _draw_parts(unit_variance(shape)[:passed], mixing.shape[1], rng)
        coefficients += np.float32(mixing) @ draws
    return coefficients.view(np.complex64)


def _draw_parts(
    amplitude: np.ndarray, number: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw Fourier coefficients of noise, real and imaginary parts side by side."""
    draws = rng.standard_normal((number, 2 * amplitude.size), dtype=np.float32)
    draws *= np.repeat(np.float32(amplitude), 2)
    return draws


def _mixing(
    participant: Participant, generators: Generators, *, scalp_rms: float
) -> np.ndarray:
    """Return a root of the covariance of dipoles that are so strong at the scalp."""
    dipoles = generators.positions, generators.orientations
    potentials = eeg_lead_field(participant.head, *dipoles) @ generators.coherence()
    moment = scalp_rms / np.sqrt((potentials**2).sum(axis=1).mean())
    fields = moment * meg_lead_field(participant.head, *dipoles)
    fields = fields @ generators.coherence()
    return np.linalg.qr(fields.T, mode="r").T  # no more columns than sensors
