import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_stimuli_images import write_image_set

from paperlib.recordings import signals as module
from paperlib.recordings.preprocessing import import_published
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import (
    average_repetitions,
    check_counts,
    create_signals,
    load_signals,
    mean_response,
    save_signals,
    select_concepts,
    split_half_reliability,
    training_targets,
)
from paperlib.stimuli.images import read_images

SHAPES = {"training": (6, 4, 3, 5), "test": (2, 8, 3, 5)}
INFO = {"ch_names": ["O1", "Oz", "O2"], "sfreq": 250, "tmin": 0.1, "unit": "V"}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {p: rng.normal(size=shape) for p, shape in SHAPES.items()}
    save_signals(tmp_path, **arrays, **INFO)
    return tmp_path


def test_round_trip(folder):
    signals = load_signals(folder)
    info = json.loads((folder / "info.json").read_text())
    assert info == {**INFO, "concepts": "all_concepts"}
    assert {p: getattr(signals, p).shape for p in SHAPES} == SHAPES
    assert (signals.ch_names, signals.unit) == (("O1", "Oz", "O2"), "V")
    assert signals.sfreq == 250
    np.testing.assert_allclose(signals.times, [0.1, 0.104, 0.108, 0.112, 0.116])
    assert isinstance(signals.training, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        signals.training[0] = 0


def test_an_error_while_writing_leaves_the_older_arrays(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyError), create_signals(folder, SHAPES, **INFO) as arrays:
        arrays["validation"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


DAMAGED = "is damaged.*Delete it and run 01_preprocess again"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *(("training.npy", lambda x, n=n: x[:n], DAMAGED) for n in (0, 60, 200)),
        *(
            ("training.npy", lambda x, pair=pair: x.replace(*pair), DAMAGED)
            for pair in (
                (b"<f4", b"|O8"),
                (b"'<f4'", b"'<f4"),
                (b"(6,", b"(9,"),
                (b"descr", b"desc\xff"),
            )
        ),
        ("training.npy", lambda x: x.replace(b"(6,", b"(-6,"), "is damaged| must have"),
        *(
            ("info.json", lambda x, text=text: text, DAMAGED)
            for text in (b"", b"{", b'{"sfreq": 250}', b"\xff", b"[" * 100_000)
        ),
        *(
            ("info.json", lambda x, f=f: x.replace(b"250.0", f), DAMAGED)
            for f in (b"0", b'"x"', b"NaN")
        ),
    ],
)
def test_missing_and_damaged_files(folder, name, change, message):
    path = folder / name
    content = path.read_bytes()
    assert change(content) != content
    path.write_bytes(change(content))
    with pytest.raises(ValueError, match=f"{name} {message}"):
        load_signals(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing. Run notebook 01"):
        load_signals(folder)


def with_nan(x):
    x[1, 0, 0, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("test", lambda x: x[:, :, :2], r"must have .*3 channels.* got \(2, 8, 2, 5\)"),
        ("test", lambda x: x[..., :4], r"must have .*equal times.* got \(2, 8, 3, 4\)"),
        ("training", lambda x: x[0], r"must have shape \(images"),
        ("training", lambda x: x[0, 0, 0, 0], r"must have shape \(images"),
        ("training", lambda x: x[:0], r"must have shape \(images"),
        ("test", lambda x: x.astype(int), "must hold floating-point.*int64"),
        ("test", with_nan, ".*1 values that are NaN"),
    ],
)
def test_arrays_that_do_not_fit(folder, name, change, message):
    path = folder / f"{name}.npy"
    np.save(path, change(np.load(path).copy()))
    with pytest.raises(ValueError, match=rf"{name}\.npy.*{message}"):
        load_signals(folder)


def test_one_response_for_each_image(folder):
    signals = load_signals(folder)
    images = pd.DataFrame({"partition": ["training"] * 6 + ["test"] * 2})
    check_counts(signals, images)
    for rows, message in (
        (slice(1, None), "training.* 6.* 5"),
        (slice(7), "test.* 2.* 1"),
    ):
        with pytest.raises(ValueError, match=f"{message} .* images"):
            check_counts(signals, images[rows])


def test_concepts_of_test_images_can_be_left_out():
    rows = [("training", "a"), ("training", "b"), ("training", "a"), ("test", "b")]
    images = pd.DataFrame(rows, columns=["partition", "concept"])
    assert select_concepts(images, "zero_shot").index.tolist() == [0, 2, 3]
    assert select_concepts(images, "all_concepts") is images
    with pytest.raises(ValueError, match="concepts must be.*Did you mean 'zero_shot'"):
        select_concepts(images, "zero-shot")


@pytest.mark.parametrize("block_bytes", [1, 4000, 2**20])
def test_means_over_blocks_are_those_of_all_trials(folder, monkeypatch, block_bytes):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    trials = load_signals(folder).training
    expected, averages = np.asarray(trials, float), average_repetitions(trials)
    assert averages.dtype == np.float32
    np.testing.assert_allclose(averages, expected.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(mean_response(trials), expected.mean(axis=(0, 1)))


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


def test_a_third_data_set_comes_in_by_its_arrays_channels_and_images(tmp_path):
    """Everything that later notebooks ask of a data set, for three electrodes."""
    rng, names = np.random.default_rng(3), ("Fz", "PO9", "Iz")  # not in THINGS-EEG2
    arrays = {
        p: rng.normal(size=(n, 3, 3, 20)) for p, n in (("training", 4), ("test", 2))
    }
    own = tmp_path / "preprocessed_data/sub-01"
    save_signals(own, **arrays, ch_names=names, sfreq=100, tmin=0, unit="V")
    import_published(own, tmp_path / "signals", "all")
    import_published(own, tmp_path / "two", ["Iz", "Fz"])
    signals, two = load_signals(tmp_path / "signals"), load_signals(tmp_path / "two")
    assert (signals.ch_names, signals.sfreq, signals.unit) == (names, 100, "V")
    np.testing.assert_array_equal(signals.training, arrays["training"].astype("f4"))
    np.testing.assert_array_equal(two.test, signals.test[:, :, [2, 0]])
    assert channel_regions(names) == ["Frontal", "Parietal", "Occipital"]
    places = [channel["loc"][:3] for channel in sensor_info(names, 100)["chs"]]
    assert np.isfinite(places).all()
    listed = {
        "training": "1_cat/cat_01b 1_cat/cat_02s 2_hot_tub/tub_01b 2_hot_tub/tub_05s",
        "test": "1_dog/dog_01b 2_t-shirt/t-shirt_01b",
    }
    folder = tmp_path / "images"
    write_image_set(folder, {p: text.split() for p, text in listed.items()})
    images = read_images(folder)
    check_counts(signals, images)
    assert images["concept"][2:].tolist() == ["hot_tub", "hot_tub", "dog", "t-shirt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.ones((2, 8, 2, 5))}, r"test signals must .* got \(2, 8, 2, 5\)"),
        ({"test": np.full((2, 8, 3, 5), np.nan)}, "test signals holds 240 values"),
        ({"test": np.full((2, 8, 3, 5), 1j)}, "must be real numbers; got complex"),
        ({"sfreq": -1}, "sfreq"),
        ({"sfreq": 0.25}, "sfreq"),
        ({"tmin": -200}, "tmin"),
        ({"ch_names": ["O1", "Oz", "Oz"]}, "'Oz' is listed twice"),
        ({"ch_names": []}, "must have shape"),
    ],
)
def test_signals_that_are_not_saved(tmp_path, change, message):
    arrays = {p: np.ones(shape) for p, shape in SHAPES.items()}
    with pytest.raises(ValueError, match=message):
        save_signals(tmp_path, **{**arrays, **INFO, **change})
    assert not list(tmp_path.iterdir())
