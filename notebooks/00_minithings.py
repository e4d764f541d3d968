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
# *On which data does the paper run within minutes, and how real are they?* A small
# world is made: pictures, simulated participants who look at them, two small encoders.
#
# - Reads: nothing
# - Writes: files in the formats of THINGS-EEG2, THINGS-MEG, open_clip and Hugging Face
# - Time: minutes on two cores, 4 GB on disk; what is there already is kept

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values: "minithings: {image_size: 64}"

# %%
import textwrap

import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
import torch

from paperlib.config import load_settings
from minithings.encoders import IMAGE_SIZE, train_captioner, train_clip
from minithings.head import eeg_info, meg_info
from minithings.meg_recordings import simulate_participants
from minithings.meg_stimuli import write_object_images, write_trials
from minithings.recordings import simulate_participant
from minithings.scenes import describe
from minithings.stimuli import draw_stimuli, write_stimuli
from minithings.world import Task, build
from paperlib.paths import locate
from paperlib.provenance import start_record
from paperlib.recordings.things_eeg2 import load_raw_session, stimulus_events
from paperlib.reporting.figures import COLORS, COLUMN, PAGE, set_theme
from paperlib.reporting.topographies import plot_topographies, window_means
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.images import open_image, read_images

# %%
settings = load_settings("00_minithings", config, overrides)
where = locate(settings, dataset="things-eeg2")
where_meg = locate(settings, dataset="things-meg")
record = start_record(settings, config=config, overrides=overrides)
set_theme()
world = settings["minithings"]

# %% [markdown]
# ## Build
#
# Participants, encoders and pictures do not depend on each other: each derives the
# scenes from the seed. They are made in two processes.

# %%
seed = {"seed": settings["seed"]}
eeg, weights = world["things-eeg2"], where("data") / "weights"
sizes = seed | eeg["stimuli"]
shown = sizes | {"n_test_repetitions": eeg["n_test_repetitions"]}
pictures, teaching = {"image_size": world["image_size"]}, seed | world["captioner"]
tasks = [
    Task("captioner", train_captioner, weights / "captioners", teaching),
    Task("CLIP", train_clip, weights / "clip", seed | world["clip"]),
    Task("stimuli", write_stimuli, where("images"), sizes | pictures),
]
for number in eeg["subjects"]:
    folder, person = where("raw", subject=number), shown | {"subject": number}
    tasks.append(Task(f"participant {number}", simulate_participant, folder, person))

# %%
meg = world["things-meg"]
people = seed | meg["stimuli"] | {"subjects": meg["subjects"]}
epoched, listed = where_meg("published"), where_meg("image_list").parent
objects = (where_meg("images") / "object_images", seed | meg["stimuli"] | pictures)
tasks.insert(1, Task("MEG participants", simulate_participants, epoched, people))
tasks += [
    Task("MEG stimuli", write_object_images, *objects),
    Task("MEG trials", write_trials, listed, people),
]
results = build(tasks, where("data") / "manifest.json")

# %% [markdown]
# ## Stimuli
#
# A concept is a texture, a color and a shape; size, place, background and small jitters
# vary from picture to picture. Test concepts are new combinations of known parts.
# Below: training pictures with the captions that the encoders learned from.

# %%
images = read_images(where("images"))
counts = images.groupby("partition")[["concept", "image_id"]].nunique()
for partition, row in counts.iterrows():
    print(f"{partition}: {row['image_id']} images of {row['concept']} concepts.")
stimuli = draw_stimuli(**sizes)
captions = [describe(image.scene) for part in stimuli.values() for image in part]
chosen = images[images["partition"] == "training"].sample(8, random_state=1).index
fig, axes = plt.subplots(2, 4, figsize=(PAGE, 0.62 * PAGE))
for ax, row in zip(axes.flat, chosen, strict=True):
    ax.imshow(open_image(images.loc[row, "path"]))
    ax.set_xlabel(textwrap.fill(captions[row], 30), fontsize=6)
    ax.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Sensors
#
# 63 electrodes of the extended 10-20 system against Fz, as in THINGS-EEG2, and the 271
# axial gradiometers of THINGS-MEG. The head is a sphere; areas of the ventral stream
# are pairs of mirrored current dipoles.

# %%
sensors = {"EEG (63 and Fz)": eeg_info(0.092), "MEG (271)": meg_info()}
fig, axes = plt.subplots(1, 2, figsize=(COLUMN, 0.5 * COLUMN))
for ax, (kind, info) in zip(axes, sensors.items(), strict=True):
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
raw = load_raw_session(where("raw", subject=1) / "ses-01/raw_eeg_test.npy")
names = ["AFz", "Cz", "Pz", "PO7", "PO8", "O1", "Oz", "O2"]
trace, times = raw.get_data(picks=names, start=6000, stop=10000, return_times=True)
events, n_targets = stimulus_events(raw)
fig, ax = plt.subplots(figsize=(PAGE, 0.4 * PAGE))
offsets = 50 * np.arange(len(names))[::-1]
ax.plot(times, 1e6 * trace.T + offsets, COLORS["recorded"], lw=0.4)
onsets = events[:, 0] / raw.info["sfreq"]
inside = (onsets > times[0]) & (onsets < times[-1])
ax.vlines(onsets[inside], -50, 400, COLORS["baseline"], lw=0.4)
ax.set(xlabel="Time (s)", ylabel="Potential (50 µV per step)")
ax.set_yticks(offsets, names)
plt.show()
minutes = raw.times[-1] / 60
print(f"{len(events)} images and {n_targets} targets in {minutes:.1f} minutes.")

# %% [markdown]
# ## Evoked potentials
#
# Mean over all test trials of a session. *Look for* a rhythm of 200 ms, that of the
# images, and for maps that change over time and differ between participants.

# %%
epochs = {}
for number in eeg["subjects"]:
    raw = load_raw_session(where("raw", subject=number) / "ses-01/raw_eeg_test.npy")
    events, _ = stimulus_events(raw)
    triples = np.insert(events, 1, 0, axis=1)
    epochs[f"EEG {number}"] = mne.Epochs(
        raw, triples, tmin=-0.2, tmax=0.6, picks="eeg", preload=True, verbose="error"
    )
windows = [[0.065, 0.085], [0.09, 0.11], [0.12, 0.14], [0.16, 0.18], [0.23, 0.25]]  # s

# %%
fig, axes = plt.subplots(1, len(epochs), figsize=(PAGE, 0.3 * PAGE), squeeze=False)
maps = {}
for ax, (name, trials) in zip(axes[0], epochs.items(), strict=True):
    evoked = trials.average()
    microvolts = np.pad(1e6 * evoked.data, ((0, 1), (0, 0)))  # Fz, the reference
    ax.plot(evoked.times, microvolts.T, COLORS["recorded"], lw=0.3)
    ax.set(xlabel="Time (s)", ylabel="Potential (µV)", title=name)
    maps[name] = window_means(microvolts, evoked.times, windows)
plot_topographies(maps, windows=windows, info=eeg_info(0.092), unit="µV")
plt.show()

# %% [markdown]
# ## Evoked fields
#
# Mean over all test trials of a THINGS-MEG participant, in standard deviations of the
# baseline. Images come every 1.5 s. *Look for* fields that enter on one side of the
# head and leave on the other, and for a response that outlasts the first peaks.

# %%
first = meg["subjects"][0]
path = epoched / f"preprocessed_P{first}-epo.fif"
fields = mne.read_epochs(path, preload=False, verbose="error")["trial_type == 'test'"]
evoked = fields.average()
fig, ax = plt.subplots(figsize=(COLUMN, 0.6 * COLUMN))
ax.plot(evoked.times, evoked.data.T, COLORS["recorded"], lw=0.2)
ax.set(xlabel="Time (s)", ylabel="Field (z)", title=f"MEG {first}")
maps = {f"MEG {first}": window_means(evoked.data, evoked.times, windows)}
plot_topographies(maps, windows=windows, info=evoked.info, unit="z")
plt.show()

# %% [markdown]
# ## How much of a trial is signal?
#
# Variance between images (the variance of their means, less what noise adds to it)
# over variance within images, at the occipital electrodes and sensors.

# %%
occipital = ("O", "PO", "MLO", "MRO", "MZO")
for name, trials in {**epochs, f"MEG {first}": fields}.items():
    picks = [channel for channel in trials.ch_names if channel.startswith(occipital)]
    data = trials.get_data(picks, tmin=0.05, tmax=0.4, verbose="error")
    codes = trials.events[:, 2]
    groups = [data[codes == code] for code in np.unique(codes)]
    within = np.mean([group.var(axis=0, ddof=1) for group in groups], axis=0)
    size = np.mean([len(group) for group in groups])
    between = np.var([g.mean(axis=0) for g in groups], axis=0, ddof=1) - within / size
    share = between.mean() / within.mean()
    print(f"{name}: the variance between images is {share:.1%} of that within images.")

# %% [markdown]
# ## Encoders
#
# A CLIP model and a Qwen2-VL model of under a million weights, trained on rendered
# scenes. Snapshots of the second, whose language model was trained less, stand for
# weaker captioners. Scores on 256 scenes that they have not seen: how often CLIP finds
# the caption of an image among all, and how often a caption names an attribute rightly.
# *Look for* scores that fall from row to row.

# %%
found = results["CLIP"]
print(
    f"CLIP finds the caption of {found['image_to_text']:.0%} of the images, and the "
    f"image of {found['text_to_image']:.0%} of the captions."
)
pd.DataFrame(results["captioner"]).T.style.format("{:.0%}")

# %%
asked = [open_image(images.loc[row, "path"]) for row in chosen[:4]]
written = {"shown": [captions[row] for row in chosen[:4]]}
for name in world["captioner"]["snapshots"]:
    model = {"model": str(weights / "captioners" / name), "revision": None}
    captioner = load_captioner(
        {"kind": "qwen2-vl", **model, "pixels": IMAGE_SIZE**2},
        device="cpu",
        dtype=torch.float32,
    )
    written[name] = captioner(
        asked, prompt=world["captioner"]["prompt"], max_new_tokens=40
    )
for number, image_id in enumerate(images.loc[chosen[:4], "image_id"]):
    print(image_id)
    for name, texts in written.items():
        print(f"  {name}: {texts[number]}")

# %% [markdown]
# ## What is real here and what is not
#
# *Like recordings*: file formats, sensors, trial numbers per image, presentation rates
# and overlap; sizes and latencies of the evoked components; contralateral early and
# bilateral late responses; spatially correlated 1/f and alpha activity; jitter from
# trial to trial; participants whose maps and latencies differ.
#
# *Simpler than recordings*: a spherical head; 46 dipoles; areas that know the
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
# 22248 of 1854 (MEG), and pictures with six attributes instead of photographs. Numbers
# from this world test the method and the code. They say nothing about brains.

# %%
record.finish(
    where("record"),
    inputs=[],
    outputs=[where("data") / "manifest.json", *(task.folder for task in tasks)],
)
