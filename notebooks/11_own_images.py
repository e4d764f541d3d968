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
# *What would the EEG or MEG of someone who looks at my image look like?*
#
# - Reads: a trained model; images; the captioner and the encoders of its training
# - Writes: predicted responses as `mne.Epochs`, one for each image
# - Time: seconds (mini, one core), a minute (paper, one GPU, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "sampling: {steps: 20}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_plus"  # an entry of the configuration's runs
images: list = []  # files or folders; empty for test images of the data set

# %%
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display

from paperlib.atomic import atomic_path
from paperlib.checkpoints import Checkpoint
from paperlib.generation import find_pictures, generate
from paperlib.notebook import open_notebook
from paperlib.recordings.regions import channel_regions
from paperlib.reporting.figures import set_theme
from paperlib.reporting.pictures import draw_maps, map_samples, slide_maps
from paperlib.reporting.topographies import (
    plot_response,
    plot_topographies,
    window_means,
)
from paperlib.stimuli.images import open_image, read_images

# %%
nb = open_notebook("11_own_images", globals())
cfg = nb.cfg
set_theme()

# %% [markdown]
# ## Images
#
# Put paths into `images` above: files, folders or both. Without any, the first test
# images of the data set are taken, which the model has never seen either. With
# papermill: `-y "images: [cat.jpg, holidays/]"`.

# %%
if images:
    pictures = find_pictures(images)
else:
    known = read_images(nb.input("images"))
    pictures = known.loc[known["partition"] == "test", "path"].head(3).tolist()
print(f"{len(pictures)} images, such as {pictures[0].name!r}.")

# %% [markdown]
# ## Responses
#
# An image $x$ is captioned and encoded as the images of the training were. Then there
# are two answers. A sample $y \sim p(y \mid x)$ is one possible recording, with the
# noise that a recording has. The posterior mean is the response that all of them share,
# $$\bar y(x) = \mathbb{E}[y \mid x] \approx \frac{1}{K} \sum_{k=1}^{K} y_k,$$
# which the network states at once when it is shown nothing but noise.

# %%
folder = nb.input("checkpoint", seed=cfg.seeds[0])
checkpoint = Checkpoint.from_pretrained(folder, device=cfg.machine.device)
options = {"sampling": cfg.sampling, "seed": cfg.seed, "machine": cfg.machine}
epochs = generate(pictures, checkpoint, **options)
captions = epochs.metadata["caption"].tolist()
print(epochs.info["description"])

# %%
samples = generate(pictures, checkpoint, captions=captions, samples=1, **options)

# %% [markdown]
# Epochs are called `image-001` and so on, because MNE's files separate names by `:` and
# `;`. Which image each one shows is in the metadata.

# %%
epochs.metadata

# %% [markdown]
# ## Image, caption and response
#
# The first six images. One line a sensor, colored by its region, and scalp maps at the
# dotted times; a caption stands above if the model reads one. *Look for* captions that
# say what the image shows, and for a sample that follows the mean where its noise lets
# it.

# %%
names = [Path(name).stem for name in epochs.metadata["image"]]
regions = channel_regions(epochs.ch_names)
windows = cfg.topographies.windows
layout = {"info": epochs.info, "unit": checkpoint.recipe.unit}
moments = [np.mean(window) for window in windows if np.mean(window) < 0.4]
responses, drawn = epochs.get_data(), samples.get_data()  # N C T
title = {"x": 0.01, "ha": "left", "size": 7, "parse_math": False}
for i in range(min(6, len(names))):
    fig = plot_response(
        open_image(pictures[i]),
        {"Posterior mean": responses[i], "One sample": drawn[i]},
        times=epochs.times,
        moments=moments,
        regions=regions,
        **layout,
    )
    text = fill(": ".join(filter(None, (names[i], captions[i]))), 120)
    fig.suptitle(f"{epochs.info['description']}\n{text}", **title)
    plt.show()

# %% [markdown]
# Scalp maps of the posterior mean (above) and of the sample at twelve times; the slider
# moves both.

# %%
sampled = map_samples(epochs.times)
for i in range(min(6, len(names))):
    both = np.stack([responses[i], drawn[i]])[..., sampled].swapaxes(1, 2)  # 2 12 C
    limit = np.quantile(np.abs(both), 0.99)
    maps = draw_maps(both, epochs.info, limit=limit)
    milliseconds = (1000 * epochs.times[sampled]).round().astype(int).tolist()
    print(f"{names[i]}, colors from {-limit:.1f} to {limit:.1f} {layout['unit']}")
    display(HTML(slide_maps(maps, milliseconds)))

# %% [markdown]
# ## What differs between images
#
# Most of a response is common to all images: the brain's answer to seeing anything at
# all. One image alone cannot show it.

# %%
common = responses.mean(axis=0)
if len(names) > 1:
    print(
        f"The common response has a standard deviation of {common.std():.2f} "
        f"{layout['unit']}; single images differ from it by "
        f"{(responses - common).std():.2f}."
    )

# %% [markdown]
# Means over time windows, all on one color scale, of the common response and of what
# each image adds to it.

# %%
if len(names) > 1:
    maps = {"Common": window_means(common, epochs.times, windows)}
    for i, name in enumerate(names[:6]):
        label = f"{i + 1} {fill(name.replace('_', ' '), 14)}"
        maps[label] = window_means(responses[i] - common, epochs.times, windows)
    fig = plot_topographies(maps, windows=windows, **layout)
    fig.suptitle(epochs.info["description"], **title)
    plt.show()

# %% [markdown]
# ## Save
#
# `mne.read_epochs` opens the file; `epochs.info["description"]` says what the values
# are. They are normalized as the recordings were and have no volts: give MNE's own
# plots `scalings=1`.

# %%
with atomic_path(nb.output("own_images")) as partial:
    epochs.save(partial, verbose="error")
print(f"Written: {nb.output('own_images')}")

# %%
nb.finish()
