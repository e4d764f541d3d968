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
# # 08 CLIP Score
#
# *Do the captions say what the images show?* (paper, section 4.3, Appendix I, Figures
# 4, 5 and 8, Tables 7 and 8)
#
# - Reads: images and captions of every data set and captioner
# - Writes: the cosine of every image and caption, four figures, a table a captioner
# - Time: seconds (mini, one core), half an hour (paper, one GPU, estimated)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces values, as in "clip_score: {resamples: 100}"

# %%
from functools import cache, partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from accelerate import PartialState
from IPython.display import Markdown, display

from paperlib import paths
from paperlib.atomic import write_text
from paperlib.evaluation import clip_score
from paperlib.notebook import open_notebook
from paperlib.reporting import clip_scores
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.tables import save_table
from paperlib.stimuli.captions import read_captions
from paperlib.stimuli.clip import embed_images, embed_texts, load_clip
from paperlib.stimuli.images import open_image, read_images

# %%
nb = open_notebook("08_clip_score", globals())
cfg = nb.cfg
set_theme()
rng = np.random.default_rng(cfg.seed)
subjects = {name: entry.subjects for name, entry in cfg.datasets.items()}
captioners = cfg.clip_score.captioners
labels = {name: cfg.clip_score.labels.get(name, name) for name in captioners}
main_captioner = captioners[0]

# %%
images, captions = {}, {}
for dataset in cfg.datasets:
    images[dataset] = read_images(nb.input("images", dataset=dataset))
    for captioner in captioners:
        path = nb.input("captions", dataset=dataset, captioner=captioner)
        texts = read_captions(path, images[dataset]["image_id"])
        captions[dataset, captioner] = texts
        print(
            f"{dataset}, {captioner}: {len(texts):,} captions, "
            f"{texts['caption'].nunique():,} of them distinct, "
            f"{texts['truncated'].mean():.1%} longer than CLIP reads."
        )

# %% [markdown]
# ## One image and two captions
#
# CLIP embeds image $x$ and caption $c$ in one space; both embeddings have norm 1, and
# their product is the cosine
# $$\cos(x, c) = f_\mathrm{image}(x)^\top f_\mathrm{text}(c).$$
# *Look for* a larger cosine of the image with its own caption than with that of an
# image of another concept.

# %%
device = PartialState(cpu=cfg.machine.device == "cpu").device
load = cache(partial(load_clip, device=device))  # encoders may have the same weights
encoders = [
    clip_score.Encoder(e.name, load(e.model, e.pretrained, e.revision), e.prefix)
    for e in cfg.clip_score.encoders
]

# %%
first = next(iter(cfg.datasets))
own, other = images[first].drop_duplicates("concept").tail(2).index
texts = captions[first, main_captioner]["caption"][[own, other]].tolist()
clip = encoders[0].clip
image = embed_images(clip, [open_image(images[first]["path"][own])])  # 1 D
for cosine, text in zip((image @ embed_texts(clip, texts).T)[0], texts, strict=True):
    print(f"{cosine:.3f}  {text}")

# %% [markdown]
# ## All cosines
#
# Training and test images alike. The control is the caption of an image of another
# concept, drawn anew for each data set. An image has one caption, so all participants
# of a data set share these numbers.

# %%
parts = {}
for dataset, table in images.items():
    parts[dataset] = clip_score.measure_cosines(
        table,
        {name: captions[dataset, name]["caption"] for name in captioners},
        encoders=encoders,
        batch_size=cfg.machine.clip_score_batch,
        rng=rng,
    )
cosines = pd.concat(parts, names=["dataset"]).reset_index("dataset")

# %%
for (dataset, captioner), rows in cosines.groupby(["dataset", "captioner"]):
    columns = rows[["image_id", "concept", "encoder", "cosine", "other_cosine"]]
    path = nb.output("clip_scores", dataset=dataset, captioner=captioner)
    write_text(path, columns.to_csv(index=False, float_format="%.8g"))
groups = cosines.groupby(["dataset", "captioner", "encoder"], sort=False)
groups[["cosine", "other_cosine"]].agg(["mean", "std"])

# %% [markdown]
# ## From cosines to scores
#
# The paper does not state its formula. There are two usual ones:
# $$s_1 = 2.5\,\max(\cos, 0), \qquad s_2 = \tfrac{1}{2}\,(1 + \cos).$$
# The first is that of Hessel et al. (2021) and can exceed 1; in the second a cosine of
# 0 scores a half. *Look for* the scores of captions of other concepts: they are the
# floor of the scale. Images of a concept resemble each other, so intervals come from
# resampling concepts.

# %%
scores = clip_score.score_cosines(cosines)
resamples = cfg.clip_score.resamples
summary = clip_score.describe_scores(scores, rng=rng, n_resamples=resamples)
encoder = encoders[0].name
is_main = (cosines["captioner"] == main_captioner) & (cosines["encoder"] == encoder)
summary.loc[summary["encoder"] == encoder, :"other_mean"]

# %% [markdown]
# Which formula did the paper use? Its mean, and its share of scores below 0.6, imply
# the standard deviation that normally distributed cosines have under each. *Look for*
# the one nearer to the measured. Only cosines of real pictures can decide it.

# %%
published = {
    captioner: pd.read_csv(nb.input("published_table", name=name))
    for captioner, name in zip(captioners, paths.CLIP_SCORE_TABLES, strict=False)
}
row = published[main_captioner].iloc[0]
spreads = clip_score.implied_spread(row["mean"], row["share_0.4"], 0.6)
spreads["measured"] = cosines.loc[is_main, "cosine"].std()
pd.Series(spreads, name="SD of the cosines").to_frame()

# %% [markdown]
# ## Figure 4: an example
#
# Of each data set the test image with the median cosine: neither the best caption nor
# the worst.

# %%
pictures, texts, titles = [], [], []
for dataset, table in images.items():
    tested = table.merge(captions[dataset, main_captioner], on="image_id")
    tested = tested[tested["partition"] == "test"]
    tested = tested.merge(cosines[is_main & (cosines["dataset"] == dataset)])
    example = tested.sort_values(["cosine", "image_id"]).iloc[len(tested) // 2]
    pictures.append(open_image(example["path"]))
    texts.append(example["caption"])
    titles.append(f"{dataset}, cosine {example['cosine']:.2f}")
example_figure = clip_scores.plot_captioned(pictures, texts, titles)
plt.show()

# %% [markdown]
# ## Figure 5: the main captioner
#
# All encoders and both formulas; the published mean is drawn into both. *Look for* the
# distance to captions of other concepts (dotted).

# %%
of_main = scores[scores["captioner"] == main_captioner]
means = published[main_captioner].groupby("dataset")["mean"]
main_figure = clip_scores.plot_distributions(
    of_main, hue="encoder", subjects=subjects, published=means.first()
)
plt.show()

# %% [markdown]
# ## Figure 8: further participants
#
# The paper shows participants 2 to 4 of THINGS-MEG, with counts of their own (Tables 7
# and 8) although all saw the same images. Here an image has one caption, and notebook
# 01 stops if a participant saw other images; one panel stands for all, as in Figure 5.

# %%
last = list(subjects)[-1]  # things-meg
further_figure = clip_scores.plot_distributions(
    of_main[of_main["dataset"] == last],
    hue="encoder",
    subjects={last: subjects[last][1:] or subjects[last]},
    published=means.last(),
)
plt.show()

# %% [markdown]
# ## All captioners
#
# Tables 7 and 8 as distributions beside the main captioner, by the first encoder. *Look
# for* captioners whose scores reach down to those with captions of other concepts.

# %%
captioner_figure = clip_scores.plot_distributions(
    scores[scores["encoder"] == encoder].replace({"captioner": labels}),
    hue="captioner",
    subjects=subjects,
)
plt.show()

# %% [markdown]
# ## Tables
#
# One for each captioner: Figure 5 in numbers, then Tables 7 and 8, published rows below
# the measured ones.

# %%
for captioner, name in zip(captioners, paths.CLIP_SCORE_TABLES, strict=False):
    measured = summary[summary["captioner"] == captioner]
    tidy = clip_scores.score_table(measured, published[captioner], subjects=subjects)
    wide = clip_scores.distribution_table(tidy)
    text = clip_scores.table_caption(labels[captioner], simulated=cfg.simulated)
    stem = nb.output("table", name=name)
    save_table(stem, tidy=tidy, wide=wide, caption=text, simulated=cfg.simulated)
    display(Markdown(f"**{labels[captioner]}**"), wide)

# %%
figures = (example_figure, main_figure, further_figure, captioner_figure)
for name, fig in zip(paths.CLIP_SCORE_FIGURES, figures, strict=True):
    save_figure(fig, nb.output("figure", name=name), simulated=cfg.simulated)

# %%
nb.finish()
