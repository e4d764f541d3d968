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
overrides: str = ""  # YAML that replaces values, as in "clip_score: {batch_size: 8}"

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from paperlib.atomic import write_text
from paperlib.checkpoints import pick_device
from paperlib.config import load_settings
from paperlib.evaluation.clip_score import (
    describe_scores,
    load_encoders,
    measure_cosines,
    score_cosines,
)
from paperlib.paths import CLIP_SCORE_FIGURES, CLIP_SCORE_TABLES, locate
from paperlib.provenance import start_record
from paperlib.reporting.clip_scores import (
    distribution_table,
    participants_note,
    plot_captioned,
    plot_distributions,
    reading_note,
    score_table,
    table_caption,
)
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.tables import save_table
from paperlib.stimuli.captions import read_captions
from paperlib.stimuli.images import open_image, read_images

# %%
settings = load_settings("08_clip_score", config, overrides)
where = locate(settings)
record = start_record(settings, config=config, overrides=overrides)
set_theme()
clip_score, simulated = settings["clip_score"], settings["simulated"]
subjects, captioners = settings["dataset_subjects"], clip_score["captioners"]
main_captioner = captioners[0]
labels = {name: clip_score["labels"].get(name, name) for name in captioners}
rng = np.random.default_rng(settings["seed"])

# %%
images, captions = {}, {}
for dataset in subjects:
    images[dataset] = read_images(where("images", dataset=dataset))
    for captioner in captioners:
        path = where("captions", dataset=dataset, captioner=captioner)
        found = read_captions(path, images[dataset]["image_id"])
        captions[dataset, captioner] = found
        print(
            f"{dataset}, {captioner}: {len(found)} captions, "
            f"{found['caption'].nunique()} different, {found['truncated'].mean():.1%} "
            "longer than CLIP reads."
        )

# %% [markdown]
# ## Cosines
#
# CLIP embeds every image and every caption, training and test images alike. The control
# is the caption of an image of another concept, drawn anew for each data set. Captions
# are made once for an image, so all participants of a data set share these numbers.

# %%
device = pick_device(settings["device"])
options = {
    "encoders": load_encoders(clip_score["encoders"], device=device),
    "batch_size": clip_score["batch_size"],
    "rng": rng,
}
parts = {}
for dataset, table in images.items():
    texts = {name: captions[dataset, name]["caption"] for name in captioners}
    parts[dataset] = measure_cosines(table, texts, **options)
cosines = pd.concat(parts, names=["dataset"]).reset_index("dataset")

# %%
raw = []
for (dataset, captioner), rows in cosines.groupby(["dataset", "captioner"]):
    raw.append(where("clip_scores", dataset=dataset, captioner=captioner))
    columns = ["image_id", "concept", "encoder", "cosine", "other_cosine"]
    write_text(raw[-1], rows[columns].to_csv(index=False, float_format="%.8g"))
keys = ["dataset", "captioner", "encoder"]
display(
    cosines.groupby(keys, sort=False)[["cosine", "other_cosine"]].agg(["mean", "std"])
)

# %% [markdown]
# ## From cosines to scores
#
# Hessel et al. (2021) take 2.5 max(cos, 0), which can exceed 1; others (1 + cos) / 2,
# in which a cosine of 0 scores a half. The paper states neither. *Look for* captions of
# other concepts: what they score is the floor of the scale. The images of a concept
# resemble each other; intervals come from resampling concepts.

# %%
scores = score_cosines(cosines)
summary = describe_scores(scores, rng=rng, n_resamples=clip_score["resamples"])
published = {
    captioner: pd.read_csv(where("published_table", name=name))
    for captioner, name in zip(captioners, CLIP_SCORE_TABLES, strict=False)
}
encoder = options["encoders"][0].name
is_main = (cosines["captioner"] == main_captioner) & (cosines["encoder"] == encoder)
spread = cosines.loc[is_main, "cosine"].std()
note = reading_note(published[main_captioner], spread=spread, simulated=simulated)
print(note)

# %% [markdown]
# ## Figure 4: an example
#
# Of each data set the test image whose cosine is the median: neither the best caption
# nor the worst.

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
example_figure = plot_captioned(pictures, texts, titles)
plt.show()

# %% [markdown]
# ## Figure 5: the main captioner
#
# All encoders and both formulas; the published mean is drawn into both, as its formula
# is not stated. *Look for* the distance to captions of other concepts (dotted).

# %%
of_main = scores[scores["captioner"] == main_captioner]
means = published[main_captioner].groupby("dataset")["mean"]
main_figure = plot_distributions(
    of_main, hue="encoder", subjects=subjects, published=means.first()
)
plt.show()

# %% [markdown]
# ## Figure 8: further participants
#
# The paper shows participants 2 to 4 of THINGS-MEG, with counts of their own (Tables 7
# and 8) though all saw the same images. Here an image has one caption, and notebook 01
# stops if a participant saw other images; so one panel stands for all, as in Figure 5.

# %%
last = list(subjects)[-1]  # things-meg
further_figure = plot_distributions(
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
captioner_figure = plot_distributions(
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
written = []
for captioner, name in zip(captioners, CLIP_SCORE_TABLES, strict=False):
    measured = summary[summary["captioner"] == captioner]
    tidy = score_table(measured, published[captioner], subjects=subjects)
    wide = distribution_table(tidy)
    parts = (table_caption(labels[captioner], simulated=simulated), note)
    text = " ".join([*parts, participants_note(published[captioner])]).strip()
    about = {"caption": text, "simulated": simulated}
    written += save_table(where("table", name=name), tidy=tidy, wide=wide, **about)
    display(Markdown(f"**{labels[captioner]}**"), wide)

# %% [markdown]
# ## Save

# %%
figures = (example_figure, main_figure, further_figure, captioner_figure)
for name, fig in zip(CLIP_SCORE_FIGURES, figures, strict=True):
    written += save_figure(fig, where("figure", name=name), simulated=simulated)

# %% [markdown]
# ## What this shows

# %%
lines = [
    f"- {row.dataset}, {labels[row.captioner]}, {row.encoder}: {row.score} is "
    f"{row.mean:.3f} on average, {row.other_mean:.3f} with captions of other concepts"
    for row in summary.itertuples()
]
display(Markdown("\n".join(lines)))

# %%
inputs = [where("image_list", dataset=dataset) for dataset in images]
inputs += [where("captions", dataset=d, captioner=c) for d, c in captions]
record.finish(where("record"), inputs=inputs, outputs=raw + written)
