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
# # 03 Embed
#
# *What does CLIP see in each image, and read in each caption?* Images, or the captions
# of one captioner, become the tokens that condition the transformer (paper, section
# 3.2, Appendix E).
#
# - Reads: images, and captions if these are embedded
# - Writes: tokens, float16 of shape (images, tokens, width), read by image id
# - Time: seconds (mini, one core), minutes and 9 GB of disk (paper, one GPU,
#   estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values, as in "embedding: {batch_size: 8}"
dataset: str = "things-eeg2"
tokens: str = "image"  # or a captioner, or a network whose layers are written

# %%
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from paperlib.provenance import start_record
from paperlib.stimuli.embeddings import (
    embed_images,
    embed_texts,
    load_clip,
    write_image_tokens,
    write_text_tokens,
)
from paperlib.stimuli.pretrained import clip_source

from paperlib.checkpoints import pick_device
from paperlib.config import load_settings
from paperlib.paths import locate
from paperlib.reporting.figures import COLORS, COLUMN, set_theme
from paperlib.stimuli.captions import read_captions
from paperlib.stimuli.cnn import load_cnn, write_layer_outputs
from paperlib.stimuli.images import open_image, read_images
from paperlib.stimuli.tokens import Tokens

# %%
keys = {"dataset": dataset, "tokens": tokens}
settings = load_settings("03_embed", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()
embedding = settings["embedding"]
networks = embedding["networks"]
kind = "network" if tokens in networks else "image" if tokens == "image" else "text"

# %%
images = read_images(where("images"))
texts = images["concept"].str.replace("_", " ")
if kind == "text":
    captions = read_captions(where("captions", captioner=tokens), images["image_id"])
    texts = captions["caption"]
device = pick_device(settings["device"])
if kind == "network":
    encoder = load_cnn(tokens, device=device)
else:
    encoder = load_clip(*clip_source(embedding), device=device)
print(f"{len(images)} images; the encoder is {encoder.name} on {device}.")

# %% [markdown]
# ## Tokens
#
# Image tokens are taken after the last norm and CLIP's projection, class token first;
# text tokens after the last norm, padded to 77. Layers of a convolutional network, for
# the encoding baselines, stand side by side as one token. A run that was stopped goes
# on behind its last batch.

# %%
path = where("tokens")
if kind == "image":
    write_image_tokens(
        path,
        images,
        clip=encoder,
        normalize_by_cls=embedding["normalize_by_cls"],
        batch_size=embedding["batch_size"],
    )
elif kind == "text":
    write_text_tokens(
        path,
        captions,
        clip=encoder,
        project=embedding["project_text"],
        batch_size=embedding["batch_size"],
    )
else:
    write_layer_outputs(path, images, cnn=encoder, **networks[tokens])

# %%
stored = Tokens(path)
print(
    f"{stored.shape[0]} x {stored.shape[1]} tokens of width {stored.shape[2]} take "
    f"{path.stat().st_size / 1e6:,.1f} MB."
)

# %% [markdown]
# ## Norms
#
# *Look for* a class or start token (position 0) of another norm than the rest, and, for
# captions, for the padding behind their end, which the transformer sees as well.

# %%
some = images["image_id"].iloc[:: max(1, len(images) // 500)]
norms = np.linalg.norm(stored[some], axis=-1)  # N L
fig, ax = plt.subplots(figsize=(COLUMN, 0.62 * COLUMN))
low, middle, high = np.quantile(norms, [0.05, 0.5, 0.95], axis=0)
ax.fill_between(np.arange(len(middle)), low, high, alpha=0.3, lw=0)
ax.plot(middle, marker=".")
ax.set(xlabel="Position", ylabel="Norm of a token", ylim=(0, None))
plt.show()
behind = f" and {np.median(norms[:, 1:]):.2f} behind it" if norms.shape[1] > 1 else ""
print(
    f"The median norm is {np.median(norms[:, 0]):.2f} at position 0{behind} "
    f"(5 to 95 % of {len(some)} images shaded)."
)

# %% [markdown]
# ## Concepts
#
# *Look for* images of one concept, or their captions, that are nearer to each other
# than those of different concepts.

# %%
first = images.head(1000)
if kind != "text":
    summary = stored[first["image_id"]][:, 0]
    summary /= np.linalg.norm(summary, axis=1, keepdims=True)
else:
    summary = embed_texts(encoder, texts.head(1000))
concept = first["concept"].to_numpy()
pairs = np.triu_indices(len(first), k=1)
cosine = (summary @ summary.T)[pairs]
same = (concept[:, None] == concept)[pairs]

# %%
fig, ax = plt.subplots(figsize=(COLUMN, 0.62 * COLUMN))
palette = {"same": COLORS["generated"], "different": COLORS["control"]}
relation = np.where(same, "same", "different")
bins = {"stat": "density", "common_norm": False, "bins": 60, "element": "step"}
sns.histplot(x=cosine, hue=relation, palette=palette, **bins)
ax.set(xlabel="Cosine of two images' embeddings", ylabel="Density")
ax.get_legend().set_title("concept")
plt.show()
print(
    f"The mean cosine is {cosine[same].mean():.2f} within a concept and "
    f"{cosine[~same].mean():.2f} between concepts ({len(first)} images)."
)

# %% [markdown]
# ## Retrieval
#
# Each test image looks for its own caption (without captions: the name of its concept)
# among those of all test images, in CLIP's space. Chance is one in their number.
# Networks know no texts.

# %%
is_test = images["partition"] == "test"
if kind == "image":  # the class token is CLIP's embedding of the image
    seen = stored[images["image_id"][is_test]][:, 0]
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
elif kind == "text":
    seen = embed_images(encoder, [open_image(p) for p in images["path"][is_test]])
if kind != "network":
    similarity = seen @ embed_texts(encoder, texts[is_test]).T
    rank = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
    print(
        f"The right text is the nearest one for {np.mean(rank < 1):.1%} of the test "
        f"images and among the nearest five for {np.mean(rank < 5):.1%}; chance is "
        f"{1 / len(rank):.1%} and {5 / len(rank):.1%}."
    )

# %% [markdown]
# ## Save

# %%
inputs = [where("image_list")]
inputs += [where("captions", captioner=tokens)] if kind == "text" else []
record.finish(where("record"), inputs=inputs, outputs=[path, path.with_suffix(".json")])
