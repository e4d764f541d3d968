import numpy as np
import pandas as pd
import pytest
from PIL import Image

from paperlib.evaluation.clip_score import describe_scores, score_cosines
from paperlib.paths import ROOT
from paperlib.reporting.clip_scores import (
    distribution_table,
    participant_range,
    plot_captioned,
    plot_distributions,
    score_table,
    table_caption,
)
from paperlib.reporting.figures import COLUMN
from paperlib.reporting.tables import save_table

pytestmark = pytest.mark.usefixtures("theme")
DATASETS = ("things-eeg2", "things-meg")
SUBJECTS = {"things-eeg2": [1], "things-meg": [1, 2, 3, 4]}


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    cosines = [
        pd.DataFrame(
            {
                **{"captioner": "a", "dataset": dataset, "encoder": encoder},
                **{"cosine": rng.normal(0.3, 0.04, 50), "other_cosine": 0.1},
                **{"image_id": np.arange(50), "concept": np.arange(50) // 5},
            }
        )
        for dataset in DATASETS
        for encoder in ("CLIP", "CLIP with prefix")
    ]
    return score_cosines(pd.concat(cosines, ignore_index=True))


def with_published(scores, name):
    resamples = {"rng": np.random.default_rng(0), "n_resamples": 100}
    measured = describe_scores(scores, **resamples)
    return score_table(measured, published(name), subjects=SUBJECTS)


def published(name):
    return pd.read_csv(ROOT / f"tables/published/{name}.csv")


def test_published_rows_follow_the_measured_ones_of_their_data_set(scores):
    tidy = with_published(scores, "tab07_clip_score")
    assert tidy["dataset"].tolist() == [DATASETS[0]] * 5 + [DATASETS[1]] * 8
    is_published = tidy["encoder"] == "Published: VisualGLM"
    assert tidy.index[is_published].tolist() == [4, 9, 10, 11, 12]
    assert tidy.loc[is_published, "participants"].tolist() == ["all", *"1234"]
    assert tidy.loc[~is_published, "participants"].unique().tolist() == ["1", "1-4"]
    assert tidy.loc[4, "count_0.6"] == 10459
    alone = with_published(scores[scores["dataset"] == DATASETS[1]], "tab07_clip_score")
    assert alone["dataset"].tolist() == [DATASETS[1]] * 8


def test_table_as_a_reader_sees_it(scores, tmp_path):
    tidy = with_published(scores, "tab07_clip_score")
    wide = distribution_table(tidy)
    assert list(wide)[-5:] == [
        *("[0.0, 0.2)", "[0.2, 0.4)", "[0.4, 0.6)", "[0.6, 0.8)", "[0.8, 1.0]")
    ]
    assert wide["Score"].iloc[0] == "CLIP, 2.5 max(cos, 0)"
    assert wide["[0.4, 0.6)"].iloc[4] == "37.5% (6,281)"
    assert wide["[0.8, 1.0]"].iloc[4] == "0.0%"
    assert wide["Mean"].iloc[4] == "–"
    assert wide.index[[0, 4, 5]].tolist() == [
        *("things-eeg2, P1", "things-eeg2, all participants"),
        "things-meg, P1-4 (same images)",
    ]
    assert wide.index[-1] == "things-meg, P4"
    about = {"caption": "All.", "simulated": True}
    files = save_table(tmp_path / "tab07", tidy=tidy, wide=wide, **about)
    written = pd.read_csv(files[0])
    published = written["encoder"].str.startswith("Published: ")
    assert 0 < published.sum() < len(written)
    assert (written["simulated"] == ~published).all()
    assert r"62.5\% (10,459)" in (tmp_path / "tab07.tex").read_text()


def test_what_the_paper_does_not_state_is_a_dash(scores):
    tidy = with_published(scores, "fig05_clip_score")
    last = distribution_table(tidy).iloc[-1]
    assert last.name == "things-meg, P2-4 (same images)" and last["Mean"] == "0.642"
    assert last["[0.6, 0.8)"] == "–"


@pytest.mark.parametrize("simulated", [True, False])
def test_captions_say_whether_the_data_set_is_simulated(simulated):
    text = table_caption("qwen2-vl", simulated=simulated)
    assert text.startswith("Simulated") == simulated
    assert ("not comparable" in text) == simulated
    assert "by qwen2-vl" in text and "Scores above 1 count in the last range" in text


@pytest.mark.parametrize(
    ("subjects", "name"), [([2], "2"), ([1, 2, 3], "1-3"), ([1, 3], "1, 3")]
)
def test_names_of_participants_who_share_a_row(subjects, name):
    assert participant_range(subjects) == name


def test_panels_of_the_distributions(scores):
    means = {"things-eeg2": 0.6419, "things-meg": 0.6421}
    options = {"subjects": SUBJECTS, "published": means}
    fig = plot_distributions(scores, hue="encoder", **options)
    titles = [ax.get_title() for ax in fig.axes[:2]]
    assert titles == ["things-eeg2, P1: 50 images", "things-meg, P1-4: 50 images"]
    assert [ax.get_xlabel() for ax in fig.axes[::2]] == list(scores["score"].unique())
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert (
        labels[:2] == ["CLIP", "CLIP with prefix"]
        and "Published mean, real data" in labels
    )
    drawn = {line.get_xdata()[0] for line in fig.axes[1].lines}
    assert 0.6421 in drawn and 0.25 in drawn  # published, and 2.5 x 0.1
    renamed = scores.replace({"captioner": {"a": "$5 model_x, $6"}})
    without = plot_distributions(renamed, hue="captioner", subjects=SUBJECTS)
    without.draw_without_rendering()
    assert len(without.legends[0].get_texts()) == 2


def test_captions_stay_under_their_pictures_and_are_drawn_as_they_are():
    picture = Image.new("RGB", (20, 20))
    captions = ["$5, 50% or $10", "A long description of what is there to see. " * 6]
    fig = plot_captioned([picture] * 2, captions, ["costs $1 to $2", "things-meg"])
    fig.draw_without_rendering()
    width, height = fig.get_size_inches() * fig.dpi
    boxes = [ax.xaxis.label.get_window_extent() for ax in fig.axes]
    assert boxes[0].x1 < boxes[1].x0 and boxes[1].x1 <= width
    assert all(0 <= box.y0 and box.y1 < height for box in boxes)
    assert fig.get_size_inches()[0] == COLUMN
