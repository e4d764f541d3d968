import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_stimuli_images import noise
from tiny_clip import write_clip

from paperlib.evaluation import clip_score
from paperlib.evaluation.clip_score import (
    EDGES,
    SCORES,
    Encoder,
    concept_interval,
    count_ranges,
    describe_scores,
    implied_spread,
    measure_cosines,
    pair_across_concepts,
    score_cosines,
)
from paperlib.paths import CLIP_SCORE_TABLES, ROOT
from paperlib.stimuli.clip import embed_images, embed_texts, load_clip

CAPTIONS = ["a cat", "two dogs in the sun", "a cat", "an egg", "the sea at night"]
unit_cosines = arrays(
    float, st.integers(1, 50), elements=st.floats(-1, 1, allow_nan=False)
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = write_clip(tmp_path_factory.mktemp("clip"))
    clip = load_clip(f"local-dir:{folder}", None, device="cpu")
    return [Encoder("plain", clip), Encoder("prefix", clip, "A photo depicts ")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"image_{i}.png" for i in range(len(CAPTIONS))]
    for picture, path in zip(noise([(40, 50)] * len(CAPTIONS)), paths, strict=True):
        picture.save(path)
    names = [path.stem for path in paths]
    return pd.DataFrame({"image_id": names, "concept": list("ababc"), "path": paths})


def measured(images, captions, encoders):
    options = {"encoders": encoders, "batch_size": 2}
    return measure_cosines(images, captions, rng=np.random.default_rng(0), **options)


def described(**columns):
    keys = {"captioner": "a", "dataset": "d", "encoder": "e"}
    cosines = pd.DataFrame(columns)
    cosines = cosines.assign(**keys, concept=cosines.index)
    resamples = {"rng": np.random.default_rng(0), "n_resamples": 1000}
    return describe_scores(score_cosines(cosines), **resamples).set_index("score")


def published(name):
    return pd.read_csv(ROOT / f"tables/published/{name}.csv")


def test_scores_of_known_cosines():
    cosines = np.array([-1, -0.2, 0, 0.25676, 1])
    hessel, shifted = (function(cosines) for function in SCORES.values())
    np.testing.assert_allclose(hessel, [0, 0, 0, 0.6419, 2.5])
    np.testing.assert_allclose(shifted, [0, 0.4, 0.5, 0.62838, 1])


@given(unit_cosines, st.floats(0, 0.5))
def test_every_score_has_a_range_and_better_captions_never_lower_it(cosines, gain):
    """Shares of at least an edge can only grow when every cosine does."""
    for function in SCORES.values():
        before, after = (count_ranges(function(c)) for c in (cosines, cosines + gain))
        assert before.shape == (len(EDGES) - 1,) and before.sum() == len(cosines)
        assert (np.cumsum(after) <= np.cumsum(before)).all()


def test_ranges_are_half_open_and_the_last_is_closed():
    np.testing.assert_array_equal(count_ranges(EDGES), [1, 1, 1, 1, 2])
    just_below = np.nextafter(EDGES[1:], 0)
    np.testing.assert_array_equal(count_ranges(just_below), [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(count_ranges(np.array([2.5, 1.1])), [0, 0, 0, 0, 2])


def test_summary_of_known_cosines():
    rows = described(cosine=[0.1, 0.3], other_cosine=[-0.5, 0.1])
    hessel, shifted = rows.loc["2.5 max(cos, 0)"], rows.loc["(1 + cos) / 2"]
    assert hessel["mean"] == pytest.approx(0.5)
    assert shifted["mean"] == pytest.approx(0.6)
    assert hessel["sd"] == pytest.approx(0.5 / np.sqrt(2))
    assert hessel["other_mean"] == pytest.approx(0.125)
    assert (hessel["low"], hessel["high"]) == pytest.approx((0.25, 0.75))
    assert (hessel["count_0.2"], hessel["count_0.6"]) == (1, 1)
    assert shifted["share_0.4"] + shifted["share_0.6"] == 1
    assert (rows[["n_images", "n_concepts"]] == 2).all(axis=None)


def test_interval_covers_the_mean_when_images_of_a_concept_are_alike():
    rng = np.random.default_rng(0)
    concepts = np.repeat(np.arange(50), rng.integers(2, 8, 50))
    covered = 0
    for _ in range(200):
        values = rng.normal(0, 1, 50)[concepts] + rng.normal(0, 0.5, len(concepts))
        low, high = concept_interval(values, concepts, rng=rng, n_resamples=400)
        covered += low <= 0 <= high
    assert 0.89 <= covered / 200 <= 0.98


@given(st.lists(st.integers(1, 6), min_size=2, max_size=20), st.integers(0, 99))
def test_every_image_is_paired_once_with_another_concept(sizes, seed):
    if 2 * max(sizes) > sum(sizes):
        sizes = [*sizes, max(sizes)]
    rng = np.random.default_rng(seed)
    concepts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    others = pair_across_concepts(concepts, rng)
    assert sorted(others) == list(range(len(concepts)))
    assert (concepts[others] != concepts).all()


def test_a_concept_of_most_images_cannot_be_paired():
    with pytest.raises(ValueError, match="3 of 5 images show cat; expected half"):
        pair_across_concepts(["cat", "dog", "cat", "cat", "egg"], None)


def test_implied_spread_is_that_of_such_cosines():
    spread = implied_spread(0.6419, 0.013, 0.6)
    rng = np.random.default_rng(0)
    for formula, function in SCORES.items():
        mean = 0.6419 / 2.5 if "max" in formula else 2 * 0.6419 - 1
        scores = function(rng.normal(mean, spread[formula], 200_000))
        assert scores.mean() == pytest.approx(0.6419, abs=1e-3)
        assert (scores < 0.6).mean() == pytest.approx(0.013, abs=2e-3)


def test_embeddings_that_are_not_numbers(images, encoders, monkeypatch):
    nothing = np.full((2, 12), np.nan)
    monkeypatch.setattr(
        clip_score, "embed_texts", lambda _, texts: nothing[: len(texts)]
    )
    with pytest.raises(
        ValueError, match=r"cosine \(a, plain\) holds 5 values that are"
    ):
        measured(images, {"a": CAPTIONS}, encoders)


def test_cosines_are_those_of_single_pairs(images, encoders):
    table = measured(images, {"a": CAPTIONS}, encoders)
    others = pair_across_concepts(images["concept"], np.random.default_rng(0))
    assert list(table["encoder"].unique()) == ["plain", "prefix"]
    for encoder, rows in zip(encoders, table.groupby("encoder"), strict=True):
        for i, row in enumerate(rows[1].itertuples()):
            seen = embed_images(encoder.clip, [Image.open(images["path"][i])])
            own, other = CAPTIONS[i], CAPTIONS[others[i]]
            texts = [encoder.prefix + own, encoder.prefix + other]
            want = embed_texts(encoder.clip, texts) @ seen[0]
            got = [row.cosine, row.other_cosine]
            np.testing.assert_allclose(got, want, atol=1e-6)
            assert (row.image_id, row.concept) == (f"image_{i}", "ababc"[i])


def test_every_image_is_read_once(images, encoders, monkeypatch):
    opened = []

    def open_image(path):
        opened.append(path)
        return Image.open(path)

    monkeypatch.setattr(clip_score, "open_image", open_image)
    captions = {"a": CAPTIONS, "b": CAPTIONS[::-1]}
    table = measured(images, captions, encoders)
    assert opened == images["path"].tolist()
    assert len(table) == 2 * len(encoders) * len(images)


@pytest.mark.parametrize("name", ["tab07_clip_score", "tab08_clip_score"])
def test_published_counts_add_up(name):
    table = published(name)
    assert table["n_images"].tolist() == [16740, *[22448] * 4]
    counts, shares = (table.filter(like=f"{kind}_") for kind in ("count", "share"))
    np.testing.assert_array_equal(counts.sum(axis=1), table["n_images"])
    expected = counts.div(table["n_images"], axis=0)
    np.testing.assert_allclose(shares, expected, atol=5e-4)


@pytest.mark.parametrize("name", CLIP_SCORE_TABLES)
def test_published_columns_are_those_of_the_summary(name):
    rows = described(cosine=[0.1, 0.3], other_cosine=[0.0, 0.0])
    table = published(name)
    assert set(table) <= {*rows, "participants"}
    shares = table.filter(like="share_").dropna().sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-9)


@pytest.mark.parametrize("kind", ["fig06", "tab03", "tab04", "tab05", "tab06"])
def test_published_scores_repeat_our_work_of_the_main_tables(kind):
    for path in (ROOT / "tables/published").glob(f"{kind}_*.csv"):
        table = pd.read_csv(path).pivot(index="method", columns="metric", values="mean")
        dataset = path.stem.removeprefix(f"{kind}_")
        number = {"things_eeg2": "01", "things_meg": "02"}[dataset]
        main = published(f"tab{number}_{dataset}")
        ours = main[main["method"] == "Our work"].set_index("metric")["mean"]
        best = table.loc[[name for name in table.index if "Our" in name]]
        assert len(best) == 1
        for metric, value in best.iloc[0].items():
            assert value == ours[metric]
            rest = table[metric].drop(best.index)
            worse = rest > value if metric == "mse" else rest < value
            assert worse.all()
