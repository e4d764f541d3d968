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
# - Time: about a minute (mini, one core), days (paper, one GPU)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "training: {steps: 50}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_v"  # an entry of the configuration's runs
seed: int = 0  # of the weights, the batches and their noise

# %%
import json

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from paperlib.atomic import write_text
from paperlib.checkpoints import save_checkpoint
from paperlib.config import load_settings
from paperlib.methods import architecture, count_parameters, fit
from paperlib.paths import locate
from paperlib.provenance import fingerprint, start_record
from paperlib.recordings.regions import channels_outside
from paperlib.recordings.signals import (
    check_counts,
    load_signals,
    select_concepts,
    standard_deviation,
    training_targets,
)
from paperlib.reporting.figures import COLORS, COLUMN, set_theme
from paperlib.stimuli.conditions import hold_out_concepts, open_condition
from paperlib.stimuli.images import read_images
from paperlib.training import Pairs

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
signals = load_signals(where("signals"))
images = select_concepts(read_images(where("images")), signals.concepts)
check_counts(signals, images)
images = images[images["partition"] == "training"]
condition = open_condition(settings["conditioning"], where, images["image_id"])
kept = channels_outside(signals.ch_names, settings["channels"]["without"])
ch_names = [signals.ch_names[channel] for channel in kept]
print(
    f"{len(images)} images of {images['concept'].nunique()} concepts, responses of "
    f"{len(ch_names)} channels x {len(signals.times)} samples at "
    f"{signals.sfreq:g} Hz; {condition.n_tokens} condition tokens of width "
    f"{condition.width}."
)

# %%
options = dict(settings["training"])
targets = training_targets(signals, options.pop("repetitions"))  # N R C T
if len(ch_names) < len(signals.ch_names):
    targets = targets[:, :, kept]
training_rows, validation_rows = hold_out_concepts(
    images["concept"], n_held_out=options.pop("validation_concepts"), seed=seed
)
scale = standard_deviation(targets, training_rows)
pairs = [
    Pairs(targets, rows, context=condition, scale=scale)
    for rows in (training_rows, validation_rows)
]
print(
    f"{len(pairs[0])} training and {len(pairs[1])} validation pairs; one standard "
    f"deviation is {scale:.3g} {signals.unit}."
)

# %% [markdown]
# ## Method
#
# The recipe is all that is needed to build the method again.

# %%
method_options = dict(settings["model"])
method = method_options.pop("method")
sizes = {"ch_names": ch_names, "n_times": len(signals.times)}
recipe = {
    "method": method,
    "options": method_options,
    "architecture": architecture(method, method_options, condition=condition, **sizes),
    **{
        key: settings[key]
        for key in ("simulated", "conditioning", "tokens", "diffusion", "training")
    },
    "scale": scale,
    "unit": signals.unit,
    "ch_names": ch_names,
    "sfreq": signals.sfreq,
    "times": signals.times.tolist(),
    **keys,
}

# %% [markdown]
# ## Training
#
# A run that was stopped continues where its last state was saved and ends with the same
# weights as an unbroken one. *Look for* a validation loss that falls with the training
# loss and does not turn up. Linear encoders are fitted at once: a single point.

# %%
inputs = [where("signals"), *(tokens.path for tokens in condition.sources)]
model, curve = fit(
    recipe,
    *pairs,
    settings={"training": options, "device": settings["device"]},
    folder=where("training"),
    inputs=[fingerprint(path) for path in inputs],
)
print(f"{method} has learned {count_parameters(model):,} parameters.")

# %%
curve = pd.DataFrame(curve)
fig, ax = plt.subplots(figsize=(COLUMN, 0.62 * COLUMN))
names = {"training_loss": "training", "validation_loss": "held-out concepts"}
palette = [COLORS["generated"], COLORS["baseline"]]
long = curve.rename(columns=names).melt("step", names.values(), "pairs", "loss")
look = {"hue": "pairs", "style": "pairs", "palette": palette, "markers": True}
sns.lineplot(long, x="step", y="loss", **look)
ax.set(xlabel="Optimizer step", ylabel=f"Loss of {method}")
plt.show()

# %% [markdown]
# ## Save

# %%
save_checkpoint(where("checkpoint"), model, recipe)
last = curve.iloc[-1]
budget = {
    "parameters": count_parameters(model),
    "steps": int(last["step"]),
    "seconds": round(last["seconds"], 1),
}
write_text(where("training") / "budget.json", json.dumps(budget) + "\n")
curve.to_csv(where("training") / "curve.csv", index=False)
print(
    f"After {last['step']:.0f} steps and {last['seconds']:.0f} s the loss is "
    f"{last['training_loss']:.3f} in training and {last['validation_loss']:.3f} on "
    "held-out concepts."
)

# %%
record.finish(
    where("record"), inputs=inputs, outputs=[where("checkpoint"), where("training")]
)
