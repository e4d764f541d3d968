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
# # 09 Topographies
#
# *Where on the head is the response to an image, how different is it in another
# participant, and does the model generate it?* (paper, Figures 3 and 7; the first
# version's maps of all participants)
#
# - Reads: signals of every participant; of the first data set also the responses that
#   the reference model generates for its training subject
# - Writes: two figures of scalp maps; of the first data set also an image with its
#   recorded and its generated response
# - Time: seconds (mini), minutes (paper, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values
dataset: str = "things-eeg2"

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import find_peaks
from tqdm.auto import tqdm

from paperlib import paths
from paperlib.evaluation.metrics import pearson_flattened
from paperlib.notebook import open_notebook
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import average_repetitions, load_signals, mean_response
from paperlib.reporting import topographies
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.stimuli.images import open_image, read_images

# %%
nb = open_notebook("09_topographies", globals())
cfg = nb.cfg
set_theme()
windows = cfg.topographies.windows

# %% [markdown]
# ## Mean responses
#
# The mean over all images of a partition, $\bar y_c(t)$, is averaged over each time
# window $w$:
# $$m_{c,w} = \frac{1}{|w|} \sum_{t \in w} \bar y_c(t).$$
# EEG is whitened and MEG divided by its baseline's standard deviation (notebook 01):
# maps are in these units, not in volts or teslas.

# %%
signals = load_signals(nb.input("signals", subject=cfg.training_subject))
response = mean_response(signals.test)  # C T
means = topographies.window_means(response, signals.times, windows)
layout = {
    "windows": windows,
    "info": sensor_info(signals.ch_names, signals.sfreq),
    "unit": signals.unit,
}
print(
    f"A mean response {response.shape} becomes maps {means.shape}, windows × sensors."
)

# %%
maps = {}
for subject in tqdm(cfg.subjects, desc="Averaging", unit="subject"):
    signals = load_signals(nb.input("signals", subject=subject))
    for partition in ("training", "test"):
        trials = getattr(signals, partition)  # N R C T
        label = f"Subject {subject}\n{partition}\n{len(trials):,} images"
        means = topographies.window_means(mean_response(trials), signals.times, windows)
        maps[subject, partition] = label, means

# %% [markdown]
# ## Training subject, test subject, difference
#
# The training images of one participant against the test images of another, on one
# color scale. *Look for* differences as large as the maps: a model of the first
# participant cannot fit the second.

# %%
first = cfg.training_subject
second = next((subject for subject in cfg.subjects if subject != first), first)
pair = dict([maps[first, "training"], maps[second, "test"]])
difference = np.subtract(*pair.values())
comparison = topographies.plot_topographies(
    {**pair, "Difference,\nfirst - second": difference}, **layout
)
plt.show()

# %%
amplitude = np.abs(np.stack(list(pair.values()))).mean()
print(
    f"Mean absolute difference {np.abs(difference).mean():.2f} {signals.unit}; mean "
    f"absolute value of the two maps {amplitude:.2f} {signals.unit}."
)

# %% [markdown]
# ## All participants
#
# *Look for* training and test maps of a participant that agree, and participants that
# do not.

# %%
everyone = topographies.plot_topographies(dict(maps.values()), **layout)
plt.show()

# %%
figures = {"": comparison, "_all_subjects": everyone}
for ending, fig in figures.items():
    stem = nb.output("figure", name=f"{paths.TOPOGRAPHIES[dataset]}{ending}")
    save_figure(fig, stem, simulated=cfg.simulated)

# %% [markdown]
# ## An image, its recorded and its generated response
#
# For the first data set: the test image for which the generated response (the posterior
# mean of the reference model) has the median image-specific correlation with the
# recorded one, so neither the best nor the worst. Dotted lines, and maps, are at the
# largest peaks of the recording's global field power,
# $$\mathrm{GFP}(t) = \sqrt{\tfrac{1}{C} \sum_c \big(y_c(t) - \bar y(t)\big)^2}.$$
# *Look for* the components that both rows share, and for the recording's noise, which a
# mean does not have.

# %%
if dataset == next(iter(cfg.datasets)):
    model = cfg.of(run=cfg.evaluation.reference)
    keys = {"subject": first, "run": model.run, "seed": model.seeds[0]}
    generated = np.load(nb.input("posterior_mean", **keys))  # N C T
    signals = load_signals(nb.input("signals", subject=first))
    recorded = average_repetitions(signals.test)  # N C T
    common = mean_response(signals.training)  # C T
    scores = pearson_flattened(generated - common, recorded - common)  # N
    chosen = scores.argsort()[len(scores) // 2]
    power = recorded[chosen].std(axis=0)  # T
    peaks, _ = find_peaks(power, distance=int(0.08 * signals.sfreq))
    peaks = sorted(peaks, key=lambda peak: power[peak])[-3:]
    print(
        f"{model.label}, image {chosen + 1} of {len(scores)}: r = "
        f"{scores[chosen]:.2f} (from {scores.min():.2f} to {scores.max():.2f})."
    )

# %%
if dataset == next(iter(cfg.datasets)):
    images = read_images(nb.input("images"))
    shown = images[images["partition"] == "test"].iloc[chosen]
    hero = topographies.plot_response(
        open_image(shown["path"]),
        {"Recorded": recorded[chosen], f"Generated, {model.label}": generated[chosen]},
        times=signals.times,
        moments=signals.times[sorted(peaks)],
        regions=channel_regions(signals.ch_names),
        info=layout["info"],
        unit=signals.unit,
    )
    save_figure(hero, nb.output("figure", name="hero"), simulated=cfg.simulated)
    plt.show()

# %%
nb.finish()
