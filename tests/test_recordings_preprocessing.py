"""The chain from raw files to signals, against a second derivation."""

import pickle
import shutil

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from test_recordings_mvnn import closed_form
from test_recordings_things_eeg2 import raw_content

from paperlib.config import EEGPreprocessing
from paperlib.recordings.preprocessing import (
    channel_names,
    import_published,
    preprocess_recordings,
)
from paperlib.recordings.signals import load_signals
from paperlib.recordings.things_eeg2 import (
    NICE_CHANNELS,
    POSTERIOR_CHANNELS,
    RAW_CHANNELS,
)

SEED = 20200220
NICE = EEGPreprocessing()
OFFICIAL = EEGPreprocessing(
    channels="posterior",
    tmax=0.8,
    keep_from=-0.2,
    sfreq=100,
    mvnn="time",
    covariance="both",
)
PLAIN = OFFICIAL.model_copy(update={"mvnn": "none"})
FILES = {"info.json", "test.npy", "training.npy"}
N_TRAINING, N_TEST, TARGET = 8, 3, 99999
SHOWN = {  # training conditions of each session; each is in two of them
    "ses-01": [1, 2, 3, 4],
    "ses-02": [5, 6, 7, 8],
    "ses-03": [1, 2, 5, 6],
    "ses-04": [3, 4, 7, 8],
}


def stimulus_order(conditions, n_repetitions, rng):
    """Shuffled codes with surplus repeats, targets and direct repeats of one code."""
    codes = rng.permutation(np.repeat(conditions, n_repetitions))
    surplus = [codes[0], conditions[1], TARGET, conditions[1], conditions[1], TARGET]
    return np.concatenate([[codes[0]], codes, surplus])


def recording(codes, rng):
    """63 correlated channels in volts at 1000 Hz and a trigger row."""
    onsets = 400 + 60 * np.arange(len(codes)) + rng.integers(0, 20, len(codes))
    n_samples = onsets[-1] + 1100
    drift = np.cumsum(rng.normal(size=(63, n_samples)), axis=1) * 0.05
    signal = rng.normal(size=(63, 63)) @ rng.normal(size=(63, n_samples)) * 0.1 + drift
    triggers = np.zeros(n_samples)
    triggers[onsets] = codes
    triggers[[100, n_samples - 300]] = codes[1]  # epochs that leave the recording
    return np.vstack([signal * 1e-5, triggers])


def save_recording(path, data):
    np.save(path, raw_content(data))


@pytest.fixture(scope="module")
def raw_folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for session, conditions in SHOWN.items():
        (folder / session).mkdir()
        for partition, shown, n_repetitions in (
            ("training", conditions, 2),
            ("test", range(1, N_TEST + 1), 20),
        ):
            codes = stimulus_order(list(shown), n_repetitions, rng)
            data = recording(codes, rng)
            save_recording(folder / session / f"raw_eeg_{partition}.npy", data)
    return folder


# --- the second derivation: numpy and MNE, all sessions at once, step by step ---


def read(path):
    return np.load(path, allow_pickle=True).item()["raw_eeg_data"]


def reference_epochs(data, rows, n_after, n_kept, sfreq):
    """Sorted epochs (conditions, repetitions, channels, times) of one recording."""
    signal, triggers = data[:-1], data[-1].astype(int)
    rises = [t for t in range(1, len(triggers)) if triggers[t] > triggers[t - 1]]
    rises = [t for t in rises if triggers[t] != TARGET]
    rises = [t for t in rises if t >= 200 and t + n_after < len(triggers)]
    codes = np.array([triggers[t] for t in rises])
    epochs = []
    for code in np.unique(codes):
        order = np.arange((codes == code).sum())
        np.random.RandomState(SEED).shuffle(order)  # noqa: NPY002
        onsets = np.flatnonzero(codes == code)[order][:n_kept]
        trials = [signal[rows, rises[i] - 200 : rises[i] + n_after + 1] for i in onsets]
        trials = [x - x[:, :201].mean(axis=1, keepdims=True) for x in trials]
        epochs.append(reference_resample(np.array(trials), sfreq))
    return np.unique(codes), np.array(epochs)


def reference_resample(trials, sfreq):
    info = mne.create_info(trials.shape[1], 1000.0, "eeg")
    epochs = mne.EpochsArray(trials, info, verbose="error")
    return epochs.resample(sfreq, verbose="error").get_data()


def reference_noise(epochs, mode):
    if mode == "time":
        samples = [c[:, :, t] for c in epochs for t in range(epochs.shape[3])]
    else:
        samples = [trial.T for c in epochs for trial in c]
    return np.mean([closed_form(x) for x in samples], axis=0)


def reference_session(folder, options, rows, n_after):
    """Conditions and whitened epochs of both partitions of one session."""
    cut = {}
    n_cut = round((options.keep_from - options.tmin) * options.sfreq)
    for partition, n_kept in (("training", 2), ("test", 20)):
        data = read(folder / f"raw_eeg_{partition}.npy")
        codes, epochs = reference_epochs(data, rows, n_after, n_kept, options.sfreq)
        cut[partition] = codes, epochs[..., n_cut:]
    noise = reference_noise(cut["training"][1], options.mvnn)
    if options.covariance == "both":
        noise = (reference_noise(cut["test"][1], options.mvnn) + noise) / 2
    values, vectors = np.linalg.eigh(noise)
    whitener = vectors @ np.diag(values**-0.5) @ vectors.T
    return {
        partition: (codes, np.einsum("ij,nrjt->nrit", whitener, epochs))
        for partition, (codes, epochs) in cut.items()
    }


def reference_signals(folder, options, names, n_after):
    rows = [RAW_CHANNELS.index(name) for name in names]
    sessions = [reference_session(folder / s, options, rows, n_after) for s in SHOWN]
    merged = {"training": [], "test": []}
    for partition, n_images in (("training", N_TRAINING), ("test", N_TEST)):
        for code in range(1, n_images + 1):
            parts = [s[partition] for s in sessions if code in s[partition][0]]
            trials = np.concatenate([e[codes == code][0] for codes, e in parts])
            order = np.arange(len(trials))
            np.random.RandomState(SEED).shuffle(order)  # noqa: NPY002
            merged[partition].append(trials[order])
    return {partition: np.array(images) for partition, images in merged.items()}


@pytest.mark.parametrize(
    ("options", "n_after", "n_times"),
    [(NICE, 1000, 250), (OFFICIAL, 800, 100)],
    ids=["nice", "official"],
)
def test_equals_the_second_derivation(raw_folder, tmp_path, options, n_after, n_times):
    counts, covariances = preprocess_recordings(raw_folder, tmp_path, options)
    signals, names = load_signals(tmp_path), channel_names(options.channels)
    expected = reference_signals(raw_folder, options, names, n_after)
    assert np.abs(expected["test"]).max() > 2
    for partition, n_images in (("training", N_TRAINING), ("test", N_TEST)):
        shape = n_images, {"training": 4, "test": 80}[partition], len(names), n_times
        written = getattr(signals, partition)
        assert (written.shape, written.dtype) == (shape, np.float32)
        np.testing.assert_allclose(written, expected[partition], rtol=1e-6, atol=1e-7)
    assert signals.ch_names == tuple(names)
    assert (signals.sfreq, signals.unit) == (options.sfreq, "noise SD")
    times = options.keep_from + np.arange(n_times) / options.sfreq
    np.testing.assert_allclose(signals.times, times, atol=1e-12)
    assert covariances.shape == (4, len(names), len(names))
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert counts.iloc[[0, 7]].to_numpy().tolist() == [
        ["training", "ses-01", 17, 2, 2, 5, 8],
        ["test", "ses-04", 69, 2, 2, 5, 60],
    ]


def test_volts_of_any_channels_in_any_order(raw_folder, tmp_path):
    _, covariances = preprocess_recordings(raw_folder, tmp_path / "all", PLAIN)
    chosen = PLAIN.model_copy(update={"channels": ["Oz", "P3"]})
    preprocess_recordings(raw_folder, tmp_path / "two", chosen)
    everything, two = load_signals(tmp_path / "all"), load_signals(tmp_path / "two")
    assert everything.unit == "V" and covariances.shape == (0, 17, 17)
    assert 1e-6 < everything.training.std() < 1e-4
    rows = [everything.ch_names.index(name) for name in ("Oz", "P3")]
    np.testing.assert_array_equal(two.test, everything.test[:, :, rows])


def with_value(row, column, value):
    def change(data):
        data[row, column] = value
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(3, 7, np.nan), r"ses-04.*1 values.*\(3, 7\)"),
        (with_value(-1, 7, 3e8), r"test .*ses-04 .*row 'stim' must hold.*300000000"),
        (with_value(-1, slice(None), 0), "ses-04 has no complete trial: 0 image onset"),
        (lambda x: x[:, :1150], "ses-04 has no complete trial: .+ image onsets in 1.1"),
        (lambda x: np.delete(x, range(400, 1600), axis=1), "equally often"),
    ],
    ids=["not finite", "large code", "no trigger", "incomplete", "cut"],
)
def test_all_recordings_are_checked_before_anything_is_written(
    raw_folder, tmp_path, change, message
):
    shutil.copytree(raw_folder, tmp_path / "raw")
    path = tmp_path / "raw/ses-04/raw_eeg_test.npy"
    save_recording(path, change(read(path)))
    with pytest.raises(ValueError, match=message):
        preprocess_recordings(tmp_path / "raw", tmp_path / "signals", OFFICIAL)
    assert not (tmp_path / "signals").exists()


def test_a_session_that_is_missing_or_there_twice(raw_folder, tmp_path):
    for session in ("ses-01", "ses-02", "ses-03"):
        (tmp_path / session).symlink_to(raw_folder / session)
    with pytest.raises(ValueError, match="4 of 8 training conditions.*exactly 2"):
        preprocess_recordings(tmp_path, tmp_path / "signals", OFFICIAL)
    shutil.copytree(raw_folder / "ses-04", tmp_path / "ses-04")
    shutil.copy(raw_folder / "ses-02/raw_eeg_test.npy", tmp_path / "ses-04")
    message = "test recordings of ses-02 and ses-04 are the"
    with pytest.raises(ValueError, match=message):
        preprocess_recordings(tmp_path, tmp_path / "signals", OFFICIAL)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ("posteriour", "channels must be.*Did you mean 'posterior'"),
        (["Oz", "Fz"], "has no channel 'Fz'"),
    ],
)
def test_channels_that_the_recordings_lack(raw_folder, tmp_path, channels, message):
    options = OFFICIAL.model_copy(update={"channels": channels})
    with pytest.raises(ValueError, match=message):
        preprocess_recordings(raw_folder, tmp_path, options)


def write_bdf(path, data, names, sfreq):
    """Write volts as 24-bit BDF in one record; a step is 0.01 microvolts."""
    ranges = [-83886.08, 83886.07, -8388608, 8388607]
    n_rows, n_samples = data.shape
    fields = [(16, names), (80, [""] * n_rows), (8, ["uV"] * n_rows)]
    fields += [(8, [value] * n_rows) for value in ranges]
    fields += [(80, [""] * n_rows), (8, [n_samples] * n_rows), (32, [""] * n_rows)]
    start = [(80, ""), (80, ""), (8, "01.01.20"), (8, "00.00.00")]
    start += [(8, 256 * (n_rows + 1)), (44, "24BIT"), (8, 1), (8, n_samples / sfreq)]
    start += [(4, n_rows)]
    texts = [f"{value!s:<{size}}"[:size] for size, value in start]
    texts += [f"{v!s:<{size}}"[:size] for size, values in fields for v in values]
    steps = np.rint(data * 1e8).astype("<i4")
    content = steps.view(np.uint8).reshape(n_rows, n_samples, 4)[..., :3].tobytes()
    path.write_bytes(b"\xffBIOSEMI" + "".join(texts).encode("latin1") + content)


def write_bids_run(folder, task, data):
    """Write a run as NEMAR's edition of the data set (nm000232) has it."""
    stem = f"{folder.parents[1].name}_{folder.parent.name}_task-{task}"
    folder.mkdir(parents=True, exist_ok=True)
    write_bdf(folder / f"{stem}_eeg.bdf", data[:63], RAW_CHANNELS, 1000)
    (folder / f"._{stem}_eeg.bdf").write_bytes(b"\0\5")  # companion of macOS
    samples = np.flatnonzero(data[-1])
    codes = data[-1, samples].astype(int)
    columns = {"onset": samples / 1000, "duration": 0.1, "sample": samples, "value": 1}
    columns["trial_type"] = np.where(codes == TARGET, "target", "image")
    columns["tot_img_number"] = [str(c) if c != TARGET else "n/a" for c in codes]
    path = folder / f"{stem}_events.tsv"
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, encoding="utf-8-sig")


@pytest.fixture(scope="module")
def bids_folder(raw_folder, tmp_path_factory):
    """The participant in BIDS; training recordings are cut into runs."""
    folder = tmp_path_factory.mktemp("bids") / "sub-01"
    for session in SHOWN:
        data = read(raw_folder / session / "raw_eeg_training.npy")
        for i, part in enumerate(np.array_split(data, 2, axis=1), start=1):
            write_bids_run(folder / session / "eeg", f"train_run-{i:02d}", part)
        data = read(raw_folder / session / "raw_eeg_test.npy")
        write_bids_run(folder / session / "eeg", "test", data)
    return folder


def test_the_bids_edition_gives_the_same_signals(raw_folder, bids_folder, tmp_path):
    for name, source in (("npy", raw_folder), ("bids", bids_folder)):
        preprocess_recordings(source, tmp_path / name, NICE)
    expected, found = (load_signals(tmp_path / name) for name in ("npy", "bids"))
    for partition in ("training", "test"):
        difference = getattr(found, partition) - getattr(expected, partition)
        assert np.abs(difference).max() < 0.05  # a step of BDF is 0.01 microvolts
    assert (found.ch_names, found.unit) == (expected.ch_names, expected.unit)


@pytest.mark.parametrize(
    ("ending", "change", "message"),
    [
        (
            "events.tsv",
            (b"\t1\n", b"\t11.5\n"),
            "tot_img.* whole number; line . has 11.5",
        ),
        ("events.tsv", (b"image", b"picture"), "of the types image, .*got 'picture'"),
        ("events.tsv", (b"sample", b"samples"), "lacks the columns sample"),
        ("eeg.bdf", 1_000_000, "task-test.*Download"),
        ("eeg.bdf", 1000, "task-test.*Download"),
        ("eeg.bdf", 0, "task-test.*Download"),
    ],
)
def test_damaged_files_of_the_bids_edition(
    bids_folder, tmp_path, ending, change, message
):
    folder = shutil.copytree(bids_folder, tmp_path / "sub-01")
    path = folder / f"ses-03/eeg/sub-01_ses-03_task-test_{ending}"
    content = path.read_bytes()
    is_cut = isinstance(change, int)
    path.write_bytes(content[:change] if is_cut else content.replace(*change))
    with pytest.raises(ValueError, match=message):
        preprocess_recordings(folder, tmp_path / "signals", NICE)


def test_runs_of_another_participant_are_not_taken(bids_folder, tmp_path):
    shutil.copytree(bids_folder, tmp_path / "sub-02")
    with pytest.raises(FileNotFoundError, match="missing.*sub-02_ses-01_task-train"):
        preprocess_recordings(tmp_path / "sub-02", tmp_path / "signals", NICE)


def save_published(folder, names, *, n_listed=250, container="npy"):
    rng, data = np.random.default_rng(5), {}
    for partition, shape in (("training", (6, 4)), ("test", (2, 80))):
        data[partition] = rng.normal(size=(*shape, len(names), 250))
        content = {
            "preprocessed_eeg_data": data[partition],
            "ch_names": list(names),
            "times": np.linspace(-0.2, -0.2 + (n_listed - 1) / 250, n_listed),
        }
        path = folder / f"preprocessed_eeg_{partition}.npy"
        if container == "bare":
            path.write_bytes(pickle.dumps(content, protocol=4))
        elif container == "npy":
            np.save(path, content)
        else:
            data[partition] = data[partition].astype(np.float16)
            save_whitened(folder, partition, content)
    return data


def save_whitened(folder, partition, content):
    """Save as UBP does: half precision, and lists that are as long as the trials."""
    data = content.pop("preprocessed_eeg_data").astype(np.float16)
    shown = np.tile(np.arange(len(data))[:, None], (1, data.shape[1]))
    texts = np.char.add("hot_tub_", shown.astype(str))
    content = {"eeg": data, "label": shown, "img": texts, "text": texts, **content}
    content["session"] = np.zeros(shown.shape)
    path = folder / f"{partition.removesuffix('ing')}.pt"
    torch.save(content, path, pickle_protocol=5)


@pytest.mark.parametrize(
    ("names", "n_listed", "container", "channels", "tmin"),
    [
        (NICE_CHANNELS, 300, "bare", "all", 0.0),
        ([*RAW_CHANNELS, "stim"], 250, "npy", "all", -0.2),
        (POSTERIOR_CHANNELS, 250, "npy", "posterior", -0.2),
        (NICE_CHANNELS, 300, "pt", "all", 0.0),
    ],
    ids=["nice", "official", "official, 17 channels", "ubp"],
)
def test_published_signals_are_copied_in_the_order_asked_for(
    tmp_path, names, n_listed, container, channels, tmin
):
    data = save_published(tmp_path, names, n_listed=n_listed, container=container)
    import_published(tmp_path, tmp_path / "signals", channels)
    signals = load_signals(tmp_path / "signals")
    assert (list(signals.ch_names), signals.sfreq) == (channel_names(channels), 250)
    rows = [list(names).index(name) for name in signals.ch_names]
    for partition, values in data.items():
        expected = values[:, :, rows].astype(np.float32)
        np.testing.assert_array_equal(getattr(signals, partition), expected)
    np.testing.assert_allclose(signals.times, tmin + np.arange(250) / 250)


def test_published_signals_without_the_channels_asked_for(tmp_path):
    save_published(tmp_path, POSTERIOR_CHANNELS)
    with pytest.raises(ValueError, match="no channel 'Fp1' among its 17. Set"):
        import_published(tmp_path, tmp_path / "signals", "all")


@pytest.mark.parametrize(
    ("key", "place", "value", "message"),
    [
        ("preprocessed_eeg_data", (1, 2, 3, 4), np.inf, r"_test.*\(1, 2, 3, 4\)"),
        ("times", slice(None), np.arange(250) / 250, "differ in their times"),
    ],
)
def test_published_values_that_are_not_finite_or_at_other_times(
    tmp_path, key, place, value, message
):
    save_published(tmp_path, NICE_CHANNELS)
    path = tmp_path / "preprocessed_eeg_test.npy"
    content = np.load(path, allow_pickle=True).item()
    content[key][place] = value
    np.save(path, content)
    with pytest.raises(ValueError, match=message):
        import_published(tmp_path, tmp_path / "signals", "all")
    assert not list(tmp_path.glob("signals/*"))
