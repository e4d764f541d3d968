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
# *What does each image evoke in this participant, and how much of it repeats?* (paper,
# Appendix D)
#
# - Reads: recordings of one participant, raw or preprocessed by others
# - Writes: training and test signals (images, repetitions, channels, times)
# - Time: about a minute (mini), ten minutes and 6 GB of memory (paper, simulated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values
dataset: str = "things-eeg2"
subject: int = 1

# %%
import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
import seaborn as sns

from paperlib.notebook import open_notebook
from paperlib.recordings import preprocessing as eeg
from paperlib.recordings import things_eeg2, things_meg
from paperlib.recordings import things_meg_raw as meg
from paperlib.recordings.mvnn import noise_covariance, whitening_matrix
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import (
    load_signals,
    mean_response,
    split_half_reliability,
)
from paperlib.reporting import figures

# %%
nb = open_notebook("01_preprocess", globals())
options = nb.cfg.preprocessing
figures.set_theme()
options

# %% [markdown]
# ## From a recording to trials
#
# **THINGS-EEG2.** A trial $x_i(t)$, a vector of channels, is cut out around the onset
# $t_i$ of its image. Its mean before the onset is subtracted,
# $$x_i(t) \leftarrow x_i(t) - \frac{1}{|B|} \sum_{s \in B} x_i(s),
# \qquad B = [t_\text{min}, 0],$$
# and it is resampled. Channels share much of their noise: the same source reaches
# many electrodes. The noise covariance of a session is the mean over trials of
# $$\hat\Sigma_i = (1 - \lambda_i)\, S_i + \lambda_i \mu_i I,$$
# in which $S_i$ is the covariance over the times of trial $i$ (of standardized
# channels) and $\lambda_i$ the shrinkage of Ledoit and Wolf. Multivariate noise
# normalization whitens the trials with it:
# $$y_i(t) = W x_i(t), \qquad W = \Sigma^{-1/2}, \qquad W \Sigma W = I.$$
#
# **THINGS-MEG.** Each sensor of each trial is standardized by its baseline instead,
# $(x_i(t) - m_i) / s_i$, with mean $m_i$ and standard deviation $s_i$ over $B$.
#
# The steps on 100 trials of one session, of which the first is drawn; signals that
# others preprocessed are shown as they come.

# %%
steps = {}  # title (unit): times, one trial (n_channels, n_times)
if options.source == "raw":
    session = things_eeg2.session_folders(nb.input("raw"))[0]
    raw = things_eeg2.load_recording(session, "training")
    events, n_targets = things_eeg2.stimulus_events(raw)
    channels, rate = eeg.channel_names(options.channels), raw.info["sfreq"]
    n_cut = round((options.keep_from - options.tmin) * options.sfreq)

    cut = eeg.cut(raw, events[10:110, 0], channels, options)  # N C 1201, volts
    centered = eeg.subtract_baseline(cut, rate, options)
    resampled = eeg.resample(centered, rate, options.sfreq)[..., n_cut:]  # N C 250
    sigma = noise_covariance(resampled[:, None], "epochs")  # C C
    whitened = whitening_matrix(sigma) @ resampled

    times = np.linspace(options.tmin, options.tmax, cut.shape[-1])
    steps = {"Cut (V)": (times, cut[0]), "Baseline (V)": (times, centered[0])}
    times = options.keep_from + np.arange(resampled.shape[-1]) / options.sfreq
    steps |= {"Resampled (V)": (times, resampled[0])}
    steps |= {"Whitened (noise SD)": (times, whitened[0])}

# %%
if options.source == "raw_ctf":
    run = meg.survey_run(meg.find_runs(nb.input("raw"), subject)[0], options)
    trials = meg.cut_trials(meg.clean_run(run, options), run.samples[:1], options)
    times = options.tmin + np.arange(trials.shape[-1]) / options.sfreq
    steps = {"Filtered, standardized, resampled (baseline SD)": (times, trials[0])}
elif options.source == "epochs":
    path = nb.input("published") / f"preprocessed_P{subject}-epo.fif"
    epochs = things_meg.open_epochs(path)[:1]
    trial = epochs.get_data(verbose="error")[0]
    steps = {"As released (baseline SD)": (epochs.times, trial)}
elif options.source == "published":
    published = things_eeg2.load_published(nb.input("published"), "test")
    trial = published.data[0, 0]
    steps = {f"As published ({published.unit})": (published.times, trial)}

# %% [markdown]
# One trial at every channel, step by step. *Look for* slow drifts and offsets, which
# the baseline removes only in part; for channels that move together before whitening
# and on their own after it; and for the amplitude, which becomes a multiple of the
# noise.

# %%
fig, axes = plt.subplots(
    1, len(steps), figsize=(figures.PAGE, 0.3 * figures.PAGE), squeeze=False
)
for ax, (title, (times, trial)) in zip(axes[0], steps.items(), strict=True):
    ax.plot(times, trial.T, color=figures.COLORS["recorded"], lw=0.3, alpha=0.6)
    name, _, unit = title.partition(" (")
    ax.set(title=name, xlabel="Time (s)", ylabel=f"Amplitude ({unit}")
plt.show()

# %% [markdown]
# ## All sessions
#
# The same for every trial. In THINGS-EEG2, sessions show some images more often than
# planned: a fixed number of trials of each is drawn, and the repetitions of all
# sessions are put into one random order (both with the seed of the data set's authors).
# In THINGS-MEG, trials are sorted by image. All files are checked before the first
# trial is cut.

# %%
folder = nb.output("signals")
counts, covariances = pd.DataFrame(), []
match options.source:
    case "raw":
        counts, covariances = eeg.preprocess_recordings(
            nb.input("raw"), folder, options
        )
    case "published":
        eeg.import_published(nb.input("published"), folder, options.channels)
    case "raw_ctf":
        counts = meg.preprocess_runs(nb.input("raw"), folder, options, subject=subject)
    case "epochs":
        counts = things_meg.import_epochs(
            nb.input("images"), folder, subject=subject, concepts=options.concepts
        )
signals = load_signals(folder)

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
# and, if this notebook whitened them, as recorded in the first session. The covariance
# that whitens comes from training trials, so the map of test trials shows how well it
# fits other trials. *Look for* correlations that disappear with whitening, except for
# weak ones of neighbors, because the estimate is shrunk. MEG is not whitened:
# neighboring sensors stay correlated.

# %%
noise = {"As recorded (V)": covariances[0]} if len(covariances) else {}
mode = "time" if getattr(options, "mvnn", None) == "time" else "epochs"
trials = np.array(signals.test[:, :20], float)
noise[f"As written ({signals.unit})"] = noise_covariance(trials, mode)
fig, axes = plt.subplots(
    1,
    len(noise),
    figsize=(figures.COLUMN, 0.5 * figures.COLUMN),
    squeeze=False,
)
for ax, (title, matrix) in zip(axes[0], noise.items(), strict=True):
    deviation = np.sqrt(np.diag(matrix))
    correlation = matrix / np.outer(deviation, deviation)
    image = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set(title=title, xlabel="Channel", xticks=[], yticks=[])
    size = np.abs(correlation[np.triu_indices_from(matrix, k=1)]).mean()
    print(
        f"{title}: mean absolute correlation {size:.2f}; standard deviation "
        f"{deviation.min():.2g} to {deviation.max():.2g}."
    )
axes[0, 0].set(ylabel="Channel")
fig.colorbar(image, ax=axes, label="Noise correlation")
plt.show()

# %% [markdown]
# ## Evoked response
#
# Mean over all training images: one line a channel, and below it the global field power
# (the standard deviation over channels). *Look for* peaks from about 0.1 s on that are
# largest at occipital and parietal sensors. In THINGS-EEG2 they recur every 0.2 s
# because a new image comes every 0.2 s; in THINGS-MEG the next one comes after 1.5 s.

# %%
evoked = mean_response(signals.training)  # C T
fig, (ax, low) = plt.subplots(
    2,
    sharex=True,
    figsize=(figures.COLUMN, 0.8 * figures.COLUMN),
    height_ratios=[3, 1],
)
for region, names in regions.groupby(regions, sort=False).groups.items():
    rows = regions.index.get_indexer(names)
    color = figures.REGION_COLORS[region]
    lines = ax.plot(signals.times, evoked[rows].T, color, lw=0.5)
    lines[0].set_label(region)
ax.set(ylabel=f"Amplitude ({signals.unit})")
fig.legend(loc="outside upper center", ncols=5, columnspacing=1, handlelength=1)
low.plot(signals.times, evoked.std(axis=0), figures.COLORS["recorded"])
low.set(xlabel="Time from image onset (s)", ylabel="Field power", ylim=(0, None))
plt.show()

# %% [markdown]
# ## Reliability
#
# Means of the odd and of the even repetitions of the test images, correlated over
# images and times after the response common to all images has been subtracted, and
# corrected to the full number of repetitions (Spearman-Brown): $2r / (1 + r)$. *Look
# for* the highest values over the occipital cortex: no model can explain what does not
# repeat.

# %%
reliability = pd.Series(split_half_reliability(signals.test), index=regions.index)
best = reliability.idxmax()
print(
    f"The median reliability is {reliability.median():.2f}; it is highest at {best} "
    f"({reliability[best]:.2f})."
)

# %%
fig, (ax, head) = plt.subplots(
    1, 2, figsize=(figures.PAGE, 0.3 * figures.PAGE), width_ratios=[2, 1]
)
palette = figures.REGION_COLORS
sns.stripplot(x=regions, y=reliability, hue=regions, palette=palette, size=3, ax=ax)
ax.set(xlabel="", ylabel="Split-half reliability")
info = sensor_info(signals.ch_names, signals.sfreq)
image, _ = mne.viz.plot_topomap(
    reliability, info, axes=head, vlim=(0, 1), cmap="viridis", contours=0, show=False
)
fig.colorbar(image, ax=head, label="Split-half reliability")
plt.show()

# %% [markdown]
# ## A data set of your own
#
# Recordings from elsewhere need three things. Their arrays, for each participant:
#
# ```python
# from paperlib.recordings.signals import save_signals
#
# save_signals(
#     "data/own/things-eeg2/preprocessed_data/sub-01",
#     training=training,  # trials: images x repetitions x channels x times
#     test=test,
#     ch_names=["Fz", "PO9", "Iz"],
#     sfreq=250,  # Hz
#     tmin=0,  # s from image onset
#     unit="V",
# )
# ```
#
# Channels whose region and position are known: electrodes of the 10-10 system or CTF
# sensors (others are added in `paperlib/recordings/regions.py` and `sensors.py`). And
# the images, in the order of the rows: `data/own/things-eeg2/images`, in folders and
# with an `image_metadata.npy` as in THINGS-EEG2. A configuration of its own brings them
# in, and all notebooks follow:
#
# ```yaml
# extends: paper
# data_root: data/own
# datasets:
#   things-eeg2: {subjects: [1], preprocessing: {source: published}}
#   things-meg: null
# ```

# %%
nb.finish()
