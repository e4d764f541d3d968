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


def raw_content(data):
    """Content of a raw file: 63 channels in volts and a trigger row."""
    return {
        "raw_eeg_data": data,
        "ch_names": [*RAW_CHANNELS, "stim"],
        "ch_types": ["eeg"] * 63 + ["stim"],
        "sfreq": 1000,
        "highpass": 0.01,
        "lowpass": 100,
    }


@pytest.fixture
def session():
    data = np.random.default_rng(0).normal(scale=1e-5, size=(64, 300))
    data[-1] = 0
    for sample, code in TRIGGERS:
        data[-1, sample] = code
    return raw_content(data)


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


def test_channel_orders_are_permutations_of_the_63_electrodes():
    assert len(set(RAW_CHANNELS)) == 63
    assert sorted(RAW_CHANNELS) == sorted(NICE_CHANNELS)
    assert " ".join(POSTERIOR_CHANNELS) == (
        "Pz P3 P7 O1 Oz O2 P4 P8 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2"
    )
    assert sorted(NICE_CHANNELS[46:]) == sorted(POSTERIOR_CHANNELS)


def test_raw_session_keeps_order_unit_rate_and_events(load, session):
    raw = load()
    assert raw.ch_names == session["ch_names"]
    assert raw.get_channel_types() == session["ch_types"]
    assert raw.info["sfreq"] == 1000
    np.testing.assert_array_equal(raw.get_data(), session["raw_eeg_data"])
    events, n_targets = stimulus_events(raw)
    np.testing.assert_array_equal(events, [t for t in TRIGGERS if t[1] != 99999])
    assert n_targets == 1


@pytest.mark.parametrize("value", [-3.0, 2.5, 3e8, 1e300])
def test_a_trigger_row_with_other_values_is_refused(load, session, value):
    session["raw_eeg_data"][-1, 20] = value
    with pytest.raises(ValueError, match="row 'stim' must hold 0, condition numbers"):
        stimulus_events(load())


EEG, STIM = ["eeg"] * 62, "exactly one named 'stim'"
RATE, ARRAY = (
    "'sfreq' must be a sampling rate in Hz",
    "of floating-point numbers; got a",
)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ch_names", ["Fp1x", *RAW_CHANNELS[1:], "stim"], "'Fp1x'.*Did you mean 'Fp1'"),
        ("ch_names", ["F3", *RAW_CHANNELS[1:], "stim"], "two are called 'F3'"),
        ("ch_names", [*RAW_CHANNELS, "Status"], f"{STIM}.*'Status'"),
        ("ch_types", ["misc", *EEG, "stim"], rf"{STIM}.*\['misc', 'eeg'"),
        ("raw_eeg_data", np.zeros((63, 300)), r"got shape \(63, 300\), the names"),
        *(("sfreq", f, RATE) for f in (0, -1, 1e12, "1000", None, np.nan)),
        *(
            ("raw_eeg_data", x, ARRAY)
            for x in ([["a"]], [[1.0]], np.eye(9, dtype=int), 3)
        ),
        *(("ch_names", x, "a list of names") for x in ("Fp1", 3, [1, 2], [["Fp1"]])),
    ],
)
def test_raw_sessions_that_are_not_valid(load, key, value, message):
    with pytest.raises(ValueError, match=message):
        load(**{key: value})


def test_values_that_are_not_finite_and_a_missing_key(load, session):
    session["raw_eeg_data"][5, [17, 40]] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 values.*first at index \(5, 17\)"):
        load()
    del session["ch_types"]
    with pytest.raises(ValueError, match="lacks 'ch_types'; it has .*'raw_eeg_data'"):
        load()


def test_session_folders_must_be_complete(tmp_path):
    message = "missing.*ses-01/raw_eeg_training.*Unpack the raw data"
    with pytest.raises(FileNotFoundError, match=message):
        session_folders(tmp_path)
    (tmp_path / "ses-01").mkdir()
    (tmp_path / "ses-01" / "raw_eeg_test.npy").touch()
    with pytest.raises(FileNotFoundError, match=message):
        session_folders(tmp_path)


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
        (with_times(np.insert(np.arange(249) / 250, 9, np.nan)), "must ascend evenly"),
        (with_times(np.zeros((250, 1))), "'times' has 250 entries"),
    ],
    ids=("length channels empty name keys ms descending uneven nan hole 2d").split(),
)
def test_published_parts_that_disagree(tmp_path, content, message):
    np.save(tmp_path / "preprocessed_eeg_training.npy", content)
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path, "training")
    with pytest.raises(FileNotFoundError, match="preprocessed_eeg_test.npy is missing"):
        load_published(tmp_path, "test")
