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
# # 10 Schematics
#
# *What is the network's place in a visual prosthesis, and what is it made of?* (paper,
# Figures 1 and 2)
#
# - Reads: the first test image and its caption, shapes of signals and tokens
# - Writes: two figures
# - Time: seconds

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values

# %%
import textwrap

import numpy as np
import pandas as pd
import torch
from IPython.display import SVG
from PIL import Image

from paperlib import paths
from paperlib.diffusion import diffuse, linear_alpha_bar
from paperlib.models.dit import DiT
from paperlib.notebook import open_notebook
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.signals import average_repetitions, load_signals
from paperlib.reporting import figures, schematics
from paperlib.stimuli.captions import read_captions
from paperlib.stimuli.images import open_image, read_images

# %%
nb = open_notebook("10_schematics", globals())
run = nb.cfg.first_run("dit")
entries = {dataset: nb.cfg.of(dataset=dataset, run=run) for dataset in nb.cfg.datasets}

# %% [markdown]
# ## The networks
#
# The network of the first run, $\epsilon_\theta(y_t, t, c)$, is built for each data set
# without its weights. It cuts a signal of $C$ channels and $T$ times into $N$ patches
# and attends to a condition $c$ of $L$ tokens of width $D$. Everything that the figures
# say about it is read from it. *Look for* the grid: a row of patches belongs to one
# brain region.

# %%
networks, signals, sizes = {}, {}, {}
for dataset, cfg in entries.items():
    keys = {"dataset": dataset, "subject": cfg.training_subject}
    signals[dataset] = load_signals(nb.input("signals", **keys))
    tokens = {}
    for source in cfg.token_sources:
        path = nb.input("tokens", dataset=dataset, tokens=source)
        kind = "image" if source == "image" else "text"
        tokens[kind] = np.load(path, mmap_mode="r").shape[1:]  # L D
    with torch.device("meta"):  # shapes only
        networks[dataset] = DiT(
            channel_regions(signals[dataset].ch_names),
            len(signals[dataset].times),
            context_width=tokens[kind][1],
            **cfg.model.model_dump(),
        )
    sizes[dataset] = schematics.network_fields(networks[dataset], tokens)
pd.DataFrame(sizes)

# %% [markdown]
# ## What is shown
#
# The first test image of the first data set, its caption, and the mean response that
# one participant gave to it.

# %%
dataset, cfg = next(iter(entries.items()))
images = read_images(nb.input("images", dataset=dataset))
example = images[images["partition"] == "test"].iloc[0]
image = open_image(example["path"])
response = average_repetitions(signals[dataset].test[:1])[0]  # C T
caption, captioner = "", cfg.conditioning.captioner
if captioner:
    path = nb.input("captions", dataset=dataset, captioner=captioner)
    caption = read_captions(path, [example["image_id"]])["caption"][0]
print(f"{example['image_id']}: {caption}")

# %% [markdown]
# ## Figure 1: the framework
#
# A prosthesis turns images into stimulation; this work predicts the response of the
# brain and learns it from recordings. Implant and percept are not modeled: electrodes
# and phosphenes are drawn for illustration, from the contrast of the image.

# %%
pixels = np.asarray(image, dtype=float)  # H W 3
contrast = np.abs(pixels - np.median(pixels, axis=(0, 1))).max(axis=2)
small = Image.fromarray(contrast.astype(np.uint8)).resize(
    (20, 20), Image.Resampling.BOX
)
phosphenes = np.asarray(small) / max(np.max(small), 1)
fields = {
    "note": figures.SIMULATED if nb.cfg.simulated else "",
    "image": schematics.picture_uri(image),
    "recorded": schematics.trace_path(response[::3], 68, 38),
    "electrodes": schematics.dot_path(np.full((6, 6), 0.6), 52),
    "phosphenes": schematics.dot_path(phosphenes, 52),
}
empty = dict.fromkeys(sizes[dataset], "")
for number, name in enumerate([*sizes, ""][:2], start=1):
    row = {"name": name.upper()} | sizes.get(name, empty)
    fields |= {f"{key}_{number}": value for key, value in row.items()}
framework = schematics.fill_template("fig01_framework", fields)
SVG(framework)

# %% [markdown]
# ## A noisy signal in its patches
#
# The response after a quarter of the diffusion steps,
# $$y_t = \sqrt{\bar\alpha_t}\, y_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon.$$

# %%
schedule = cfg.diffusion.timesteps, cfg.diffusion.beta_start, cfg.diffusion.beta_end
alpha_bar = linear_alpha_bar(*schedule)[cfg.diffusion.timesteps // 4]
clean = torch.from_numpy(response / response.std())[None]  # 1 C T
generator = torch.Generator().manual_seed(cfg.seed)
noise = torch.randn(clean.shape, generator=generator)
noisy = diffuse(clean, noise, alpha_bar[None])[0].numpy()  # C T

# %%
layout = networks[dataset].layout
height, width = layout.patch
grid = np.full((layout.n_rows * height, layout.n_columns * width), np.nan)
grid[list(layout.channel_rows), : layout.n_times] = noisy
noisy_fields = {
    "noisy": schematics.picture_uri(schematics.heat_map(grid)),
    "patches": schematics.grid_path(layout.n_rows, layout.n_columns, 72, 62),
    "patch_line": 0.4 if layout.n_patches < 200 else 0.15,
}

# %% [markdown]
# ## Figure 2: the network
#
# *Look for* the padding of each region, which stays empty. Values in which the data
# sets differ are separated by a slash, or are in the table.

# %%
joined = {
    key: " / ".join(dict.fromkeys(column))
    for key, column in pd.DataFrame(sizes).T.items()
}
codes = [f"{key[5:]}: {n}" for key, n in joined.items() if key.startswith("code_")]
lines = textwrap.wrap(caption, 26, max_lines=4, placeholder=" …")
fields |= {f"caption_{i + 1}": line for i, line in enumerate([*lines, *[""] * 4][:4])}
fields |= {f"codes_{i + 1}": line for i, line in enumerate([*codes, *[""] * 3][:3])}
model = getattr(cfg.captioning.captioners.get(captioner), "model", captioner or "")
fields |= joined | {
    "image_size": f"{image.width} × {image.height} × 3",
    "clip": cfg.embedding.model.rpartition("/")[2],
    "captioner": model.rpartition("/")[2],
    "prediction": "velocity v̂" if cfg.diffusion.prediction == "v" else "noise ε̂",
    "solver": {"ddim": "DDIM", "euler": "Euler"}[cfg.sampling.solver],
    "sampler": f"{cfg.sampling.steps} steps, η = {cfg.sampling.eta:g}",
    "image_visibility": "visible" if cfg.conditioning.image else "hidden",
    "text_visibility": "visible" if captioner else "hidden",
    "codes_shift": 4 * (3 - len(codes)),
    "noise": schematics.picture_uri(schematics.heat_map(noise[0, :24, :24].numpy())),
    **noisy_fields,
}
architecture = schematics.fill_template("fig02_architecture", fields)
SVG(architecture)

# %%
for name, svg in zip(paths.SCHEMATICS, (framework, architecture), strict=True):
    schematics.save_schematic(svg, nb.output("figure", name=name))

# %%
nb.finish()
