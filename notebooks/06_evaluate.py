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
    MAIN_METRICS,
    SUPPLEMENT_METRICS,
    Recordings,
    control_predictions,
    score,
    split_half_scores,
    summarize,
    tidy_scores,
)
from paperlib.evaluation.identification import chance_levels
from paperlib.evaluation.predictions import read_predictions
from paperlib.paths import MAIN_TABLES, locate
from paperlib.progress import progress_bar
from paperlib.provenance import start_record
from paperlib.recordings.signals import (
    average_repetitions,
    load_signals,
    mean_response,
)
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.scores import caption, plot_scores, with_published
from paperlib.reporting.tables import save_table, wide_table

# %%
keys = {"dataset": dataset}
settings = load_settings("06_evaluate", config, overrides, dataset=dataset)
where = locate(settings, **keys)
record = start_record(settings, config=config, overrides=overrides, **keys)
set_theme()
evaluation = dict(settings["evaluation"])
resamples, halvings = (evaluation.pop(key) for key in ("resamples", "halvings"))
seed = settings["seed"]

# %% [markdown]
# ## Scores
#
# For each participant the mean recorded response to every test image is compared with
# each prediction: the controls, every run of the comparison, and one half of the
# repetitions against the other as a ceiling. In the cross-subject row the model of
# one participant answers for the others.

# %%
scored = []
for subject in progress_bar(settings["subjects"], label="Scoring", unit="subject"):
    signals = load_signals(where("signals", subject=subject))
    responses = average_repetitions(signals.test)
    mean = mean_response(signals.training)  # C T
    recorded = Recordings.prepare(responses, mean, **evaluation)
    for method, predicted in control_predictions(mean, len(responses)):
        scored.append((method, subject, score(predicted, recorded)))
    for method, predicted in read_predictions(settings, where, subject):
        scored.append((method, subject, score(predicted, recorded)))
    rng = np.random.default_rng((seed, subject))
    options = {"halvings": halvings, "rng": rng, **evaluation}
    halves = split_half_scores(signals.test, mean, **options)
    scored.append(("Split half of the repetitions", subject, halves))
print(
    f"{len(settings['subjects'])} participants, {len(responses)} test images, "
    f"{signals.test.shape[1]} repetitions; recorded responses have a variance of "
    f"{responses.var():.3f} {signals.unit} squared."
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
chance = chance_levels(len(responses))
display(wide_supplement)

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
