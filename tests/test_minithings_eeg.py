import mne
import numpy as np
import pytest
from scipy.signal import welch

from minithings.eeg_recordings import (
    eeg_sensors,
    onset_samples,
    presentation_order,
    simulate_eeg,
    simulate_recording,
    training_halves,
)
from minithings.eeg_stimuli import draw_eeg_stimuli
from minithings.evoked import image_responses
from minithings.participants import draw_participant
from minithings.world import World
from paperlib.recordings.things_eeg2 import (
    RAW_CHANNELS,
    TARGET_CODE,
    load_raw_session,
    stimulus_events,
)

SIZES = {"n_concepts": 4, "n_images": 3, "n_test_concepts": 5, "n_test_repetitions": 4}
WORLD = World.model_validate({"seed": 1, "eeg": SIZES})
FILES = [
    f"ses-{session:02d}/raw_eeg_{partition}.npy"
    for session in range(1, 5)
    for partition in ("test", "training")
]
POSTERIOR = [i for i, name in enumerate(RAW_CHANNELS) if name.startswith(("O", "PO"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sub-01")
    simulate_eeg(folder, WORLD, subject=1)
    return folder


@pytest.fixture(scope="module")
def recording():
    """A test session of six images shown 40 times each: data and codes."""
    person = draw_participant(1, seed=0)
    rng = np.random.default_rng(0)
    sensors = eeg_sensors(person, rng=rng)
    sizes = {"n_concepts": 1, "n_images": 1, "n_test_concepts": 6}
    world = World.model_validate({"seed": 0, "eeg": sizes})
    stimuli = draw_eeg_stimuli(world)["test"]
    responses = image_responses([image.scene for image in stimuli])
    codes = presentation_order(
        np.repeat(np.arange(1, 7), 40), partition="test", rng=rng
    )
    return simulate_recording(person, sensors, responses, codes=codes, rng=rng), codes


def content(path):
    return np.load(path, allow_pickle=True).item()


def epochs(recording):
    data, codes = recording
    onsets = onset_samples(codes.size)
    cut = np.stack([data[:-1, t - 200 : t + 600] for t in onsets])
    return cut - cut[:, :, :200].mean(axis=2, keepdims=True), codes


def test_files_keys_types_and_rows_are_those_of_things_eeg2(folder):
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*"))
    assert written == sorted(FILES)
    for name in FILES:
        session = content(folder / name)
        assert session.pop("ch_names") == [*RAW_CHANNELS, "stim"]
        assert session.pop("ch_types") == ["eeg"] * 63 + ["stim"]
        data = session.pop("raw_eeg_data")
        assert data.dtype == np.float64 and data.shape[0] == 64
        assert session == {"sfreq": 1000, "highpass": 0.01, "lowpass": 100}


def shown(folder, partition, n_images):
    """Count the presentations of each image in the four sessions, as they are read."""
    for session in range(1, 5):
        raw = load_raw_session(folder / f"ses-{session:02d}/raw_eeg_{partition}.npy")
        events, n_targets = stimulus_events(raw)
        assert n_targets and (len(events) + n_targets) % 20 == 0
        yield np.bincount(events[:, 1], minlength=n_images + 1)[1:]


def test_each_training_image_is_shown_twice_in_two_of_four_sessions(folder):
    first, second, third, fourth = np.minimum(list(shown(folder, "training", 12)), 2)
    assert set(first + second) == set(third + fourth) == {2}


def test_each_test_image_is_shown_as_often_as_planned_in_every_session(folder):
    for counts in shown(folder, "test", 5):
        assert (counts >= 4).all() and np.ptp(counts) <= 1


def test_targets_and_surplus_trials_are_as_frequent_as_in_the_published_orders():
    rng = np.random.default_rng(0)
    planned = np.repeat(np.arange(1, 8271), 2)
    codes = presentation_order(planned, partition="training", rng=rng)
    assert codes.size == 16800
    assert (codes == TARGET_CODE).sum() == 90
    assert codes[codes != TARGET_CODE].size - planned.size == 170
    codes = presentation_order(
        np.repeat(np.arange(1, 201), 20), partition="test", rng=rng
    )
    assert (codes.size, (codes == TARGET_CODE).sum()) == (4080, 24)
    shown = np.bincount(codes[codes != TARGET_CODE])[1:]
    assert set(shown.tolist()) == {20, 21} and (shown == 21).sum() == 56


def test_concepts_stay_together_in_a_half():
    rng = np.random.default_rng(0)
    for half in training_halves(7, 5, rng=rng):
        assert (np.bincount((half - 1) // 5) % 5 == 0).all()


def test_images_follow_each_other_every_200_ms_with_pauses():
    steps = np.diff(onset_samples(60))
    assert (steps[19::20] == 1200).all()
    assert (np.delete(steps, [19, 39]) == 200).all()


def test_bytes_depend_on_seed_participant_and_session_only(folder, tmp_path):
    for subject in (1, 2):
        simulate_eeg(tmp_path / str(subject), WORLD, subject=subject)
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (folder / name).read_bytes()
    others = (tmp_path / "2" / FILES[0], folder / FILES[2])
    one, *others = (content(p)["raw_eeg_data"] for p in (folder / FILES[0], *others))
    for other in others:
        assert abs(np.corrcoef(one[0], other[0])[0, 1]) < 0.5
        assert (one[-1] != other[-1]).any()


def test_the_trigger_row_holds_the_codes_and_nothing_else(recording):
    data, codes = recording
    events = mne.find_events(
        mne.io.RawArray(data[-1:], mne.create_info(["stim"], 1000, "stim"), verbose=0),
        stim_channel="stim",
        verbose=0,
    )
    np.testing.assert_array_equal(events[:, 0], onset_samples(codes.size))
    np.testing.assert_array_equal(events[:, 2], codes)


def test_ongoing_activity_is_1_over_f_with_a_posterior_alpha_peak(recording):
    data, _ = recording
    assert 3.5e-6 < np.median(data[:-1].std(axis=1)) < 8e-6  # V
    frequencies, power = welch(data[:-1, 2000:], 1000, nperseg=4000)
    band = (frequencies > 20) & (frequencies < 80)
    slopes = np.polyfit(np.log(frequencies[band]), np.log(power[:, band]).T, 1)[0]
    assert slopes.mean() == pytest.approx(-1.3, abs=0.2)
    alpha = power[:, (frequencies > 8.5) & (frequencies < 11.5)].max(axis=1)
    around = power[:, (frequencies > 16) & (frequencies < 19)].mean(axis=1)
    assert (alpha / around)[POSTERIOR].min() > 8
    frontal = [RAW_CHANNELS.index(name) for name in ("Fp1", "Fp2", "AF3", "AF4")]
    assert alpha[POSTERIOR].mean() > 5 * alpha[frontal].mean()
    passed = power[:, frequencies < 80].min()
    assert power[:, frequencies > 160].max() < 1e-3 * passed  # low-pass at 100 Hz


def test_evoked_responses_are_microvolts_over_the_occipital_cortex(recording):
    trials, codes = epochs(recording)
    evoked = trials[codes != TARGET_CODE].mean(axis=0)  # C T
    early = np.abs(evoked[:, 250:400]).max(axis=1)
    assert RAW_CHANNELS[early.argmax()].startswith(("O", "PO", "P7", "P8"))
    assert 2e-6 < early.max() < 12e-6


def test_single_trials_are_noise_and_averages_repeat(recording):
    trials, codes = epochs(recording)
    trials = trials[:, POSTERIOR, 200:].reshape(len(trials), -1)
    repeated = [trials[codes == code][:40] for code in range(1, 7)]
    averages = [
        np.corrcoef(one[::2].mean(axis=0), one[1::2].mean(axis=0))[0, 1]
        for one in repeated
    ]
    single = [np.corrcoef(one)[np.triu_indices(40, k=1)].mean() for one in repeated]
    assert 0 < np.mean(single) < 0.2
    assert 0.4 < np.mean(averages) < 0.95
