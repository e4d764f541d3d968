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
# # 11 Own images
#
# *What would an EEG or MEG recording of someone looking at my image look like?* One
# trained model answers for any image: it is captioned and encoded as the images of the
# training were, and signals are generated for it.
#
# - Reads: a checkpoint; images; captioner and CLIP of the checkpoint's training
# - Writes: predicted responses as `mne.Epochs`, one for each image
# - Time: seconds (mini, one core), a minute (paper, one GPU, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values, as in "sampling: {samples: 4}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_plus"  # an entry of the configuration's runs
seed: int = 0  # of the trained model
images: str = ""  # files or folders, with commas; empty for test images of the data set

# %%
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from paperlib.atomic import atomic_path
from paperlib.checkpoints import Checkpoint, load_checkpoint
from paperlib.config import load_settings
from paperlib.generation import find_images, generate
from paperlib.paths import locate
from paperlib.provenance import start_record
from paperlib.recordings.regions import channel_regions
from paperlib.reporting.figures import PAGE, REGION_COLORS, set_theme
from paperlib.reporting.topographies import plot_topographies, window_means
from paperlib.stimuli.images import open_image, read_images

# %%
keys = {"dataset": dataset, "subject": subject, "run": run, "seed": seed}
keys["images"] = images
settings = load_settings("11_own_images", config, overrides, dataset=dataset, run=run)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()

# %% [markdown]
# ## Images
#
# Type a path into `images` above: a folder, or one or several files. Without one, the
# first test images of the data set are taken, which the model has never seen either.

# %%
if images:
    pictures = find_images(images)
else:
    known = read_images(where("images"))
    pictures = known["path"][known["partition"] == "test"].head(3).tolist()
print(f"{len(pictures)} images, such as {pictures[0].name}.")

# %% [markdown]
# ## Responses
#
# The mean over the samples of an image, as MNE epochs: `epochs["name of the image"]`.
# The values are normalized as the recordings were, and have no volts: give MNE's own
# plots `scalings=1` and the unit.

# %%
device = settings["device"]
checkpoint = Checkpoint(*load_checkpoint(where("checkpoint"), device=device))
epochs = generate(
    pictures,
    checkpoint,
    average=True,
    seed=settings["seed"],
    device=device,
    **settings["sampling"],
)
unit = checkpoint.recipe["unit"]
responses = dict(zip(epochs.event_id, epochs.get_data(), strict=True))  # C T each

# %%
epochs.metadata

# %% [markdown]
# ## Images, captions and butterfly plots
#
# One line a sensor, colored by its region. *Look for* captions that say what the image
# shows, and for what differs between the responses: most of a response is common to
# all images.

# %%
regions = np.array(channel_regions(epochs.ch_names))
size = (PAGE, 0.4 + 1.5 * len(responses))
shape = {"nrows": len(responses), "ncols": 2, "squeeze": False}
fig, axes = plt.subplots(**shape, figsize=size, width_ratios=[1, 3], sharey="col")
for row, path, (name, response), caption in zip(
    axes, pictures, responses.items(), epochs.metadata["caption"], strict=True
):
    row[0].imshow(open_image(path))
    row[0].set_title(fill(name.replace("_", " "), 24), size=7)
    row[0].set_axis_off()
    for region, color in REGION_COLORS.items():
        lines = row[1].plot(1000 * epochs.times, response[regions == region].T)
        plt.setp(lines, color=color, lw=0.4)
        plt.setp(lines[:1], label=region)
    row[1].set_title(fill(caption, 100), loc="left", size=7)
    row[1].set(ylabel=unit, xlim=(None, 1000 * epochs.times[-1]))
axes[-1, 1].set_xlabel("Time (ms)")
fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
fig.suptitle(epochs.info["description"], x=0.01, ha="left", size=7)
plt.show()

# %%
common = np.mean(list(responses.values()), axis=0)
apart = np.mean([(response - common).std() for response in responses.values()])
print(
    f"The common response has a standard deviation of {common.std():.2f} {unit}; "
    f"single images differ from it by {apart:.2f}."
)

# %% [markdown]
# ## Topographies
#
# Means over time windows, all on one color scale.

# %%
windows = settings["topographies"]["windows"]
maps = {
    fill(name.replace("_", " "), 14): window_means(response, epochs.times, windows)
    for name, response in responses.items()
}
fig = plot_topographies(maps, windows=windows, info=epochs.info, unit=unit)
fig.suptitle(epochs.info["description"], x=0.01, ha="left", size=7)
plt.show()

# %% [markdown]
# ## Save
#
# `mne.read_epochs` opens the file. What the values are is in `epochs.info`.

# %%
with atomic_path(where("own_images")) as partial:
    epochs.save(partial, verbose="error")
print(f"Written: {where('own_images')}")

# %%
record.finish(
    where("record"),
    inputs=[where("checkpoint"), *pictures],
    outputs=[where("own_images")],
)
