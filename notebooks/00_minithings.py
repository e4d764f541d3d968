# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 MiniTHINGS
#
# *On which data does the paper run within minutes, and how realistic are they?* Five
# things are made: rendered stimuli, simulated EEG and MEG participants who see them, a
# small CLIP model and small captioners.
#
# - Reads: nothing
# - Writes: files in the formats of THINGS-EEG2, THINGS-MEG, open_clip and Hugging Face,
#   in place of what an earlier run of this notebook made; with `overrides`, into a
#   folder `data/mini+…` of their own
# - Time: two minutes on two cores, 4 GB on disk

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values

# %%
import json
import os
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
from scipy.fft import irfft

from minithings import (
    captioner,
    clip,
    eeg_recordings,
    eeg_stimuli,
    head,
    meg_recordings,
    meg_stimuli,
    ongoing,
    participants,
)
from minithings.evoked import evoked_currents, image_responses
from minithings.scenes import describe
from minithings.world import World, clear_world
from paperlib.atomic import write_text
from paperlib.notebook import open_notebook
from paperlib.recordings.things_eeg2 import load_raw_session, stimulus_events
from paperlib.reporting import figures
from paperlib.reporting.topographies import plot_topographies, window_means
from paperlib.stimuli.images import open_image

# %%
nb = open_notebook("00_minithings", globals())
cfg = nb.cfg
world = World.of(cfg)
figures.set_theme()

# %% [markdown]
# ## One trial
#
# What the sensors record of one trial is
#
# $$ x(t) = L\, s(t) + M_{1/f}\, n_{1/f}(t) + M_\alpha\, n_\alpha(t) + \varepsilon(t),
# \qquad s_j(t) = g_j\, m_j\, a_j(\text{image})\; h_j(t - \tau_j), $$
#
# - $L$ is the lead field: what 46 current dipoles in areas of the ventral stream, from
#   V1 to anterior IT and parietal cortex, do to each sensor of a spherical head;
# - $m_j$ is the moment of dipole $j$ (nA m), $a_j$ how strongly the image drives it,
#   $h_j$ a deflection with its rebound and a sustained response; gain $g_j$ and
#   latency $\tau_j$ vary from trial to trial;
# - $n_{1/f}$ and $n_\alpha$ are the ongoing activity of 400 and 40 further dipoles,
#   whose covariance over the sensors is $M M^\top$;
# - $\varepsilon$ is the noise of the sensors.
#
# In a recording a new image comes every 200 ms (EEG) and responses overlap.

# %%
sfreq, n_times = eeg_recordings.SFREQ, 2000  # Hz, samples
rng = np.random.default_rng(0)
person = participants.draw_participant(1, seed=world.seed)
sensors = eeg_recordings.eeg_sensors(person, rng=rng)
stimulus = eeg_stimuli.draw_eeg_stimuli(world)["test"][0]
currents = evoked_currents(  # s(t), 46 dipoles
    person,
    image_responses([stimulus.scene]),
    rows=np.array([0]),
    onsets=np.array([200]),
    n_samples=n_times,
    sfreq=sfreq,
    rng=rng,
)
frequencies = np.fft.rfftfreq(n_times, 1 / sfreq)
spectra = {
    "1/f activity": (ongoing.cortex_spectrum(frequencies), sensors.cortex),
    "alpha activity": (
        ongoing.alpha_spectrum(frequencies, person.alpha_frequency),
        sensors.alpha,
    ),
    "sensor noise": (np.ones_like(frequencies), 0.3e-6 * np.eye(63)),
}
parts = {"evoked response": sensors.lead_field @ currents}  # V, 63 electrodes
for name, (spectrum, mixing) in spectra.items():
    coefficients = ongoing.draw_noise(spectrum, mixing, rng=rng)
    parts[name] = irfft(coefficients, n_times, norm="forward")

# %% [markdown]
# *Look for* a response of a few microvolts, and for how little of it is left to see in
# the trial.

# %%
names = head.eeg_info(person.head).ch_names
parts["trial"] = sum(parts.values())
fig, axes = plt.subplots(1, len(parts), figsize=(figures.PAGE, 0.25 * figures.PAGE))
times = np.arange(n_times) / sfreq - 0.2
for ax, (name, volts) in zip(axes, parts.items(), strict=True):
    ax.plot(times, 1e6 * volts[names.index("O1")], figures.COLORS["recorded"], lw=0.5)
    ax.set(title=name, xlim=(-0.2, 0.8), ylim=(-20, 20), xlabel="Time (s)")
axes[0].set_ylabel("Potential at O1 (µV)")
plt.show()

# %% [markdown]
# ## Five things that make a world
#
# None depends on another: each derives scenes and participants from the seed. Two
# processes make them, one thread each.

# %%
subjects = {name: entry.subjects for name, entry in cfg.datasets.items()}
eeg_images, meg_root = (nb.output("images", dataset=name) for name in subjects)
tables = nb.output("image_list", dataset="things-meg").parent
epochs_folder = nb.output("published", dataset="things-meg")
weights, prompt = nb.output("data") / "weights", cfg.captioning.prompt
clear_world(nb.output("data"))
for library in ("OMP", "MKL", "OPENBLAS"):  # read by the processes when they start
    os.environ[f"{library}_NUM_THREADS"] = "1"
with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
    make, folder = pool.submit, weights / "captioners"
    jobs = [make(captioner.train_captioners, folder, world, prompt=prompt)]
    jobs += [make(clip.train_clip, weights / "clip", world)]
    for subject in subjects["things-meg"]:
        one = {"subject": subject}
        jobs += [make(meg_recordings.simulate_meg, epochs_folder, world, **one)]
        jobs += [make(meg_stimuli.write_trials, tables, world, **one)]
    for subject in subjects["things-eeg2"]:
        one = {"subject": subject}
        raw = nb.output("raw", dataset="things-eeg2", **one)
        jobs += [make(eeg_recordings.simulate_eeg, raw, world, **one)]
    jobs += [make(eeg_stimuli.write_eeg_stimuli, eeg_images, world)]
    jobs += [make(meg_stimuli.write_meg_stimuli, meg_root, world)]
named, matched, *_ = [job.result() for job in jobs]

# %%
manifest = {"world": world.model_dump(), "captioners": named, "clip": matched}
write_text(nb.output("data") / "manifest.json", json.dumps(manifest, indent=2) + "\n")

# %% [markdown]
# ## Stimuli
#
# A concept is a texture, a color and a shape; size, position, background and small
# jitters vary from image to image. Test concepts are new combinations of known parts.
# Below: training images with the captions that the encoders learned from.

# %%
stimuli = eeg_stimuli.draw_eeg_stimuli(world)
for partition, images in stimuli.items():
    n_concepts = len({image.folder for image in images})
    print(f"{partition}: {len(images)} images of {n_concepts} concepts")
chosen = np.random.default_rng(1).permutation(stimuli["training"])[:8]
pictures = [
    open_image(eeg_images / "training_images" / image.folder / image.file)
    for image in chosen
]
fig, axes = plt.subplots(2, 4, figsize=(figures.PAGE, 0.62 * figures.PAGE))
for ax, image, picture in zip(axes.flat, chosen, pictures, strict=True):
    ax.imshow(picture)
    ax.set_xlabel(textwrap.fill(describe(image.scene), 30), fontsize=6)
    ax.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Sensors
#
# 63 electrodes of the extended 10-20 system against Fz, as in THINGS-EEG2, and the 271
# axial gradiometers of THINGS-MEG.

# %%
layouts = {
    "EEG (63 and Fz)": head.eeg_info(head.Head()),
    "MEG (271)": head.meg_info(),
}
fig, axes = plt.subplots(1, 2, figsize=(figures.COLUMN, 0.5 * figures.COLUMN))
for ax, (kind, info) in zip(axes, layouts.items(), strict=True):
    mne.viz.plot_sensors(info, axes=ax, pointsize=4, linewidth=0, show=False)
    ax.set_title(kind)
plt.show()

# %% [markdown]
# ## A recording
#
# Four seconds of a test session; vertical lines are image onsets. *Look for* alpha
# waves at the back of the head, slow waves everywhere, and no visible response to any
# single image.

# %%
first = nb.output("raw", dataset="things-eeg2", subject=subjects["things-eeg2"][0])
raw = load_raw_session(first / "ses-01/raw_eeg_test.npy")
events, n_targets = stimulus_events(raw)
names = ["AFz", "Cz", "Pz", "PO7", "PO8", "O1", "Oz", "O2"]
trace, times = raw.get_data(picks=names, start=6000, stop=10000, return_times=True)
onsets = events[:, 0] / raw.info["sfreq"]
onsets = onsets[(onsets > times[0]) & (onsets < times[-1])]
fig, ax = plt.subplots(figsize=(figures.PAGE, 0.4 * figures.PAGE))
offsets = 50 * np.arange(len(names))[::-1]
ax.plot(times, 1e6 * trace.T + offsets, figures.COLORS["recorded"], lw=0.4)
ax.vlines(onsets, -50, 400, figures.COLORS["baseline"], lw=0.4)
ax.set(xlabel="Time (s)", ylabel="Potential (50 µV per step)")
ax.set_yticks(offsets, names)
plt.show()
minutes = raw.times[-1] / 60
print(f"{len(events)} images and {n_targets} targets in {minutes:.1f} minutes")

# %% [markdown]
# ## Evoked potentials and fields
#
# Mean over all test trials: of a session (EEG), and of all sessions in standard
# deviations of the baseline (MEG). *Look for* the rhythm of 200 ms in which the EEG's
# images come, for maps that change over time and differ between participants, and for
# fields that enter on one side of the head and leave on the other.

# %%
trials = {}
for subject in subjects["things-eeg2"]:
    folder = nb.output("raw", dataset="things-eeg2", subject=subject)
    raw = load_raw_session(folder / "ses-01/raw_eeg_test.npy")
    events = np.insert(stimulus_events(raw)[0], 1, 0, axis=1)
    trials[f"EEG {subject}"] = mne.Epochs(
        raw, events, tmin=-0.2, tmax=0.6, picks="eeg", preload=True, verbose="error"
    )
subject = subjects["things-meg"][0]
path = epochs_folder / f"preprocessed_P{subject}-epo.fif"
epochs = mne.read_epochs(path, preload=False, verbose="error")
trials[f"MEG {subject}"] = epochs["trial_type == 'test'"]

# %%
windows = [[0.065, 0.085], [0.09, 0.11], [0.12, 0.14], [0.16, 0.18], [0.23, 0.25]]  # s
fig, axes = plt.subplots(1, len(trials), figsize=(figures.PAGE, 0.3 * figures.PAGE))
maps = {}
for ax, (name, measured) in zip(axes, trials.items(), strict=True):
    evoked = measured.average()
    if name.startswith("EEG"):
        signal, label = 1e6 * evoked.data, "Potential (µV)"
        signal = np.pad(signal, ((0, 1), (0, 0)))  # Fz, the reference
    else:
        signal, label = evoked.data, "Field (z)"
    ax.plot(evoked.times, signal.T, figures.COLORS["recorded"], lw=0.2)
    ax.set(xlabel="Time (s)", ylabel=label, title=name)
    maps[name] = window_means(signal, evoked.times, windows)
fields = {name: maps.pop(name) for name in list(maps) if name.startswith("MEG")}
plot_topographies(maps, windows=windows, info=layouts["EEG (63 and Fz)"], unit="µV")
plot_topographies(fields, windows=windows, info=evoked.info, unit="z")
plt.show()

# %% [markdown]
# ## How much of a trial is signal?
#
# Variance between images (the variance of their means, less what noise adds to it)
# over variance within images, at the occipital electrodes and sensors.

# %%
occipital = ("O", "PO", "MLO", "MRO", "MZO")
for name, measured in trials.items():
    picks = [channel for channel in measured.ch_names if channel.startswith(occipital)]
    data = measured.get_data(picks, tmin=0.05, tmax=0.4, verbose="error")
    codes = measured.events[:, 2]
    groups = [data[codes == code] for code in np.unique(codes)]
    within = np.mean([group.var(axis=0, ddof=1) for group in groups], axis=0)
    size = np.mean([len(group) for group in groups])
    between = np.var([g.mean(axis=0) for g in groups], axis=0, ddof=1) - within / size
    ratio = between.mean() / within.mean()
    print(f"{name}: the variance between images is {ratio:.1%} of that within images")

# %% [markdown]
# ## Encoders
#
# A CLIP model and a Qwen2-VL model of one to four million weights, trained on rendered
# scenes. Snapshots of the second, whose language model was trained less, stand
# for weaker captioners. Scores on 256 held-out scenes: for how many images CLIP ranks
# their own caption first, and how many captions name each attribute correctly
# (*concept*: texture, color and shape at once). *Look for* scores that fall from row to
# row.

# %%
print(
    f"CLIP ranks the own caption first for {matched['image_to_text']:.0%} of the "
    f"images, and the own image first for {matched['text_to_image']:.0%} of the "
    "captions."
)
pd.DataFrame(named).T.style.format("{:.0%}")

# %%
for image in chosen[:4]:
    print(f"{image.file}\n  shown: {describe(image.scene)}")
for name in named:
    model = captioner.load_small_captioner(weights / "captioners" / name)
    print(name)
    for text in model(pictures[:4], prompt=prompt, max_new_tokens=40):
        print(f"  {text}")

# %% [markdown]
# ## What is realistic and what is not
#
# *Like recordings*: file formats, sensors, trial numbers per image, presentation rates
# and overlap; sizes and latencies of the evoked components; contralateral early and
# bilateral late responses; spatially correlated 1/f and alpha activity; jitter from
# trial to trial; participants whose maps and latencies differ.
#
# *Simpler than recordings*: a spherical head; 46 dipoles; areas driven by the
# attributes of a scene; responses that do not depend on what came before; stationary
# noise without blinks, muscles, line noise and fatigue; the same tuning in everybody;
# heads that keep still in the MEG, and nothing that an image adds by staying longer.
# Averages at the best sensors probably repeat better than those of real ones.
#
# *Set by hand*: amplitudes and noise of the EEG, which were revised until averages of
# 80 presentations repeated and the variance of the response to an image was 2 to 10 %
# of that from trial to trial (after whitening), the range that the published scores
# suggest; the last revision came after a draft of the transformer had learned nothing
# from a noisier draft, and since then they are fixed.
#
# *Smaller*: 1200 training images of 120 concepts instead of 16540 of 1654 (EEG) and
# 22248 of 1854 (MEG), and images with six attributes instead of photographs. Numbers
# from this world test the method and the code. They say nothing about brains.

# %%
nb.finish()
