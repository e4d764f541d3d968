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
# are cut out of the recordings, resampled and whitened (paper, Appendix D).
#
# - Reads: raw sessions of one participant, or the preprocessed files of others
# - Writes: training and test signals (images, repetitions, channels, times)
# - Time: about a minute (mini), ten minutes and 6 GB of memory (paper)

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

from paperlib.config import load_settings
from paperlib.paths import locate
from paperlib.provenance import start_record
from paperlib.recordings.mvnn import noise_covariance
from paperlib.recordings.preprocessing import import_published, preprocess_recordings
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import (
    average_repetitions,
    load_signals,
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
# Each trial is cut around the onset of its image, its baseline subtracted, and
# resampled. Sessions show some images more often than planned; a fixed number of trials
# of each is drawn. The noise covariance of each session then whitens its trials:
# afterwards the noise of all channels is uncorrelated and has a variance of 1.

# %%
options = dict(settings["preprocessing"])
source = options.pop("source")
if source == "raw":
    inputs = [where("raw")]
    counts, covariances = preprocess_recordings(*inputs, where("signals"), **options)
else:
    inputs = [where("published")]
    import_published(*inputs, where("signals"), channels=options["channels"])
    counts, covariances = pd.DataFrame(), []
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
# Trials of each recording. Catch trials show the target of the task; incomplete ones
# lie too near an end of the recording. *Look for* the same number kept in each session.

# %%
counts

# %% [markdown]
# ## Noise
#
# Correlation of the noise between channels: as recorded in the first session, and in
# 20 repetitions of the test images after whitening. The covariance that whitens comes
# from training trials, so the second map shows how well it fits other trials. *Look
# for* correlations that disappear; weak ones of neighbors remain because the estimate
# is shrunk.

# %%
mode = "time" if options["mvnn"] == "time" else "epochs"
noise = {"As written": noise_covariance(np.array(signals.test[:, :20], float), mode)}
if len(covariances):
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
# largest at occipital and parietal electrodes. They recur every 0.2 s because a new
# image comes every 0.2 s.

# %%
evoked = average_repetitions(signals.training).mean(axis=0)  # C T
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
