import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from paperlib.recordings import signals as module
from paperlib.recordings.signals import (
    average_repetitions,
    check_counts,
    load_signals,
    mean_response,
    new_arrays,
    release_memory,
    save_info,
    select_concepts,
    split_half_reliability,
    standard_deviation,
    training_targets,
)

SHAPES = {"training": (6, 4, 3, 5), "test": (2, 8, 3, 5)}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    with new_arrays(tmp_path, SHAPES) as arrays:
        for array in arrays.values():
            array[:] = rng.normal(size=array.shape)
    save_info(tmp_path, ch_names=["O1", "Oz", "O2"], sfreq=250, tmin=0.1, unit="V")
    return tmp_path


def rewrite(path, change):
    """Replace an array by what ``change`` makes of a copy of it."""
    array = np.load(path).copy()
    np.save(path, change(array))


def test_round_trip(folder):
    signals = load_signals(folder)
    assert {p: getattr(signals, p).shape for p in SHAPES} == SHAPES
    assert (signals.ch_names, signals.unit) == (("O1", "Oz", "O2"), "V")
    assert signals.sfreq == 250
    np.testing.assert_allclose(signals.times, [0.1, 0.104, 0.108, 0.112, 0.116])


def test_arrays_are_mapped_and_read_only(folder):
    signals = load_signals(folder)
    assert isinstance(signals.training, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        signals.training[0] = 0


def test_an_error_while_writing_leaves_the_older_arrays(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyError), new_arrays(folder, SHAPES) as arrays:
        arrays["validation"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["training.npy", "test.npy", "info.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; notebook 01"):
        load_signals(folder)


@pytest.mark.parametrize("n_kept", [0, 60, 200])
def test_truncated_array(folder, n_kept):
    path = folder / "training.npy"
    path.write_bytes(path.read_bytes()[:n_kept])
    with pytest.raises(
        ValueError, match=rf"training\.npy \({n_kept} bytes\) is damaged"
    ):
        load_signals(folder)


@pytest.mark.parametrize("text", ["", "{", '{"sfreq": 250}'])
def test_damaged_info(folder, text):
    (folder / "info.json").write_text(text)
    with pytest.raises(ValueError, match=r"info\.json (is not JSON|lacks ch_names)"):
        load_signals(folder)


def test_channels_and_times_must_agree(folder):
    rewrite(folder / "test.npy", lambda x: x[:, :, :2])
    with pytest.raises(
        ValueError, match=r"test\.npy.*\(any, any, 3, 5\); got \(2, 8, 2"
    ):
        load_signals(folder)
    rewrite(folder / "training.npy", lambda x: x[0])
    with pytest.raises(
        ValueError, match=r"training\.npy must have shape \(any, any, any"
    ):
        load_signals(folder)


def test_type_must_be_floating_point(folder):
    rewrite(folder / "test.npy", lambda x: x.astype(int))
    with pytest.raises(ValueError, match=r"test\.npy must hold floating-point.*int64"):
        load_signals(folder)


def test_values_of_sampled_images_must_be_finite(folder):
    def spoil(x):
        x[1, 0, 0, 2] = np.nan
        return x

    rewrite(folder / "test.npy", spoil)
    with pytest.raises(ValueError, match=r"test\.npy.*1 values that are NaN"):
        load_signals(folder)


def test_one_response_for_each_image(folder):
    signals = load_signals(folder)
    images = pd.DataFrame({"partition": ["training"] * 6 + ["test"] * 2})
    check_counts(signals, images)
    with pytest.raises(ValueError, match="training signals belong to 6 images.*has 5"):
        check_counts(signals, images[1:])
    with pytest.raises(ValueError, match="test signals belong to 2 images.*has 1"):
        check_counts(signals, images[:-1])


def test_concepts_of_test_images_can_be_left_out():
    rows = [("training", "a"), ("training", "b"), ("training", "a"), ("test", "b")]
    images = pd.DataFrame(rows, columns=["partition", "concept"])
    assert select_concepts(images, "zero_shot").index.tolist() == [0, 2, 3]
    assert select_concepts(images, "all_concepts") is images
    with pytest.raises(ValueError, match="concepts must be.*Did you mean 'zero_shot'"):
        select_concepts(images, "zero-shot")


def test_released_memory_keeps_what_was_written(tmp_path):
    expected = np.random.default_rng(2).normal(size=(6, 4, 300, 50)).astype(np.float32)
    with new_arrays(tmp_path, {"training": expected.shape}) as arrays:
        for row in (3, 0, 5, 1, 2, 4):
            arrays["training"][row] = expected[row]
            release_memory(arrays["training"])
        np.testing.assert_array_equal(arrays["training"], expected)
    np.testing.assert_array_equal(np.load(tmp_path / "training.npy"), expected)


@pytest.mark.parametrize("block_bytes", [1, 4000, 2**20])
def test_mean_response_equals_the_mean_of_all_trials(folder, monkeypatch, block_bytes):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    trials = load_signals(folder).training
    expected = np.asarray(trials, float).mean(axis=(0, 1))
    np.testing.assert_allclose(mean_response(trials), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 4000, 2**20])
def test_average_over_repetitions(folder, monkeypatch, block_bytes):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    trials = load_signals(folder).training
    averages = average_repetitions(trials)
    assert averages.dtype == np.float32
    expected = np.asarray(trials, float).mean(axis=1)
    np.testing.assert_allclose(averages, expected, rtol=1e-6)


def test_info_is_plain_json(folder):
    info = json.loads((folder / "info.json").read_text())
    assert info == {
        "ch_names": ["O1", "Oz", "O2"],
        "sfreq": 250,
        "tmin": 0.1,
        "unit": "V",
        "concepts": "all_concepts",
    }


def test_training_targets_are_averages_or_trials(folder):
    signals = load_signals(folder)
    averages = training_targets(signals, "mean")
    assert averages.shape == (6, 1, 3, 5)
    np.testing.assert_array_equal(averages[:, 0], average_repetitions(signals.training))
    assert training_targets(signals, "single") is signals.training
    one_trial = replace(signals, training=signals.training[:, :1])
    assert training_targets(one_trial, "mean") is one_trial.training
    with pytest.raises(ValueError, match="repetitions must be one of 'mean', 'single'"):
        training_targets(signals, "all")


def test_standard_deviation_is_that_of_the_training_rows():
    targets = np.random.default_rng(0).normal(3, 2, (9, 2, 4, 5)).astype(np.float32)
    expected = targets[[1, 4, 8]].astype(np.float64).std()
    assert standard_deviation(targets, [1, 4, 8]) == pytest.approx(expected, rel=1e-9)


def test_reliability_of_signal_noise_and_a_common_response():
    rng = np.random.default_rng(1)
    image, noise = rng.normal(size=(200, 1, 50)), rng.normal(size=(200, 8, 50))
    common = 100 * rng.normal(size=50)
    trials = np.stack([image + 0 * noise, image + noise, common + noise], axis=2)
    # Spearman-Brown: variance of the image over that of the mean of 8 trials.
    expected = [1, 1 / (1 + 1 / 8), 0]
    np.testing.assert_allclose(split_half_reliability(trials), expected, atol=0.03)
    with pytest.raises(ValueError, match="2 repetitions; got 200 and 1"):
        split_half_reliability(trials[:, :1])
