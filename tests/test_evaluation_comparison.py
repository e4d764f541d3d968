import json

import numpy as np
import pytest
from paperlib.evaluation.predictions import (
    comparison_rows,
    read_budgets,
    read_predictions,
    reference_row,
    row_kinds,
)
from paperlib.evaluation.responses import Responses, delay_vectors

from paperlib.evaluation.comparison import (
    CEILING,
    CONTROLS,
    CROSSED_MEAN,
    METRICS,
    TRAINING_MEAN,
    ZERO,
    compare_with,
    control_responses,
    score,
    split_half_scores,
    summarize,
    tidy_scores,
)
from paperlib.evaluation.synchronization import synchronization_likelihood

VECTORS = {"dim": 3, "delay": 2, "neighbors": 5}
SFREQ = 100.0
COMMON = np.zeros((4, 60), np.float32)  # mean training response


def prepare(values, common=COMMON):
    return Responses.prepare(values, common, **VECTORS)


@pytest.fixture
def responses():
    return np.random.default_rng(0).standard_normal((12, 4, 60)).astype(np.float32)


def test_the_recording_itself_scores_perfectly(responses):
    scores = score(prepare(responses), prepare(responses), sfreq=SFREQ)
    assert set(scores) == set(METRICS)
    for metric, values in scores.items():
        if metric == "sl_chance":
            assert 0 < values.mean() < 0.5
        elif metric == "specific_chance":
            assert abs(values.mean()) < 4 / np.sqrt(responses.size)
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
    np.testing.assert_allclose(right["pearson_specific"], 1, atol=1e-6)
    assert abs(wrong["pearson_specific"].mean()) < 4 / np.sqrt(responses.size)
    assert wrong["pearson_flattened"].min() > 0.9
    assert np.isnan(shared["pearson_specific"]).all()


def test_what_a_prediction_always_says_is_its_chance(responses):
    common, bias = np.random.default_rng(1).standard_normal((2, 4, 60))
    recorded = prepare(responses + common + bias, common)
    found = score(prepare(0 * responses + common + bias, common), recorded, sfreq=SFREQ)
    np.testing.assert_allclose(found["specific_chance"], found["pearson_specific"])
    assert found["pearson_specific"].mean() > 0.3


def test_a_model_of_another_participant_departs_from_that_participants_mean(responses):
    own, other = 10 * np.random.default_rng(1).standard_normal((2, 4, 60))
    recorded = prepare(responses + own, own)
    found = score(prepare(responses + other, other), recorded, sfreq=SFREQ)
    np.testing.assert_allclose(found["pearson_specific"], 1, atol=1e-6)
    assert found["pearson_flattened"].max() < 0.5


def test_synchronization_equals_the_direct_computation(responses):
    generated = responses[::-1].copy()
    scores = score(prepare(generated), prepare(responses), sfreq=SFREQ)
    for metric, theiler in (("sl", 0), ("sl_theiler", 4)):
        direct = synchronization_likelihood(
            generated, responses, **VECTORS, theiler=theiler
        )
        np.testing.assert_allclose(scores[metric], direct.mean(axis=1))


def test_controls_know_no_image(responses):
    means = {1: responses.mean(axis=0), 2: responses[::2].mean(axis=0)}
    recorded = {subject: prepare(responses, mean) for subject, mean in means.items()}
    controls = {
        (name, subject): found
        for name, subject, _, found in control_responses(
            recorded, training_subject=1, **VECTORS
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
        assert np.isnan(found["pearson_specific"]).all()


def test_halves_agree_as_their_noise_allows():
    """Signal and noise of equal variance: halves of 8 trials correlate at 8 / 9."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((10, 1, 4, 400))
    trials = signal + rng.standard_normal((10, 16, 4, 400))
    options = {"halvings": 3, "rng": rng, "sfreq": SFREQ, **VECTORS}
    scores = split_half_scores(trials, signal[0, 0], **options)
    assert scores["pearson"].mean() == pytest.approx(8 / 9, abs=0.01)
    assert scores["mse"].mean() == pytest.approx(2 / 8, abs=0.01)


def test_seeds_are_averaged_and_their_spread_is_told():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((3, 2, 30))  # seeds, subjects, images
    scored = [
        ("a", subject, seed, {"mse": values[seed, subject]})
        for seed in range(3)
        for subject in range(2)
    ]
    scored += [
        ("b", subject, None, {"mse": values[0, subject]}) for subject in range(2)
    ]
    scores = tidy_scores(scored, ["b", "a"])
    assert scores["method"].unique().tolist() == ["b", "a"]
    summary = summarize(scores, seed=0, resamples=500).set_index("method")
    row = summary.loc["a"]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["low"] < row["mean"] < row["high"]
    assert (row["n_subjects"], row["n_images"], row["n_undefined"]) == (2, 30, 0)
    spread = values.mean(axis=(1, 2)).std(ddof=1)
    assert row["seed_sd"] == pytest.approx(spread)
    assert np.isnan(summary.loc["b", "seed_sd"])  # nothing is trained
    difference = compare_with(scores, "b", seed=0, resamples=50)
    assert np.isnan(difference["seed_sd"]).all()
    difference = compare_with(scores, "a", seed=0, resamples=50)
    assert difference["seed_sd"].item() == pytest.approx(spread)


def test_intervals_are_about_the_mean_of_the_seeds():
    values = np.random.default_rng(6).standard_normal((2, 1, 40))
    both = [("a", 1, seed, {"mse": values[seed, 0]}) for seed in range(2)]
    mean = [("a", 1, 0, {"mse": values.mean(axis=0)[0]})]
    columns = ["mean", "low", "high", "n_subjects"]
    two, one = (
        summarize(tidy_scores(scored, ["a"]), seed=0, resamples=100)[columns]
        for scored in (both, mean)
    )
    np.testing.assert_allclose(two, one)


def test_paired_differences_are_those_of_the_same_images():
    rng = np.random.default_rng(4)
    base = rng.standard_normal((2, 40))
    scored = [
        (name, subject, 0, {"mse": base[subject] + shift})
        for name, shift in (("a", 0.0), ("b", 0.5))
        for subject in range(2)
    ]
    scores = tidy_scores(scored, ["a", "b"])
    row = compare_with(scores, "a", seed=0, resamples=200).iloc[0]
    assert row["method"] == "b"
    np.testing.assert_allclose(row[["mean", "low", "high"]].astype(float), 0.5)


def test_a_pair_needs_both_scores():
    a, b = np.random.default_rng(12).standard_normal((2, 10))
    a[0] = b[5] = np.nan
    scored = [("a", 1, 0, {"mse": a}), ("b", 1, 0, {"mse": b})]
    row = compare_with(tidy_scores(scored, "ab"), "b", seed=0, resamples=50).iloc[0]
    assert row["n_undefined"] == 2
    assert row["mean"] == pytest.approx(np.nanmean(a - b))


def test_a_method_that_a_subject_lacks_is_compared_on_the_others():
    """The subject trained on, 1, has no cross-subject score."""
    rng = np.random.default_rng(4)
    base = rng.standard_normal((3, 20))
    scored = [("a", s, 0, {"mse": base[s]}) for s in range(3)]
    scored += [("crossed", s, 0, {"mse": base[s] + 1}) for s in (0, 2)]
    scores = tidy_scores(scored, ["crossed", "a"])
    summary = summarize(scores, seed=0, resamples=50).set_index("method")
    assert summary["n_subjects"].to_dict() == {"crossed": 2, "a": 3}
    assert summary.loc["crossed", "mean"] == pytest.approx(base[[0, 2]].mean() + 1)
    row = compare_with(scores, "a", seed=0, resamples=50).iloc[0]
    np.testing.assert_allclose(row[["mean", "low", "high"]].astype(float), 1)
    assert row["n_subjects"] == 2


@pytest.mark.parametrize(("sfreq", "delay"), [(250.0, 5), (200.0, 4), (100.0, 2)])
def test_the_delay_is_the_same_time_at_every_sampling_rate(sfreq, delay):
    settings = {"dim": 10, "delay": 0.02, "neighbors": 10, "resamples": 3}
    expected = {"dim": 10, "delay": delay, "neighbors": 10}
    assert delay_vectors(settings, sfreq=sfreq) == expected


@pytest.mark.parametrize("delay", [0.001, 0.025])
def test_the_delay_is_a_whole_number_of_samples(delay):
    settings = {"dim": 10, "delay": delay, "neighbors": 10}
    with pytest.raises(ValueError, match="whole number of samples; .* at 100 Hz"):
        delay_vectors(settings, sfreq=100.0)


@pytest.fixture
def comparison(tmp_path):
    """Two participants, one diffusion model of four samples and one linear encoder."""
    rng = np.random.default_rng(3)
    samples = {"unet": rng.standard_normal((2, 5, 4, 4, 60))}  # subjects, N K C T
    samples["linear"] = rng.standard_normal((2, 5, 1, 4, 60))

    def where(alias, *, run, subject, seed):
        return tmp_path / f"{alias}_{run}_{subject}_{seed}.npy"

    for run, signals in samples.items():
        for subject in (1, 2):
            path = where("samples", run=run, subject=subject, seed=0)
            np.save(path, signals[subject - 1])
    settings = {
        "seed": 0,
        "seeds": [0],
        "subjects": [1, 2],
        "training_subject": 1,
        "runs": {
            "unet": {"label": "A", "method": "unet"},
            "linear": {"label": "B", "method": "ridge"},
        },
        "comparison": [
            {"run": "unet", "samples": "one"},
            {"run": "linear", "samples": "mean"},
            {"run": "unet", "samples": "mean"},
            {"run": "unet", "samples": "mean", "cross_subject": True},
            {"run": "unet", "samples": "mean", "other_image": True},
        ],
    }
    return settings, where, samples


def test_rows_are_those_of_the_comparison_in_its_order(comparison):
    rows = comparison_rows(*comparison[:2])
    assert rows.index.tolist() == [
        *("A, one sample", "B", "A, mean of 4"),
        *("A, mean of 4, cross-subject", "A, mean of 4, other image"),
    ]
    assert rows["kind"].tolist() == ["unet", "ridge", "unet", "unet", "unet"]
    assert rows["cross_subject"].tolist() == [False, False, False, True, False]


def test_kinds_of_rows_follow_from_what_they_are_and_not_from_names(comparison):
    settings, where, _ = comparison
    settings["runs"]["linear"]["label"] = "Ours, other image"
    settings["runs"]["unet"]["method"] = "dit"
    kinds = row_kinds(comparison_rows(settings, where))
    assert list(kinds) == [
        *CONTROLS,
        *("A, one sample", "Ours, other image", "A, mean of 4"),
        *("A, mean of 4, cross-subject", "A, mean of 4, other image", CEILING),
    ]
    shown = ["generated", "baseline", "generated", "cross", "control"]
    assert list(kinds.values()) == ["control"] * 3 + shown + ["ceiling"]


def test_the_reference_answers_for_its_own_participant_and_image(comparison):
    settings, where, _ = comparison
    settings["comparison"].reverse()
    rows = comparison_rows(settings, where)
    assert reference_row(rows, "unet") == "A, mean of 4"
    assert reference_row(rows, "linear") == "B"


def test_two_rows_of_one_name_are_refused(comparison):
    settings, where, _ = comparison
    settings["comparison"].append({"run": "linear", "samples": "one"})
    with pytest.raises(ValueError, match="names of their own; two are called 'B'"):
        comparison_rows(settings, where)


def test_predictions_are_what_the_comparison_asks_for(comparison):
    settings, where, samples = comparison
    means = {1: COMMON, 2: COMMON + 1}
    recorded = {s: prepare(samples["linear"][s - 1, :, 0], means[s]) for s in (1, 2)}
    found = {
        (method, subject): responses
        for method, subject, seed, responses in read_predictions(
            settings,
            where,
            comparison_rows(settings, where),
            recorded=recorded,
            **VECTORS,
        )
    }
    crossed = "A, mean of 4, cross-subject"
    assert (crossed, 1) not in found and len(found) == 9
    own = samples["unet"].mean(axis=2)
    values = {key: responses.values for key, responses in found.items()}
    np.testing.assert_array_equal(values["A, one sample", 2], samples["unet"][1, :, 0])
    np.testing.assert_array_equal(values["B", 1], samples["linear"][0, :, 0])
    np.testing.assert_array_equal(values[crossed, 2], own[0])
    assert found[crossed, 2].common is recorded[1].common
    moved = found["A, mean of 4, other image", 2]
    assert not any(
        np.array_equal(a, b) for a, b in zip(moved.values, own[1], strict=True)
    )
    np.testing.assert_array_equal(
        np.sort(moved.values, axis=0), np.sort(own[1], axis=0)
    )
    alone = prepare(moved.values)
    np.testing.assert_array_equal(moved.recurrences["sl"], alone.recurrences["sl"])


def test_budgets_are_what_runs_cost_and_samples_vary_against_what_was_learned(
    comparison,
):
    settings, where, samples = comparison
    for run, subject in (("unet", 1), ("unet", 2), ("linear", 1), ("linear", 2)):
        keys = {"run": run, "subject": subject, "seed": 0}
        learned = {"unet": "mean", "linear": "single"}[run]
        for alias, name, content in (
            ("training", "budget.json", {"steps": 10 * subject, "seconds": 2.0}),
            ("checkpoint", "config.json", {"training": {"repetitions": learned}}),
        ):
            where(alias, **keys).mkdir()
            (where(alias, **keys) / name).write_text(json.dumps(content))
        where("sampling", **keys).write_text(json.dumps({"seconds": 40.0}))
    rows = comparison_rows(settings, where)
    variances = {("mean", 1): 0.5, ("mean", 2): 0.25}
    variances |= {("single", 1): 4.0, ("single", 2): 4.0}
    budgets = read_budgets(settings, where, rows, trial_variance=variances)
    assert budgets.index.tolist() == ["A, one sample", "B", "A, mean of 4"]
    assert budgets["steps"].tolist() == [15] * 3
    # 5 images, 4 samples of the U-Net: 2 s a signal
    assert budgets["seconds_a_signal"].tolist() == [2.0, 8.0, 2.0]
    assert budgets["sampling_seconds"].tolist() == [10.0, 40.0, 40.0]
    spread = samples["unet"].var(axis=2, ddof=1).mean(axis=(1, 2, 3))
    expected = np.mean(spread / [0.5, 0.25])
    np.testing.assert_allclose(budgets["sample_variance"], [expected, np.nan, expected])
