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
# # 06 Evaluate
#
# *Do generated responses resemble the recorded ones, and more than a prediction that
# knows nothing of the image?* (paper, section 4.1, Tables 1 and 2)
#
# - Reads: generated signals of every run, signals of every participant
# - Writes: the main table, a supplement, a figure of both
# - Time: a minute (mini, two cores), an hour (paper)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "evaluation: {dim: 5}"
dataset: str = "things-eeg2"

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from paperlib.config import load_settings
from paperlib.evaluation.comparison import (
    CEILING,
    MAIN_METRICS,
    METRICS,
    SUPPLEMENT_METRICS,
    Recordings,
    across_images,
    compare_with,
    control_predictions,
    score,
    split_half_scores,
    summarize,
    tidy_scores,
)
from paperlib.evaluation.identification import chance_levels
from paperlib.evaluation.predictions import read_budgets, read_predictions
from paperlib.paths import MAIN_TABLES, locate
from paperlib.progress import progress_bar
from paperlib.provenance import start_record
from paperlib.recordings.signals import (
    average_repetitions,
    load_signals,
    mean_response,
)
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.scores import (
    across_table,
    budget_table,
    caption,
    plot_scores,
    with_published,
)
from paperlib.reporting.tables import save_table, wide_table

# %%
keys = {"dataset": dataset}
settings = load_settings("06_evaluate", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()
evaluation = dict(settings["evaluation"])
apart = ("resamples", "halvings", "reference")
resamples, halvings, evaluation_reference = (evaluation.pop(key) for key in apart)
seed = settings["seed"]

# %% [markdown]
# ## Scores
#
# For each participant the mean recorded response to every test image is compared with
# each prediction: the controls and every run of the comparison. One half of the
# repetitions against the other shows what repeats; its target is noisier than that of
# the other rows, which may exceed it. In the cross-subject row the model of one
# participant answers for the others.

# %%
scored, across, trial_variance = [], [], {}
for subject in progress_bar(settings["subjects"], label="Scoring", unit="subject"):
    signals = load_signals(where("signals", subject=subject))
    options = {"sfreq": signals.sfreq, **evaluation}
    mean = mean_response(signals.training)  # C T
    recorded = Recordings.prepare(average_repetitions(signals.test), mean, **options)
    predictions = list(control_predictions(mean, len(signals.test)))
    predictions += read_predictions(settings, where, subject)
    scored += [(name, subject, score(p, recorded)) for name, p in predictions]
    halves = {"halvings": halvings, "rng": np.random.default_rng((seed, subject))}
    ceiling = split_half_scores(signals.test, mean, **halves, **options)
    scored.append((CEILING, subject, ceiling))
    across.append(across_images(predictions, signals.test, **halves))
    noise = signals.test.var(axis=1, ddof=1).mean()
    trial_variance[subject] = noise / signals.training.shape[1]

# %%
print(
    f"{len(settings['subjects'])} participants, {len(signals.test)} test images, "
    f"{signals.test.shape[1]} repetitions; recorded responses have a variance of "
    f"{recorded.responses.var():.3f} {signals.unit} squared."
)
# %%
scores = tidy_scores(scored)
summary = summarize(scores, seed=seed, resamples=resamples)
methods = list(dict.fromkeys(scores["method"]))
undefined = summary[summary["n_undefined"] > 0]
print(f"Not defined: {undefined.groupby('method')['metric'].agg(list).to_dict()}")

# %% [markdown]
# ## Main table
#
# The paper's four metrics, with the published values below. Pearson is the correlation
# over time of each channel, averaged; the training mean scores high on it because all
# images share one evoked response. *Look for* rows above the training mean, and for the
# distance between a method and the same method asked about another image.

# %%
published = pd.read_csv(where("published_table", name=MAIN_TABLES[dataset]))
main = with_published(summary[summary["metric"].isin(MAIN_METRICS)], published)
wide = wide_table(main, rows=list(dict.fromkeys(main["method"])), metrics=MAIN_METRICS)
display(wide)

# %% [markdown]
# ## Supplement
#
# Identification asks which of the test images was shown: each recorded response is
# correlated with every generated one. A prediction without image information scores at
# chance.

# %%
supplement = summary[summary["metric"].isin(SUPPLEMENT_METRICS)]
wide_supplement = wide_table(supplement, rows=methods, metrics=SUPPLEMENT_METRICS)
chance = chance_levels(len(signals.test))
display(wide_supplement)

# %% [markdown]
# ## Correlation over images
#
# For each channel and time, over the test images, with the mean of half of the
# repetitions: the response that all images share cannot help. Ceilings: the other half
# (lower) and all repetitions (upper, too high because it contains the target).

# %%
tidy_across = pd.concat(across, keys=settings["subjects"], names=["subject"])
wide_across = across_table(tidy_across)
display(wide_across)

# %% [markdown]
# ## Differences and budgets
#
# Each method less the reference on the same images; and what each run cost. A sample of
# a calibrated model varies as much as what it was trained on (a share of 1).

# %%
reference = next(m for m in methods if m.startswith(evaluation_reference))
differences = compare_with(scores, reference, seed=seed, resamples=resamples)
paired = wide_table(differences, rows=methods, metrics=METRICS).drop(index=reference)
budgets = read_budgets(settings, where, trial_variance=trial_variance)
display(paired, budget_table(budgets))

# %%
fig = plot_scores(
    summary,
    rows=methods,
    metrics={"pearson": "Pearson", "sl": "SL", "top5": "Identified, top 5"},
    chance={"top5": chance["top5"]},
)
plt.show()

# %% [markdown]
# ## Save

# %%
about = {"simulated": settings["simulated"], "dataset": dataset, "resamples": resamples}
stem = where("table", name=MAIN_TABLES[dataset])
written = save_table(stem, tidy=main, wide=wide, caption=caption(summary, **about))
written += save_table(
    f"{stem}_supplement",
    tidy=supplement,
    wide=wide_supplement,
    caption=caption(summary, **about, chance=chance),
)

# %%
note = "Simulated participants. " if settings["simulated"] else ""
across_text = (
    "Correlation over test images, mean over channels and times, with the mean of half "
    "of the repetitions."
)
paired_text = (
    f"Paired differences from {reference}: mean [95 % bootstrap interval over "
    "participants and images]."
)
budget_text = (
    "Means over participants and seeds; seconds of this run on its machine; variance "
    "over the samples of an image as a share of that over the trials it was trained on."
)

# %%
others = {
    "across": (tidy_across.reset_index("subject"), wide_across, across_text),
    "paired": (differences, paired, paired_text),
    "budgets": (budgets.reset_index(), budget_table(budgets), budget_text),
}
for ending, (tidy, table, text) in others.items():
    options = {"tidy": tidy, "wide": table, "caption": note + text}
    written += save_table(f"{stem}_{ending}", **options)

# %%
figure = where("figure", name=f"{MAIN_TABLES[dataset]}_scores")
written += save_figure(fig, figure, simulated=settings["simulated"])

# %% [markdown]
# ## What this shows

# %%
values = summary.pivot(index="method", columns="metric", values="mean")
top5 = values["top5"].map("{:.0%}".format)
lines = [
    f"- {method}: Pearson {values.loc[method, 'pearson']:.3f}, identified among the "
    f"best five {top5[method]}"
    for method in methods
]
display(Markdown("\n".join([*lines, f"- chance of the latter: {chance['top5']:.0%}"])))

# %%
record.finish(
    where("record"),
    inputs=[where("signals", subject=subject) for subject in settings["subjects"]],
    outputs=written,
)
