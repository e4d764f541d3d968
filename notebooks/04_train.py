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
# # 04 Train
#
# *Can the response to an image be learned from its tokens?* One method is trained for
# one participant: the diffusion transformer (paper, sections 3.2, 3.3, Algorithm 1) or
# one that it is compared with.
#
# - Reads: signals of the participant, CLIP tokens of images and captions
# - Writes: a checkpoint (weights and recipe) and the curve of its training
# - Time: about a minute (mini, one core), an hour or more (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "training: {steps: 50}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_v"  # an entry of the configuration's runs
seed: int = 0  # of the weights, the batches and their noise

# %%
import matplotlib.pyplot as plt

from paperlib.config import load_settings
from paperlib.paths import locate
from paperlib.provenance import start_record
from paperlib.reporting.figures import COLORS, COLUMN, set_theme
from paperlib.runs import (
    discard_states,
    make_recipe,
    open_training_data,
    train_run,
)

# %%
keys = {"dataset": dataset, "subject": subject, "run": run, "seed": seed}
settings = load_settings("04_train", config, overrides, dataset=dataset, run=run)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()

# %% [markdown]
# ## Data
#
# A response is paired with the tokens of its image. Some training *concepts* are held
# out for validation; the test images are never looked at here.

# %%
data = open_training_data(settings, where, seed=seed)
signals, images, condition = data.signals, data.images, data.condition
print(
    f"{len(images)} images of {images['concept'].nunique()} concepts, responses of "
    f"{len(data.ch_names)} channels x {len(signals.times)} samples at "
    f"{signals.sfreq:g} Hz; {condition.n_tokens} condition tokens of width "
    f"{condition.width}."
)

# %%
print(
    f"{len(data.training)} training and {len(data.validation)} validation pairs; one "
    f"standard deviation is {data.scale:.3g} {signals.unit}."
)

# %% [markdown]
# ## Method
#
# The recipe is all that is needed to build the method again.

# %%
recipe = make_recipe(settings, data, keys)
recipe["method"], recipe["options"]

# %% [markdown]
# ## Training
#
# A run that was stopped continues where its last state was saved and takes the same
# steps as an unbroken one (on a CPU it ends with the same weights, bit by bit). With
# `training.processes` above 1 as many GPUs share a batch. *Look for* a validation loss
# that falls with the training loss and does not turn up. Linear encoders are fitted at
# once: a single point.

# %%
curve = train_run(recipe, data, settings=settings, where=where)

# %%
fig, ax = plt.subplots(figsize=(COLUMN, 0.62 * COLUMN))
steps = curve["step"]
ax.plot(
    steps, curve["training_loss"], "o-", color=COLORS["generated"], label="training"
)
look = {"color": COLORS["baseline"], "label": "held-out concepts"}
ax.plot(steps, curve["validation_loss"], "x--", **look)
ax.legend()
ax.set(xlabel="Optimizer step", ylabel=f"Loss of {recipe['method']}")
plt.show()

# %% [markdown]
# ## What was kept
#
# The checkpoint holds weights and recipe; beside it are the curve and what it took.

# %%
last = curve.iloc[-1]
print(
    f"After {last['step']:.0f} steps and {last['seconds']:.0f} s the loss is "
    f"{last['training_loss']:.3f} in training and {last['validation_loss']:.3f} on "
    "held-out concepts."
)
print((where("training") / "budget.json").read_text())

# %%
outputs = [where("checkpoint"), where("training")]
record.finish(where("record"), inputs=data.inputs, outputs=outputs)
discard_states(where("training"))
