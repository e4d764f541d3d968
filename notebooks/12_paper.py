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
# # 12 Paper
#
# *What came out, in the order of the paper, and do generated responses look like the
# recorded ones?*
#
# - Reads: every table, figure and run record; published values; of the first data set
#   also the signals, captions and samples of the reference model
# - Writes: one HTML page that needs no network
# - Time: half a minute (mini, one core)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "seed: 1"

# %%
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from paperlib import paths
from paperlib.atomic import write_text
from paperlib.evaluation.metrics import pearson_flattened
from paperlib.notebook import open_notebook
from paperlib.recordings import signals
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.reporting import figures, page, pictures, scores
from paperlib.stimuli.captions import read_captions
from paperlib.stimuli.images import open_image, read_images

# %%
nb = open_notebook("12_paper", globals())
figures.set_theme()
first = next(iter(nb.cfg.datasets))
cfg = nb.cfg.of(dataset=first, run=nb.cfg.evaluation.reference)

# %% [markdown]
# ## Tables and figures
#
# Tables are read as they were written for readers, published values included. Figures
# become smaller WebP files, which the page holds in itself.

# %%
tables = {
    file.stem: page.read_table(file)
    for file in sorted(nb.input("table", name="").glob("*.md"))
}
drawn = {
    file.stem: pictures.embed(file, scale=0.64)  # from 300 dpi
    for file in sorted(nb.input("figure", name="").glob("*.png"))
}
size = sum(len(picture["src"]) for picture in drawn.values()) / 1e6
print(f"{len(tables)} tables and {len(drawn)} figures of {size:.1f} MB.")

# %% [markdown]
# ## The main result in a sentence
#
# Reading the scores for it keeps the sentence true, whatever came out. *Look for* the
# same model asked about another image: what the real image adds is the distance to it.


# %%
def main_result(dataset: str) -> dict:
    """Return the rows of the main table that its sentence is about."""
    table = pd.read_csv(nb.input("table", name=f"{paths.MAIN_TABLES[dataset]}.csv"))
    table = table[table["metric"].eq("specific") & table["mean"].notna()]
    kinds = {run.label: run.method for run in cfg.runs.values()}
    labels = [
        next((label for label in kinds if f"{name}, ".startswith(f"{label}, ")), None)
        for name in table["method"]
    ]
    table = table.assign(label=labels)
    altered = table["method"].str.contains("other image|cross-subject|averaged with")
    rows = table[table["label"].notna() & ~altered]
    asked = rows.loc[rows["label"] == cfg.label, "method"]
    ours = rows.loc[asked.str.contains("one sample").idxmin()]  # better no sample
    other = table[table["method"] == f"{ours['method']}, other image"]
    is_dit = rows["label"].map(kinds).eq("dit")
    ranked = rows.sort_values("mean", ascending=False).groupby(is_dit)
    best = {kind: group.iloc[0].to_dict() for kind, group in ranked}
    return {
        **{"ours": ours.to_dict(), "other_image": other.to_dict("records")},
        **{"transformer": best.get(True), "baseline": best.get(False)},
        "short": rows.loc[rows["low"] <= 0, "method"].tolist(),
    }


results = {dataset: main_result(dataset) for dataset in cfg.datasets}
pd.DataFrame({name: result["ours"] for name, result in results.items()})

# %% [markdown]
# ## Published effects
#
# For each ablation and metric that was published, the sign of the effect against the
# measured interval of the paired difference: as published, reversed, or open where the
# interval holds zero (notebook 07).

# %%
effects = {}
runs = {run.label: name for name, run in cfg.runs.items()}
for dataset, groups in paths.ABLATION_TABLES.items():
    for group, name in groups.items():
        lost = pd.read_csv(nb.input("table", name=f"{name}_paired.csv"))
        lost = lost.assign(run=lost["method"].map(runs))
        published = pd.read_csv(nb.input("published_table", name=name))
        full = getattr(cfg.of(dataset=dataset).ablations, group)[-1]
        verdicts = scores.order_table(lost, published, full)["as_published"]
        effects[name] = verdicts.value_counts().to_dict()
effects

# %% [markdown]
# ## Whose values the published ones are

# %%
sources = {}
for dataset, name in paths.MAIN_TABLES.items():
    listed = pd.read_csv(nb.input("published_table", name=f"{name}_field"))
    listed = listed.drop_duplicates(["method", "source"])
    number = listed["source"].str.extract(r"arXiv (\d{4}\.\d{5})", expand=False)
    listed["url"] = ("https://arxiv.org/abs/" + number).fillna("")
    sources[dataset] = listed[["method", "source", "read", "url"]].to_dict("records")
display(listed)

# %% [markdown]
# ## Twelve test images
#
# The response to an image $i$ is the mean of its repetitions, $y_i$; the reference
# model's answers are its posterior mean $\hat y_i$ and samples. Their score is the
# image-specific correlation over channels $c$ and times $t$ of notebook 06, with the
# mean training response $m$ removed:
#
# $$r_i = \mathrm{corr}_{ct}(\hat y_{ict} - m_{ct},\; y_{ict} - m_{ct}).$$
#
# The twelve images stand at even distances in the order of this score, from the best to
# the worst of all test images, so that none is chosen by eye.

# %%
keys = {"dataset": first, "subject": cfg.training_subject}
data = signals.load_signals(nb.input("signals", **keys))
m = signals.mean_response(data.training)  # C T
recorded = signals.average_repetitions(data.test)  # N C T
made = keys | {"run": cfg.run, "seed": cfg.seeds[0]}
mean = np.load(nb.input("posterior_mean", **made))  # N C T
samples = np.load(nb.input("samples", **made), mmap_mode="r")  # N K C T
r = pearson_flattened(mean - m, recorded - m)
n_shown = min(12, len(r))
chosen = r.argsort()[::-1][np.linspace(0, len(r) - 1, n_shown).round().astype(int)]
sample = samples[chosen, 0].astype(np.float32)  # 12 C T
r_sample = pearson_flattened(sample - m, recorded[chosen] - m)
shown = np.stack([recorded[chosen], mean[chosen], sample], axis=1)  # 12 3 C T
print(f"{cfg.label}, {len(r)} test images: r from {r.min():.2f} to {r.max():.2f}.")

# %%
listed = read_images(nb.input("images", dataset=first))
listed = listed[listed["partition"] == "test"].iloc[chosen]
captioner = cfg.conditioning.captioner or cfg.clip_score.captioners[0]
captions = nb.input("captions", dataset=first, captioner=captioner)
captions = read_captions(captions, listed["image_id"])["caption"]

# %% [markdown]
# Every channel over time, colored by region, and scalp maps at twelve times side by
# side in one picture, of which the page shows a column at a time. *Look for* the same
# components in the same regions, and for noise in the recording and the sample that the
# posterior mean has not.

# %%
times, labels = data.times, ("Recorded", "Posterior mean", "One sample")
sampled = pictures.map_samples(times)
moments = times[sampled]  # s
limits = [float(np.quantile(np.abs(shown), q)) for q in (0.99, 0.9995)]
regions = np.array(channel_regions(data.ch_names))
left, width = 0.13, 0.85  # of the axes, as shares of the picture; 4 : 3


def draw_curves(responses: np.ndarray) -> plt.Figure:
    """Draw the rows of one image (3, C, T) below each other, on clear ground."""
    fig = plt.figure(figsize=(3.2, 2.4), layout="none")
    grey = {"color": "#767676", "fontsize": 7}
    for row, (label, response) in enumerate(zip(labels, responses, strict=True)):
        ax = fig.add_axes((left, 0.73 - 0.3 * row, width, 0.22))
        for region, color in figures.REGION_COLORS.items():
            ax.plot(1000 * times, response[regions == region].T, color=color, lw=0.35)
        ax.set(xlim=1000 * times[[0, -1]], ylim=(-limits[1], limits[1]))
        ax.text(0.01, 1.02, label, transform=ax.transAxes, va="bottom", **grey)
        ax.spines[:].set_color("#767676")
        ax.tick_params(colors="#767676", labelsize=6, labelbottom=row == 2, length=2)
    ax.set_xlabel("Time (ms)", labelpad=1, **grey)
    return fig


# %%
info = sensor_info(data.ch_names, data.sfreq)
gallery = []
for i, (row, caption) in enumerate(zip(listed.itertuples(), captions, strict=True)):
    maps = shown[i][:, :, sampled].swapaxes(1, 2)  # 3 12 C
    picture = open_image(row.path)
    picture.thumbnail((160, 160))
    fig = draw_curves(shown[i])
    entry = {"image": pictures.embed(picture), "curves": pictures.embed(fig)}
    entry["maps"] = pictures.embed(pictures.draw_maps(maps, info, limit=limits[0]))
    name = re.sub(r"^\d+_", "", row.concept).replace("_", " ")
    entry |= {"concept": name, "caption": caption, "r": r[chosen[i]]}
    gallery.append(entry | {"r_sample": r_sample[i]})
    plt.close(fig)
draw_curves(shown[0])
plt.show()

# %% [markdown]
# ## What the run took

# %%
run = page.read_records(list(nb.input("record").parent.glob("*.json")))
pd.DataFrame(run["costs"]).drop(columns="jobs")

# %% [markdown]
# ## The page
#
# Its text is the template `paperlib/reporting/templates/paper.html`.

# %%
text = page.render(
    "paper.html",
    **{"cfg": cfg, "paths": paths, "tables": tables, "figures": drawn},
    **{"results": results, "sources": sources, "gallery": gallery, "first": first},
    **{"moments": (1000 * moments).round().astype(int).tolist(), "limit": limits[0]},
    places=(100 * (left + width * (moments - times[0]) / np.ptp(times))).tolist(),
    **{"unit": data.unit, "colors": figures.REGION_COLORS, "n_test": len(r)},
    effects=effects,
    **{"run": run, "median_r": np.median(r)},
)
write_text(nb.output("page"), text)
print(f"{nb.output('page')}: {len(text) / 1e6:.1f} MB")

# %%
nb.finish()
