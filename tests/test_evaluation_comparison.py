import numpy as np
import pytest

from paperlib.evaluation.comparison import (
    METRICS,
    Recordings,
    across_images,
    compare_with,
    control_predictions,
    score,
    split_half_scores,
    summarize,
    tidy_scores,
)
from paperlib.evaluation.predictions import read_predictions
from paperlib.evaluation.synchronization import synchronization_likelihood

VECTORS = {"dim": 3, "delay": 2, "neighbors": 5}
EMBEDDING = {"sfreq": 100.0, **VECTORS}
COMMON = np.zeros((4, 60), np.float32)  # mean training response


@pytest.fixture
def responses():
    return np.random.default_rng(0).standard_normal((12, 4, 60)).astype(np.float32)


def test_the_recording_itself_scores_perfectly(responses):
    scores = score(responses, Recordings.prepare(responses, COMMON, **EMBEDDING))
    assert set(scores) == set(METRICS)
    for metric, values in scores.items():
        if metric == "sl_chance":
            assert 0 < values.mean() < 0.5
        else:
            best = 0 if metric in ("mse", "log_psd") else 1
            np.testing.assert_allclose(values, best, atol=1e-6)


def test_what_all_images_share_is_not_specific(responses):
    common = 10 * np.random.default_rng(1).standard_normal((4, 60))
    recorded = Recordings.prepare(responses + common, common, **EMBEDDING)
    noise = np.random.default_rng(2).standard_normal(responses.shape)
    right, wrong, shared = (
        score(prediction, recorded)
        for prediction in (0.1 * responses + common, noise + common, 0 * noise + common)
    )
    np.testing.assert_allclose(right["pearson_specific"], 1, atol=1e-6)
    assert abs(wrong["pearson_specific"].mean()) < 4 / np.sqrt(responses.size)
    assert wrong["pearson_flattened"].min() > 0.9
    assert np.isnan(shared["pearson_specific"]).all()


def test_synchronization_equals_the_direct_computation(responses):
    generated = responses[::-1].copy()
    scores = score(generated, Recordings.prepare(responses, COMMON, **EMBEDDING))
    for metric, theiler in (("sl", 0), ("sl_theiler", 4)):
        direct = synchronization_likelihood(
            generated, responses, **VECTORS, theiler=theiler
        )
        np.testing.assert_allclose(scores[metric], direct.mean(axis=1))


def test_controls_know_no_image(responses):
    recorded = Recordings.prepare(responses, COMMON, **EMBEDDING)
    controls = dict(control_predictions(responses.mean(axis=0), len(responses)))
    zero, mean = (score(controls[k], recorded) for k in ("Zero", "Training mean"))
    np.testing.assert_allclose(zero["mse"], (responses**2).mean(axis=(1, 2)), rtol=1e-6)
    assert np.isnan(zero["pearson"]).all() and np.isnan(zero["sl"]).all()
    assert mean["top1"].mean() == pytest.approx(1 / 12)
    assert mean["two_versus_two"].mean() == pytest.approx(0.5)


def test_halves_agree_as_their_noise_allows():
    """Signal and noise of equal variance: halves of 8 trials correlate at 8 / 9."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((10, 1, 4, 400))
    trials = signal + rng.standard_normal((10, 16, 4, 400))
    scores = split_half_scores(trials, signal[0, 0], halvings=3, rng=rng, **EMBEDDING)
    assert scores["pearson"].mean() == pytest.approx(8 / 9, abs=0.01)
    assert scores["mse"].mean() == pytest.approx(2 / 8, abs=0.01)


def test_seeds_are_averaged_and_intervals_hold_the_mean():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((2, 2, 30))  # seeds, subjects, images
    scored = [
        ("a", subject, {"mse": values[seed, subject]})
        for seed in range(2)
        for subject in range(2)
    ]
    summary = summarize(tidy_scores(scored), seed=0, resamples=500)
    row = summary.iloc[0]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["low"] < row["mean"] < row["high"]
    assert (row["n_subjects"], row["n_images"], row["n_undefined"]) == (2, 30, 0)


def test_paired_differences_are_those_of_the_same_images():
    rng = np.random.default_rng(4)
    base = rng.standard_normal((2, 40))
    scored = [
        (name, subject, {"mse": base[subject] + shift})
        for name, shift in (("a", 0.0), ("b", 0.5))
        for subject in range(2)
    ]
    row = compare_with(tidy_scores(scored), "a", seed=0, resamples=200).iloc[0]
    assert row["method"] == "b"
    np.testing.assert_allclose(row[["mean", "low", "high"]].astype(float), 0.5)


def test_correlation_over_images_beside_its_ceilings():
    rng = np.random.default_rng(5)
    signal = rng.standard_normal((300, 1, 2, 3))
    trials = signal + 2 * rng.standard_normal((300, 8, 2, 3))
    predictions = [("signal", signal[:, 0]), ("mean", np.zeros((300, 2, 3)))]
    table = across_images(predictions, trials, halvings=4, rng=rng)
    found = table.set_index("method")["correlation"]
    # halves of four trials of noise variance 4: signal and noise have variance 1
    assert found["Ceiling, lower"] == pytest.approx(1 / 2, abs=0.06)
    assert found["signal"] == pytest.approx(np.sqrt(1 / 2), abs=0.05)
    assert found["Ceiling, lower"] < found["signal"] < found["Ceiling, upper"]
    assert np.isnan(found["mean"])


def test_methods_keep_their_order_where_a_subject_lacks_one():
    values = {"mse": np.zeros(3)}
    scored = [(m, 1, values) for m in "ac"] + [(m, 2, values) for m in "abc"]
    assert list(dict.fromkeys(tidy_scores(scored)["method"])) == list("abc")


def test_predictions_are_what_the_comparison_asks_for(tmp_path):
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((2, 5, 4, 2, 3))  # subjects, N K C T

    def where(alias, *, run, subject, seed):
        return tmp_path / f"{alias}_{run}_{subject}_{seed}.npy"

    for index, subject in enumerate((1, 2)):
        np.save(where("samples", run="a", subject=subject, seed=0), samples[index])
    settings = {
        "seed": 0,
        "seeds": [0],
        "training_subject": 1,
        "runs": {"a": {"label": "A"}},
        "comparison": [
            {"run": "a", "samples": "one"},
            {"run": "a", "samples": "mean"},
            {"run": "a", "samples": "mean", "cross_subject": True},
            {"run": "a", "samples": "mean", "other_image": True},
        ],
    }
    first = dict(read_predictions(settings, where, 1))
    second = dict(read_predictions(settings, where, 2))
    assert list(first) == ["A, one sample", "A, mean of 4", "A, mean of 4, other image"]
    crossed = "A, mean of 4, cross-subject"
    assert set(second) - set(first) == {crossed}
    np.testing.assert_array_equal(first["A, one sample"], samples[0, :, 0])
    np.testing.assert_array_equal(second[crossed], samples[0].mean(axis=1))
    moved = second["A, mean of 4, other image"]
    own = samples[1].mean(axis=1)
    assert not any(np.array_equal(a, b) for a, b in zip(moved, own, strict=True))
    np.testing.assert_array_equal(np.sort(moved, axis=0), np.sort(own, axis=0))
