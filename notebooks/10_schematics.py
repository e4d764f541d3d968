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
# *Where does the network stand in a visual prosthesis, and what is it made of?* (paper,
# Figures 1 and 2)
#
# - Reads: the first test image and its caption, shapes of signals and tokens
# - Writes: two figures
# - Time: seconds

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values

# %%
import matplotlib.pyplot as plt
import torch

from paperlib.config import first_run, load_settings
from paperlib.diffusion import diffuse, linear_alpha_bar
from paperlib.paths import SCHEMATICS, locate
from paperlib.provenance import start_record
from paperlib.recordings.signals import average_repetitions, load_signals
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.schematics import (
    describe_network,
    encoder_names,
    plot_architecture,
    plot_framework,
)
from paperlib.stimuli.captions import read_captions
from paperlib.stimuli.conditions import open_condition
from paperlib.stimuli.images import open_image, read_images

# %%
settings = load_settings("10_schematics", config, overrides)
where = locate(settings)
record = start_record(settings, config=config, overrides=overrides)
set_theme()
run = first_run(settings, "dit")

# %% [markdown]
# ## Networks
#
# The network of the first run is built for each data set, without weights; every size
# in the figures is read from it and from the token files.

# %%
entries = {
    dataset: load_settings("10_schematics", config, overrides, dataset=dataset, run=run)
    for dataset in settings["datasets"]
}
networks, signals, inputs = {}, {}, []
for dataset, entry in entries.items():
    at = locate(settings, dataset=dataset)
    folder = at("signals", subject=settings["datasets"][dataset]["training_subject"])
    signals[dataset] = load_signals(folder)
    condition = open_condition(entry["conditioning"], at, [])
    data = {"signals": signals[dataset], "condition": condition}
    networks[dataset.upper()] = describe_network(entry, run, **data)
    inputs += [folder, *(tokens.path for tokens in condition.sources)]

# %%
for name, network in networks.items():
    print(
        f"{name}: {network.model.layout.n_patches:,} patches and "
        f"{sum(network.n_tokens.values())} condition tokens; "
        f"{sum(p.numel() for p in network.model.parameters()):,} parameters."
    )

# %% [markdown]
# ## What is shown
#
# The first test image of the first data set, its caption, and the mean response that
# one participant gave to it.

# %%
first, entry = next(iter(entries.items()))
images = read_images(where("images", dataset=first))
shown = images[images["partition"] == "test"].iloc[0]
image = open_image(shown["path"])
response = average_repetitions(signals[first].test[:1])[0]  # C T
caption, captioner = "", entry["conditioning"]["captioner"]
if captioner:
    captions = where("captions", dataset=first, captioner=captioner)
    caption = read_captions(captions, [shown["image_id"]])["caption"][0]
    inputs.append(captions)
inputs.append(shown["path"])
print(f"{shown['image_id']}: {caption}")

# %% [markdown]
# ## The framework
#
# A prosthesis turns images into stimulation; this work predicts the response of the
# brain and learns it from recordings. Implant and percept are not modeled: electrodes
# and phosphenes are drawn for illustration, from the contrast of the image.

# %%
shapes = {
    dataset.upper(): (len(s.ch_names), len(s.times)) for dataset, s in signals.items()
}
framework = plot_framework(image, response, shapes=shapes)
plt.show()

# %% [markdown]
# ## The network
#
# The signal in patches is the response with the noise of a quarter of the diffusion
# steps. *Look for* the grid: a row of patches belongs to one brain region, and its
# padding stays empty.

# %%
schedule = dict(entry["diffusion"])
schedule.pop("prediction")
alpha_bar = linear_alpha_bar(**schedule)[schedule["timesteps"] // 4]
clean = torch.from_numpy(response / response.std())[None]  # 1 C T
generator = torch.Generator().manual_seed(settings["seed"])
noise = torch.randn(clean.shape, generator=generator)
noisy = diffuse(clean, noise, alpha_bar[None])[0].numpy()

# %%
architecture = plot_architecture(
    networks,
    image=image,
    signal=noisy,
    caption=caption,
    encoders=encoder_names(entry),
)
plt.show()

# %% [markdown]
# ## Save

# %%
written = []
for name, fig in zip(SCHEMATICS, (framework, architecture), strict=True):
    stem = where("figure", name=name)
    written += save_figure(fig, stem, simulated=settings["simulated"])

# %%
record.finish(where("record"), inputs=inputs, outputs=written)
