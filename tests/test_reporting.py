import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from paperlib.evaluation.ablations import FULL, RETRAINED, ZEROED, region_row
from paperlib.reporting.ablations import plot_regions

from paperlib.evaluation.comparison import summarize, tidy_scores
from paperlib.reporting.figures import COLORS, set_theme
from paperlib.reporting.scores import (
    across_caption,
    budget_table,
    caption,
    conclude,
    difference_caption,
    plot_scores,
    with_published,
)
from paperlib.reporting.tables import wide_table

SUMMARY = pd.DataFrame(
    [
        ("Ours_a", "mse", 0.12345678901, 0.1, 0.15, 2, 60, 0, 0.004),
        ("Ours_a", "pearson", 0.5, 0.4, 0.6, 2, 60, 0, 0.03),
        ("Zero", "mse", 0.3, 0.2, 0.4, 2, 60, 0, np.nan),
        ("Zero", "pearson", np.nan, np.nan, np.nan, 2, 60, 120, np.nan),
    ],
    columns=(
        "method metric mean low high n_subjects n_images n_undefined seed_sd".split()
    ),
)
ABOUT = {"dataset": "x", "resamples": 10_000}
METRICS = {"mse": "MSE ↓", "pearson": "Pearson ↑"}


@pytest.fixture(autouse=True)
def close_figures():
    set_theme()
    yield
    plt.close("all")


def test_published_rows_are_marked_and_have_no_interval():
    published = pd.DataFrame({"method": ["Ours"], "metric": ["mse"], "mean": [0.109]})
    row = with_published(SUMMARY, published).iloc[-1]
    assert row["method"] == "Published: Ours"
    assert row["mean"] == 0.109 and np.isnan(row["low"])


@pytest.mark.parametrize(
    ("simulated", "words"),
    [(True, "x, 2 simulated participants,"), (False, "x, 2 participants,")],
)
def test_captions_say_whether_participants_are_simulated(simulated, words):
    text = caption(SUMMARY, simulated=simulated, seeds=[0], **ABOUT)
    assert words in text and ("simulated" in text) == simulated
    assert "60 test images" in text and "95 % bootstrap" in text


@pytest.mark.parametrize(("n_subjects", "few"), [(1, False), (2, True), (10, False)])
def test_captions_say_where_participants_are_too_few_for_others(n_subjects, few):
    summary = SUMMARY.assign(n_subjects=n_subjects)
    text = caption(summary, simulated=True, seeds=[0], **ABOUT)
    assert (f"Resamples of {n_subjects} participants vary too little" in text) == few


def test_captions_and_tables_tell_where_participants_are_fewer():
    crossed = SUMMARY.iloc[:2].assign(method="Ours_a, cross-subject", n_subjects=1)
    both = pd.concat([SUMMARY, crossed])
    text = caption(both, simulated=False, seeds=[0], **ABOUT)
    assert "1 to 2 participants (n; cross-subject rows lack" in text
    rows = ["Ours_a", "Ours_a, cross-subject", "Published: Ours"]
    wide = wide_table(both, rows=rows, metrics=METRICS)
    assert wide["n"].tolist() == ["2", "1", "–"]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([0], "1 training of each row"),
        ([0, 1], "2 trainings of each row and participant are averaged; over them"),
        ([0, 1], "at most MSE 0.004, Pearson 0.030."),
    ],
)
def test_captions_count_trainings_and_tell_their_spread(seeds, words):
    about = {"simulated": True, "seeds": seeds, **ABOUT}
    assert words in caption(SUMMARY, **about)
    text = difference_caption(SUMMARY, "Full", **about)
    assert words in text and "2 simulated participants" in text
    assert "differences from Full" in text and "10,000 resamples" in text


def test_correlations_over_images_are_captioned_as_scores_are():
    text = across_caption(SUMMARY, simulated=True, seeds=[0], **ABOUT)
    assert "correlation over test images" in text and "2 simulated" in text
    assert "vary too little" in text and "1 training of each row" in text


def test_budgets_stand_beside_scores():
    costs = {
        "parameters": 1234.0,
        "steps": 10,
        "seconds": 2.5,
        "sampling_seconds": 0.75,
    }
    costs |= {"seconds_a_signal": 0.0125, "sample_variance": np.nan}
    budgets = pd.DataFrame([costs], index=["Ours_a"])
    summary = pd.concat(
        [SUMMARY, *(SUMMARY[:1].assign(metric=metric) for metric in ("cosine", "sl"))]
    )
    row = budget_table(budgets, summary).loc["Ours_a"]
    assert row["Learned numbers"] == "1,234" and row["A signal (s)"] == "0.013"
    assert row["Pearson ↑"] == "0.500"
    assert row["Variance of samples / of trials"] == "–"


def test_conclusions_are_those_of_the_numbers():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(60)
    shifts = {"Training mean": 0.0, "Ridge": 0.3, "Ours": -0.1, "Other": 0.0}
    hits = {"Training mean": 0.08, "Ridge": 1.0, "Ours": 0.08, "Other": 0.08}
    scored = [
        (
            method,
            1,
            0,
            {
                "pearson": base + shift + 0.05 * rng.standard_normal(60),
                "top5": np.full(60, hits[method]),
            },
        )
        for method, shift in shifts.items()
    ]
    half = {"pearson": np.full(60, 0.9), "top5": np.ones(60)}
    scored.append(("Split half of the repetitions", 1, None, half))
    scores = tidy_scores(scored, [row[0] for row in scored])
    bootstrap = {"seed": 0, "resamples": 200}
    rows = pd.DataFrame(
        {
            "kind": ["ridge", "dit", "unet"],
            "cross_subject": False,
            "other_image": False,
        },
        index=["Ridge", "Ours", "Other"],
    )
    summary = summarize(scores, **bootstrap)
    mean, known, lead, best = conclude(
        scores, summary, rows, chance=1 / 12, **bootstrap
    )
    assert "interval without zero: Ridge (+0." in mean and "below it: Ours (-0." in mean
    assert "Other" not in mean
    assert known.endswith("Ridge (100%); not: Ours (8%), Other (8%).")
    assert "Ridge, beats the best of ours, Ours: 0.4" in lead
    assert "(Ridge)" in best and "0.900" in best


def test_scores_are_drawn_where_they_are():
    fig = plot_scores(
        SUMMARY,
        kinds={"Zero": "control", "Ours_a": "generated", "Not scored": "baseline"},
        metrics=METRICS,
        chance={"mse": 0.2},
    )
    points = fig.axes[0].collections[1].get_offsets()
    np.testing.assert_allclose(points, [[0.3, 0], [0.12345678901, -1]])
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["Zero", "Ours_a"]


def test_the_first_row_is_not_at_the_edge_and_kinds_have_their_colors():
    kinds = {"Zero": "control", "Ridge": "baseline", "Ours+": "generated"}
    summary = pd.concat(SUMMARY[:2].assign(method=method) for method in kinds)
    fig = plot_scores(summary, kinds=kinds, metrics=METRICS, chance={})
    low, high = fig.axes[0].get_ylim()
    assert low < -2.5 and high > 0.5
    drawn = fig.axes[0].collections[1].get_facecolors()
    expected = [to_rgba(COLORS[kind]) for kind in kinds.values()]
    np.testing.assert_allclose(drawn, expected)
    (legend,) = fig.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["ours", "other methods", "knows no image, or another one"]


def test_every_reading_of_a_removed_region_is_drawn_at_its_score():
    rows = [
        {"method": region_row(region, variant), "metric": "mse", "mean": value}
        for region, shift in (("Occipital", 0.0), ("Frontal", 10.0))
        for variant, value in ((FULL, 1 + shift), (RETRAINED, 2 + shift), (ZEROED, 3))
    ]
    summary = pd.DataFrame(rows).assign(low=0.0, high=20.0)
    regions = ["Occipital", "Frontal"]
    fig = plot_regions(summary, regions=regions, metrics={"mse": "MSE"})
    drawn = [dots.get_offsets()[:, 0].tolist() for dots in scatters(fig.axes[0])]
    assert drawn == [[1, 11], [2, 12], [3, 3]]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == regions
    plt.close(fig)


def scatters(ax):
    return [part for part in ax.collections if isinstance(part, PathCollection)]
