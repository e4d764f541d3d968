import mne
import numpy as np
import pandas as pd
import pytest
from meg_participant import EXCERPT
from PIL import Image
from scipy.signal import welch

from minithings.evoked import image_responses
from minithings.head import meg_info
from minithings.meg_recordings import (
    SFREQ,
    baseline_scores,
    meg_sensors,
    simulate_meg,
    simulate_session,
)
from minithings.meg_stimuli import (
    N_SESSIONS,
    draw_meg_stimuli,
    draw_trials,
    write_meg_stimuli,
    write_trials,
)
from minithings.participants import draw_participant
from minithings.world import World
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.things_meg import CATCH_NUMBER

SIZES = {"n_concepts": 12, "n_images": 4, "n_test_images": 8}
WORLD = World.model_validate({"seed": 1, "meg": SIZES})
COLUMNS = (
    "trial_type image_nr category_nr exemplar_nr test_image_nr things_category_nr "
    "things_image_nr things_exemplar_nr image_path onset image_on image_off responded "
    "key_id key_time RT session_nr run_nr"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preprocessed")
    for subject in (1, 2):
        simulate_meg(folder, WORLD, subject=subject)
    return folder


@pytest.fixture(scope="module")
def epochs(folder):
    path = folder / "preprocessed_P1-epo.fif"
    return mne.read_epochs(path, preload=False, verbose="error")


@pytest.fixture(scope="module")
def mini():
    stimuli = draw_meg_stimuli(World())
    return stimuli, draw_trials(stimuli, seed=World().seed, subject=1)


@pytest.fixture(scope="module")
def repeated(epochs):
    """Trials of the test images, (images, repetitions, sensors, samples)."""
    chosen = epochs["trial_type == 'test'"]
    data, codes = chosen.get_data(verbose="error"), chosen.events[:, 2]
    return np.stack([data[codes == code] for code in np.unique(codes)])


@pytest.fixture(scope="module")
def session():
    """A session in teslas."""
    participant, rng = draw_participant(101, seed=0), np.random.default_rng(0)
    stimuli = draw_meg_stimuli(WORLD)
    trials = draw_trials(stimuli, seed=0, subject=1).query("session_nr <= 3")
    return simulate_session(
        participant,
        meg_sensors(participant, rng=rng),
        image_responses(stimuli.scenes),
        trials=trials,
        rng=rng,
    )


def occipital(ch_names):
    return [region == "Occipital" for region in channel_regions(ch_names)]


def test_images_are_numbered_by_concept_and_file(mini):
    stimuli, things = mini[0], mini[0].things
    listed = things.sort_values(["concept", "file"], ignore_index=True)
    pd.testing.assert_frame_equal(listed, things)
    assert [scene.concept for scene in stimuli.scenes] == things["concept"].tolist()
    assert things["things_image_nr"].tolist() == list(range(1, len(things) + 1))
    assert things["things_category_nr"].max() == 120
    for concept, images in things.groupby("concept"):
        assert 11 <= len(images) <= 14
        exemplars = images["file"].str.removeprefix(f"{concept}_").str[:2].astype(int)
        assert exemplars.tolist() == images["things_exemplar_nr"].tolist()
        assert exemplars.tolist() == list(range(1, len(images) + 1))


@pytest.mark.parametrize("source", ["simulated", "published"])
def test_shown_images_have_numbers_and_places_as_published(mini, source):
    stimuli = mini[0].shown.rename(columns={"image_path": "file_path"})
    shown = stimuli if source == "simulated" else pd.read_csv(EXCERPT)
    single, test, catch = (
        shown[shown["trial_type"] == kind] for kind in ("exp", "test", "catch")
    )
    n_images = single["exemplar_nr"].max()  # of a concept
    numbers = n_images * (single["category_nr"] - 1) + single["exemplar_nr"]
    assert (single["image_nr"] == numbers).all()
    assert (single["things_exemplar_nr"] == single["exemplar_nr"]).all()  # the first
    assert (test["things_exemplar_nr"] > n_images).all()
    assert (test["category_nr"] == test["things_category_nr"]).all()
    assert set(test["exemplar_nr"]) == {n_images + 1}
    assert (test["image_nr"] - test["test_image_nr"]).nunique() == 1
    assert not test["things_image_nr"].is_monotonic_increasing  # says no concept
    assert (catch["image_nr"] - catch["exemplar_nr"]).nunique() == 1
    things = ["things_category_nr", "things_image_nr", "things_exemplar_nr"]
    assert catch[[*things, "test_image_nr"]].isna().all(axis=None)
    path = r"images_meg/(\w+)/\1_\d\d.\.jpg"
    assert single["file_path"].str.fullmatch(path).all()
    assert test["file_path"].str.fullmatch(r"images_test_meg/\w+_\d\d.\.jpg").all()
    places = "images_catch_meg/catch" + catch["exemplar_nr"].map("{:03d}.jpg".format)
    assert places.equals(catch["file_path"])


def test_shown_images_are_images_of_the_list(mini):
    stimuli = mini[0]
    shown = stimuli.shown.dropna(subset="things_image_nr")
    assert shown["trial_type"].value_counts().to_dict() == {"exp": 1200, "test": 60}
    assert shown["things_image_nr"].is_unique
    rows = stimuli.things.iloc[shown["things_image_nr"].astype(int) - 1]
    files = [path.rpartition("/")[2] for path in shown["image_path"]]
    assert rows["file"].tolist() == files
    for column in ("things_category_nr", "things_exemplar_nr"):
        assert (rows[column].to_numpy() == shown[column].to_numpy()).all()


def test_trial_tables_have_the_published_columns_and_counts(mini):
    trials = mini[1]
    assert trials.columns.tolist() == COLUMNS.split()
    counts = trials.groupby("session_nr")["trial_type"].value_counts().unstack()
    expected = {"catch": 16, "exp": 100, "test": 60}
    assert counts.to_dict("list") == {k: [n] * N_SESSIONS for k, n in expected.items()}
    repetitions = trials.groupby("image_nr")["trial_type"].agg(["size", "first"])
    sizes = repetitions.groupby("first")["size"].unique()
    assert {k: list(n) for k, n in sizes.items()} == {
        **{"catch": [12], "exp": [1], "test": [12]}
    }
    concepts = trials.query("trial_type == 'exp'").groupby("session_nr")["category_nr"]
    images = trials.groupby("session_nr")["image_nr"]
    assert concepts.value_counts().max() == images.value_counts().max() == 1


def test_catch_trials_are_as_frequent_as_published():
    sizes = {"n_concepts": 384, "n_images": 58, "n_test_images": 200}
    shown = draw_meg_stimuli(World.model_validate({"meg": sizes})).shown
    counts = shown["trial_type"].value_counts()
    assert (counts["exp"], counts["test"]) == (22272, 200)
    assert counts["catch"] == 200


def test_trials_are_shuffled_and_timed_within_ten_runs(mini):
    trials = mini[1]
    assert trials.groupby("session_nr")["run_nr"].nunique().tolist() == [10] * 12
    order = trials[["session_nr", "run_nr", "onset"]]
    assert order.apply(tuple, axis=1).is_monotonic_increasing
    for _, run in trials.groupby(["session_nr", "run_nr"]):
        np.testing.assert_allclose(run["onset"], 1.5 * np.arange(len(run)))
    np.testing.assert_allclose(trials["image_off"] - trials["image_on"], 0.5)
    assert not trials["image_nr"].iloc[:176].is_monotonic_increasing


def test_catch_images_are_answered_and_nothing_else_is(mini):
    trials = mini[1]
    catch = trials["trial_type"] == "catch"
    assert (trials["responded"] == catch).all()
    for column in ("key_id", "key_time", "RT"):
        assert (trials[column].notna() == catch).all()
    delay = (trials["key_time"] - trials["onset"])[catch]
    np.testing.assert_allclose(delay, trials.loc[catch, "RT"])
    assert trials.loc[catch, "RT"].between(0.2, 1.5).all()


def test_every_image_of_the_list_is_written(tmp_path):
    sizes = {"n_concepts": 3, "n_images": 2, "n_test_images": 2}
    world = World.model_validate({"image_size": 40, "meg": sizes})
    write_meg_stimuli(tmp_path, world)
    things = draw_meg_stimuli(world).things
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    listed = "object_images/" + things["concept"] + "/" + things["file"]
    assert written == listed.tolist()
    assert Image.open(tmp_path / written[-1]).size == (40, 40)


def test_epochs_come_in_four_parts_that_are_read_as_one(folder, epochs):
    endings = ("", "-1", "-2", "-3")
    names = {f"preprocessed_P{n}-epo{end}.fif" for n in (1, 2) for end in endings}
    assert {path.name for path in folder.iterdir()} == names
    assert epochs.info["sfreq"] == 200
    np.testing.assert_allclose(epochs.times, np.arange(-20, 261) / 200)
    n_bytes = sum(path.stat().st_size for path in folder.glob("*P1*"))
    assert 1 < n_bytes / (4 * len(epochs) * 271 * 281) < 1.05  # single precision


def test_sensors_are_those_of_things_meg_in_order(epochs):
    assert epochs.ch_names == meg_info().ch_names
    assert epochs.ch_names[0] == "MLC11-1609" and epochs.ch_names[-1] == "MZP01-1609"
    groups = dict.fromkeys(name[:3] for name in epochs.ch_names)
    expected = "MLC MLF MLO MLP MLT MRC MRF MRO MRP MRT MZC MZF MZO MZP"
    assert list(groups) == expected.split()


def test_tables_of_participants_show_the_same_images_in_another_order(epochs, tmp_path):
    for subject in (1, 2):
        write_trials(tmp_path, WORLD, subject=subject)
    one, two = (
        pd.read_csv(tmp_path / f"sample_attributes_P{subject}.csv")
        for subject in (1, 2)
    )
    loose = {"check_dtype": False, "check_exact": False}
    pd.testing.assert_frame_equal(epochs.metadata, one, **loose)
    assert sorted(one["image_nr"]) == sorted(two["image_nr"])
    assert (one["image_nr"] != two["image_nr"]).any()


def test_events_are_numbers_of_things_images_and_catch_trials_999999(epochs):
    numbers = epochs.metadata["things_image_nr"].fillna(CATCH_NUMBER)
    np.testing.assert_array_equal(epochs.events[:, 2], numbers)
    assert (np.diff(epochs.events[:, 0]) == 300).all()
    assert epochs.event_id == {str(n): n for n in sorted({*numbers.astype(int)})}
    assert (epochs.metadata["trial_type"][numbers == 999999] == "catch").all()


def test_baselines_have_mean_0_and_deviation_1(repeated):
    baseline = repeated[..., :21]
    np.testing.assert_allclose(baseline.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(baseline.std(axis=-1), 1, atol=1e-5)


def test_z_scores_do_not_depend_on_the_unit(session):
    one, two = baseline_scores(session), baseline_scores(1e15 * session)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_fields_are_femtoteslas_and_band_passed(session):
    signals = session.reshape(271, -1)
    assert 50e-15 < np.median(signals.std(axis=1)) < 500e-15
    frequencies, power = welch(signals, SFREQ, nperseg=800)
    power = np.median(power, axis=0)
    passed = power[(frequencies > 0.2) & (frequencies < 38)]
    assert power[frequencies > 52].max() < 1e-6 * passed.min()
    assert (
        5e-15 < np.sqrt(power[(frequencies > 30) & (frequencies < 38)]).min() < 10e-15
    )
    slow = power[(frequencies > 1) & (frequencies < 4)].mean()
    alpha = power[(frequencies > 9) & (frequencies < 11)].mean()
    fast = power[(frequencies > 20) & (frequencies < 30)].mean()
    assert min(slow, alpha) > 5 * fast


def test_evoked_fields_are_largest_over_visual_cortex(repeated, epochs):
    evoked = np.abs(repeated.mean(axis=(0, 1)))  # C T
    window = (epochs.times > 0.08) & (epochs.times < 0.2)
    peak = evoked[:, window].max(axis=1)
    best = channel_regions(np.array(epochs.ch_names)[peak.argsort()[-20:]])
    assert set(best) <= {"Occipital", "Temporal", "Parietal"}
    assert peak.max() > 3 * evoked[:, :21].max()


def test_images_drive_a_small_share_of_the_variance_of_trials(repeated, epochs):
    """Between 0.5 and 20 % over all sensors, most at the occipital ones."""
    window = (epochs.times > 0.05) & (epochs.times < 0.4)
    data = repeated[..., window]
    within = data.var(axis=1, ddof=1).mean(axis=(0, 2))
    between = data.mean(axis=1).var(axis=0, ddof=1).mean(axis=1) - within / 12
    visual = occipital(epochs.ch_names)
    share = between.mean() / within.mean()
    assert 0.005 < share < 0.2
    assert between[visual].mean() / within[visual].mean() > share


def test_differences_between_images_repeat(repeated, epochs):
    data = repeated[:, :, occipital(epochs.ch_names), 21:121]
    halves = [data[:, half::2].mean(axis=1) for half in (0, 1)]
    first, second = ((x - x.mean(axis=0)).reshape(8, -1) for x in halves)
    similarity = np.corrcoef(first, second)[:8, 8:]
    right, wrong = (
        np.diag(np.roll(similarity, shift, axis=0)).mean() for shift in (0, 1)
    )
    assert 0.95 > right > 0.1 > wrong


def test_participants_differ(epochs, folder):
    path = folder / "preprocessed_P2-epo.fif"
    other = mne.read_epochs(path, preload=False, verbose="error")
    one, two = (
        part["trial_type == 'test'"].average().data[:, 21:121]
        for part in (epochs, other)
    )
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] < 0.9
    assert (
        draw_participant(101, seed=1).peaks[0] != draw_participant(1, seed=1).peaks[0]
    )


def test_what_a_killed_run_left_does_not_change_a_byte(folder, tmp_path):
    interrupted = tmp_path / ".preprocessed_P2-epo.partial"
    interrupted.mkdir()
    (interrupted / "0_raw.fif").write_text("half")
    simulate_meg(tmp_path, WORLD, subject=2)
    expected = {path.name: path.read_bytes() for path in folder.glob("*P2*")}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected
