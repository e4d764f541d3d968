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
# - Reads: signals of every participant, generated signals and budgets of every run, the
#   published scores
# - Writes: the main table, a supplement, paired differences, budgets, a figure
# - Time: two to six minutes (mini, one core), hours (paper, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "evaluation: {dim: 5}"
dataset: str = "things-eeg2"

# %%
from functools import partial
from itertools import chain, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from paperlib.config import load_settings
from paperlib.evaluation.ceilings import CEILINGS, Halves
from paperlib.evaluation.comparison import (
    CEILING,
    CONTROLS,
    MAIN_METRICS,
    METRICS,
    SUPPLEMENT_METRICS,
    compare_with,
    control_responses,
    score,
    split_half_scores,
    summarize,
    tidy_scores,
)
from paperlib.evaluation.identification import chance_levels
from paperlib.evaluation.predictions import (
    comparison_rows,
    read_budgets,
    read_predictions,
    reference_row,
    row_kinds,
)
from paperlib.evaluation.responses import Responses, delay_vectors
from paperlib.paths import MAIN_TABLES, locate
from paperlib.progress import progress_bar
from paperlib.provenance import check_configured, start_record
from paperlib.recordings.signals import (
    average_repetitions,
    load_signals,
    mean_response,
)
from paperlib.reporting.figures import save_figure, set_theme
from paperlib.reporting.scores import (
    across_caption,
    budget_table,
    caption,
    conclude,
    difference_caption,
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
evaluation, seed = settings["evaluation"], settings["seed"]
sfreq = load_signals(where("signals", subject=settings["subjects"][0])).sfreq
embedding = delay_vectors(evaluation, sfreq=sfreq)
bootstrap = {"seed": seed, "resamples": evaluation["resamples"]}
rows = comparison_rows(settings, where)
compared = {"dataset": [dataset], "run": rows["run"], "subject": settings["subjects"]}
check_configured(where("record").parent, overrides, **compared, seed=settings["seeds"])

# %% [markdown]
# ## Recordings
#
# The target is the mean recorded response to every test image. One half of the
# repetitions against the other shows what repeats; its target is noisier than that of
# the other rows, which may exceed it.

# %%
recorded, halves, scored, trial_variance = {}, {}, [], {}
for subject in progress_bar(settings["subjects"], label="Recordings", unit="subject"):
    signals = load_signals(where("signals", subject=subject))
    mean = mean_response(signals.training)  # C T
    target = average_repetitions(signals.test)  # N C T
    recorded[subject] = Responses.prepare(target, mean, **embedding)
    draws, rng = evaluation["halvings"], np.random.default_rng((seed, subject))
    about = {"sfreq": sfreq, **embedding}
    ceiling = split_half_scores(signals.test, mean, halvings=draws, rng=rng, **about)
    scored.append((CEILING, subject, None, ceiling))
    halves[subject] = Halves.draw(signals.test, n_splits=draws, rng=rng)
    noise = signals.test.var(axis=1, ddof=1).mean()
    trial_variance["single", subject] = noise
    trial_variance["mean", subject] = noise / signals.training.shape[1]

# %% [markdown]
# ## Scores
#
# The controls and every run of the comparison. In the cross-subject rows the model of
# one participant, or that participant's mean response, answers for the others.

# %%
controls = control_responses(
    recorded, training_subject=settings["training_subject"], **embedding
)
trained = read_predictions(settings, where, rows, recorded=recorded, **embedding)
n_trained = len(rows) * len(recorded) - rows["cross_subject"].sum()
total = len(CONTROLS) * len(recorded) - 1 + n_trained * len(settings["seeds"])
across = []
for method, subject, training_seed, predicted in progress_bar(
    chain(controls, trained), total=total, label="Scoring", unit="prediction"
):
    found = score(predicted, recorded[subject], sfreq=sfreq)
    scored.append((method, subject, training_seed, found))
    correlations = {"across": halves[subject].correlate(predicted.values)}
    across.append((method, subject, training_seed, correlations))

# %%
scores = tidy_scores(scored, [*CONTROLS, *rows.index, CEILING])
summary = summarize(scores, **bootstrap)
methods = list(summary["method"].unique())
undefined = summary[summary["n_undefined"] > 0]
print(
    f"{len(recorded)} participants, {len(target)} test images, {signals.test.shape[1]} "
    f"repetitions; the recorded responses of the last participant have a variance of "
    f"{target.var():.3f} {signals.unit} squared.\n"
    f"Not defined: {undefined.groupby('method')['metric'].agg(list).to_dict()}"
)

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
for subject, half in halves.items():
    found = zip(CEILINGS, (half.lower, half.upper), strict=True)
    across += [(name, subject, None, {"across": values}) for name, values in found]
rows_across = [*methods[:-1], *CEILINGS]
tidy_across = summarize(tidy_scores(across, rows_across), **bootstrap)
heading = {"across": "Correlation over images ↑"}
wide_across = wide_table(tidy_across, rows=rows_across, metrics=heading)
display(wide_across)

# %% [markdown]
# ## Differences and budgets
#
# Each method less the reference on the same images; and what each cost, beside what it
# scores. A sample of a calibrated model varies as much as what it was trained on (a
# share of 1).

# %%
reference = reference_row(rows, evaluation["reference"])
differences = compare_with(scores, reference, **bootstrap)
paired = wide_table(differences, rows=methods, metrics=METRICS).drop(index=reference)
budgets = read_budgets(settings, where, rows, trial_variance=trial_variance)
wide_budgets = budget_table(budgets, summary)
display(paired, wide_budgets)

# %%
fig = plot_scores(
    summary,
    kinds=row_kinds(rows),
    metrics={"pearson": "Pearson", "sl": "SL", "top5": "Identified, top 5"},
    chance={"top5": chance["top5"]},
)
plt.show()

# %% [markdown]
# ## Save

# %%
simulated, resamples = settings["simulated"], evaluation["resamples"]
about = {"simulated": simulated, "dataset": dataset, "resamples": resamples}
about["seeds"] = settings["seeds"]
stem = where("table", name=MAIN_TABLES[dataset])
save = partial(save_table, simulated=simulated)
written = save(stem, tidy=main, wide=wide, caption=caption(summary, **about))
written += save(
    f"{stem}_supplement",
    tidy=supplement,
    wide=wide_supplement,
    caption=caption(summary, **about, chance=chance),
)

# %%
who = "simulated participants" if simulated else "participants"
note = f"{dataset}, {len(recorded)} {who}, {len(target)} test images. "
budget_text = (
    "Means over participants and seeds; seconds of this run on its machine; variance "
    "over the samples of an image as a share of that over the trials it was trained "
    "on; scores as in the table of all methods."
)
paired_text = difference_caption(differences, reference, **about)

# %%
others = {
    "across": (tidy_across, wide_across, across_caption(tidy_across, **about)),
    "paired": (differences, paired, paired_text),
    "budgets": (budgets.reset_index(), wide_budgets, note + budget_text),
}
for ending, (tidy, table, text) in others.items():
    written += save(f"{stem}_{ending}", tidy=tidy, wide=table, caption=text)

figure = where("figure", name=f"{MAIN_TABLES[dataset]}_scores")
written += save_figure(fig, figure, simulated=simulated)

# %% [markdown]
# ## What this shows

# %%
found = conclude(scores, summary, rows, chance=chance["top5"], **bootstrap)
display(Markdown("\n".join(f"- {sentence}" for sentence in found)))

# %%
subjects, trainings = settings["subjects"], settings["seeds"]
inputs = [where("published_table", name=MAIN_TABLES[dataset])]
inputs += [where("signals", subject=subject) for subject in subjects]
for run, subject, trained in product(rows["run"].unique(), subjects, trainings):
    keys = {"run": run, "subject": subject, "seed": trained}
    inputs += [where(file, **keys) for file in ("samples", "sampling")]
    inputs.append(where("training", **keys) / "budget.json")
    inputs.append(where("checkpoint", **keys) / "config.json")
record.finish(where("record"), inputs=inputs, outputs=written)
