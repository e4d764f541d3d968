import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.things_eeg2 import NICE_CHANNELS
from paperlib.reporting.figures import COLUMN, SIMULATED, save_figure
from paperlib.reporting.tables import format_interval, save_table, wide_table
from paperlib.reporting.topographies import (
    plot_response,
    plot_topographies,
    window_means,
)

pytestmark = pytest.mark.usefixtures("theme")
SCORES = pd.DataFrame(
    {
        "method": ["Ours_a", "Ours_a", "Zero", "Zero"],
        "metric": ["mse", "pearson"] * 2,
        "mean": [0.12345678901, 0.5, 0.3, np.nan],
        "low": [0.1, 0.4, 0.2, np.nan],
        "high": [0.15, 0.6, 0.4, np.nan],
        "n_subjects": 2,
    }
)
METRICS = {"mse": "MSE ↓", "pearson": "Pearson ↑"}


@pytest.fixture
def save(tmp_path):
    """Save the scores as a table; return CSV, Markdown and LaTeX."""

    def write(caption="Means.", simulated=False):
        files = save_table(
            tmp_path / "tab01",
            tidy=SCORES,
            wide=wide_table(SCORES, rows=["Zero", "Ours_a"], metrics=METRICS),
            caption=caption,
            simulated=simulated,
        )
        return [path.read_text() for path in files]

    return write


def test_intervals_and_what_is_not_defined():
    assert format_interval(0.12345, 0.1, 0.15) == "0.123 [0.100, 0.150]"
    assert format_interval(0.211, np.nan, np.nan) == "0.211"
    assert format_interval(np.nan, np.nan, np.nan) == "–"


def test_the_three_files_of_a_table_agree(save, tmp_path):
    _, markdown, latex = save("Means, 95 % interval, $5 & a_b #1.")
    again = pd.read_csv(tmp_path / "tab01.csv")
    assert not again.pop("simulated").any()
    pd.testing.assert_frame_equal(again, SCORES, rtol=1e-9, check_exact=False)
    for text in (markdown, latex):
        assert text.index("Zero") < text.index("Ours")
        assert "0.123 [0.100, 0.150]" in text and "–" in text
    assert r"Ours\_a" in latex and r"MSE $\downarrow$" in latex
    assert r"\label{tab:tab01}" in latex
    assert r"95 \% interval, \$5 \& a\_b \#1" in latex


@pytest.mark.parametrize(
    ("caption", "simulated"),
    [("Means.", False), ("Means.", True), ("2 simulated participants.", True)],
)
def test_a_table_names_simulated_participants_once(save, caption, simulated):
    for text in save(caption, simulated)[1:]:
        assert text.lower().count("simulated participants") == simulated


def test_figures_have_the_same_bytes_at_every_run_and_their_size(tmp_path):
    files = []
    for name in ("first", "second"):
        fig, ax = plt.subplots(figsize=(COLUMN, 2))
        ax.plot([0, 1], [0, 1])
        ax.set_xlabel("Time (s)")
        files.append(save_figure(fig, tmp_path / name, simulated=True))
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()
        assert str(tmp_path).encode() not in first.read_bytes()
    assert Image.open(files[0][1]).size == (int(COLUMN * 300), 600)
    assert fig.get_suptitle() == SIMULATED


def test_window_means():
    response = np.arange(12.0).reshape(2, 6)
    times = np.arange(6) / 10
    means = window_means(response, times, [(0.0, 0.2), (0.2, 0.6)])
    np.testing.assert_allclose(means, [[0.5, 6.5], [3.5, 9.5]])
    with pytest.raises(ValueError, match=r"window 1.0 to 2.0 s holds no sample"):
        window_means(response, times, [(1.0, 2.0)])


def test_topographies_share_one_symmetric_scale():
    rng = np.random.default_rng(0)
    maps = {name: rng.standard_normal((2, 63)) for name in ("a", "$b$ and $5")}
    fig = plot_topographies(
        maps,
        windows=[(0, 0.1), (0.1, 0.2)],
        info=sensor_info(NICE_CHANNELS, 250),
        unit="noise SD",
    )
    fig.draw_without_rendering()
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


def test_an_image_is_drawn_with_its_responses(tmp_path):
    rng = np.random.default_rng(0)
    recorded = rng.standard_normal((63, 50))
    responses = {"Recorded": recorded, "Generated, $5 or $10": 0.1 * recorded}
    fig = plot_response(
        Image.new("RGB", (8, 8)),
        responses,
        times=np.arange(50) / 100,
        moments=[0.1, 0.2],
        regions=channel_regions(NICE_CHANNELS),
        info=sensor_info(NICE_CHANNELS, 100),
        unit="noise SD",
    )
    save_figure(fig, tmp_path / "response", simulated=False)
    assert not fig.get_suptitle()
    titles = [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")]
    assert [t for t in titles if t] == [
        *("Recorded", "100 ms", "200 ms", "Generated, $5 or $10")
    ]
    curves = [ax for ax in fig.axes if ax.get_title("left")]
    for ax, response in zip(curves, responses.values(), strict=True):
        drawn = [line.get_ydata() for line in ax.lines[:63]]
        np.testing.assert_allclose(
            sorted(drawn, key=tuple), sorted(response, key=tuple)
        )
    assert curves[0].get_ylim() == curves[1].get_ylim()
    maps = [ax.images[0] for ax in fig.axes if ax.images and ax.lines]
    limit = np.abs(recorded[:, [10, 20]]).max()
    assert {image.get_clim() for image in maps} == {(-limit, limit)}
    assert len(maps) == 4


def test_every_electrode_has_a_place():
    info = sensor_info(NICE_CHANNELS, 250)
    places = np.array([channel["loc"][:3] for channel in info["chs"]])
    assert np.isfinite(places).all() and len(np.unique(places, axis=0)) == 63
    by_name = dict(zip(info.ch_names, places, strict=True))
    assert by_name["O1"][1] < by_name["Cz"][1] < by_name["Fp1"][1]  # back to front
    assert by_name["T7"][0] < 0 < by_name["T8"][0]  # left to right
    with pytest.raises(ValueError, match=r"No position is known for \['Ozz'\].*'Oz'"):
        sensor_info(["Cz", "Ozz"], 250)
