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
# once (paper, section 3.2.2, Appendix F). Which model is behind a captioner's name is
# said in the configuration.
#
# - Reads: images, or a file of captions that another program wrote
# - Writes: captions, one JSON object a line
# - Time: seconds (mini, one core), half an hour (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values, as in "captioning: {batch_size: 8}"
dataset: str = "things-eeg2"
captioner: str = "qwen2-vl"  # an entry of the configuration's captioners

# %%
import matplotlib.pyplot as plt
import seaborn as sns
from paperlib.provenance import start_record

from paperlib.checkpoints import pick_device
from paperlib.config import load_settings
from paperlib.paths import ROOT, locate
from paperlib.reporting.figures import COLORS, COLUMN, PAGE, set_theme
from paperlib.stimuli.captioners import load_captioner, pick_dtype
from paperlib.stimuli.captions import (
    CLIP_CONTEXT,
    import_captions,
    read_captions,
    save_imported_captions,
    write_captions,
)
from paperlib.stimuli.images import open_image, read_images
from paperlib.validation import check_option

# %%
keys = {"dataset": dataset, "captioner": captioner}
settings = load_settings("02_caption", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()
captioning = settings["captioning"]
check_option("captioner", captioner, tuple(captioning["captioners"]))
source = captioning["captioners"][captioner]

# %%
images = read_images(where("images"))
print(
    f"{len(images)} images of {images['concept'].nunique()} concepts, "
    f"{(images['partition'] == 'test').sum()} of them for testing."
)

# %% [markdown]
# ## Captions
#
# Decoding is greedy: one caption an image, the same for every participant. A run that
# was stopped goes on behind its last batch. Captions of a model that needs another
# environment (VisualGLM: `paperlib/stimuli/visualglm.py`) are imported from a file.

# %%
if source["kind"] == "file":
    captions = import_captions(ROOT / source["file"], images["image_id"])
    save_imported_captions(where("captions"), captions, source=source["file"])
else:
    device = pick_device(settings["device"])
    write_captions(
        where("captions"),
        images,
        captioner=load_captioner(source, device=device, dtype=pick_dtype(device)),
        prompt=captioning["prompt"],
        max_new_tokens=captioning["max_new_tokens"],
        batch_size=captioning["batch_size"],
    )

# %%
captions = read_captions(where("captions"), images["image_id"])
texts = captions["caption"].str.strip()
print(
    f"{len(captions)} captions by {captions['model'][0]}, {texts.nunique()} of them "
    f"different; {(texts == '').sum()} are empty."
)

# %% [markdown]
# ## Twelve images
#
# *Look for* captions that name the object, and for objects that are not there.

# %%
shown = images.merge(captions, on="image_id").sample(12, random_state=0)
fig, axes = plt.subplots(2, 6, figsize=(PAGE, 0.5 * PAGE))
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
# CLIP reads 77 tokens, start and end included; what follows is cut. *Look for* mass to
# the right of the line: those words never reach the model.

# %%
fig, ax = plt.subplots(figsize=(COLUMN, 0.62 * COLUMN))
sns.histplot(captions, x="n_clip_tokens", discrete=True, color=COLORS["recorded"])
ax.axvline(CLIP_CONTEXT + 0.5, color=COLORS["baseline"], linestyle="--")
ax.set(xlabel="CLIP tokens of a caption", ylabel="Captions")
plt.show()

# %%
quartiles = captions["n_clip_tokens"].quantile([0.25, 0.5, 0.75]).astype(int)
print(
    f"The median caption has {quartiles[0.5]} tokens (quartiles {quartiles[0.25]} and "
    f"{quartiles[0.75]}); {captions['truncated'].mean():.1%} are cut."
)

# %% [markdown]
# ## Save

# %%
local = [ROOT / source[key] for key in ("file", "projection") if key in source]
inputs = [where("image_list"), *local]
record.finish(where("record"), inputs=inputs, outputs=[where("captions")])
