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
# - Reads: generated signals of the runs in the configuration's section `ablations`,
#   signals of their participants, the published scores
# - Writes: Tables 3 and 5 (EEG) or 4 and 6 (MEG), Figure 6, how the first version was
#   best conditioned, and paired differences from each full model
# - Time: one to three minutes (mini, one core), hours (paper, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "evaluation: {dim: 5}"
dataset: str = "things-eeg2"

# %%
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from paperlib.config import load_settings
from paperlib.evaluation.ablations import (
    FULL,
    RETRAINED,
    ZEROED,
    compare_regions,
    region_row,
    score_without_region,
)
from paperlib.evaluation.comparison import (
    MAIN_METRICS,
    METRICS,
    compare_with,
    score,
    summarize,
    tidy_scores,
)
from paperlib.evaluation.predictions import read_responses
from paperlib.evaluation.responses import Responses, delay_vectors
from paperlib.paths import ABLATION_TABLES, REGION_FIGURES, locate
from paperlib.progress import progress_bar
from paperlib.provenance import check_configured, start_record
from paperlib.recordings.regions import channels_outside
from paperlib.recordings.signals import (
    average_repetitions,
    load_signals,
    mean_response,
)
from paperlib.reporting.ablations import plot_regions
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.scores import caption, difference_caption, with_published
from paperlib.reporting.tables import save_table, wide_table

# %%
keys = {"dataset": dataset}
settings = load_settings("07_ablations", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()
ablations, runs = settings["ablations"], settings["runs"]
seed, subjects, seeds = settings["seed"], ablations["subjects"], ablations["seeds"]
sfreq = load_signals(where("signals", subject=subjects[0])).sfreq
embedding = delay_vectors(settings["evaluation"], sfreq=sfreq)
read = partial(read_responses, **embedding)
bootstrap = {"seed": seed, "resamples": settings["evaluation"]["resamples"]}

# %%
labels = {run: entry["label"] for run, entry in runs.items()}
groups = {  # table -> labels of its rows, the full model last
    name: [labels[run] for run in ablations[group]]
    for group, name in ABLATION_TABLES[dataset].items()
}
listed = dict.fromkeys(
    run for group in ABLATION_TABLES[dataset] for run in ablations[group]
)
*without, full = ablations["regions"]
regions = [runs[run]["channels"]["without"] for run in without]
pairs = list(zip(without, regions, strict=True))
compared = {"dataset": [dataset], "run": [*listed, *without], "subject": subjects}
check_configured(where("record").parent, overrides, **compared, seed=seeds)

# %% [markdown]
# ## Scores
#
# The mean of the samples of every run, against the mean recorded response.
#
# "Removing the channels of a region" has several readings. The model is trained without
# them and scored on what is left, beside the full model on the same channels; or the
# full model's prediction is set to zero there and scored on all. In the last, silent
# channels have no correlation and no synchronization.

# %%
recorded = {}
for subject in progress_bar(subjects, label="Recordings", unit="subject"):
    signals = load_signals(where("signals", subject=subject))
    target, common = average_repetitions(signals.test), mean_response(signals.training)
    recorded[subject] = Responses.prepare(target, common, **embedding)

# %%
scored, scored_regions = [], []
for subject, trained in product(subjects, seeds):
    label = f"Scoring participant {subject}"
    measured, common = recorded[subject], recorded[subject].common
    path = partial(where, "samples", subject=subject, seed=trained)
    of_all = read(path(run=full), common)
    for run in progress_bar(listed, label=label, unit="run"):
        found = of_all if run == full else read(path(run=run), common)
        of_run = score(found, measured, sfreq=sfreq)
        scored.append((labels[run], subject, trained, of_run))
    for run, region in progress_bar(pairs, label=label, unit="region"):
        kept = channels_outside(signals.ch_names, region)
        found = read(path(run=run), common[kept])
        three = score_without_region(of_all, found, measured, kept=kept, sfreq=sfreq)
        scored_regions += [
            (region_row(region, name), subject, trained, s) for name, s in three.items()
        ]

# %%
scores = tidy_scores(scored, [labels[run] for run in listed])
summary = summarize(scores, **bootstrap)
print(
    f"{len(listed)} runs, {len(subjects)} participants, "
    f"{scores['image'].nunique()} test images."
)

# %% [markdown]
# ## Tables
#
# The last measured row of each is the full model, the published values are below.

# %%
about = {
    "simulated": settings["simulated"],
    "dataset": dataset,
    "resamples": bootstrap["resamples"],
    "seeds": seeds,
}
written, save = [], partial(save_table, simulated=settings["simulated"])
for name, rows in groups.items():
    published = pd.read_csv(where("published_table", name=name))
    measured = summary[
        summary["method"].isin(rows) & summary["metric"].isin(MAIN_METRICS)
    ]
    tidy = with_published(measured, published)
    shown = list(dict.fromkeys([*rows, *tidy["method"]]))
    wide = wide_table(tidy, rows=shown, metrics=MAIN_METRICS)
    text = caption(measured, **about)
    stem = where("table", name=name)
    written += save(stem, tidy=tidy, wide=wide, caption=text)
    display(Markdown(f"**{name}**"), wide)

# %% [markdown]
# ## Differences from the full model
#
# On the same images, which are resampled together. *Look for* intervals that leave zero
# out: with few participants and one training of each, even those may be the luck of a
# training. The metrics that look at single images can tell another story than those
# that the response to all images dominates.

# %%
differences = {}
for name, rows in groups.items():
    compared = scores[scores["method"].isin(rows)]
    differences[name] = compare_with(compared, rows[-1], **bootstrap)
    wide = wide_table(differences[name], rows=rows[:-1], metrics=METRICS)
    text = difference_caption(differences[name], rows[-1], **about)
    stem = where("table", name=f"{name}_paired")
    written += save(stem, tidy=differences[name], wide=wide, caption=text)
    display(Markdown(f"**{name}, differences**"), wide)

# %% [markdown]
# ## Regions
#
# Without the channels of a region. *Look for* what the model lost on the channels that
# it kept: the difference of the retrained from the full model on the same channels.

# %%
variants = (FULL, RETRAINED, ZEROED)
of_regions = tidy_scores(
    scored_regions, [region_row(*names) for names in product(regions, variants)]
)
by_region = summarize(of_regions, **bootstrap)
main = by_region[by_region["metric"].isin(MAIN_METRICS)]
published = pd.read_csv(where("published_table", name=REGION_FIGURES[dataset]))
tidy = with_published(main, published)
rows = list(tidy["method"].unique())
wide = wide_table(tidy, rows=rows, metrics=MAIN_METRICS)
stem = where("table", name=REGION_FIGURES[dataset])
written += save(stem, tidy=tidy, wide=wide, caption=caption(main, **about))
display(wide)

# %%
lost = compare_regions(of_regions, regions, **bootstrap)
wide = wide_table(lost, rows=regions, metrics=METRICS).rename_axis("Region removed")
text = difference_caption(lost, "the full model on the same channels", **about)
written += save(f"{stem}_paired", tidy=lost, wide=wide, caption=text)
display(wide)

# %%
fig = plot_regions(by_region, regions=regions, metrics=MAIN_METRICS)
plt.show()
stem = where("figure", name=REGION_FIGURES[dataset])
written += save_figure(fig, stem, simulated=settings["simulated"])

# %% [markdown]
# ## What this shows

# %%
lines = []
tables = {**differences, "regions": lost}
for (name, table), metric in product(tables.items(), ("pearson", "pearson_specific")):
    table = table[table["metric"] == metric]
    clear = table[(table["low"] > 0) | (table["high"] < 0)]
    told = ", ".join(f"{row.method} {row.mean:+.3f}" for row in clear.itertuples())
    rest = ", ".join(table["method"][~table.index.isin(clear.index)])
    lines.append(
        f"- {name}, {METRICS[metric].removesuffix(' ↑')}, apart from the full model: "
        f"{told or 'none'}; not told apart: {rest or 'none'}"
    )
display(Markdown("\n".join(lines)))

# %%
inputs = [where("signals", subject=subject) for subject in subjects]
names = [*groups, REGION_FIGURES[dataset]]
inputs += [where("published_table", name=name) for name in names]
for run, subject, trained in product(
    {**listed, **dict.fromkeys(without)}, subjects, seeds
):
    inputs.append(where("samples", run=run, subject=subject, seed=trained))
record.finish(where("record"), inputs=inputs, outputs=written)
