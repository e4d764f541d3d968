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
# 3.2, Appendix E). The layers of a convolutional network (CNN) are the features of the
# encoding baselines.
#
# - Reads: images, and captions if these are embedded
# - Writes: tokens, float16 of shape (images, tokens, width), read by image id
# - Time: seconds (mini, one core), minutes and 9 GB of disk (paper, one GPU,
#   estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values: "embedding: {project_text: true}"
dataset: str = "things-eeg2"
tokens: str = "image"  # or a captioner, or a CNN whose layers are written

# %%
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from paperlib.checkpoints import pick_device
from paperlib.notebook import open_notebook
from paperlib.reporting import figures
from paperlib.stimuli import cnn
from paperlib.stimuli.captions import count_clip_tokens, read_captions
from paperlib.stimuli.clip import (
    embed_images,
    embed_texts,
    image_tokens,
    load_clip,
    text_tokens,
)
from paperlib.stimuli.images import open_image, read_images
from paperlib.stimuli.tokens import Tokens, write_tokens

# %%
nb = open_notebook("03_embed", globals())
cfg, machine = nb.cfg.embedding, nb.cfg.machine
figures.set_theme()
is_network = tokens in cfg.networks
is_text = not is_network and tokens != "image"

# %%
images = read_images(nb.input("images"))
texts = images["concept"].str.replace("_", " ")
if is_text:
    path = nb.input("captions", captioner=tokens)
    texts = read_captions(path, images["image_id"])["caption"]
device = pick_device(machine.device)
if is_network:
    network = cnn.load_cnn(tokens, device=device)
else:
    clip = load_clip(cfg.model, cfg.pretrained, cfg.revision, device=device)
print(f"{len(images):,} images; the encoder runs on {device}.")

# %% [markdown]
# ## One image
#
# CLIP's vision transformer cuts an image into patches. Its last block gives a class
# token and one token for each patch, $H_v$; the last layer norm and the projection
# $W_v$ map all of them to CLIP's space. Its text transformer gives 77 tokens $H_t$ of a
# caption, start, words, end and padding:
# $$E_v = \mathrm{LN}(H_v)\, W_v \in \mathbb{R}^{257 \times 768}, \qquad
# E_t = \mathrm{LN}(H_t) \in \mathbb{R}^{77 \times 768}$$
# for ViT-L/14. The transformer attends to $[E_v; E_t]$. Each layer of a CNN is a map of
# channels instead, averaged to a coarse grid.

# %%
number = int(np.flatnonzero(images["partition"] == "test")[0])
image, text = open_image(images["path"][number]), texts[number]
if is_network:
    maps = cnn.layer_outputs(network, [image], grid=cfg.networks[tokens].grid)
    for layer, output in maps.items():
        print(f"{layer:14s} {output.shape[1]:4d} places x {output.shape[2]} channels")
else:
    seen = image_tokens(clip, [image], normalize_by_cls=cfg.normalize_by_cls)[0]
    read = text_tokens(clip, [text], project=True)[0]
    n_read = min(count_clip_tokens(text), len(read))  # start, words and end
    print(f"Image: {seen.shape[0]} tokens x {seen.shape[1]}, the first of the class.")
    print(f"Text:  {read.shape[0]} tokens x {read.shape[1]}, {n_read} before padding.")

# %% [markdown]
# What each token sees: the cosine of each patch with the end token of the text, which
# is CLIP's embedding of it, for which its projection $W_t$ is needed. For a CNN, the
# mean over the channels of each layer.
#
# *Look for* patches on the object that differ from those of the background. CLIP trains
# only the class token to match a text, so that the sign at single patches is free.

# %%
if is_network:
    layers = {name: m[0] for name, m in maps.items() if m.shape[1] > 1}  # P channels
    shown = {name: output.mean(axis=1) for name, output in layers.items()}
else:
    end = read[n_read - 1]
    norms = np.linalg.norm(seen, axis=1) * np.linalg.norm(end)
    cosines = seen @ end / norms
    shown = {"patches": cosines[1:]}
width = figures.PAGE if is_network else figures.COLUMN
fig, axes = plt.subplots(1, 1 + len(shown), figsize=(width, 1.3))
axes[0].imshow(image)
for ax, (name, values) in zip(axes[1:], shown.items(), strict=True):
    side = int(np.sqrt(values.size))
    picture = ax.imshow(values.reshape(side, side), cmap="viridis")
    ax.set_title(name)
    if not is_network:
        fig.colorbar(picture, ax=ax, label="Cosine")
for ax in axes:
    ax.axis("off")
plt.show()
if not is_network:
    print(f"“{text}”: the cosine of the class token is {cosines[0]:.2f}.")

# %% [markdown]
# Tokens of a text attend only to those before them: *look for* the similarity of words
# that follow each other, and for the padding after the end, whose tokens the
# transformer attends to as well.

# %%
if not is_network:
    hidden = text_tokens(clip, [text], project=cfg.project_text)[0]
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.8 * figures.COLUMN))
    picture = ax.imshow(hidden @ hidden.T, cmap="viridis")
    ax.axhline(n_read - 0.5, color="white", lw=0.8)
    ax.axvline(n_read - 0.5, color="white", lw=0.8)
    ax.set(xlabel="Token of the text", ylabel="Token of the text")
    fig.colorbar(picture, label="Cosine")
    plt.show()

# %% [markdown]
# ## All images
#
# Tokens are streamed to disk in batches; an interrupted run resumes after the last
# complete batch. All layers of a CNN stand side by side as one flat token.


# %%
def encode(batch):
    """Return the tokens of some images' paths, or of some captions."""
    if is_text:
        return text_tokens(clip, batch, project=cfg.project_text)
    pictures = [open_image(path) for path in batch]
    return image_tokens(clip, pictures, normalize_by_cls=cfg.normalize_by_cls)


path = nb.output("tokens")
if is_network:
    options = {"grid": cfg.networks[tokens].grid, "batch_size": machine.network_batch}
    cnn.write_layer_outputs(path, images, cnn=network, **options)
else:
    items = texts if is_text else images["path"]
    write_tokens(
        path,
        dict(zip(images["image_id"], items, strict=True)),
        encode=encode,
        batch_size=machine.embedding_batch,
        made_with=cfg.model_dump(mode="json", exclude={"networks"}),
    )

# %%
stored = Tokens(path)
print(
    f"{stored.shape[0]:,} x {stored.shape[1]} tokens of width {stored.shape[2]:,} take "
    f"{path.stat().st_size / 1e6:,.1f} MB."
)

# %% [markdown]
# ## Norms
#
# *Look for* a class or start token (position 0) whose norm differs from the rest.

# %%
if not is_network:
    some = images["image_id"].iloc[:: max(1, len(images) // 500)]
    norms = np.linalg.norm(stored[some], axis=-1)  # N L
    fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.62 * figures.COLUMN))
    low, middle, high = np.quantile(norms, [0.05, 0.5, 0.95], axis=0)
    ax.fill_between(np.arange(len(middle)), low, high, alpha=0.3, lw=0)
    ax.plot(middle, marker=".")
    ax.set(xlabel="Position", ylabel="Norm of a token", ylim=(0, None))
    plt.show()
    print(
        f"The median norm is {middle[0]:.2f} at position 0 and "
        f"{np.median(norms[:, 1:]):.2f} after it (5 to 95 % of {len(some)} images "
        "shaded)."
    )

# %% [markdown]
# ## Concepts
#
# *Look for* images of one concept, or their captions, that are more similar than those
# of different concepts.

# %%
first = images.head(1000)
if is_text:
    summary = embed_texts(clip, texts.head(1000))
else:
    summary = stored[first["image_id"]][:, 0]
    summary /= np.linalg.norm(summary, axis=1, keepdims=True)
concept = first["concept"].to_numpy()
pairs = np.triu_indices(len(first), k=1)
cosine = (summary @ summary.T)[pairs]
same = (concept[:, None] == concept)[pairs]

# %%
fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.62 * figures.COLUMN))
colors = [figures.COLORS["generated"], figures.COLORS["control"]]
relation = np.where(same, "same", "different")
bins = {"stat": "density", "common_norm": False, "bins": 60, "element": "step"}
order = {"hue_order": ["same", "different"], "palette": colors}
sns.histplot(x=cosine, hue=relation, **order, **bins)
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
# For each test image, its own caption (or the name of its concept) is retrieved among
# those of all test images by the cosine in CLIP's space. CNNs have no text encoder.

# %%
if not is_network:
    is_test = images["partition"] == "test"
    seen = embed_images(clip, [open_image(path) for path in images["path"][is_test]])
    similarity = seen @ embed_texts(clip, texts[is_test]).T
    rank = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
    print(
        f"The right text is first for {np.mean(rank < 1):.1%} of the test images and "
        f"among the first five for {np.mean(rank < 5):.1%}; chance is "
        f"{1 / len(rank):.1%} and {5 / len(rank):.1%}."
    )

# %%
nb.finish()
