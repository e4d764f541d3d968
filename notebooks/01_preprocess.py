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
# # 01 Preprocess
#
# *What does each image evoke in this participant, and how much of it repeats?* Trials
# are cut out of the recordings, resampled and normalized (paper, Appendix D).
#
# - Reads: recordings of one participant, raw or preprocessed by others
# - Writes: training and test signals (images, repetitions, channels, times)
# - Time: about a minute (mini), ten minutes and 6 GB of memory (paper, simulated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values: "preprocessing: {sfreq: 100}"
dataset: str = "things-eeg2"
subject: int = 1

# %%
import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
import seaborn as sns
from paperlib.provenance import start_record
from paperlib.recordings.sources import source_files, write_signals

from paperlib.config import load_settings
from paperlib.paths import locate
from paperlib.recordings.mvnn import noise_covariance
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import (
    load_signals,
    mean_response,
    split_half_reliability,
)
from paperlib.reporting.figures import COLORS, COLUMN, PAGE, REGION_COLORS, set_theme

# %%
keys = {"dataset": dataset, "subject": subject}
settings = load_settings("01_preprocess", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()

# %% [markdown]
# ## From recordings to signals
#
# Each trial is cut around the onset of its image and resampled. THINGS-EEG2: its
# baseline is subtracted; sessions show some images more often than planned, so a fixed
# number of trials of each is drawn; the noise covariance of each session then whitens
# its trials: afterwards the noise of all channels is uncorrelated and has a variance of
# 1. THINGS-MEG: each trial and sensor is standardized by its baseline, not whitened;
# trials are sorted by image.

# %%
options = settings["preprocessing"]
inputs = source_files(options, where, subject=subject)
counts, covariances = write_signals(options, where, subject=subject)
signals = load_signals(where("signals"))

# %%
for partition in ("training", "test"):
    n_images, n_repetitions, n_channels, n_times = getattr(signals, partition).shape
    print(
        f"{partition.capitalize()}: {n_images:,} images x {n_repetitions} repetitions "
        f"x {n_channels} channels x {n_times} times, {signals.times[0]:.3f} to "
        f"{signals.times[-1]:.3f} s at {signals.sfreq:g} Hz, in {signals.unit}."
    )
regions = pd.Series(channel_regions(signals.ch_names), index=signals.ch_names)
sizes = regions.value_counts(sort=False)
print(", ".join(f"{region} {size}" for region, size in sizes.items()), "channels.")

# %% [markdown]
# Trials recorded and kept. Catch trials show the target of the task; incomplete ones
# lie too near an end of the recording. *Look for* the same number kept in each session
# (THINGS-EEG2), or for all but the catch trials (THINGS-MEG).

# %%
counts

# %% [markdown]
# ## Noise
#
# Correlation of the noise between channels in up to 20 repetitions of the test images,
# and, where this notebook whitened them, as recorded in the first session. The
# covariance that whitens comes from training trials, so the map of test trials shows
# how well it fits other trials. *Look for* correlations that disappear with whitening,
# except for weak ones of neighbors, because the estimate is shrunk. MEG is not
# whitened: neighboring sensors stay correlated.

# %%
mode = "time" if options.get("mvnn") == "time" else "epochs"
noise = {"As written": noise_covariance(np.array(signals.test[:, :20], float), mode)}
if covariances is not None:
    noise = {"As recorded": covariances[0], **noise}
correlations = {
    title: matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    for title, matrix in noise.items()
}

# %%
fig, axes = plt.subplots(1, len(noise), figsize=(COLUMN, 0.5 * COLUMN), squeeze=False)
for ax, (title, matrix) in zip(axes[0], correlations.items(), strict=True):
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set(title=title, xlabel="Channel", xticks=[], yticks=[])
axes[0, 0].set(ylabel="Channel")
fig.colorbar(image, ax=axes, label="Noise correlation")
plt.show()

# %%
for title, matrix in correlations.items():
    size = np.abs(matrix[np.triu_indices_from(matrix, k=1)]).mean()
    deviation = np.sqrt(np.diag(noise[title]))
    unit = signals.unit if title == "As written" else "V"
    print(
        f"{title}: mean absolute correlation {size:.2f}; standard deviation "
        f"{deviation.min():.2g} to {deviation.max():.2g} {unit}."
    )

# %% [markdown]
# ## Evoked response
#
# Mean over all training images: one line a channel, and below it the global field power
# (the standard deviation over channels). *Look for* peaks from about 0.1 s on that are
# largest at occipital and parietal sensors. In THINGS-EEG2 they recur every 0.2 s
# because a new image comes every 0.2 s; in THINGS-MEG the next one comes after 1.5 s.

# %%
evoked = mean_response(signals.training)  # C T
power = evoked.std(axis=0)
fig, (ax, low) = plt.subplots(
    2, sharex=True, figsize=(COLUMN, 0.8 * COLUMN), height_ratios=[3, 1]
)
for region, names in regions.groupby(regions, sort=False).groups.items():
    rows = regions.index.get_indexer(names)
    lines = ax.plot(signals.times, evoked[rows].T, REGION_COLORS[region], lw=0.5)
    lines[0].set_label(region)
ax.set(ylabel=f"Amplitude ({signals.unit})")
fig.legend(loc="outside upper center", ncols=5, columnspacing=1, handlelength=1)
low.plot(signals.times, power, COLORS["recorded"])
low.set(xlabel="Time from image onset (s)", ylabel="Field power", ylim=(0, None))
plt.show()

# %% [markdown]
# ## Reliability
#
# Means of the odd and of the even repetitions of the test images, correlated over
# images and times after the response common to all images has been subtracted, and
# corrected to the full number of repetitions (Spearman-Brown). *Look for* the highest
# values over the occipital cortex: no model can explain what does not repeat.

# %%
info = sensor_info(signals.ch_names, signals.sfreq)
reliability = pd.Series(split_half_reliability(signals.test), index=regions.index)
best = reliability.idxmax()
print(
    f"The median reliability is {reliability.median():.2f}; it is highest at {best} "
    f"({reliability[best]:.2f})."
)

# %%
fig, (ax, head) = plt.subplots(1, 2, figsize=(PAGE, 0.3 * PAGE), width_ratios=[2, 1])
sns.stripplot(
    x=regions, y=reliability, hue=regions, palette=REGION_COLORS, size=3, ax=ax
)
ax.set(xlabel="", ylabel="Split-half reliability")
image, _ = mne.viz.plot_topomap(
    reliability, info, axes=head, vlim=(0, 1), cmap="viridis", contours=0, show=False
)
fig.colorbar(image, ax=head, label="Split-half reliability")
plt.show()

# %% [markdown]
# ## Save

# %%
record.finish(where("record"), inputs=inputs, outputs=[where("signals")])
