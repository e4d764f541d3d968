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
# signals are generated for every test image (paper, section 3.4, Algorithm 2), and
# their expectation.
#
# - Reads: checkpoints, condition tokens of the test images
# - Writes: for each seed samples (images, samples, channels, times), the posterior mean
#   (images, channels, times), and the seconds that they took
# - Time: seconds (mini, one core), minutes to an hour (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "sampling: {steps: 50}"
dataset: str = "things-eeg2"
subject: int = 1
run: str = "ours_v"  # an entry of the configuration's runs

# %%
import json
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from paperlib import diffusion
from paperlib.atomic import atomic_path, write_text
from paperlib.checkpoints import Checkpoint
from paperlib.methods import DiffusionModel
from paperlib.notebook import open_notebook
from paperlib.reporting import figures
from paperlib.stimuli.images import open_image, read_images
from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_finite

# %%
nb = open_notebook("05_sample", globals())
cfg = nb.cfg
figures.set_theme()

# %% [markdown]
# ## Model and condition

# %%
folder = nb.input("checkpoint", seed=cfg.seeds[0])
checkpoint = Checkpoint.from_pretrained(folder, device=cfg.machine.device)
model, recipe = checkpoint.model, checkpoint.recipe
images = read_images(nb.input("images"))
images = images[images["partition"] == "test"].reset_index(drop=True)
sources = [Tokens(nb.input("tokens", tokens=name)) for name in cfg.token_sources]
condition = checkpoint.condition(sources, images["image_id"])
is_diffusion = isinstance(model, DiffusionModel)
sensor = recipe.ch_names.index("Oz") if "Oz" in recipe.ch_names else 0
times_ms = 1000 * np.array(recipe.times)
print(f"{cfg.label}: {len(images)} test images, {condition.n_tokens} tokens each.")

# %% [markdown]
# ## Algorithm 2
#
# Sampling starts from noise and walks down a path of timesteps
# $T = \tau_S > \dots > \tau_1 > 0$. At each of them the network's output gives
# estimates $\hat x_0$ and $\hat\epsilon$ (equation 3), and with $\eta = 0$ the next,
# less noisy signal is (equation 4)
#
# $$x_{\tau_{i-1}} = \sqrt{\bar\alpha_{\tau_{i-1}}}\, \hat x_0
# + \sqrt{1 - \bar\alpha_{\tau_{i-1}}}\, \hat\epsilon .$$
#
# With $\theta = \arccos\sqrt{\bar\alpha}$ and $v = \cos\theta\, \hat\epsilon -
# \sin\theta\, \hat x_0$ this is a rotation by $\Delta\theta$; `euler` takes the step
# $x \leftarrow x - \Delta\theta\, v$ instead.

# %%
if is_diffusion:
    loss, device = model.loss, next(model.network.parameters()).device
    alpha_bar = loss.alpha_bar
    pairs = diffusion.timestep_pairs(
        alpha_bar, cfg.sampling.steps, cfg.sampling.spacing
    )
    print(f"{len(pairs)} steps (t, t_prev): {pairs[:3]} ... {pairs[-1]}")
    tokens = torch.from_numpy(condition([0])).to(device)  # 1 L D
    torch.manual_seed(cfg.seed)
    x = model.coordinates.color(torch.randn(1, *model.coordinates.mean.shape))
    trajectory = []
    for t, t_prev in pairs:
        now, then = alpha_bar[[t]], alpha_bar[t_prev]
        seen = diffusion.shown(x, now, loss.scale_input).to(device)
        with torch.inference_mode():
            output = model.network(seen, torch.tensor([t], device=device), tokens).cpu()
        x0, noise = diffusion.clean_and_noise(output, x, now, loss.prediction)
        if cfg.sampling.bound:
            x0 = x0.clamp(-cfg.sampling.bound, cfg.sampling.bound)
            noise = (x - now.sqrt() * x0) / (1 - now).sqrt()
        trajectory.append((t, x, x0))
        x = then.sqrt() * x0 + (1 - then).sqrt() * noise

# %% [markdown]
# The noisy signal (blue) and the network's estimate of the clean one (green), from pure
# noise at the top to the last step. *Look for* noise that looks like a recording where
# `color` is set: little of it has to change then, and what is added is the estimate,
# nearly the same at every step. White noise must be turned into a recording first.

# %%
if is_diffusion:
    drawn = np.linspace(0, len(trajectory) - 1, 5).round().astype(int)
    fig, axes = plt.subplots(5, 1, figsize=(figures.COLUMN, 3.6), sharex=True)
    for step, ax in zip(drawn, axes, strict=True):
        t, *both = trajectory[step]
        for x, color in zip(both, ("generated", "plus"), strict=True):
            y = model.coordinates.back(x)[0, sensor]
            ax.plot(times_ms, y, color=figures.COLORS[color])
        ax.set_title(f"t = {t}", loc="right", y=0.7, size=7)
    axes[2].set_ylabel(f"{recipe.ch_names[sensor]} ({recipe.unit})")
    axes[-1].set_xlabel("Time (ms)")
    plt.show()

# %% [markdown]
# ## Posterior mean
#
# A sample is one possible recording, with its ongoing activity. What the image alone
# predicts is the mean of all samples, $\mathbb{E}[x_0 \mid c]$. At $t = T$ nothing is
# seen of the response, so the network's $\hat x_0$ there is that mean: one evaluation
# gives what infinitely many samples would. Methods that do not sample predict it
# directly.

# %%
options = {"sampling": cfg.sampling, "seed": cfg.seed, "machine": cfg.machine}
began = time.monotonic()
first = checkpoint.condition(sources, images["image_id"][:1])
expected = model.posterior_mean(first, **options)  # 1 C T
print(f"{expected.shape} in {time.monotonic() - began:.1f} s")

# %% [markdown]
# ## All images, all seeds
#
# The noise of a sample depends on seed, image and number of the sample only: neither
# the batch size nor the other images change it. Samples are stored in half precision.
# Every training predicts; samples come from the first alone, unless a model without a
# posterior mean ($\epsilon$) needs them to predict.

# %%
for seed in cfg.seeds:
    folder = nb.input("checkpoint", seed=seed)
    checkpoint = Checkpoint.from_pretrained(folder, device=cfg.machine.device)
    began = time.monotonic()
    expected = checkpoint.model.posterior_mean(condition, **options)  # N C T
    seconds = {"posterior_mean": time.monotonic() - began}
    check_finite("The posterior mean", expected)
    with atomic_path(nb.output("posterior_mean", seed=seed)) as partial:
        np.save(partial, expected)
    if seed in cfg.sampled_seeds:
        began = time.monotonic()
        samples = checkpoint.model.sample(condition, **options)  # N K C T
        seconds["samples"] = time.monotonic() - began
        samples = samples.astype(np.float16)
        check_finite("The samples", samples)
        with atomic_path(nb.output("samples", seed=seed)) as partial:
            np.save(partial, samples)
    text = json.dumps({name: round(value, 3) for name, value in seconds.items()})
    write_text(nb.output("sampling", seed=seed), text + "\n")
    print(f"Seed {seed}: {text} s")

# %% [markdown]
# ## A look
#
# Samples of an image (thin), their mean (black) and the posterior mean (green), all of
# the first training, at one occipital sensor. *Look for* samples that differ as single
# recordings do, and a mean that approaches the posterior mean: with noise of standard
# deviation $\sigma$, the mean of $K$ samples is still $\sigma / \sqrt{K}$ away from it.

# %%
expected = np.load(nb.output("posterior_mean", seed=cfg.seeds[0]))
samples = np.load(nb.output("samples", seed=cfg.seeds[0])).astype(np.float32)
fig, axes = plt.subplots(
    2, 3, figsize=(figures.PAGE, 0.5 * figures.PAGE), height_ratios=[1, 2]
)
for column, (picture, ax) in enumerate(axes.T):
    picture.imshow(open_image(images["path"][column]))
    picture.set_axis_off()
    drawn = samples[column, :, sensor]  # K T
    ax.plot(times_ms, drawn[:8].T, color=figures.COLORS["generated"], lw=0.4, alpha=0.5)
    ax.plot(times_ms, drawn.mean(axis=0), color="black", lw=0.8)
    ax.plot(times_ms, expected[column, sensor], color=figures.COLORS["plus"])
    ax.set(xlabel="Time (ms)")
axes[1, 0].set_ylabel(f"{recipe.ch_names[sensor]} ({recipe.unit})")
plt.show()

# %%
spread = samples.std(axis=1).mean() if samples.shape[1] > 1 else np.nan
print(
    f"Over the samples of an image signals vary by {spread:.2f} {recipe.unit}, over "
    f"images the posterior mean varies by {expected.std(axis=0).mean():.2f}."
)
nb.finish()
