import pytest

from paperlib.paths import MAIN_TABLES, ROOT, job_name, locate, template

SETTINGS = {"notebook": "04_train", "name": "mini", "data_root": "data/mini"}
KEYS = {"dataset": "things-eeg2", "run": "ours", "subject": 3, "seed": 0}


def test_paths_are_absolute_and_subjects_have_two_digits():
    where = locate(SETTINGS, **KEYS)
    folder = ROOT / "results/mini/things-eeg2/runs/ours/sub-03_seed-0"
    assert where("samples") == folder / "samples.npy"
    assert where("raw") == ROOT / "data/mini/things-eeg2/raw_data/sub-03"


def test_record_is_named_after_the_identity():
    where = locate(SETTINGS, **KEYS)
    assert where("record").name == "04_train_things-eeg2_ours_sub-03_seed-0.json"


def test_keys_can_be_replaced():
    where = locate(SETTINGS, **KEYS)
    assert where("raw", subject=12).name == "sub-12"


def test_configurations_do_not_share_outputs():
    paths = [locate(SETTINGS | {"name": n}, **KEYS)("checkpoint") for n in ("a", "b")]
    assert paths[0] != paths[1]


def test_meg_is_one_folder():
    where = locate(SETTINGS, **(KEYS | {"dataset": "things-meg"}))
    root = ROOT / "data/mini/things-meg"
    assert where("images") == where("raw") == root
    assert where("published") == root / "derivatives/preprocessed"
    assert where("image_list") == root / "sourcedata/sample_attributes_P1.csv"
    assert where("signals") == ROOT / "results/mini/things-meg/signals/sub-03"


def test_missing_key_is_named():
    with pytest.raises(ValueError, match=r"'tokens' .*needs a key.*\{tokens\}"):
        locate(SETTINGS, **KEYS)("tokens")


def test_unknown_alias():
    with pytest.raises(ValueError, match="No path is called 'sample'.*'samples'"):
        template("sample")


def test_open_keys_stay_wildcards():
    assert template("captions", config="mini", dataset="d").endswith(
        "{captioner}.jsonl"
    )
    wildcards = {key: "{" + key + "}" for key in KEYS}
    name = "04_train_{dataset}_{run}_sub-{subject}_seed-{seed}"
    assert job_name("04_train", **wildcards) == name


@pytest.mark.parametrize(
    ("images", "word"),
    [("", "test-images"), ("~/my photos/a.jpg", "my-photos-a-jpg"), ("{a}", "a")],
)
def test_own_images_are_part_of_names_as_one_word(images, word):
    where = locate(SETTINGS | {"notebook": "11_own_images"}, **KEYS, images=images)
    name = f"own_images_ours_sub-03_seed-0_{word}-epo.fif"
    assert where("own_images").name == name
    assert where("record").stem.endswith(f"_sub-03_seed-0_{word}")


def test_long_lists_of_images_have_short_names_of_their_own():
    lists = [", ".join(f"photos/{i}.jpg" for i in range(n)) for n in (90, 91)]
    names = [job_name("11_own_images", **KEYS, images=text) for text in lists]
    assert names[0] != names[1] and max(map(len, names)) < 150


@pytest.mark.parametrize("name", MAIN_TABLES.values())
def test_no_configuration_writes_over_the_published_values(name):
    published = template("published_table", name=name)
    made = template("table", config="paper", name=f"{name}.csv")
    assert published != made
    assert (ROOT / published).is_file()
