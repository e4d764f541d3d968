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
# # 05 Sample
#
# *What responses does the trained model expect to images it has never seen?* Several
# signals are generated for every test image (paper, section 3.4, Algorithm 2).
#
# - Reads: a checkpoint, CLIP tokens of the test images and of their captions
# - Writes: generated signals, float32 of shape (images, samples, channels, times), and
#   the seconds that they took
# - Time: seconds (mini, one core), minutes to an hour (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "sampling: {steps: 50}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_v"  # an entry of the configuration's runs
seed: int = 0  # of the trained model

# %%
import json
import time

import matplotlib.pyplot as plt
import numpy as np

from paperlib.atomic import atomic_path, write_text
from paperlib.checkpoints import load_checkpoint
from paperlib.config import load_settings
from paperlib.methods import respond
from paperlib.paths import locate
from paperlib.provenance import start_record
from paperlib.reporting.figures import COLORS, PAGE, set_theme
from paperlib.stimuli.conditions import open_condition
from paperlib.stimuli.images import open_image, read_images
from paperlib.validation import check_finite

# %%
keys = {"dataset": dataset, "subject": subject, "run": run, "seed": seed}
settings = load_settings("05_sample", config, overrides, dataset=dataset, run=run)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()

# %% [markdown]
# ## Model and conditions

# %%
model, recipe = load_checkpoint(where("checkpoint"), device=settings["device"])
images = read_images(where("images"))
images = images[images["partition"] == "test"].reset_index(drop=True)
condition = open_condition(recipe["conditioning"], where, images["image_id"])
print(f"{recipe['method']}: {len(images)} test images, {condition.n_tokens} tokens.")

# %% [markdown]
# ## Sampling
#
# The noise of a sample depends on the seed, the image and the sample's number only:
# neither the batch size nor the other images change it. Keys and values of the
# condition are computed once, not once a step. Methods that do not sample give one
# signal for each image.

# %%
began = time.monotonic()
samples = respond(
    model,
    recipe,
    condition,
    sampling=settings["sampling"],
    seed=settings["seed"],
)  # N K C T
seconds = time.monotonic() - began
check_finite("The samples", samples)
spread = samples.std(axis=1).mean() if samples.shape[1] > 1 else np.nan
print(
    f"Generated {samples.shape[1]} signals for each of {samples.shape[0]} images; over "
    f"the samples of an image they vary by {spread:.2f} {recipe['unit']}, over images "
    f"their means vary by {samples.mean(axis=1).std(axis=0).mean():.2f}. It took "
    f"{seconds:.1f} s."
)

# %% [markdown]
# ## A look
#
# Samples of one image (thin) and their mean (bold) at one occipital sensor. *Look for*
# samples that differ in detail and agree on the evoked response.

# %%
sensor = recipe["ch_names"].index("Oz") if "Oz" in recipe["ch_names"] else 0
times_ms = 1000 * np.asarray(recipe["times"])
fig, axes = plt.subplots(2, 3, figsize=(PAGE, 0.5 * PAGE), height_ratios=[1, 2])
for column, (picture, ax) in enumerate(axes.T):
    picture.imshow(open_image(images["path"][column]))
    picture.set_axis_off()
    drawn = samples[column, :8, sensor]
    ax.plot(times_ms, drawn.T, color=COLORS["generated"], lw=0.4, alpha=0.5)
    ax.plot(times_ms, samples[column, :, sensor].mean(axis=0), color="black")
    ax.set(xlabel="Time (ms)")
axes[1, 0].set_ylabel(f"{recipe['ch_names'][sensor]} ({recipe['unit']})")
plt.show()

# %% [markdown]
# ## Save

# %%
with atomic_path(where("samples")) as partial:
    np.save(partial, samples)
write_text(where("sampling"), json.dumps({"seconds": round(seconds, 3)}) + "\n")

# %%
record.finish(
    where("record"),
    inputs=[where("checkpoint"), *(tokens.path for tokens in condition.sources)],
    outputs=[where("samples"), where("sampling")],
)
