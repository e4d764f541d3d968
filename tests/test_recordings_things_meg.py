import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from meg_participant import (
    EXCERPT,
    SENSORS,
    WHOLE,
    helmet,
    image_numbers,
    traceable,
    trial_table,
    write_epochs,
    write_trial_table,
)

from paperlib.recordings.sensors import sensor_info
from paperlib.recordings.signals import check_counts, load_signals, select_concepts
from paperlib.recordings.things_meg import (
    REGION_SIZES,
    check_sensors,
    import_epochs,
    list_images,
    place_trials,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*holds 3 sensors:UserWarning")


@pytest.fixture
def trials():
    return trial_table(pd.read_csv(EXCERPT), np.random.default_rng(0))


@pytest.fixture
def folder(tmp_path, trials):
    """A participant who saw the excerpt."""
    write_trial_table(tmp_path, trials)
    write_epochs(epochs_file(tmp_path), image_numbers(trials))
    return tmp_path


def epochs_file(folder, subject=1):
    return folder / f"derivatives/preprocessed/preprocessed_P{subject}-epo.fif"


def sort_epochs(folder, concepts="all_concepts", subject=1):
    signals_folder = folder / "signals"
    counts = import_epochs(folder, signals_folder, subject=subject, concepts=concepts)
    return counts, load_signals(signals_folder)


def expected_positions(trials, kind, left_out=()):
    """Positions of the trials of each image, by image number, written out."""
    shown = {}
    for position, trial in enumerate(trials.itertuples()):
        concept = Path(trial.image_path).stem.rpartition("_")[0]
        if trial.trial_type == kind and concept not in left_out:
            shown.setdefault(int(trial.things_image_nr), []).append(position)
    return np.array([shown[number] for number in sorted(shown)])


def test_images_are_in_the_order_of_their_numbers(folder):
    images = list_images(folder)
    assert images["partition"].tolist() == ["training"] * 36 + ["test"] * 14
    assert images["concept"][:36].drop_duplicates().tolist() == [
        *("alligator", "camera_lens", "camera1")  # as in THINGS, unlike sorted()
    ]
    assert images["file"][36:39].tolist() == [
        *("aircraft_carrier_22s.jpg", "alligator_14n.jpg", "aluminum_foil_15s.jpg")
    ]
    for _, part in images.groupby("partition"):
        assert part["image_number"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("concepts", "left_out", "n_kept"),
    [("all_concepts", (), 36), ("zero_shot", ("alligator",), 24)],
)
def test_every_trial_finds_its_place(folder, trials, concepts, left_out, n_kept):
    counts, signals = sort_epochs(folder, concepts)
    for partition, kind, omitted in (
        ("training", "exp", left_out),
        ("test", "test", ()),
    ):
        positions = expected_positions(trials, kind, omitted)
        written = getattr(signals, partition)
        assert written.shape == (*positions.shape, len(SENSORS), 20)
        expected = traceable(positions.ravel())[..., 2:22]  # from 0 s on
        np.testing.assert_array_equal(written.reshape(expected.shape), expected)
    rows = [["training", 36, n_kept], ["test", 168, 168], ["catch", 120, 0]]
    assert counts.to_numpy().tolist() == rows
    assert (signals.ch_names, signals.concepts) == (SENSORS, concepts)
    assert (signals.sfreq, signals.unit) == (20, "baseline SD")
    assert (signals.times[0], signals.times[-1]) == (0, 0.95)
    check_counts(signals, select_concepts(list_images(folder), concepts))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 27 048 trials, in four files, with three sensors at 20 Hz."""
    if not Path(WHOLE).is_file():
        pytest.skip(f"{Path(WHOLE).name} is not there; set THINGS_MEG_IMAGES")
    folder = tmp_path_factory.mktemp("whole")
    trials = trial_table(pd.read_csv(WHOLE), np.random.default_rng(1))
    write_trial_table(folder, trials)
    write_epochs(epochs_file(folder), image_numbers(trials), split_size="6MB")
    assert len(list(epochs_file(folder).parent.glob("*.fif"))) >= 2
    return folder, trials


def test_the_whole_experiment_has_the_published_counts(whole):
    folder, trials = whole
    _, signals = sort_epochs(folder)
    assert signals.training.shape[:2] == (22248, 1)
    assert signals.test.shape[:2] == (200, 12)
    for partition, kind in (("training", "exp"), ("test", "test")):
        first_values = getattr(signals, partition)[:, :, 0, 0]
        expected = expected_positions(trials, kind) + 2 / 128
        np.testing.assert_array_equal(first_values, expected)


def test_the_whole_experiment_without_test_concepts(whole):
    folder, trials = whole
    options = {"subject": 1, "concepts": "zero_shot", "source": folder}
    placed, counts = place_trials(image_numbers(trials), folder, **options)
    assert counts["kept"].tolist() == [19848, 2400, 0]
    sizes = placed.groupby("partition")[["row", "repetition"]].max() + 1
    assert sizes.loc[["training", "test"]].to_numpy().tolist() == [
        [19848, 1],
        [200, 12],
    ]
    tested = trials.loc[trials["trial_type"] == "test", "image_path"]
    left_out = {Path(path).stem.rpartition("_")[0] for path in tested}
    in_order = placed[placed["partition"] == "training"].sort_values("row").index
    expected = expected_positions(trials, "exp", left_out)
    np.testing.assert_array_equal(in_order, expected[:, 0])


def test_the_whole_list_groups_images_by_concept(whole):
    images = list_images(whole[0])
    training = images[images["partition"] == "training"]
    by_concept = training["concept"].to_numpy().reshape(1854, 12)
    assert (by_concept == by_concept[:, :1]).all()
    reference = pd.read_csv(WHOLE)
    by_category = reference[reference["trial_type"] == "exp"].sort_values("image_nr")
    files = [Path(path).name for path in by_category["file_path"]]
    assert training["file"].tolist() == files


# --- bad input ---


def split(folder, trials):
    numbers = np.tile(image_numbers(trials), 40)
    data = np.zeros((len(numbers), 3, 28))
    write_epochs(epochs_file(folder, 2), numbers, data=data, split_size="2MB")
    return sorted(epochs_file(folder).parent.glob("preprocessed_P2-epo-*.fif"))


def test_missing_part(folder, trials):
    last = split(folder, trials)[-1]
    for part in (last, epochs_file(folder, 2)):
        part.unlink()
        with pytest.raises(
            FileNotFoundError, match=f"{part.name} is missing. Download"
        ):
            sort_epochs(folder, subject=2)
    assert not (folder / "signals").exists()


@pytest.mark.parametrize(("copied", "i"), [(None, 0), (0, 1)])
def test_a_part_that_is_a_copy_of_an_earlier_one(folder, trials, copied, i):
    """MNE alone would read such parts forever."""
    parts = split(folder, trials)
    original = epochs_file(folder, 2) if copied is None else parts[copied]
    shutil.copy(original, parts[i])
    with pytest.raises(ValueError, match=f"{parts[i].name} is a copy of an earlier"):
        sort_epochs(folder, subject=2)


def in_a_circle(content):
    """The second tag follows itself: MNE alone would follow it forever."""
    return content[:48] + (36).to_bytes(4, "big") + content[52:]


@pytest.mark.parametrize(
    "change",
    [
        in_a_circle,
        *(lambda x, s=s: x[: int(s * len(x))] for s in (0, 0.001, 0.3, 0.9, 0.999)),
    ],
)
def test_damaged_epochs(folder, change):
    path = epochs_file(folder)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="P1-epo.fif is damaged, incomplete .*ownload"):
        sort_epochs(folder)
    assert not (folder / "signals/training.npy").exists()


def test_epochs_of_another_participant(folder, trials):
    other = trials.sample(frac=1, random_state=5)
    write_epochs(epochs_file(folder, 2), image_numbers(other))
    sort_epochs(folder, subject=2)  # without a table of its own
    other.to_csv(folder / "sourcedata/sample_attributes_P2.csv", index=False)
    sort_epochs(folder, subject=2)
    shutil.copy(epochs_file(folder), epochs_file(folder, 2))
    with pytest.raises(ValueError, match="another order than sample_attributes_P2.csv"):
        sort_epochs(folder, subject=2)


NOT_FINITE = traceable(np.arange(324))
NOT_FINITE[:, 1, 5] = np.nan


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"ch_names": ("MLO11", "Oz1", "MRT57")}, "'Oz1' is not a CTF sensor"),
        (None, {"data": np.zeros((324, 3, 21))}, "trials run from -0.1 to 0.9 s at 20"),
        (None, {"data": NOT_FINITE}, "P3-epo.fif: trials .* values that are NaN"),
        (lambda n: n[n != 178], {}, "1 of 36 not 1 times.*{file}, shown 0 times"),
        (lambda n: [26107, *n[1:]], {}, "1 images that are not in .*number 26107"),
    ],
    ids=["channel", "length", "not finite", "missing image", "another image"],
)
def test_epochs_that_do_not_fit(folder, trials, change, options, message):
    numbers = image_numbers(trials)
    numbers = numbers if change is None else change(numbers)
    write_epochs(epochs_file(folder, 3), numbers, **options)
    paths = trials.loc[trials["things_image_nr"] == 178, "image_path"]
    with pytest.raises(ValueError, match=message.format(file=Path(paths.iloc[0]).name)):
        sort_epochs(folder, subject=3)
    assert not list(folder.glob("signals/*"))


def renumbered(change):
    return lambda t: t.assign(things_image_nr=change(t["things_image_nr"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="image_path"), "lacks the column image_path"),
        (lambda t: t.replace("exp", "train"), "trials of the types.*got 'train'"),
        (renumbered(lambda n: np.nan), "must be a whole number; line . has nan"),
        (renumbered(lambda n: n.replace(178, 179)), "gives 1 images two files"),
        (renumbered(lambda n: n + 0.5), "a whole number; line . has [0-9]+.5"),
        (
            lambda t: t.assign(image_path="images_meg/hot_tub.jpg"),
            "concept and a number, as in 'hot_tub_01b.jpg'; got 'images_meg/hot_tub.j",
        ),
        (lambda t: b"", "P1.csv is damaged.* Download it again"),
        (lambda t: b"\xff\xfe\x00\x80", "P1.csv is damaged.* Download it again"),
    ],
)
def test_bad_trial_table(folder, trials, change, message):
    path, content = folder / "sourcedata/sample_attributes_P1.csv", change(trials)
    if not isinstance(content, bytes):
        content = content.to_csv(index=False).encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list_images(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"attributes_P1\.csv is missing"):
        list_images(folder)


# --- sensors ---


def test_the_sensors_of_the_paper_pass_silently(recwarn):
    check_sensors([f"{name}-1609" for name in helmet()], source=Path("a"))
    assert not recwarn.list


def test_other_sensors_are_reported():
    names = helmet()
    with pytest.warns(UserWarning, match="a holds 270 sensors.*'Central': 51"):
        check_sensors(names[1:], source=Path("a"))
    with pytest.raises(ValueError, match=f"a holds 271.*expected .*{67}"):
        check_sensors([*names[1:], "MRO13"], source=Path("a"))
    assert sum(REGION_SIZES.values()) == 271


def test_every_sensor_of_the_helmet_has_a_place():
    info = sensor_info([f"{name}-1609" for name in helmet()], 200)
    assert info.ch_names[0].endswith("-1609")
    assert set(info.get_channel_types()) == {"mag"}
    places = np.array([channel["loc"][:3] for channel in info["chs"]])
    assert np.isfinite(places).all() and len(np.unique(places, axis=0)) == 271
    by_name = dict(zip(helmet(), places, strict=True))
    assert by_name["MZO01"][1] < by_name["MZC01"][1] < by_name["MZF01"][1]
    assert by_name["MLT14"][0] < 0 < by_name["MRT14"][0]


def test_the_sensor_that_the_canonical_helmet_lacks_is_a_mirror_image():
    left, right = (ch["loc"] for ch in sensor_info(["MLO42", "MRO42"], 200)["chs"])
    np.testing.assert_allclose(left[:3], right[:3] * [-1, 1, 1])
    axes = left[3:].reshape(3, 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-4)
    assert np.linalg.det(axes) == pytest.approx(1, abs=1e-4)
