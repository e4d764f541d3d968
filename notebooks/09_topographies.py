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
# *Where on the head is the response to an image, and how different is it in another
# participant?* (paper, Figures 3 and 7; the first version's maps of all participants)
#
# - Reads: signals of every participant
# - Writes: two figures of scalp maps
# - Time: seconds (mini), minutes (paper, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values
dataset: str = "things-eeg2"

# %%
import matplotlib.pyplot as plt
import numpy as np

from paperlib.config import load_settings
from paperlib.paths import TOPOGRAPHIES, locate
from paperlib.progress import progress_bar
from paperlib.provenance import start_record
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import load_signals, mean_response
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.topographies import plot_topographies, window_means

# %%
keys = {"dataset": dataset}
settings = load_settings("09_topographies", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()
windows = settings["topographies"]["windows"]

# %% [markdown]
# ## Mean responses
#
# The mean over all training images and over all test images of each participant,
# averaged within time windows. EEG is whitened and MEG divided by its baseline's
# standard deviation (notebook 01): maps are in these units, not in volts or teslas.

# %%
maps = {}
for subject in progress_bar(settings["subjects"], label="Averaging", unit="subject"):
    signals = load_signals(where("signals", subject=subject))
    for partition in ("training", "test"):
        recorded = getattr(signals, partition)  # N R C T
        means = window_means(mean_response(recorded), signals.times, windows)
        maps[subject, partition] = means
    n_images = {"training": len(signals.training), "test": len(signals.test)}
look = {
    "windows": windows,
    "info": sensor_info(signals.ch_names, signals.sfreq),
    "unit": signals.unit,
}
print(
    f"Means over {len(signals.training)} training and {len(signals.test)} test images "
    f"at {len(signals.ch_names)} sensors, in {signals.unit}"
    f"{', simulated participants' if settings['simulated'] else ''}."
)

# %% [markdown]
# ## Training subject, test subject, difference
#
# The training images of one participant against the test images of another, on one
# color scale. *Look for* differences as large as the maps: a model of the first
# participant cannot fit the second.

# %%
first = settings["training_subject"]
second = next((s for s in settings["subjects"] if s != first), first)
rows = {
    (
        subject,
        partition,
    ): f"Subject {subject}\n{partition}\n{n_images[partition]:,} images"
    for subject, partition in maps
}
pair = {rows[key]: maps[key] for key in ((first, "training"), (second, "test"))}
difference = np.subtract(*pair.values())
comparison = plot_topographies(
    {**pair, "Difference,\nfirst - second": difference}, **look
)
plt.show()

# %%
amplitude = np.abs(np.stack(list(pair.values()))).mean()
print(
    f"The maps differ by {np.abs(difference).mean():.2f} {signals.unit} on average; "
    f"their own mean size is {amplitude:.2f}."
)

# %% [markdown]
# ## All participants
#
# *Look for* training and test maps of a participant that agree, and participants that
# do not.

# %%
everyone = plot_topographies({rows[k]: maps[k] for k in maps}, **look)
plt.show()

# %% [markdown]
# ## Save

# %%
figures = {"": comparison, "_all_subjects": everyone}
written = []
for ending, fig in figures.items():
    stem = where("figure", name=f"{TOPOGRAPHIES[dataset]}{ending}")
    written += save_figure(fig, stem, simulated=settings["simulated"])

# %%
record.finish(
    where("record"),
    inputs=[where("signals", subject=subject) for subject in settings["subjects"]],
    outputs=written,
)
