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
# *Do generated responses resemble the recorded ones, and more than a prediction without
# any image information?* (paper, section 4.1, Tables 1 and 2, Appendix F)
#
# - Reads: signals of every participant; predictions, samples and budgets of every run
#   of the comparison; tokens that the ridge control sees; published scores
# - Writes: the main table, a supplement, correlations over images, metrics of others,
#   proper scores, paired differences, budgets, and two figures
# - Time: one to three minutes (mini, one core), hours (paper, not measured)

# %% tags=["parameters"]
config: str = "mini"  # name of a file in config/
overrides: str = ""  # YAML that replaces single values, as in "evaluation: {dim: 5}"
dataset: str = "things-eeg2"

# %%
import json
from functools import partial
from itertools import chain, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from sklearn.model_selection import GroupKFold
from tqdm.auto import tqdm

from paperlib import paths
from paperlib.evaluation import ceilings, comparison, distribution, identification
from paperlib.evaluation import synchronization as sl
from paperlib.models import linear
from paperlib.notebook import open_notebook
from paperlib.recordings import signals
from paperlib.reporting import figures, scores, tables
from paperlib.stimuli import features, images, tokens

# %%
nb = open_notebook("06_evaluate", globals())
cfg, name = nb.cfg, paths.MAIN_TABLES[dataset]
figures.set_theme()
data = {s: signals.load_signals(nb.input("signals", subject=s)) for s in cfg.subjects}
first = data[cfg.subjects[0]]
sfreq, n_images = first.sfreq, len(first.test)
bootstrap = {"seed": cfg.seed, "resamples": cfg.evaluation.resamples}
own_model = {"training_subject": cfg.training_subject}


def array(alias: str, run: str, subject: int, seed: int) -> np.ndarray:
    """Open the samples (N, K, C, T) or the posterior mean (N, C, T) of a run."""
    path = nb.input(alias, run=run, subject=subject, seed=seed)
    return np.load(path, mmap_mode="r")


# %% [markdown]
# ## Metrics
#
# Let $y_{ct}$ be the recorded response to an image at channel $c$ and time $t$ (mean
# over repetitions), $\hat y_{ct}$ the predicted one, and $m_{ct}$ the mean response to
# all training images. The paper's metrics are
#
# $$\mathrm{MSE} = \frac{1}{CT} \sum_{ct} (\hat y_{ct} - y_{ct})^2, \qquad
# \mathrm{Pearson} = \frac{1}{C} \sum_c \mathrm{corr}_t(\hat y_{ct}, y_{ct}), \qquad
# \mathrm{Cosine} = \frac{\hat y \cdot y}{\lVert \hat y \rVert \lVert y \rVert}$$
#
# and the Synchronization Likelihood below. All images evoke much the same response, so
# that $\hat y = m$ scores high on all of them. The information about the single image
# is in the *image-specific* score, with that response removed,
#
# $$\mathrm{corr}_{ct}(\hat y_{ct} - m_{ct},\; y_{ct} - m_{ct}),$$
#
# and in the correlation over images $i$, at each channel and time,
# $\mathrm{corr}_i(\hat y_{ict}, y_{ict})$.

# %%
run = cfg.evaluation.reference
seed = cfg.of(run=run).seeds[0]
m = signals.mean_response(first.training)  # C T
y = signals.average_repetitions(first.test)[0]  # C T, the first image
y_hat = array("posterior_mean", run, cfg.subjects[0], seed)[0]  # C T
by_hand = {
    "MSE": np.mean((y_hat - y) ** 2),
    "Pearson": np.mean(
        [np.corrcoef(*pair)[0, 1] for pair in zip(y_hat, y, strict=True)]
    ),
    "Cosine": np.vdot(y_hat, y) / np.linalg.norm(y_hat) / np.linalg.norm(y),
    "Image-specific": np.corrcoef((y_hat - m).ravel(), (y - m).ravel())[0, 1],
}
print(cfg.runs[run].label, "for one image:", pd.Series(by_hand).round(3).to_dict())

# %% [markdown]
# ### Synchronization Likelihood
#
# The state of a signal at time $i$ is
# $X_i = (x_i, x_{i+\tau}, \dots, x_{i+(m-1)\tau})$. Its recurrences $N_x(i)$ are the
# $k$ times $j$ with $|i - j| > W$ whose states are nearest. The likelihood is the
# overlap of the recurrences of two signals,
#
# $$\mathrm{SL}(x, y) = \frac{1}{n} \sum_i \frac{|N_x(i) \cap N_y(i)|}{k},$$
#
# averaged over channels.
#
# *Look for* points that the two recurrence plots have in common (right). Those beside
# the diagonal are neighbors in time, which make any two smooth signals alike; the
# Theiler window of the supplement, $W = (m - 1) \tau$, excludes them (here $W = 0$).

# %%
names = {"dim", "delay", "neighbors"}
embedding = sl.DelayEmbedding.at(sfreq, **cfg.evaluation.model_dump(include=names))
channel = first.ch_names.index("Oz") if "Oz" in first.ch_names else 0
pair = np.stack([y[channel], y_hat[channel]])
(bits,) = sl.recurrences(pair, embedding)
points = np.unpackbits(bits, axis=-1)[..., : bits.shape[1]]  # 2 n n
fig, axes = plt.subplots(1, 3, figsize=(figures.PAGE, 2.4), sharey=True)
titles = ("Recorded", "Predicted", "Both")
for ax, title, shown in zip(axes, titles, [*points, points.prod(axis=0)], strict=True):
    ax.imshow(shown, cmap="Greys", origin="lower", interpolation="nearest")
    ax.set(title=title, xlabel="j (samples)")
axes[0].set_ylabel("i (samples)")
overlap = sl.synchronization_likelihood(*pair, embedding)
print(f"{first.ch_names[channel]}, {embedding}: SL = {overlap:.3f}")
plt.show()

# %% [markdown]
# ## Rows
#
# What is compared. A run may stand in several rows: by its posterior mean (one
# evaluation of the network from pure noise), the mean of its samples or one sample; by
# each training alone or the mean of all; for its own participant or across
# participants; and, as a control, for another image.

# %%
runs = {run for row in cfg.comparison for run in (row.run, row.average_with) if run}
seeds = {run: cfg.of(run=run).seeds for run in runs}
sampled = {run: cfg.of(run=run).sampled_seeds for run in runs}
n_samples = {
    run: array("samples", run, cfg.subjects[0], seed).shape[1]
    for run, (seed, *_) in sampled.items()
}
numbers = {"n_samples": n_samples, "n_seeds": {r: len(t) for r, t in seeds.items()}}
rows = comparison.comparison_rows(cfg.comparison, cfg.runs, **numbers)
own = rows[~rows["cross_subject"] & ~rows["other_image"]]
reference = comparison.reference_row(rows, cfg.evaluation.reference)
display(rows)


# %%
def trainings(run: str, kind: str) -> list[int]:
    """Return the seeds of the trainings that have a prediction of this kind."""
    return (seeds if kind == "posterior_mean" else sampled)[run]


def predictions(row: pd.Series, subject: int) -> dict[int, np.ndarray]:
    """Return the responses (N, C, T) that a row's models predict, by training seed."""
    kind = row["samples"]
    alias = kind if kind == "posterior_mean" else "samples"

    def read(run: str) -> dict[int, np.ndarray]:
        return {
            seed: comparison.point_prediction(array(alias, run, subject, seed), kind)
            for seed in trainings(run, kind)
        }

    predicted = read(row["run"])
    if row["seeds"] == "ensemble":
        predicted = {0: np.mean([*predicted.values()], axis=0)}
    if other := row["average_with"]:
        second = np.mean([*read(other).values()], axis=0)
        predicted = {seed: (values + second) / 2 for seed, values in predicted.items()}
    return predicted


# %% [markdown]
# ## Scores
#
# First the recordings: one half of the repetitions against the other shows what
# repeats. Its target is noisier than that of the other rows, which may exceed it. Then
# every row on the same images, beside predictions without image information.

# %%
recorded, halves, frames = {}, {}, []
window = comparison.posterior_window(first.ch_names, first.times)


def add(frame: pd.DataFrame, method: str, subject: int, seed: int = 0) -> None:
    """Collect the scores of a method."""
    identity = {"method": method, "subject": subject, "seed": seed}
    frames.append(frame.assign(**identity, image=frame.index))


for subject, signal in tqdm(data.items(), "Recordings"):
    common = signals.mean_response(signal.training)  # C T
    target = signals.average_repetitions(signal.test)  # N C T
    recorded[subject] = comparison.Responses.prepare(
        target, common, embedding, theiler=True
    )
    n, rng = cfg.evaluation.halvings, np.random.default_rng((cfg.seed, subject))
    frame = comparison.split_half_scores(
        signal.test, common, embedding, halvings=n, rng=rng, sfreq=sfreq
    )
    add(frame, comparison.CEILING, subject)
    half = halves[subject] = ceilings.Halves.draw(signal.test, n_splits=n, rng=rng)
    pairs = zip(comparison.CEILINGS, (half.lower, half.upper), strict=True)
    for method, values in pairs:
        add(pd.DataFrame(comparison.score_across(values, window)), method, subject)

# %%
controls = comparison.control_responses(recorded, embedding, **own_model)
trained = comparison.predicted_responses(
    rows, predictions, recorded, embedding, **own_model, seed=cfg.seed
)
for method, subject, seed, predicted in tqdm(chain(controls, trained), "Scores"):
    frame = comparison.score(predicted, recorded[subject], sfreq=sfreq)
    correlations = halves[subject].correlate(predicted.values)
    across = comparison.score_across(correlations, window)
    add(frame.assign(**across), method, subject, seed)
order = pd.Index([*comparison.CONTROLS, *rows.index, comparison.CEILING])
order = order.append(pd.Index(comparison.CEILINGS))
scored = pd.concat(frames).sort_values("method", key=order.get_indexer, kind="stable")
summary = comparison.summarize(scored, **bootstrap)
main = summary[~summary["method"].isin(comparison.CEILINGS)]

# %% [markdown]
# ## Main table
#
# The paper's four metrics and the image-specific score, with the published values
# below. *Look for* rows above the training mean, and for the distance between a method
# and the same method asked about another image.

# %%
caption = partial(
    scores.caption,
    dataset=dataset,
    simulated=cfg.simulated,
    resamples=cfg.evaluation.resamples,
)


def show(ending: str, tidy: pd.DataFrame, headings: dict, text: str) -> None:
    """Display and save a table of the methods that have one of these scores."""
    tidy = tidy[tidy["metric"].isin(headings)]
    methods = tidy["method"][tidy["mean"].notna()].unique()
    wide = tables.wide_table(tidy, rows=methods, metrics=headings)
    keys = {"tidy": tidy, "wide": wide, "caption": text, "simulated": cfg.simulated}
    tables.save_table(nb.output("table", name=name + ending), **keys)
    display(wide)


published = pd.read_csv(nb.input("published_table", name=name))
text = f"{caption(main)} {scores.published_note(simulated=cfg.simulated)}"
show("", scores.with_published(main, published), comparison.MAIN_METRICS, text)

# %%
chance = identification.chance_levels(n_images)
fig = scores.plot_scores(
    main,
    kinds=comparison.row_kinds(rows),
    metrics={"pearson": "Pearson", "specific": "Image-specific", "top5": "Top 5"},
    levels={"top5": chance["top5"]},
)
stem = nb.output("figure", name=f"{name}_scores")
figures.save_figure(fig, stem, simulated=cfg.simulated)
plt.show()

# %% [markdown]
# ## Supplement
#
# Identification: let $r_{ij} = \mathrm{corr}_{ct}(y_i, \hat y_j)$ of images $i$ and
# $j$. In each row of $r$, the right image should come first (top 1) or among the first
# five. In 2 versus 2, two recorded responses are matched with their two predictions,
# rightly if $r_{ii} + r_{jj} > r_{ij} + r_{ji}$. SL and image-specific score with other
# images are the chance levels of these metrics. The distance of power spectra $P_c(f)$
# from 1 to 40 Hz shows predictions that are too smooth,
#
# $$\frac{1}{C} \sum_c \sqrt{\mathrm{mean}_f \Big(10 \log_{10} \frac{P_c^{\hat
# y}(f)}{P_c^{y}(f)}\Big)^2}.$$
#
# Correlation over images: with the mean of half of the repetitions, averaged over
# channels and times. Ceilings: the other half (lower), and all repetitions (upper; too
# high, since it contains the target). The authors of THINGS-EEG2 use 17 posterior
# channels.

# %%
levels = ", ".join(f"{k.replace('_', ' ')} {v:.1%}" for k, v in chance.items())
text = f"{caption(main)} Chance of identification: {levels}."
show("_supplement", main, comparison.SUPPLEMENT_METRICS, text)
text = caption(summary, "correlation over images with half of the repetitions, mean")
show("_across", summary, comparison.ACROSS_METRICS, text)

# %% [markdown]
# ## The metrics of others
#
# Others let one correlation run over all images, channels and times (pooled r), over
# the images and times of each channel (mean channel r), or over the channels and times
# of each image (waveform r). *Look for* the waveform r with another image: what remains
# is the response that all images share.

# %%
short = [*comparison.CONTROLS[:2], *own.index, *comparison.CEILINGS]
field = summary[summary["method"].isin(short)]
elsewhere = pd.read_csv(nb.input("published_table", name=f"{name}_field"))
headings = comparison.FIELD_METRICS | {"undefined": "Pearson, definition not stated"}
text = f"{caption(field)} {scores.published_note(simulated=cfg.simulated)}"
show("_field", scores.with_published(field, elsewhere), headings, text)

# %% [markdown]
# ## Proper scores
#
# A generator draws $x_1 \dots x_K$ for each image; a new recording $y$ (an average of
# as many repetitions as a training response has) should look like one of them. The fair
# CRPS,
#
# $$\mathrm{CRPS} = \frac{1}{K} \sum_k |x_k - y| - \frac{1}{2 K (K-1)} \sum_{k, l}
# |x_k - x_l|,$$
#
# is least in expectation for the true distribution at each channel and time; the energy
# score is the same with Euclidean distances of whole responses. Spread over skill,
#
# $$\sqrt{\frac{K + 1}{K} \, \frac{\mathrm{mean} \, \mathrm{var}_k(x_k)}
# {\mathrm{mean} \, (\bar x - y)^2}},$$
#
# is 1 for a calibrated ensemble, whose central 90 % hold $y$ nearly that often.
#
# Two controls keep this honest: random training responses (no image information), and a
# ridge regression plus residuals of training responses whose concepts it was not fitted
# to. Ceiling: other averages of the same image. *Look for* methods that beat the
# controls. A tie with the random training responses means samples that are calibrated
# but hardly depend on the image; a tie with ridge plus residuals, that the noise of the
# recordings hardly depends on it.


# %%
def ridge_residuals(run: str, signal: signals.Signals, y: np.ndarray) -> np.ndarray:
    """Return responses (N, C, T) less ridge predictions fitted to other concepts."""
    chosen = cfg.of(run=run)
    shown = images.read_images(nb.input("images"))
    shown = signals.select_concepts(shown, signal.concepts).query(
        "partition == 'training'"
    )
    files = [nb.input("tokens", tokens=source) for source in chosen.token_sources]
    x = features.token_features(
        [tokens.Tokens(file) for file in files],
        shown["image_id"],
        pooling=chosen.model.pooling,
        batch_size=cfg.machine.embedding_batch,
    )
    options = chosen.model.model_dump(include={"n_components", "alphas"})
    options |= {"block": cfg.machine.ridge_block, "seed": cfg.seed}
    residuals = np.empty_like(y)
    for fitted, left in GroupKFold(2).split(x, groups=shown["concept"]):
        ridge = linear.fit_ridge(
            x[fitted], y[fitted].reshape(len(fitted), -1), **options
        )
        residuals[left] = y[left] - ridge.predict(x[left]).reshape(y[left].shape)
    return residuals


# %%
def ensembles(subject: int, averages: np.ndarray, rng: np.random.Generator):
    """Yield method, its kind, seed and the samples (K, C, T) of each image."""
    y, n = signals.average_repetitions(data[subject].training), max(n_samples.values())
    random = distribution.random_responses(y, n_images, n, rng)
    yield "Random training responses", "control", 0, random
    for run, method in dict(zip(own["run"], own["kind"], strict=True)).items():
        kind, k = "generated" if method == "dit" else "baseline", n_samples[run]
        label = cfg.runs[run].label + f", {k} samples" * (k > 1)
        for seed in sampled[run]:
            point = array("posterior_mean", run, subject, seed)  # N C T
            drawn = array("samples", run, subject, seed)  # N K C T
            yield label, kind, seed, drawn if k > 1 else point[:, None]
        if run == ridge:
            residuals = ridge_residuals(run, data[subject], y)
            drawn = distribution.with_residuals(point, residuals, n, rng)
            yield f"{label}, resampled residuals", "control", 0, drawn
    yield "Other averages of the image", "ceiling", 0, averages


# %%
ridge = next((r for r in own["run"] if cfg.runs[r].method == "ridge"), None)
frames, kinds = [], {}
n_averaged = first.training.shape[1] if cfg.training.repetitions == "mean" else 1
for subject, signal in tqdm(data.items(), "Proper scores"):
    rng = np.random.default_rng((cfg.seed, subject))
    groups = distribution.disjoint_averages(signal.test, n_averaged, rng)
    truth, averages = np.array_split(groups, 2, axis=1)  # N G C T
    for method, kind, seed, samples in ensembles(subject, averages, rng):
        frame = distribution.score_distribution(samples, truth, sfreq=sfreq)
        add(frame, method, subject, seed)
        kinds[method] = kind

# %%
proper = comparison.summarize(pd.concat(frames), **bootstrap)
n = max(n_samples.values())
perfect = {"spread_skill": 1, "coverage": distribution.perfect_coverage(n)}
text = (
    f"{caption(proper)} Truth: {truth.shape[1]} averages of {n_averaged} test "
    "repetitions. Spectrum and covariance have one value for all images. The perfect "
    f"coverage of {n} samples is {perfect['coverage']:.3f}."
)
show("_distribution", proper, distribution.METRICS, text)
fig = scores.plot_scores(
    proper,
    kinds=kinds,
    metrics={
        "crps": "CRPS",
        "spread_skill": "Spread / skill",
        "coverage": "Coverage",
        "spectrum": "Spectrum (dB)",
    },
    levels=perfect,
    level_label="perfect",
)
stem = nb.output("figure", name=f"{name}_distribution")
figures.save_figure(fig, stem, simulated=cfg.simulated)
plt.show()

# %% [markdown]
# ## Differences and budgets
#
# Each method less the reference on the same images; and each network less the ridge
# regression that sees the very tokens, for each participant and for all. *Look for*
# intervals that exclude zero.

# %%
differences = [comparison.compare_with(scored, reference, **bootstrap)]
ridges = own.index[own["kind"] == "ridge"]
networks = own.index[
    own["kind"].isin(["dit", "unet", "synbrain"])
    & (own["samples"] == "posterior_mean")
    & (own["average_with"] == "")
]
for pair in product(networks, ridges):
    network, other = (cfg.of(run=own.loc[method, "run"]) for method in pair)
    if network.conditioning == other.conditioning:
        both = scored[scored["method"].isin(pair)]
        parts = {f"participant {s}": both[both["subject"] == s] for s in cfg.subjects}
        for who, part in {**parts, "all": both}.items():
            lead = comparison.compare_with(part, pair[1], **bootstrap)
            differences.append(lead.assign(method=f"{' less '.join(pair)}: {who}"))
differences = pd.concat(differences)
differences = differences[~differences["method"].isin(comparison.CEILINGS)]
text = caption(
    differences,
    f"paired differences from {reference}, or from what is named after less, mean",
)
paired = comparison.MAIN_METRICS | comparison.SUPPLEMENT_METRICS
show("_paired", differences, paired, text)

# %%
costs = []
for (method, row), subject in product(own.iterrows(), cfg.subjects):
    kind = "posterior_mean" if row["samples"] == "posterior_mean" else "samples"
    for seed in trainings(row["run"], row["samples"]):
        keys = {"run": row["run"], "subject": subject, "seed": seed}
        files = (
            nb.input("training", **keys) / "budget.json",
            nb.input("sampling", **keys),
        )
        budget, seconds = (json.loads(file.read_text("utf-8")) for file in files)
        costs.append({"method": method, **budget, "sampling_seconds": seconds[kind]})
budgets = pd.DataFrame(costs).groupby("method", sort=False).mean()
wide = scores.budget_table(budgets, summary, comparison.MAIN_METRICS)
tables.save_table(
    nb.output("table", name=f"{name}_budgets"),
    tidy=budgets.reset_index(),
    wide=wide,
    caption=f"{dataset}: means over participants and trainings; seconds of this run on "
    "its machine; scores as in the main table.",
    simulated=cfg.simulated,
)
display(wide)

# %%
nb.finish()
