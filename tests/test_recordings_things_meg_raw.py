import mne
import numpy as np
import pandas as pd
import pytest
from meg_participant import (
    EXCERPT,
    SENSORS,
    image_numbers,
    trial_table,
    write_trial_table,
)

from paperlib.recordings import things_meg_raw as module
from paperlib.recordings.signals import load_signals
from paperlib.recordings.things_meg import list_images
from paperlib.recordings.things_meg_raw import (
    Run,
    TrialProcessing,
    clean_run,
    cut_trials,
    preprocess_runs,
    read_events,
    run_folders,
    standardize,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*holds 3 sensors:UserWarning")

SFREQ, SPACING, N_RUNS = 600, 900, 4  # Hz; samples from one image to the next
PROCESSING = TrialProcessing(0.1, 100.0, -0.1, 1.3, (-0.1, 0.0), 200)
RUN = "sub-BIGMEG1/ses-{:02d}/meg/sub-BIGMEG1_ses-{:02d}_task-main_run-{:02d}_meg.ds"


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
    return run.with_name(run.name.replace("meg.ds", "events.tsv"))


@pytest.fixture(scope="module")
def participant(tmp_path_factory):
    """Folder, trial table and recording of each run."""
    folder, rng = tmp_path_factory.mktemp("meg"), np.random.default_rng(3)
    trials = trial_table(pd.read_csv(EXCERPT), rng)
    write_trial_table(folder, trials)
    recordings = {}
    for i, rows in enumerate(np.array_split(np.arange(len(trials)), N_RUNS)):
        onsets = 700 + SPACING * np.arange(len(rows)) + rng.integers(0, 99, len(rows))
        run = run_path(folder, i)
        run.mkdir(parents=True)
        write_events(events_path(run), trials.iloc[rows], onsets)
        events_path(run).with_name("._" + events_path(run).name).write_bytes(
            b"\0\5\x16"
        )
        run.with_name("._" + run.name).write_bytes(b"\0\5\x16")
        recordings[run.name] = recording(onsets, rng), onsets
    return folder, trials, recordings


@pytest.fixture
def recordings(participant, monkeypatch):
    """Recordings by the name of their run; a test may change them."""
    changed = {name: raw.copy() for name, (raw, _) in participant[2].items()}
    monkeypatch.setattr(module, "read_run", lambda path: changed[path.name].copy())
    return changed


def preprocess(folder, signals_folder, concepts="all_concepts"):
    counts = preprocess_runs(
        folder,
        signals_folder,
        subject=1,
        images=list_images(folder),
        concepts=concepts,
        processing=PROCESSING,
    )
    return counts, load_signals(signals_folder)


def reference_trials(participant):
    """All trials in order of time, step by step; all activity is below 40 Hz."""
    epochs = []
    for raw, onsets in participant[2].values():
        data = raw.get_data(picks=list(SENSORS))
        data = mne.filter.filter_data(data, SFREQ, 0.1, 100, verbose="error")
        for onset in onsets:
            baseline = data[:, onset - 60 : onset + 1]
            epoch = data[:, onset : onset + SFREQ : 3] - baseline.mean(1, keepdims=True)
            epochs.append(epoch / baseline.std(1, keepdims=True))
    return np.array(epochs)


def test_equals_the_second_derivation(participant, recordings, tmp_path):
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


def test_zero_shot(participant, recordings, tmp_path):
    _, signals = preprocess(participant[0], tmp_path, "zero_shot")
    assert signals.training.shape[0] == 24 and signals.concepts == "zero_shot"


def test_what_lies_above_the_new_nyquist_frequency_is_not_folded_back():
    rng, times = np.random.default_rng(0), np.arange(4 * SFREQ) / SFREQ
    noise = rng.normal(size=(1, len(times)))
    noise = mne.filter.filter_data(noise, SFREQ, 125, 180, verbose="error")
    slow = np.sin(2 * np.pi * 10 * times)
    info = mne.create_info(["MLO11"], SFREQ, "mag")
    raw = mne.io.RawArray(slow + noise, info, verbose="error")
    clean = mne.io.RawArray(slow[None], info, verbose="error")
    onsets = np.array([600, 900])
    with_noise, without = (cut_trials(x, onsets, PROCESSING) for x in (raw, clean))
    spectra = np.abs(np.fft.rfft([with_noise[0, 0, 20:220], without[0, 0, 20:220]]))
    spectra /= spectra[:, 10:11]  # 10 Hz is in both
    assert np.abs(noise).std() > 0.1
    assert spectra[0, 20:].max() < 0.02


def test_trials_have_no_mean_and_unit_deviation_at_baseline():
    data = np.random.default_rng(0).normal(5, 3, (4, 2, 841))
    times = np.arange(841) / SFREQ - 0.1
    before = standardize(data, times, (-0.1, 0.0))[..., :61]
    np.testing.assert_allclose(before.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(before.std(axis=-1), 1)


def test_known_dropouts_are_replaced():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(1, 20 * SFREQ))
    data[:, round(13.4 * SFREQ) : round(13.6 * SFREQ)] = -1e4
    raw = mne.io.RawArray(data, mne.create_info(["MLO11"], SFREQ, "mag"), verbose=False)
    largest = {}
    for name in ("ses-11_task-main_run-05", "ses-11_task-main_run-06"):
        path = module.Path(f"sub-BIGMEG1_{name}_meg.ds")
        run = Run(path, ("MLO11",), SFREQ, np.array([]), np.array([]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "read_run", lambda path: raw.copy())
            largest[name[-2:]] = np.abs(clean_run(run, PROCESSING).get_data()).max()
    assert largest["05"] < 10 and largest["06"] > 1e3


def test_companions_of_macos_are_skipped(participant):
    folder = participant[0]
    assert run_folders(folder, 1) == [run_path(folder, i) for i in range(N_RUNS)]


# --- bad input ---


def test_missing_runs(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="BIGMEG2 holds no run; expected ses-01"
    ):
        run_folders(tmp_path, 2)


@pytest.mark.parametrize("change", ["lost", "more"])
def test_triggers_and_events_must_agree(participant, recordings, tmp_path, change):
    name = run_path(participant[0], 2).name
    triggers = recordings[name]._data[-1]
    if change == "lost":
        triggers[:1000] = 0
    else:
        triggers[200:210] = 64
    n_triggers = 80 if change == "lost" else 82
    message = rf"run-09_events.tsv lists 81 trials but UPPT001 .* {n_triggers} triggers"
    with pytest.raises(ValueError, match=message):
        preprocess(participant[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_triggers_events_are_trusted(participant, recordings, tmp_path):
    for raw in recordings.values():
        raw.drop_channels(["UPPT001"])
    preprocess(participant[0], tmp_path)


def test_runs_must_have_the_same_sensors(participant, recordings, tmp_path):
    recordings[run_path(participant[0], 3).name].drop_channels([SENSORS[0]])
    with pytest.raises(ValueError, match="run-10_meg.ds has 2 sensors.*run-09.* 3 at"):
        preprocess(participant[0], tmp_path)


def test_channels_must_be_sensors(participant, recordings, tmp_path):
    for raw in recordings.values():
        raw.rename_channels({SENSORS[0]: "MLX11-1609"})
    with pytest.raises(ValueError, match="channel 'MLX11-1609' has no brain region"):
        preprocess(participant[0], tmp_path)


def test_trials_must_lie_within_the_run(participant, recordings, tmp_path):
    recordings[run_path(participant[0], 0).name].crop(0, 60)
    with pytest.raises(ValueError, match="run to sample|but the recording has 36001"):
        preprocess(participant[0], tmp_path)


def test_flat_sensor(participant, recordings, tmp_path):
    raw = recordings[run_path(participant[0], 1).name]
    raw._data[1] = 0
    with pytest.raises(ValueError, match="run-10_meg.ds: trials .* NaN or infinite"):
        preprocess(participant[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_run(participant, recordings, tmp_path, monkeypatch):
    paths = run_folders(participant[0], 1)
    monkeypatch.setattr(module, "run_folders", lambda folder, subject: paths[:-1])
    with pytest.raises(ValueError, match="BIGMEG1 does not show all .* equally often"):
        preprocess(participant[0], tmp_path)


def test_a_folder_that_is_no_recording(participant, tmp_path):
    """The real reader meets an empty folder."""
    with pytest.raises(ValueError, match="run-09_meg.ds is not a complete CTF run"):
        preprocess(participant[0], tmp_path)


def test_a_window_without_the_first_second(participant, tmp_path):
    short = TrialProcessing(0.1, 100.0, -0.1, 0.8, (-0.1, 0.0), 200)
    with pytest.raises(ValueError, match="trials run from -0.1 to 0.8 s"):
        preprocess_runs(
            participant[0],
            tmp_path,
            subject=1,
            images=list_images(participant[0]),
            concepts="zero_shot",
            processing=short,
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onset\tsample\n1\t2\n", "lacks the columns trial_type, value"),
        ("trial_type\tvalue\tsample\n", "must hold trials"),
        ("trial_type\tvalue\tsample\nexp\tN/A\t5\n", "must hold trials"),
        ("trial_type\tvalue\tsample\nexp\t1\t5\nexp\t2\t4\n", "not in order of time"),
        ("trial_type\tvalue\tsample\nrest\t1\t5\n", "must be one of.*got 'rest'"),
    ],
)
def test_bad_event_table(tmp_path, text, message):
    (tmp_path / "events.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_events(tmp_path / "events.tsv")


def test_missing_event_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="events.tsv is missing; it comes with"):
        read_events(tmp_path / "events.tsv")
