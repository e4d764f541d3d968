import shutil

import mne
import numpy as np
import pandas as pd
import pytest
from ctf_folder import write_ctf
from meg_participant import (
    EXCERPT,
    SENSORS,
    image_numbers,
    trial_table,
    write_trial_table,
)

from paperlib.config import MEGPreprocessing
from paperlib.recordings.signals import load_signals
from paperlib.recordings.things_meg_raw import (
    Run,
    clean_run,
    cut_trials,
    find_runs,
    preprocess_runs,
    read_events,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*holds 3 sensors:UserWarning")

SFREQ, SPACING, N_RUNS = 600, 900, 4  # Hz; samples from one image to the next
OPTIONS = MEGPreprocessing(source="raw_ctf")
RUN = "sub-BIGMEG1/ses-{:02d}/meg/sub-BIGMEG1_ses-{:02d}_task-main_run-{:02d}_meg.fif"


def run_path(folder, i):
    """Two sessions of two runs."""
    session, run = divmod(i, 2)
    return folder / RUN.format(session + 1, session + 1, run + 9)


def recording(onsets, rng, code=64):
    """Slow activity of three sensors, a broken one, and triggers at some delay."""
    n_samples = onsets[-1] + 2 * SFREQ
    times = np.arange(n_samples) / SFREQ
    waves = [
        np.sin(2 * np.pi * (frequencies[:, None] * times + rng.random((9, 1)))).sum(0)
        for frequencies in rng.uniform(1, 40, (3, 9))
    ]
    triggers = np.zeros(n_samples)
    triggers[np.add.outer([90, 91, 92], onsets)] = code
    triggers[-5:] = 32  # end of the run
    names = [*SENSORS, "MRO11-1609", "UADC005-2104", "UPPT001"]
    info = mne.create_info(names, SFREQ, ["mag"] * 4 + ["misc", "stim"])
    others = [np.full(n_samples, 1e3), rng.normal(size=n_samples), triggers]
    data = np.vstack([np.array(waves) * 1e-13, *others])
    return mne.io.RawArray(data, info, verbose="error")


def write_events(path, trials, onsets):
    """Write an event table as in version 3.0.0 of the data set."""
    columns = {
        "onset": onsets / SFREQ,
        "duration": 0.5,
        "trial_type": trials["trial_type"],
        "things_category_nr": trials["things_category_nr"],
        "value": trials["things_image_nr"],
        "sample": onsets.astype(float),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="N/A")


def events_path(run):
    return run.with_name(run.name.replace("meg.fif", "events.tsv"))


@pytest.fixture(scope="module")
def participant(tmp_path_factory):
    """Folder, trial table and recording of each run."""
    folder, rng = tmp_path_factory.mktemp("meg"), np.random.default_rng(3)
    trials = trial_table(pd.read_csv(EXCERPT), rng)
    write_trial_table(folder, trials)
    recordings = []
    for i, rows in enumerate(np.array_split(np.arange(len(trials)), N_RUNS)):
        onsets = 700 + SPACING * np.arange(len(rows)) + rng.integers(0, 99, len(rows))
        run = run_path(folder, i)
        write_events(events_path(run), trials.iloc[rows], onsets)
        for path in (run, events_path(run)):  # companions of macOS
            path.with_name("._" + path.name).write_bytes(b"\0\5\x16")
        recordings.append((recording(onsets, rng), onsets))
        recordings[i][0].save(run, verbose="error")
        types = {"name": recordings[i][0].ch_names, "type": "OTHER"}  # as published
        channels = run.with_name(run.name.replace("meg.fif", "channels.tsv"))
        pd.DataFrame(types).to_csv(channels, sep="\t", index=False)
    return folder, trials, recordings


@pytest.fixture
def changed(participant, tmp_path):
    """Copy the participant with some of its runs changed."""

    def change_runs(change, runs=range(N_RUNS)):
        folder = tmp_path / "changed"
        shutil.copytree(participant[0], folder)
        for i in runs:
            raw = participant[2][i][0].copy()
            change(raw)
            raw.save(run_path(folder, i), overwrite=True, verbose="error")
        return folder

    return change_runs


def preprocess(folder, signals_folder, **changes):
    options = OPTIONS.model_copy(update=changes)
    counts = preprocess_runs(folder, signals_folder, options, subject=1)
    return counts, load_signals(signals_folder)


def assert_refused(folder, message, **changes):
    with pytest.raises(ValueError, match=message):
        preprocess(folder, folder / "signals", **changes)
    assert not list(folder.glob("signals/*"))


def reference_trials(participant):
    """All trials in order of time, step by step; all activity is below 40 Hz."""
    epochs = []
    for raw, onsets in participant[2]:
        data = raw.get_data(picks=list(SENSORS))
        data = mne.filter.filter_data(data, SFREQ, 0.1, 100, verbose="error")
        for onset in onsets:
            baseline = data[:, onset - 60 : onset + 1]
            epoch = data[:, onset : onset + SFREQ : 3] - baseline.mean(1, keepdims=True)
            epochs.append(epoch / baseline.std(1, keepdims=True))
    return np.array(epochs)


def test_equals_the_second_derivation(participant, tmp_path):
    folder, trials, _ = participant
    counts, signals = preprocess(folder, tmp_path)
    expected, numbers = reference_trials(participant), image_numbers(trials)
    for partition, kind in (("training", "exp"), ("test", "test")):
        shown = np.unique(numbers[trials["trial_type"] == kind])
        rows = np.array([np.flatnonzero(numbers == number) for number in shown])
        found = getattr(signals, partition)
        assert found.shape == (*rows.shape, 3, 200)
        distance = np.abs(found - expected[rows]).max(axis=-1)
        assert (distance < 0.01 * np.abs(expected[rows]).max(axis=-1)).all()
    assert counts["kept"].tolist() == [36, 168, 0]
    assert signals.ch_names == SENSORS
    assert (signals.sfreq, signals.unit) == (200, "baseline SD")
    np.testing.assert_allclose(signals.times[[0, -1]], [0, 0.995])


def test_runs_of_ctf_are_those_of_fif(participant, tmp_path):
    """Third gradients: reference channels are no sensors, and nothing is undone."""
    folder = shutil.copytree(participant[0], tmp_path / "ctf")
    for i, (raw, _) in enumerate(participant[2]):
        run_path(folder, i).unlink()
        noise = np.random.default_rng(i).normal(scale=1e-12, size=(1, raw.n_times))
        reference = mne.create_info(["BG1-1609"], SFREQ, "ref_meg")
        reference = mne.io.RawArray(noise, reference, verbose="error")
        raw = raw.copy().add_channels([reference], force_update_info=True)
        write_ctf(run_path(folder, i).with_suffix(".ds"), raw)
    _, expected = preprocess(participant[0], tmp_path / "expected")
    _, signals = preprocess(folder, tmp_path / "signals")
    assert signals.ch_names == SENSORS
    np.testing.assert_allclose(signals.training, expected.training, atol=1e-3)


def test_what_lies_above_the_new_nyquist_frequency_is_not_folded_back():
    noise = np.random.default_rng(0).normal(size=(1, 4 * SFREQ))
    noise = mne.filter.filter_data(noise, SFREQ, 125, 180, verbose="error")
    slow = np.sin(2 * np.pi * 10 * np.arange(4 * SFREQ) / SFREQ)
    info = mne.create_info(["MLO11"], SFREQ, "mag")
    raw = mne.io.RawArray(slow + noise, info, verbose="error")
    trial = cut_trials(raw, np.array([600]), OPTIONS)[0, 0, 20:220]
    spectrum = np.abs(np.fft.rfft(trial))
    assert noise.std() > 0.1 and spectrum[20:].max() < 0.02 * spectrum[10]


def test_known_dropouts_are_replaced(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(1, 20 * SFREQ))
    data[:, round(13.4 * SFREQ) : round(13.6 * SFREQ)] = -1e4
    raw = mne.io.RawArray(data, mne.create_info(["MLO11"], SFREQ, "mag"), verbose=False)
    largest = {}
    for name in ("ses-11_task-main_run-05", "ses-11_task-main_run-06"):
        path = tmp_path / f"sub-BIGMEG1_{name}_meg.fif"
        raw.save(path, verbose="error")
        run = Run(path, ("MLO11",), SFREQ, np.array([]), np.array([]))
        largest[name[-2:]] = np.abs(clean_run(run, OPTIONS).get_data()).max()
    assert largest["05"] < 10 and largest["06"] > 1e3


def test_runs_are_listed_in_order_of_time_without_companions(participant, tmp_path):
    paths = [run.fpath for run in find_runs(participant[0], 1)]
    assert paths == [run_path(participant[0], i) for i in range(N_RUNS)]
    runs = [run_path(tmp_path, i).with_suffix(".ds") for i in range(N_RUNS)]
    for run in reversed(runs):
        run.mkdir(parents=True)
        (run / f"{run.stem}.meg4").touch()
    assert [run.fpath for run in find_runs(tmp_path, 1)] == runs
    with pytest.raises(FileNotFoundError, match="BIGMEG2 holds no run; expected ses-"):
        find_runs(tmp_path, 2)


# --- bad input ---


@pytest.mark.parametrize(
    ("samples", "code", "n_triggers"),
    [(slice(1000), 0, 80), (slice(200, 210), 64, 82)],
)
def test_triggers_and_events_must_agree(changed, samples, code, n_triggers):
    def change(raw):
        raw._data[-1, samples] = code

    message = rf"run-09_events.tsv lists 81 trials but UPPT001 .* {n_triggers} triggers"
    assert_refused(changed(change, [2]), message)


def test_without_triggers_events_are_trusted(changed, tmp_path):
    folder = changed(lambda raw: raw.drop_channels(["UPPT001"]))
    _, signals = preprocess(folder, tmp_path / "signals", concepts="zero_shot")
    assert signals.training.shape[0] == 24 and signals.concepts == "zero_shot"


def flatten(raw):
    raw._data[1] = 0


@pytest.mark.parametrize(
    ("change", "runs", "message", "options"),
    [
        (
            lambda raw: raw.drop_channels([SENSORS[0]]),
            [3],
            "run-10_meg.fif has 2 sensors.*run-09.* 3 at",
            {},
        ),
        (
            lambda raw: raw.rename_channels({SENSORS[0]: "MLX11-1609"}),
            range(N_RUNS),
            "channel 'MLX11-1609' has no brain region",
            {},
        ),
        (lambda raw: raw.crop(0, 60), [0], "but the recording has 36001 samples", {}),
        (flatten, [1], "BIGMEG1: trials .* NaN or infinite", {}),
        (lambda raw: None, [], "trials run from -0.1 to 0.8 s", {"tmax": 0.8}),
    ],
    ids=["sensors", "names", "length", "flat", "window without the first second"],
)
def test_runs_that_do_not_fit(changed, change, runs, message, options):
    assert_refused(changed(change, runs), message, **options)


def test_a_missing_run_a_run_twice_and_another_participant(changed):
    folder = changed(lambda raw: None, [])
    table = folder / "sourcedata/sample_attributes_P1.csv"
    pd.read_csv(table).iloc[::-1].to_csv(table, index=False)
    assert_refused(folder, "BIGMEG1 shows the images in another order")
    for path in (run_path(folder, 1), events_path(run_path(folder, 1))):
        shutil.copy(path, path.with_name(path.name.replace("run-10", "run-11")))
    assert_refused(folder, "BIGMEG1 does not show all .* equally often")
    for path in folder.glob("*/ses-01/meg/*_run-1[01]_*"):
        path.unlink()
    assert_refused(folder, "BIGMEG1 does not show all .* equally often")


@pytest.mark.parametrize("content", [None, b"", b"nothing of MNE"])
def test_what_is_no_recording(changed, content):
    path = run_path(changed(lambda raw: None, []), 0)
    path.write_bytes(path.read_bytes()[:400] if content is None else content)
    assert_refused(path.parents[3], "run-09_meg.fif is damaged, .*Download it again")
    path.unlink()
    path.with_suffix(".ds").mkdir()
    assert_refused(path.parents[3], "run-09_meg.ds is damaged, .*Download it again")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "lacks the columns trial_type, value"),
        ([], "must hold trials"),
        (["exp\tN/A\t5"], "value must be a whole number"),
        (["exp\t1e30\t5"], "value must be a whole number"),
        (["exp\t11.5\t5"], "line 2 has 11.5"),
        (["catch\tN/A\tN/A"], "sample must be a whole"),
        (["exp\tx\t5"], "line 2 has x"),
        (["exp\tinf\t5"], "line 2 has inf"),
        (["exp\t1\t5", "exp\t2\t4"], "not in order of time"),
        (["rest\t1\t5"], "must hold trials.*got 'rest'"),
    ],
)
def test_bad_or_missing_event_table(tmp_path, rows, message):
    path = tmp_path / "events.tsv"
    with pytest.raises(FileNotFoundError, match="events.tsv is missing. It comes with"):
        read_events(path)
    header = "trial_type\tvalue\tsample" if rows is not None else "onset\tsample\n1\t2"
    path.write_text("\n".join([header, *(rows or [])]) + "\n")
    with pytest.raises(ValueError, match=message):
        read_events(path)
