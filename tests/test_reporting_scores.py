import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from paperlib.reporting.figures import COLORS
from paperlib.reporting.scores import (
    budget_table,
    caption,
    draw_intervals,
    order_table,
    plot_scores,
    published_note,
    with_published,
)
from paperlib.reporting.tables import wide_table

pytestmark = pytest.mark.usefixtures("theme")
COLUMNS = "method metric mean low high n_seeds n_subjects n_images n_undefined".split()
SUMMARY = pd.DataFrame(
    [
        ("Ours_a", "mse", 0.12345678901, 0.1, 0.15, 3, 2, 60, 0),
        ("Ours_a", "pearson", 0.5, 0.4, 0.6, 3, 2, 60, 0),
        ("Zero", "mse", 0.3, 0.2, 0.4, 1, 2, 60, 0),
        ("Zero", "pearson", np.nan, np.nan, np.nan, 1, 2, 60, 120),
    ],
    columns=COLUMNS,
)
CONDITIONS = {"dataset": "x", "resamples": 10_000, "simulated": False}
METRICS = {"mse": "MSE ↓", "pearson": "Pearson ↑"}


def test_published_rows_are_marked_and_have_no_interval():
    published = pd.DataFrame({"method": ["Ours"], "metric": ["mse"], "mean": [0.109]})
    row = with_published(SUMMARY, published).iloc[-1]
    assert row["method"] == "Published: Ours"
    assert row["mean"] == 0.109 and np.isnan(row["low"])


@pytest.mark.parametrize("simulated", [True, False])
def test_captions_say_whether_participants_are_simulated(simulated):
    text = caption(SUMMARY, **CONDITIONS | {"simulated": simulated})
    assert f"x, 2 {'simulated ' * simulated}participants, 60 test images" in text
    assert ("simulated" in text) == simulated and "95 % bootstrap" in text
    assert ("not comparable" in published_note(simulated=simulated)) == simulated


@pytest.mark.parametrize(
    ("n_subjects", "n_seeds", "few"),
    [
        (1, 1, None),
        (2, 1, "participants"),
        (10, 3, "trainings"),
        (2, 3, "participants and trainings"),
        (10, 10, None),
    ],
)
def test_captions_say_what_there_is_too_little_of(n_subjects, n_seeds, few):
    text = caption(SUMMARY.assign(n_subjects=n_subjects, n_seeds=n_seeds), **CONDITIONS)
    assert (f"So few {few} make intervals too narrow" in text) == (few is not None)
    assert ("and trainings, 10,000 resamples" in text) == (n_seeds > 1)


def test_captions_and_tables_show_where_participants_or_trainings_are_fewer():
    crossed = SUMMARY.iloc[:2].assign(method="Ours_a, cross-subject", n_subjects=1)
    both = pd.concat([SUMMARY, crossed])
    text = caption(both, "paired differences from Ours, mean", **CONDITIONS)
    assert "1 to 2 participants (n; cross-subject rows lack" in text
    assert "1 to 3 trainings of each row" in text and "differences from Ours" in text
    rows = ["Ours_a", "Ours_a, cross-subject", "Published: Ours"]
    wide = wide_table(both, rows=rows, metrics=METRICS)
    assert wide["n"].tolist() == ["2", "1", "–"]


def test_budgets_stand_beside_scores():
    columns = ["parameters", "steps", "seconds", "sampling_seconds"]
    budgets = pd.DataFrame([[1234.0, 10, 2.5, 0.75]], ["Ours_a"], columns)
    row = budget_table(budgets, SUMMARY, METRICS).loc["Ours_a"]
    assert row["Parameters"] == "1,234" and row["Sampling (s)"] == "0.8"
    assert row["Pearson ↑"] == "0.500"


def test_published_effects_are_found_reversed_or_open():
    published = pd.DataFrame(
        [("full ours", 0.4), ("a", 0.3), ("b", 0.3), ("c other", 0.5), ("absent", 0.1)],
        columns=["runs", "mean"],
    ).assign(metric="pearson")
    rows = [("a", -0.2, -0.1), ("b", 0.1, 0.2), ("other", -0.1, 0.1), ("new", 1, 2)]
    differences = pd.DataFrame(rows, columns=["run", "low", "high"])
    differences = differences.assign(method="w/o", metric="pearson", mean=0.0)
    found = order_table(differences, published, "ours")
    assert found["as_published"].tolist() == ["yes", "reversed", "open"]
    np.testing.assert_allclose(found["published"], [-0.1, -0.1, 0.1])
    assert order_table(differences.assign(metric="sl"), published, "ours").empty


def test_a_row_may_hold_several_variants():
    _, ax = plt.subplots()
    mse = SUMMARY[SUMMARY["metric"] == "mse"]
    draw_intervals(ax, mse, ["Ours_a", "Zero"], colors=["k", "k"], shift=0.2)
    points = ax.collections[1].get_offsets()
    np.testing.assert_allclose(points, [[0.12345678901, 0.2], [0.3, -0.8]])


def test_scores_are_drawn_where_they_are_in_the_colors_of_their_kinds():
    kinds = {"Zero": "control", "Ours_a": "generated", "Not scored": "baseline"}
    fig = plot_scores(SUMMARY, kinds=kinds, metrics=METRICS, levels={"mse": 0.2})
    ax, points = fig.axes[0], fig.axes[0].collections[1]
    np.testing.assert_allclose(points.get_offsets(), [[0.3, 0], [0.12345678901, -1]])
    expected = [to_rgba(COLORS[kind]) for kind in ("control", "generated")]
    np.testing.assert_allclose(points.get_facecolors(), expected)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Zero", "Ours_a"]
    low, high = ax.get_ylim()
    assert low < -1.5 and high > 0.5  # no row is at the edge
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert texts == ["ours", "no image, or another one", "chance"]
