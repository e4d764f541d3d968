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
# # 02 Caption
#
# *What does each image show, in words?* A vision-language model describes every image
# once (paper, section 3.2.2, Appendix F).
#
# - Reads: images, or a file of captions that another program wrote
# - Writes: captions, one JSON object a line
# - Time: seconds (mini, one core), half an hour (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values, as in "captioning: {prompt: Why?}"
dataset: str = "things-eeg2"
captioner: str = "qwen2-vl"  # an entry of the configuration's captioners

# %%
import matplotlib.pyplot as plt
import seaborn as sns

from paperlib.checkpoints import pick_device
from paperlib.notebook import open_notebook
from paperlib.reporting import figures
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.captions import import_captions, read_captions, write_captions
from paperlib.stimuli.images import open_image, read_images
from paperlib.validation import check_option

# %%
nb = open_notebook("02_caption", globals())
cfg = nb.cfg.captioning
figures.set_theme()
check_option("captioner", captioner, tuple(cfg.captioners))
source = cfg.captioners[captioner]
from_file = source.kind == "file"

# %%
images = read_images(nb.input("images"))
print(
    f"{len(images):,} images of {images['concept'].nunique():,} concepts, "
    f"{(images['partition'] == 'test').sum()} of them for testing."
)

# %% [markdown]
# ## One image
#
# The language model reads a conversation $q$ that contains the prompt and, in place of
# the image, tokens of its vision encoder. It answers token by token, each the likeliest
# after all before it (greedy decoding, no sampling), until it ends its turn:
# $$w_i = \arg\max_w \; p_\theta(w \mid q(\text{image}, \text{prompt}),
# w_1, \ldots, w_{i-1}).$$
# The answer $w_1, w_2, \ldots$ is the caption, the same for every participant.

# %%
example = images[images["partition"] == "test"].iloc[0]
image = open_image(example["path"])
fig, ax = plt.subplots(figsize=(1.5, 1.5))
ax.imshow(image)
ax.axis("off")
plt.show()
print(f"{example['image_id']}, {image.width} x {image.height} pixels")

# %%
if not from_file:
    device = pick_device(nb.cfg.machine.device)
    model = load_captioner(**source.model_dump(), device=device)
    print(f"{model.name} on {device}: {model.decoding}")

# %% [markdown]
# What the model reads. The image's placeholder becomes as many tokens as the image has
# patches after merging.

# %%
if not from_file:
    print(model.chat(cfg.prompt))

# %% [markdown]
# What it answers, after 1, 2, 4, ... tokens. *Look for* each answer to continue the one
# before, and for its end, after which more tokens change nothing.

# %%
if not from_file:
    lengths = [2**i for i in range(10) if 2**i < cfg.max_new_tokens]
    for n_tokens in [*lengths, cfg.max_new_tokens]:
        (caption,) = model([image], prompt=cfg.prompt, max_new_tokens=n_tokens)
        print(f"{n_tokens:3d}  {caption}")

# %% [markdown]
# ## All images
#
# In batches; a caption does not depend on the other images of its batch. An interrupted
# run resumes after the last complete batch. Captions of a model that needs another
# environment (VisualGLM: `workflow/visualglm.py`) are imported from a file.

# %%
path = nb.output("captions")
if from_file:
    import_captions(path, source.file, images["image_id"])
else:
    write_captions(
        path,
        images,
        captioner=model,
        prompt=cfg.prompt,
        max_new_tokens=cfg.max_new_tokens,
        batch_size=nb.cfg.machine.captioning_batch,
    )

# %%
captions = read_captions(path, images["image_id"])
texts = captions["caption"].str.strip()
print(
    f"{len(captions):,} captions by {captions['model'][0]}, {texts.nunique():,} of "
    f"them distinct; {(texts == '').sum()} are empty."
)

# %% [markdown]
# ## Twelve images
#
# *Look for* captions that name the object, and for objects that are not there.

# %%
shown = images.merge(captions, on="image_id").sample(12, random_state=0)
fig, axes = plt.subplots(2, 6, figsize=(figures.PAGE, 0.4 * figures.PAGE))
for ax, (number, row) in zip(axes.flat, enumerate(shown.itertuples(), 1), strict=True):
    ax.imshow(open_image(row.path))
    ax.set_title(f"{number}", loc="left")
    ax.axis("off")
plt.show()
for number, row in enumerate(shown.itertuples(), 1):
    print(f"{number:2d}. {row.image_id}: {row.caption}")

# %% [markdown]
# ## Length
#
# CLIP's text encoder has a context of 77 tokens, start and end included; longer
# captions are truncated. *Look for* them: their last words never reach the model.

# %%
fig, ax = plt.subplots(figsize=(figures.COLUMN, 0.62 * figures.COLUMN))
colors = [figures.COLORS["recorded"], figures.COLORS["baseline"]]
hue = {"hue": "truncated", "hue_order": [False, True], "palette": colors}
sns.histplot(captions, x="n_clip_tokens", discrete=True, multiple="stack", **hue)
ax.set(xlabel="CLIP tokens of a caption", ylabel="Captions")
plt.show()
quartiles = captions["n_clip_tokens"].quantile([0.25, 0.5, 0.75]).astype(int)
print(
    f"The median caption has {quartiles[0.5]} tokens (quartiles {quartiles[0.25]} and "
    f"{quartiles[0.75]}); {captions['truncated'].mean():.1%} are truncated."
)

# %%
nb.finish()
