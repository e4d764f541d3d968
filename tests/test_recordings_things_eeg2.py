import pickle

import numpy as np
import pytest

from paperlib.recordings.things_eeg2 import (
    NICE_CHANNELS,
    POSTERIOR_CHANNELS,
    RAW_CHANNELS,
    load_published,
    load_raw_session,
    session_folders,
    stimulus_events,
)

# (sample, trigger): a target, a direct repeat, a code that follows a larger one.
TRIGGERS = [(50, 3), (90, 99999), (130, 7), (170, 7), (210, 1)]


@pytest.fixture
def session():
    """Content of a small raw file."""
    data = np.random.default_rng(0).normal(scale=1e-5, size=(64, 300))
    data[-1] = 0
    for sample, code in TRIGGERS:
        data[-1, sample] = code
    return {
        "raw_eeg_data": data,
        "ch_names": [*RAW_CHANNELS, "stim"],
        "ch_types": ["eeg"] * 63 + ["stim"],
        "sfreq": 1000,
        "highpass": 0.01,
        "lowpass": 100,
    }


@pytest.fixture
def load(tmp_path, session):
    """Save changes to the raw file and load it."""

    def load_changed(**changes):
        np.save(tmp_path / "raw.npy", {**session, **changes})
        return load_raw_session(tmp_path / "raw.npy")

    return load_changed


def published(n_channels=63, n_times=250, n_listed=None, names=NICE_CHANNELS):
    data = np.random.default_rng(1).normal(size=(3, 4, n_channels, n_times))
    times = np.arange(n_listed or n_times) / 250 - 0.2
    return {"preprocessed_eeg_data": data, "ch_names": list(names), "times": times}


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def test_channel_orders_are_permutations_of_the_63_electrodes():
    assert len(set(RAW_CHANNELS)) == 63
    assert sorted(RAW_CHANNELS) == sorted(NICE_CHANNELS)
    assert " ".join(POSTERIOR_CHANNELS) == (
        "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2"
    )
    assert sorted(NICE_CHANNELS[46:]) == sorted(POSTERIOR_CHANNELS)


def test_raw_session_keeps_order_unit_and_rate(load, session):
    raw = load()
    assert raw.ch_names == session["ch_names"]
    assert raw.get_channel_types() == session["ch_types"]
    assert raw.info["sfreq"] == 1000
    np.testing.assert_array_equal(raw.get_data(), session["raw_eeg_data"])


def test_events_leave_targets_out_and_keep_direct_repeats(load):
    events, n_targets = stimulus_events(load())
    np.testing.assert_array_equal(events, [t for t in TRIGGERS if t[1] != 99999])
    assert n_targets == 1


@pytest.mark.parametrize("value", [-3.0, 2.5, 3e8, 1e300])
def test_a_trigger_row_with_other_values_is_refused(load, session, value):
    data = session["raw_eeg_data"].copy()
    data[-1, 20] = value
    with pytest.raises(ValueError, match="row 'stim' must hold 0, condition numbers"):
        stimulus_events(load(raw_eeg_data=data))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_placed(load, session, value):
    data = session["raw_eeg_data"].copy()
    data[5, [17, 40]] = value
    with pytest.raises(ValueError, match=r"2 values.*first at index \(5, 17\)"):
        load(raw_eeg_data=data)


def test_unknown_channel_name_is_suggested(load, session):
    names = ["Fp1x", *session["ch_names"][1:]]
    with pytest.raises(ValueError, match="unknown channel 'Fp1x'.*Did you mean 'Fp1'"):
        load(ch_names=names)


def test_channel_listed_twice(load, session):
    names = ["F3", *session["ch_names"][1:]]
    with pytest.raises(ValueError, match="'F3' is listed twice"):
        load(ch_names=names)


def test_rows_and_names_must_agree(load, session):
    with pytest.raises(ValueError, match=r"got shape \(63, 300\), the names"):
        load(raw_eeg_data=session["raw_eeg_data"][1:])


def test_channel_types_must_be_eeg_and_one_trigger(load, session):
    with pytest.raises(ValueError, match=r"exactly one named 'stim'.*\['misc', 'eeg'"):
        load(ch_types=["misc", *session["ch_types"][1:]])
    with pytest.raises(ValueError, match="exactly one named 'stim'.*'Status'"):
        load(ch_names=[*RAW_CHANNELS, "Status"])


@pytest.mark.parametrize("sfreq", [0, -1, "1000", None, float("nan"), float("inf")])
def test_sampling_rate_must_be_positive(load, sfreq):
    with pytest.raises(ValueError, match="'sfreq' must be a sampling rate in Hz"):
        load(sfreq=sfreq)


def test_signal_must_be_an_array_of_numbers(load):
    for wrong in ([["a"]], [[1.0]], np.zeros((64, 9), int), 3):
        with pytest.raises(ValueError, match="array of floating-point numbers; got a"):
            load(raw_eeg_data=wrong)


@pytest.mark.parametrize("names", ["Fp1", 3, [1, 2], [["Fp1"]]])
def test_names_must_be_a_list_of_strings(load, names):
    with pytest.raises(ValueError, match="'ch_names' must be a list of names"):
        load(ch_names=names)


def test_missing_key_lists_what_is_there(tmp_path, session):
    del session["ch_types"]
    np.save(tmp_path / "raw.npy", session)
    with pytest.raises(ValueError, match="lacks 'ch_types'; it has .*'raw_eeg_data'"):
        load_raw_session(tmp_path / "raw.npy")


def test_session_folders_must_be_complete(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no session: expected ses-01"):
        session_folders(tmp_path)
    (tmp_path / "ses-01").mkdir()
    (tmp_path / "ses-01" / "raw_eeg_test.npy").touch()
    with pytest.raises(FileNotFoundError, match=r"missing.*ses-01/raw_eeg_training"):
        session_folders(tmp_path)


TRAINING = "preprocessed_eeg_training.npy"


def test_official_container_with_17_channels(tmp_path):
    content = published(17, 100, names=POSTERIOR_CHANNELS)
    np.save(tmp_path / TRAINING, content)
    signals = load_published(tmp_path, "training")
    np.testing.assert_array_equal(signals.data, content["preprocessed_eeg_data"])
    np.testing.assert_array_equal(signals.times, content["times"])
    assert signals.ch_names == POSTERIOR_CHANNELS


def test_official_container_with_64_rows_loses_the_trigger_row(tmp_path):
    content = published(64, 100, names=[*RAW_CHANNELS, "stim"])
    np.save(tmp_path / TRAINING, content)
    signals = load_published(tmp_path, "training")
    assert signals.ch_names == RAW_CHANNELS
    expected = content["preprocessed_eeg_data"][:, :, :63]
    np.testing.assert_array_equal(signals.data, expected)


def test_nice_container_gets_the_times_of_its_samples(tmp_path):
    content = published(n_listed=300)
    write_pickle(tmp_path / TRAINING, content)
    signals = load_published(tmp_path, "training")
    np.testing.assert_array_equal(signals.data, content["preprocessed_eeg_data"])
    np.testing.assert_allclose(signals.times, np.arange(250) / 250, atol=1e-12)
    assert signals.ch_names == NICE_CHANNELS


def with_times(times):
    return {**published(), "times": times}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (published(n_listed=299), "'times' has 299 entries but the data have 250"),
        (published(62), r"63 channels, times\); got \(3, 4, 62, 250\)"),
        (published(n_times=0, n_listed=1), r"channels, times\); got \(3, 4, 63, 0\)"),
        (published(names=["CP", *NICE_CHANNELS[1:]]), "unknown channel 'CP'"),
        ({"eeg": 1}, "lacks 'preprocessed_eeg_data'.*it has"),
        (with_times(np.arange(250) * 4.0), "evenly, in seconds.*0, 4 ... 996.*by 1000"),
        (with_times(np.arange(250)[::-1] / 250), "must ascend evenly"),
        (with_times(np.arange(250.0) ** 2 / 1e4), "must ascend evenly"),
        (with_times(np.full(250, np.nan)), "must ascend evenly"),
        (with_times(np.zeros((250, 1))), "'times' has 250 entries"),
    ],
    ids="length channels empty name keys milliseconds descending uneven nan 2d".split(),
)
def test_published_parts_that_disagree(tmp_path, content, message):
    write_pickle(tmp_path / TRAINING, content)
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path, "training")


def test_missing_published_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocessed_eeg_test.npy is missing"):
        load_published(tmp_path, "test")
