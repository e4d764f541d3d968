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
# # 07 Ablations
#
# *Which parts of the model does the score need?* Each part is taken away and the model
# is trained again (paper, sections 4.2 to 4.4, Tables 3 to 6, Figure 6).
#
# - Reads: predictions of the runs in the configuration's section `ablations`, signals
#   of their participants, the published scores
# - Writes: Tables 3 and 5 (EEG) or 4 and 6 (MEG), Figure 6, the conditioning of the
#   first version, and paired differences from each full model
# - Time: about a minute (mini, one core), hours (paper, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "evaluation: {dim: 5}"
dataset: str = "things-eeg2"

# %%
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from tqdm.auto import tqdm

from paperlib import paths
from paperlib.evaluation import comparison
from paperlib.evaluation.synchronization import DelayEmbedding
from paperlib.notebook import open_notebook
from paperlib.recordings import regions, signals
from paperlib.reporting import figures, scores, tables

# %%
nb = open_notebook("07_ablations", globals())
cfg, subjects = nb.cfg, nb.cfg.ablated_subjects
figures.set_theme()
data = {s: signals.load_signals(nb.input("signals", subject=s)) for s in subjects}
sfreq, ch_names = data[subjects[0]].sfreq, data[subjects[0]].ch_names
names = {"dim", "delay", "neighbors"}
embedding = DelayEmbedding.at(sfreq, **cfg.evaluation.model_dump(include=names))
bootstrap = {"seed": cfg.seed, "resamples": cfg.evaluation.resamples}
caption = partial(
    scores.caption,
    dataset=dataset,
    simulated=cfg.simulated,
    resamples=cfg.evaluation.resamples,
)

# %% [markdown]
# ## What is taken away
#
# An ablation is a run whose configuration differs from that of the full model in one
# place. A removed region is one of channels: its model never sees them.

# %%
groups = {  # name of the table -> its runs, the full model last
    table: getattr(cfg.ablations, group)
    for group, table in paths.ABLATION_TABLES[dataset].items()
}
figure = paths.REGION_FIGURES[dataset]
all_groups = groups | {figure: cfg.ablations.regions}


def options(run: str) -> pd.Series:
    """Return the options of a run, one a place."""
    sections = ("conditioning", "model", "channels", "diffusion", "training")
    chosen = cfg.of(run=run)
    values = {key: getattr(chosen, key).model_dump() for key in sections}
    return pd.json_normalize(values).iloc[0].astype(str)


removed = []
for table, (*ablated, full) in all_groups.items():
    for run in ablated:
        changed = options(full).compare(options(run), result_names=("full", "ablated"))
        removed.append(changed.assign(table=table, run=run, label=cfg.runs[run].label))
display(
    pd.concat(removed).rename_axis("option").set_index(["table", "run"], append=True)
)

# %% [markdown]
# ## Scores
#
# The prediction of every training against the mean recorded response, by the metrics
# that notebook 06 defines. It is the posterior mean, one evaluation of the network from
# pure noise. A network that predicts noise ($\epsilon$) yields nothing about the signal
# there; its prediction is the mean of its samples.


# %%
def prediction(run: str, subject: int, seed: int) -> np.ndarray:
    """Read the predicted responses (N, C, T) of one training."""
    keys = {"run": run, "subject": subject, "seed": seed}
    if cfg.of(run=run).diffusion.prediction == "epsilon":
        samples = np.load(nb.input("samples", **keys), mmap_mode="r")  # N K C T
        return comparison.point_prediction(samples, "mean")
    return np.load(nb.input("posterior_mean", **keys))


# %%
recorded = {
    subject: comparison.Responses.prepare(
        signals.average_repetitions(signal.test),
        signals.mean_response(signal.training),
        embedding,
    )
    for subject, signal in tqdm(data.items(), "Recordings")
}
seeds = {run: cfg.of(run=run).seeds for group in all_groups.values() for run in group}
listed = dict.fromkeys(run for group in groups.values() for run in group)
full = cfg.ablations.regions[-1]
frames, full_responses = [], {}
for run, subject in tqdm(list(product({**listed, full: None}, subjects)), "Scores"):
    truth = recorded[subject]
    for seed in seeds[run]:
        values = prediction(run, subject, seed)
        predicted = comparison.Responses.prepare(values, truth.common, embedding)
        if run == full:
            full_responses[subject, seed] = predicted
        scored = comparison.score(predicted, truth, sfreq=sfreq)
        identity = {"method": run, "subject": subject, "seed": seed}
        frames.append(scored.assign(**identity, image=scored.index))
scored = pd.concat(frames)

# %% [markdown]
# ## Tables
#
# The last measured row of each is the full model; the published values are below. Then
# the paired difference: with scores $s_{pri}$ of participant $p$, training $r$ and
# image $i$,
#
# $$\Delta = \frac{1}{P N} \sum_{p i} \Big( \frac{1}{R} \sum_r
# s^\mathrm{ablated}_{pri} - \frac{1}{R} \sum_r s^\mathrm{full}_{pri} \Big),$$
#
# whose interval resamples participants and images, the same for both models, and the
# trainings of each. *Look for* intervals that exclude zero.

# %%
labels = {run: entry.label for run, entry in cfg.runs.items()}
metrics = comparison.MAIN_METRICS | {
    key: comparison.SUPPLEMENT_METRICS[key] for key in ("top5", "two_versus_two")
}


def show(name: str, tidy: pd.DataFrame, headings: dict, text: str) -> None:
    """Display and save a table."""
    tidy = tidy[tidy["metric"].isin(headings)].drop(columns="run", errors="ignore")
    rows = tidy["method"].unique()
    wide = tables.wide_table(tidy, rows=rows, metrics=headings)
    keys = {"tidy": tidy, "wide": wide, "caption": text, "simulated": cfg.simulated}
    tables.save_table(nb.output("table", name=name), **keys)
    display(wide.style.set_caption(name))


def published_scores(name: str) -> pd.DataFrame:
    """Read what the paper reports."""
    return pd.read_csv(nb.input("published_table", name=name))


# %%
note = scores.published_note(simulated=cfg.simulated)
effects = []
for name, group in groups.items():
    chosen = pd.concat([scored[scored["method"] == run] for run in group])
    summary = comparison.summarize(chosen, **bootstrap)
    named = summary.assign(method=summary["method"].map(labels))
    both = scores.with_published(named, published_scores(name))
    show(name, both, comparison.MAIN_METRICS, f"{caption(summary)} {note}")
    lost = comparison.compare_with(chosen, group[-1], **bootstrap)
    lost = lost.assign(run=lost["method"], method=lost["method"].map(labels))
    text = caption(lost, f"paired differences from {labels[group[-1]]}, mean")
    show(f"{name}_paired", lost, metrics, text)
    effects.append(scores.order_table(lost, published_scores(name), group[-1]))

# %% [markdown]
# ## Regions
#
# "Removing the channels of a region" has several readings. The model is trained without
# them and scored on what is left, beside the full model on the same channels; or the
# full model's prediction is set to zero there and scored on all channels, where silent
# ones have no correlation and no synchronization. *Look for* what the model lost on the
# channels that it kept: the square against the circle.

# %%
VARIANTS = {  # name, marker, color, place beside the line of the region
    "full model, same channels": ("o", figures.COLORS["recorded"], 0.22),
    "trained without the region": ("s", figures.COLORS["generated"], 0.0),
    "full model, region set to zero": ("D", figures.COLORS["baseline"], -0.22),
}
frames = []
for run, subject in tqdm(
    list(product(cfg.ablations.regions[:-1], subjects)), "Regions"
):
    region, truth = cfg.runs[run].channels["without"], recorded[subject]
    kept = regions.channels_outside(ch_names, region)
    for seed in seeds[run]:
        whole = full_responses[subject, seed]
        values = prediction(run, subject, seed)
        silent = np.zeros_like(whole.values)
        silent[:, kept] = whole.values[:, kept]
        left = truth.select(kept)
        pairs = (
            (whole.select(kept), left),
            (comparison.Responses.prepare(values, left.common, embedding), left),
            (comparison.Responses(silent, truth.common, {}), truth),
        )
        for variant, (predicted, target) in zip(VARIANTS, pairs, strict=True):
            row = comparison.score(predicted, target, sfreq=sfreq)
            identity = {"method": f"{region}: {variant}", "subject": subject}
            frames.append(row.assign(**identity, seed=seed, image=row.index))
scored_regions = pd.concat(frames)

# %%
summary = comparison.summarize(scored_regions, **bootstrap)
both = scores.with_published(summary, published_scores(figure))
show(figure, both, comparison.MAIN_METRICS, f"{caption(summary)} {note}")
lost = []
for run in cfg.ablations.regions[:-1]:
    region = cfg.runs[run].channels["without"]
    base, retrained, _ = (f"{region}: {variant}" for variant in VARIANTS)
    pair = scored_regions[scored_regions["method"].isin([base, retrained])]
    difference = comparison.compare_with(pair, base, **bootstrap)
    lost.append(difference.assign(method=region, run=run))
lost = pd.concat(lost)
text = caption(
    lost, "paired differences from the full model on the same channels, mean"
)
show(f"{figure}_paired", lost, metrics, text)
effects.append(scores.order_table(lost, published_scores(figure), full))

# %%
removed_regions = lost["method"].unique()
n_panels = len(comparison.MAIN_METRICS)
size = (figures.PAGE, 0.9 + 0.32 * len(removed_regions))
fig, axes = plt.subplots(1, n_panels, figsize=size, sharey=True)
for ax, (metric, heading) in zip(axes, comparison.MAIN_METRICS.items(), strict=True):
    shown = summary[summary["metric"] == metric]
    for variant, (marker, color, shift) in VARIANTS.items():
        drawn = [f"{region}: {variant}" for region in removed_regions]
        style = {"colors": [color] * len(drawn), "marker": marker, "shift": shift}
        scores.draw_intervals(ax, shown, drawn, **style)
    ax.set_xlabel(heading)
axes[0].set_yticks(-np.arange(len(removed_regions)), removed_regions)
axes[0].set_ylabel("Region removed")
handles = [
    plt.Line2D([], [], color=color, marker=marker, ms=4, label=variant)
    for variant, (marker, color, _) in VARIANTS.items()
]
fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
figures.save_figure(fig, nb.output("figure", name=figure), simulated=cfg.simulated)
plt.show()

# %% [markdown]
# ## Published and measured effects
#
# What the paper reports that each ablation changes, beside the paired difference here.
# *Look at* the last column: "yes" where the interval has the published sign, "reversed"
# where it has the opposite one, "open" where it contains zero.

# %%
effects = pd.concat(effects, ignore_index=True)
display(effects.round(3))
display(effects.groupby("metric")["as_published"].value_counts().unstack(fill_value=0))

# %%
nb.finish()
