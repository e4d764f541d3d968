from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from paperlib.config import Row
from paperlib.evaluation.comparison import (
    CEILING,
    CONTROLS,
    CROSSED_MEAN,
    FIELD_METRICS,
    MAIN_METRICS,
    SUPPLEMENT_METRICS,
    TRAINING_MEAN,
    ZERO,
    Responses,
    compare_with,
    comparison_rows,
    control_responses,
    point_prediction,
    posterior_window,
    predicted_responses,
    reference_row,
    row_kinds,
    score,
    score_across,
    split_half_scores,
    summarize,
)
from paperlib.evaluation.synchronization import (
    DelayEmbedding,
    synchronization_likelihood,
)
from paperlib.recordings.things_eeg2 import NICE_CHANNELS

EMBEDDING = DelayEmbedding(dim=3, delay=2, neighbors=5)
SFREQ = 100.0
COMMON = np.zeros((4, 60), np.float32)  # mean training response


def prepare(values, common=COMMON):
    return Responses.prepare(values, common, EMBEDDING, theiler=True)


def table(scored):
    """Return scores from method, subject, seed and metric -> values of the images."""
    frames = [
        pd.DataFrame(values).assign(method=method, subject=subject, seed=seed)
        for method, subject, seed, values in scored
    ]
    return pd.concat([frame.assign(image=frame.index) for frame in frames])


@pytest.fixture
def responses():
    return np.random.default_rng(0).standard_normal((12, 4, 60)).astype(np.float32)


def test_the_recording_itself_scores_perfectly(responses):
    scores = score(prepare(responses), prepare(responses), sfreq=SFREQ)
    wanted = MAIN_METRICS | SUPPLEMENT_METRICS | FIELD_METRICS
    assert set(scores) == set(wanted) - {"across_posterior"}
    for metric, values in scores.items():
        if metric == "sl_chance":
            assert 0 < values.mean() < 0.5
        elif metric in ("specific_chance", "waveform_chance"):
            assert abs(values.mean()) < 4 / np.sqrt(responses.size)
        elif metric in ("pooled", "channelwise"):  # pseudo-values
            assert values.mean() == pytest.approx(1)
        else:
            best = 0 if metric in ("mse", "log_psd") else 1
            np.testing.assert_allclose(values, best, atol=1e-6)


def test_what_all_images_share_is_not_specific(responses):
    common = 10 * np.random.default_rng(1).standard_normal((4, 60))
    recorded = prepare(responses + common, common)
    noise = np.random.default_rng(2).standard_normal(responses.shape)
    right, wrong, shared = (
        score(prepare(prediction, common), recorded, sfreq=SFREQ)
        for prediction in (0.1 * responses + common, noise + common, 0 * noise + common)
    )
    np.testing.assert_allclose(right["specific"], 1, atol=1e-6)
    assert abs(wrong["specific"].mean()) < 4 / np.sqrt(responses.size)
    assert wrong["waveform"].min() > 0.9
    assert np.isnan(shared["specific"]).all()


def test_what_a_prediction_always_says_is_its_chance(responses):
    common, bias = np.random.default_rng(1).standard_normal((2, 4, 60))
    recorded = prepare(responses + common + bias, common)
    found = score(prepare(0 * responses + common + bias, common), recorded, sfreq=SFREQ)
    np.testing.assert_allclose(found["specific_chance"], found["specific"])
    assert found["specific"].mean() > 0.3


def test_a_model_of_another_participant_departs_from_that_participants_mean(responses):
    own, other = 10 * np.random.default_rng(1).standard_normal((2, 4, 60))
    recorded = prepare(responses + own, own)
    found = score(prepare(responses + other, other), recorded, sfreq=SFREQ)
    np.testing.assert_allclose(found["specific"], 1, atol=1e-6)
    assert found["waveform"].max() < 0.5


def test_synchronization_equals_the_direct_computation(responses):
    generated = responses[::-1].copy()
    scores = score(prepare(generated), prepare(responses), sfreq=SFREQ)
    for metric, theiler in (("sl", 0), ("sl_theiler", 4)):
        direct = synchronization_likelihood(
            generated, responses, EMBEDDING, theiler=theiler
        )
        np.testing.assert_allclose(scores[metric], direct.mean(axis=1))


def test_chance_is_the_score_with_another_image(responses):
    generated = np.random.default_rng(3).standard_normal(responses.shape)
    scores = score(prepare(generated), prepare(responses), sfreq=SFREQ)
    order = np.indices((12, 12)).reshape(2, -1)  # predicted, recorded
    pairs = generated[order[0]], responses[order[1]]
    every = synchronization_likelihood(*pairs, EMBEDDING).mean(axis=-1).reshape(12, 12)
    for image, chance in enumerate(scores["sl_chance"]):
        match = np.flatnonzero(np.isclose(every[:, image], chance))
        assert len(match) and image not in match


@pytest.mark.parametrize("part", ["channels", "images"])
def test_a_part_is_what_it_would_be_if_prepared_alone(responses, part):
    """The recurrences are not computed again, and are those of the part."""
    recorded, order, kept = prepare(responses), np.roll(np.arange(12), 3), [0, 2, 3]
    if part == "channels":
        found = recorded.select(kept)
        alone = prepare(responses[:, kept], COMMON[kept])
    else:
        found, alone = recorded.reorder(order), prepare(responses[order])
    np.testing.assert_array_equal(found.values, alone.values)
    np.testing.assert_array_equal(found.common, alone.common)
    assert set(found.recurrences) == {"sl", "sl_theiler"}
    for metric, bits in found.recurrences.items():
        np.testing.assert_array_equal(bits, alone.recurrences[metric])


def test_a_silent_channel_has_no_correlation_and_no_recurrences(responses):
    recorded = prepare(responses)
    silent = responses.copy()
    silent[:, 1] = 0
    for pair in ((prepare(silent), recorded), (recorded, prepare(silent))):
        found = score(*pair, sfreq=SFREQ)
        undefined = ["pearson", "sl", "sl_chance", "sl_theiler", "channelwise"]
        assert found[undefined].isna().all(axis=None)
        assert found[["mse", "cosine", "waveform"]].notna().all(axis=None)
    expected = np.square(responses[:, 1]).mean(axis=-1) / 4
    np.testing.assert_allclose(found["mse"], expected, rtol=1e-5)


def test_controls_know_no_image(responses):
    means = {1: responses.mean(axis=0), 2: responses[::2].mean(axis=0)}
    recorded = {subject: prepare(responses, mean) for subject, mean in means.items()}
    controls = {
        (name, subject): found
        for name, subject, _, found in control_responses(
            recorded, EMBEDDING, training_subject=1
        )
    }
    assert (CROSSED_MEAN, 1) not in controls
    zero, mean, crossed = (
        score(controls[name, 2], recorded[2], sfreq=SFREQ)
        for name in (ZERO, TRAINING_MEAN, CROSSED_MEAN)
    )
    np.testing.assert_allclose(zero["mse"], (responses**2).mean(axis=(1, 2)), rtol=1e-6)
    assert np.isnan(zero["pearson"]).all() and np.isnan(zero["sl"]).all()
    for found, subject in ((mean, 2), (crossed, 1)):
        squared = np.square(responses - means[subject])
        np.testing.assert_allclose(found["mse"], squared.mean(axis=(1, 2)), rtol=1e-5)
        assert found["top1"].mean() == pytest.approx(1 / 12)
        assert found["two_versus_two"].mean() == pytest.approx(0.5)
        assert np.isnan(found["specific"]).all()


def test_halves_agree_as_their_noise_allows():
    """Signal and noise of equal variance: halves of 8 trials correlate at 8 / 9."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((10, 1, 4, 400))
    trials = signal + rng.standard_normal((10, 16, 4, 400))
    options = {"halvings": 3, "rng": rng, "sfreq": SFREQ}
    scores = split_half_scores(trials, signal[0, 0], EMBEDDING, **options)
    assert scores["pearson"].mean() == pytest.approx(8 / 9, abs=0.01)
    assert scores["mse"].mean() == pytest.approx(2 / 8, abs=0.01)


def test_the_posterior_window_holds_17_channels_and_111_samples():
    times = np.arange(250) / 250
    window = posterior_window(NICE_CHANNELS, times)
    assert window.any(axis=1).sum() == 17
    kept = times[window.any(axis=0)]
    assert (kept.min(), kept.max(), len(kept)) == (0.06, 0.5, 111)
    correlations = np.random.default_rng(0).standard_normal((5, 63, 250))
    found = score_across(correlations, window)
    np.testing.assert_allclose(found["across"], correlations.mean(axis=(1, 2)))
    inside = correlations[:, window.any(axis=1)][..., window.any(axis=0)]
    np.testing.assert_allclose(found["across_posterior"], inside.mean(axis=(1, 2)))


def test_seeds_are_averaged_and_resampled():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((3, 2, 30))  # seeds, subjects, images
    scored = [
        ("a", subject, seed, {"mse": values[seed, subject]})
        for seed in range(3)
        for subject in range(2)
    ]
    scored += [("b", subject, 0, {"mse": values[0, subject]}) for subject in range(2)]
    summary = summarize(table(scored), seed=0, resamples=500)
    assert summary["method"].tolist() == ["a", "b"]
    row = summary.iloc[0]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["low"] < row["mean"] < row["high"]
    sizes = row[["n_seeds", "n_subjects", "n_images", "n_undefined"]]
    assert sizes.tolist() == [3, 2, 30, 0]
    assert summary["n_seeds"].tolist() == [3, 1]
    mixed = table(scored[::-1]).sort_values("method", kind="stable")
    pd.testing.assert_frame_equal(summarize(mixed, seed=0, resamples=500), summary)


def test_a_pair_needs_both_scores():
    a, b = np.random.default_rng(12).standard_normal((2, 10))
    a[0] = b[5] = np.nan
    scored = [("a", 1, 0, {"mse": a}), ("b", 1, 0, {"mse": b})]
    row = compare_with(table(scored), "b", seed=0, resamples=50).iloc[0]
    assert row["n_undefined"] == 2
    assert row["mean"] == pytest.approx(np.nanmean(a - b))


def test_a_method_that_a_subject_lacks_is_compared_on_the_others():
    """The subject trained on, 1, has no cross-subject score."""
    rng = np.random.default_rng(4)
    base = rng.standard_normal((3, 20))
    scored = [("a", s, 0, {"mse": base[s]}) for s in range(3)]
    scored += [("crossed", s, 0, {"mse": base[s] + 1}) for s in (0, 2)]
    scores = table(scored)
    summary = summarize(scores, seed=0, resamples=50).set_index("method")
    assert summary["n_subjects"].to_dict() == {"crossed": 2, "a": 3}
    assert summary.loc["crossed", "mean"] == pytest.approx(base[[0, 2]].mean() + 1)
    row = compare_with(scores, "a", seed=0, resamples=50).iloc[0]
    assert row["method"] == "crossed"
    np.testing.assert_allclose(row[["mean", "low", "high"]].astype(float), 1)
    assert row["n_subjects"] == 2


@pytest.fixture
def comparison():
    """Two participants, one diffusion model of four samples and one linear encoder."""
    rng = np.random.default_rng(3)
    samples = {  # seeds subjects N K C T
        "unet": rng.standard_normal((2, 2, 5, 4, 4, 60)),
        "linear": rng.standard_normal((1, 2, 5, 1, 4, 60)),
    }
    runs = {
        "unet": SimpleNamespace(label="A", method="unet"),
        "linear": SimpleNamespace(label="B", method="ridge"),
    }
    rows = [
        Row(run="unet", samples="one"),
        Row(run="linear"),
        Row(run="unet", samples="mean"),
        Row(run="unet", seeds="ensemble"),
        Row(run="unet", samples="mean", cross_subject=True),
        Row(run="unet", samples="mean", other_image=True),
        Row(run="unet", samples="mean", average_with="linear"),
    ]
    return samples, rows, runs


NUMBERS = {"n_samples": {"unet": 4, "linear": 1}, "n_seeds": {"unet": 2, "linear": 1}}
NAMES = [
    "A, one sample",
    "B",
    "A, mean of 4",
    "A, posterior mean, mean of 2 trainings",
    "A, mean of 4, cross-subject",
    "A, mean of 4, other image",
    "A, mean of 4, averaged with B",
]


def test_rows_are_those_of_the_comparison_in_its_order(comparison):
    _, rows, runs = comparison
    found = comparison_rows(rows, runs, **NUMBERS)
    assert found.index.tolist() == NAMES
    assert found["kind"].tolist() == ["unet", "ridge"] + 5 * ["unet"]
    posterior = comparison_rows([Row(run="unet")], runs, **NUMBERS)
    assert posterior.index.tolist() == ["A, posterior mean"]
    with pytest.raises(ValueError, match="names of their own; two are called 'B'"):
        comparison_rows([*rows, Row(run="linear", samples="one")], runs, **NUMBERS)


def test_kinds_of_rows_follow_from_what_they_are_and_not_from_names(comparison):
    _, rows, runs = comparison
    runs["linear"].label, runs["unet"].method = "Ours, other image", "dit"
    kinds = row_kinds(comparison_rows(rows[:6], runs, **NUMBERS))
    assert list(kinds)[:3] == list(CONTROLS) and list(kinds)[-1] == CEILING
    shown = ["generated", "baseline", "generated", "generated", "cross", "control"]
    assert list(kinds.values()) == ["control"] * 3 + shown + ["ceiling"]


def test_the_reference_is_a_point_prediction_for_its_own_participant(comparison):
    _, rows, runs = comparison
    for order in (rows, rows[::-1][3:]):
        found = comparison_rows(order, runs, **NUMBERS)
        assert reference_row(found, "linear") == "B"
        assert reference_row(found, "unet").startswith(("A, mean", "A, posterior"))


def test_predictions_are_what_the_comparison_asks_for(comparison):
    samples, rows, runs = comparison
    rows = comparison_rows(rows[:6], runs, **NUMBERS)
    means = {1: COMMON, 2: COMMON + 1}
    recorded = {s: prepare(samples["linear"][0, s - 1, :, 0], means[s]) for s in (1, 2)}

    def predictions(row, subject):
        drawn = samples[row["run"]][:, subject - 1]
        kind = "mean" if row["run"] == "linear" else row["samples"]
        values = [d.mean(axis=1) for d in drawn] if kind == "posterior_mean" else drawn
        return {seed: point_prediction(v, kind) for seed, v in enumerate(values)}

    found = {
        (method, subject, seed): responses
        for method, subject, seed, responses in predicted_responses(
            rows, predictions, recorded, EMBEDDING, training_subject=1, seed=0
        )
    }
    assert set(found["A, one sample", 1, 0].recurrences) == {"sl"}
    assert set(found["A, mean of 4", 1, 0].recurrences) == {"sl", "sl_theiler"}
    crossed, own = "A, mean of 4, cross-subject", samples["unet"].mean(axis=3)
    assert (crossed, 1, 0) not in found
    assert found[crossed, 2, 1].common is recorded[1].common
    for key, expected in (
        (("A, one sample", 2, 1), samples["unet"][1, 1, :, 0]),
        (("B", 1, 0), samples["linear"][0, 0, :, 0]),
        ((crossed, 2, 1), own[1, 0]),
    ):
        np.testing.assert_allclose(found[key].values, expected, atol=1e-6)
    moved = found["A, mean of 4, other image", 2, 0].values
    assert not np.isclose(moved, own[0, 1]).all(axis=(1, 2)).any()
    np.testing.assert_allclose(
        np.sort(moved, axis=0), np.sort(own[0, 1], axis=0), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["posterior_mean", "mean", "one"])
def test_a_prediction_is_a_sample_or_a_mean(tmp_path, kind):
    drawn = np.random.default_rng(3).standard_normal((2, 3, 4, 60)).astype(np.float16)
    np.save(tmp_path / "samples.npy", drawn)
    mapped = np.load(tmp_path / "samples.npy", mmap_mode="r")
    posterior = np.ones((2, 4, 60))
    found = point_prediction(posterior if kind == "posterior_mean" else mapped, kind)
    means = {
        "one": drawn[:, 0],
        "mean": drawn.mean(axis=1),
        "posterior_mean": posterior,
    }
    assert found.dtype == np.float32 and type(found) is np.ndarray
    np.testing.assert_allclose(found, means[kind], atol=2e-3)
