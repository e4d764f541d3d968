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
# *Can the response to an image be learned from its tokens?* A method is trained for one
# participant, once for each seed: the diffusion transformer (paper, sections 3.2 and
# 3.3, Algorithm 1) or one that it is compared with.
#
# - Reads: signals of the participant, condition tokens of the images
# - Writes: for each seed a checkpoint (weights and recipe) and the curve of its
#   training
# - Time: half a minute (mini, one core), an hour or more (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "training: {steps: 50}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_v"  # an entry of the configuration's runs

# %%
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from paperlib import atomic, diffusion, methods
from paperlib.checkpoints import Checkpoint, Recipe
from paperlib.coordinates import fit_coordinates
from paperlib.notebook import open_notebook
from paperlib.recordings import regions, signals
from paperlib.reporting import figures
from paperlib.stimuli import conditions
from paperlib.stimuli.images import read_images
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens
from paperlib.training import Pairs

# %%
nb = open_notebook("04_train", globals())
cfg = nb.cfg
figures.set_theme()

# %% [markdown]
# ## Data
#
# Each response is paired with the tokens of its image. Some training *concepts* are
# held out for validation; the test images play no part here.

# %%
recorded = signals.load_signals(nb.input("signals"))
images = read_images(nb.input("images"))
images = signals.select_concepts(images, recorded.concepts)
signals.check_counts(recorded, images)
images = images[images["partition"] == "training"].reset_index(drop=True)
channels = regions.channels_outside(recorded.ch_names, cfg.channels.without)
ch_names = [recorded.ch_names[channel] for channel in channels]
responses = signals.training_targets(recorded, cfg.training.repetitions)  # N R C T
if len(channels) < len(recorded.ch_names):
    responses = responses[:, :, channels]
rows = conditions.hold_out_concepts(
    images["concept"], n_held_out=cfg.training.validation_concepts, seed=cfg.seed
)
print(
    f"{len(rows[0])} training and {len(rows[1])} validation images; responses of "
    f"{len(ch_names)} channels x {len(recorded.times)} samples ({recorded.unit})."
)

# %% [markdown]
# The condition is a row of tokens: CLIP's tokens of the image, then those of its
# caption (section 3.2.3). Maps of a CNN become one token a place, of their principal
# components.

# %%
sources = [Tokens(nb.input("tokens", tokens=name)) for name in cfg.token_sources]
maps = None
if cfg.conditioning.layers:
    chosen = images["image_id"][rows[0]].tolist()
    maps = fit_map_tokens(sources[-1], cfg.conditioning.layers, chosen)
    sources[-1] = maps
condition = conditions.Condition(sources, images["image_id"])
print(f"{condition.n_tokens} tokens of width {condition.width} for each image.")

# %% [markdown]
# ## Coordinates of the response
#
# The network learns $x = S\,(y - \bar y)\,W$: the response without the mean of the
# training images, partly whitened over channels and in time. With the temporal
# principal components $U$ and their variances $\lambda$,
#
# $$W = U\,\mathrm{diag}(g)\,U^\top, \qquad
# g_k \propto (\lambda_k / \lambda_1)^{-p} \quad (k \le K), \qquad
# g_k \propto \textit{floor} \cdot g_{K+1} \quad (k > K).$$
#
# $S$ is made likewise from the components over channels, with a power $q$ of their
# variances. It is the identity ($q = 0$) for EEG, whose preprocessing whitens channels.
# As published ($p = q = 0$, mean not removed) $x$ is $y$ over one standard deviation.
# *Look for* a spectrum that is flatter in $x$ than in $y$ where $p > 0$.

# %%
coordinates = fit_coordinates(responses, rows[0], **cfg.coordinates.model_dump())
training, validation = (
    Pairs(responses, part, context=condition, coordinates=coordinates) for part in rows
)
y0, context = training.__getitems__(range(min(64, len(training))))  # B C T, B L D
print(f"{cfg.coordinates}; standard deviation of x {y0.std():.2f}")

# %%
recorded_part = torch.from_numpy(np.array(responses[rows[0][:64], 0]))
fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.6 * figures.COLUMN))
frequencies = np.fft.rfftfreq(len(recorded.times), 1 / recorded.sfreq)
for part, color in ((recorded_part, "recorded"), (y0, "generated")):
    power = torch.fft.rfft(part - part.mean(0)).abs().square().mean((0, 1))[1:]
    label = {"recorded": "response y", "generated": "coordinates x"}[color]
    ax.loglog(
        frequencies[1:], power / power.sum(), color=figures.COLORS[color], label=label
    )
ax.set(xlabel="Frequency (Hz)", ylabel="Share of the power")
ax.legend()
plt.show()

# %% [markdown]
# ## Network
#
# The diffusion transformer cuts a response into patches, channels of one brain region
# by a stretch of time. Each becomes a token with a code of its region and its time;
# tokens attend to each other and to the condition (section 3.2).

# %%
sizes = {"n_tokens": condition.n_tokens, "context_width": condition.width}
parts = {"ch_names": ch_names, "coordinates": coordinates, "diffusion": cfg.diffusion}
untrained = methods.build_model(cfg.method, cfg.model, **parts, **sizes)
is_diffusion = isinstance(untrained, methods.DiffusionModel)
if is_diffusion:
    print(f"{cfg.label}: {untrained.n_parameters:,} parameters; {cfg.model}")

# %%
if cfg.method == "dit":
    layout = untrained.network.layout
    names = list(dict.fromkeys(regions.channel_regions(ch_names)))
    grid = np.repeat(np.array(layout.row_regions)[:, None], layout.n_columns, axis=1)
    fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.6 * figures.COLUMN))
    colors = [figures.REGION_COLORS[name] for name in names]
    ax.pcolormesh(grid, cmap=plt.matplotlib.colors.ListedColormap(colors), ec="white")
    ax.invert_yaxis()
    firsts = [layout.row_regions.index(region) for region in range(len(names))]
    ax.set_yticks(np.array(firsts) + 0.5, names)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="Patch in time", title=f"{layout.n_patches} patches")
    plt.show()

# %% [markdown]
# ## Loss
#
# A timestep $t$ and noise $\epsilon$ are drawn; the network $F$ sees the noisy response
# (equation 2) and predicts the noise, or the velocity $v$:
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
# v = \sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0, \qquad
# L = \mathbb{E}\, \lVert F(x_t, t, c) - v \rVert^2 .$$
#
# With `scale_input` it sees $\sqrt{\bar\alpha_t}\, x_t$; with `color` the noise has the
# covariance of $x$, and each draw is used with both signs, for two responses of a
# batch. With `epsilon_skip` the noise is predicted as
# $\hat\epsilon = \sqrt{1 - \bar\alpha_t}\, x_t + \sqrt{\bar\alpha_t}\, F$: the error is
# that of $v$ times $\bar\alpha_t$.

# %%
if is_diffusion:
    torch.manual_seed(0)
    alpha_bar = untrained.loss.alpha_bar
    y0, context = y0[:8], context[:8]
    t = torch.linspace(1, cfg.diffusion.timesteps, len(y0)).long()
    a = alpha_bar[t][:, None, None]  # B 1 1
    noise = coordinates.color(torch.randn_like(y0))
    y_t = a.sqrt() * y0 + (1 - a).sqrt() * noise
    seen = a.sqrt() * y_t if cfg.diffusion.scale_input else y_t
    with torch.no_grad():
        output = untrained.network(seen, t, context)
    wanted = diffusion.target(y0, noise, alpha_bar[t], cfg.diffusion.prediction)
    errors = (output - wanted).square().mean((1, 2))
    print("Timestep ", *(f"{step:7d}" for step in t.tolist()))
    print("Error    ", *(f"{error:7.2f}" for error in errors.tolist()))

# %% [markdown]
# ## Training
#
# The same for every batch, with gradients, clipping, AdamW and a moving average of
# the weights: {func}`paperlib.training.train`. A run that was stopped continues where
# its last state was saved, with the same steps as an unbroken one. *Look for* a
# validation loss that falls with the training loss and does not turn up. Linear
# encoders are fitted at once: a single point.

# %%
curves = {}
for seed in cfg.seeds:
    torch.manual_seed(seed)
    model = methods.build_model(cfg.method, cfg.model, **parts, **sizes)
    options = {"options": cfg.training, "machine": cfg.machine, "seed": seed}
    folder = nb.output("training", seed=seed)
    curves[seed] = model.fit(training, validation, **options, folder=folder)
    chosen = "simulated method conditioning embedding captioning diffusion training"
    recipe = Recipe(
        **{key: getattr(cfg, key) for key in chosen.split()},
        **{"dataset": dataset, "subject": subject, "run": run, "seed": seed},
        options=cfg.model.model_dump(mode="json"),
        ch_names=ch_names,
        sfreq=recorded.sfreq,
        times=recorded.times.tolist(),
        unit=recorded.unit,
        **sizes,
    )
    Checkpoint(model, recipe, maps).save_pretrained(nb.output("checkpoint", seed=seed))

# %%
fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.62 * figures.COLUMN))
for seed, curve in curves.items():
    steps, label = curve["step"], seed == cfg.seeds[0]
    style = {"color": figures.COLORS["generated"], "marker": "o"}
    ax.plot(steps, curve["training_loss"], **style, label="training" * label)
    style = {"color": figures.COLORS["baseline"], "marker": "x", "ls": "--"}
    ax.plot(steps, curve["validation_loss"], **style, label="held out" * label)
ax.legend()
ax.set(xlabel="Optimizer step", ylabel="Loss")
plt.show()

# %% [markdown]
# ## Where the image decides
#
# The target has variance 1 ($\bar\alpha_t$ with `epsilon_skip`): the loss of a
# network that ignores its input (dashed). At $t = T$ nothing but the image is known,
# and the difference is what it explains of the response. *Look for* a loss below the
# dashed line at the last timesteps. The difference is small: most of a response is
# ongoing activity.

# %%
if is_diffusion:
    model.network.cpu()
    y0, context = validation.__getitems__(range(min(128, len(validation))))
    by_timestep = []
    for t in torch.linspace(1, cfg.diffusion.timesteps, 9).long():
        draws = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            error = model.loss(model.network, y0, context, draws, t.expand(len(y0)))
        is_skip = cfg.diffusion.prediction == "epsilon_skip"
        ignorant = model.loss.alpha_bar[t].item() if is_skip else 1.0
        by_timestep.append({"t": t.item(), "loss": error.item(), "ignorant": ignorant})
    by_timestep = pd.DataFrame(by_timestep)
    fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.5 * figures.COLUMN))
    ax.plot(by_timestep["t"], by_timestep["loss"], "o-")
    ax.plot(by_timestep["t"], by_timestep["ignorant"], "--", color="gray")
    ax.set(xlabel="Timestep", ylabel="Validation loss")
    plt.show()

# %% [markdown]
# ## What was kept
#
# Each checkpoint holds weights, coordinates and recipe; beside it are the curve and
# what it took.

# %%
for seed, curve in curves.items():
    folder, last = nb.output("training", seed=seed), curve.iloc[-1]
    with atomic.atomic_path(folder / "curve.csv") as partial:
        curve.to_csv(partial, index=False)
    budget = {"parameters": model.n_parameters, "steps": int(last["step"])}
    budget["seconds"] = round(float(last["seconds"]), 1)
    atomic.write_text(folder / "budget.json", json.dumps(budget) + "\n")
    for state in folder.glob("*.pt"):  # of use for a restart only
        state.unlink()
    print(f"Seed {seed}: {budget}")
nb.finish()
