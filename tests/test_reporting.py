import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba

from paperlib.evaluation.ablations import FULL, RETRAINED, ZEROED, region_row
from paperlib.evaluation.comparison import summarize, tidy_scores
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.things_eeg2 import NICE_CHANNELS
from paperlib.reporting.ablations import plot_regions
from paperlib.reporting.figures import COLORS, COLUMN, save_figure, set_theme
from paperlib.reporting.scores import (
    across_caption,
    budget_table,
    caption,
    conclude,
    difference_caption,
    plot_scores,
    with_published,
)
from paperlib.reporting.tables import format_interval, save_table, wide_table
from paperlib.reporting.topographies import plot_topographies, window_means

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


def test_intervals_and_what_is_not_defined():
    assert format_interval(0.12345, 0.1, 0.15) == "0.123 [0.100, 0.150]"
    assert format_interval(0.211, np.nan, np.nan) == "0.211"
    assert format_interval(np.nan, np.nan, np.nan) == "–"


def test_the_three_files_of_a_table_agree(tmp_path):
    wide = wide_table(SUMMARY, rows=["Zero", "Ours_a"], metrics=METRICS)
    files = save_table(
        tmp_path / "tab01",
        tidy=SUMMARY,
        wide=wide,
        caption="Means, 95 % interval.",
        simulated=False,
    )
    csv, markdown, latex = (path.read_text() for path in files)
    again = pd.read_csv(files[0])
    assert not again.pop("simulated").any()
    pd.testing.assert_frame_equal(again, SUMMARY, rtol=1e-9, check_exact=False)
    for text in (markdown, latex):
        assert text.index("Zero") < text.index("Ours")
        assert "0.123 [0.100, 0.150]" in text and "–" in text
    assert r"Ours\_a" in latex and r"95 \%" in latex and r"MSE $\downarrow$" in latex
    assert r"\label{tab:tab01}" in latex


def test_the_first_column_of_a_table_needs_a_heading(tmp_path):
    wide = pd.DataFrame({"MSE": ["0.1"]}, index=["Ours"])
    with pytest.raises(ValueError, match="index of `wide` needs a name"):
        save_table(
            tmp_path / "tab01",
            tidy=SUMMARY,
            wide=wide,
            caption="Means.",
            simulated=True,
        )


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


def test_figures_have_the_same_bytes_at_every_run(tmp_path):
    for name in ("first", "second"):
        fig, ax = plt.subplots(figsize=(COLUMN, 2))
        ax.plot([0, 1], [0, 1])
        ax.set_xlabel("Time (s)")
        save_figure(fig, tmp_path / name, simulated=True)
    for ending in (".pdf", ".png"):
        first, second = (
            (tmp_path / f"{name}{ending}").read_bytes() for name in ("first", "second")
        )
        assert first == second
        assert str(tmp_path).encode() not in first


def test_figures_keep_their_size(tmp_path):
    fig, _ = plt.subplots(figsize=(COLUMN, 2))
    _, png = save_figure(fig, tmp_path / "figure", simulated=False)
    assert plt.imread(png).shape[:2] == (600, int(COLUMN * 300))


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


def test_window_means():
    response = np.arange(12.0).reshape(2, 6)
    times = np.arange(6) / 10
    means = window_means(response, times, [(0.0, 0.2), (0.2, 0.6)])
    np.testing.assert_allclose(means, [[0.5, 6.5], [3.5, 9.5]])


def test_a_window_outside_the_signal_is_an_error():
    with pytest.raises(ValueError, match=r"window 1.0 to 2.0 s holds no sample"):
        window_means(np.zeros((1, 3)), np.arange(3) / 10, [(1.0, 2.0)])


def test_topographies_share_one_symmetric_scale():
    rng = np.random.default_rng(0)
    maps = {name: rng.standard_normal((2, 63)) for name in ("a", "b")}
    fig = plot_topographies(
        maps,
        windows=[(0, 0.1), (0.1, 0.2)],
        info=sensor_info(NICE_CHANNELS, 250),
        unit="noise SD",
    )
    limits = {ax.images[0].get_clim() for ax in fig.axes if ax.images}
    largest = max(np.abs(values).max() for values in maps.values())
    assert limits == {(-largest, largest)}
    assert fig.axes[0].get_title() == "0-100 ms"


def test_electrodes_lie_on_the_head_and_colors_end_with_them():
    info = sensor_info(NICE_CHANNELS, 250)
    maps = {"a": np.ones((1, 63))}
    ax = plot_topographies(maps, windows=[(0, 1)], info=info, unit="noise SD").axes[0]
    sensors = next(line for line in ax.lines if line.get_marker() == ".").get_xydata()
    outline = max(ax.lines, key=lambda line: np.ptp(line.get_ydata())).get_xydata()
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    radius = np.ptp(outline[:, 0]) / 2
    assert np.linalg.norm(sensors - middle, axis=1).max() <= radius
    edge = ax.images[0].get_clip_path().get_fully_transformed_path().vertices
    corners = ax.transData.inverted().transform(edge)
    gaps = np.linalg.norm(corners[:, None] - sensors, axis=2).min(axis=1)
    assert gaps.max() < 0.02  # m


def test_every_electrode_has_a_place():
    info = sensor_info(NICE_CHANNELS, 250)
    places = np.array([channel["loc"][:3] for channel in info["chs"]])
    assert np.isfinite(places).all() and len(np.unique(places, axis=0)) == 63
    by_name = dict(zip(info.ch_names, places, strict=True))
    assert by_name["O1"][1] < by_name["Cz"][1] < by_name["Fp1"][1]  # back to front
    assert by_name["T7"][0] < 0 < by_name["T8"][0]  # left to right


def test_unknown_electrode():
    with pytest.raises(ValueError, match=r"No position is known for \['Ozz'\].*'Oz'"):
        sensor_info(["Cz", "Ozz"], 250)


@pytest.mark.parametrize("simulated", [True, False])
def test_a_figure_says_that_its_data_are_simulated(tmp_path, simulated):
    fig, _ = plt.subplots()
    save_figure(fig, tmp_path / "figure", simulated=simulated)
    assert (fig.get_suptitle() == "Simulated data") == simulated


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
