import re

import pytest

from paperlib.paths import IDENTITY, MAIN_TABLES, ROOT, job_name, template

KEYS = {"dataset": "things-eeg2", "run": "ours", "subject": 3}


def test_subjects_have_two_digits():
    folder = "results/mini/things-eeg2/runs/ours/sub-03/seed-0"
    assert template("samples", config="mini", seed=0, **KEYS) == f"{folder}/samples.npy"


def test_jobs_are_named_after_their_identity():
    assert job_name("04_train", **KEYS) == "04_train_things-eeg2_ours_sub-03"


def test_meg_is_one_folder():
    keys = {"dataset": "things-meg", "data_root": "data/mini"}
    root = "data/mini/things-meg"
    assert template("images", **keys) == template("raw", **keys) == root
    assert template("published", **keys) == f"{root}/derivatives/preprocessed"
    listed = template("image_list", **keys)
    assert listed == f"{root}/sourcedata/sample_attributes_P1.csv"


def test_unknown_alias():
    with pytest.raises(ValueError, match="No path is called 'sample'.*'samples'"):
        template("sample")


def test_open_keys_stay_wildcards():
    assert template("captions", config="mini").endswith("{captioner}.jsonl")
    wildcards = {key: "{" + key + "}" for key in KEYS}
    name = "04_train_{dataset}_{run}_sub-{subject}"
    assert job_name("04_train", **wildcards) == name


@pytest.mark.parametrize(
    ("images", "word"),
    [
        ([], "test-images"),
        (["~/my photos/a.jpg"], r"my-photos-a-jpg-[0-9a-f]{8}"),
        (["?"], "-[0-9a-f]{8}"),
    ],
)
def test_own_images_are_part_of_names_as_one_word(images, word):
    name = job_name("11_own_images", **KEYS, images=images)
    assert re.fullmatch(f".*_sub-03_{word}", name)


@pytest.mark.parametrize(
    "lists",
    [
        (["a/cat-1.jpg"], ["a/cat 1.jpg"], ["a-cat/1.jpg"]),
        tuple([f"photos/{i}.jpg" for i in range(n)] for n in (90, 91)),
    ],
)
def test_lists_of_images_have_short_names_of_their_own(lists):
    names = [job_name("11_own_images", **KEYS, images=images) for images in lists]
    assert len(set(names)) == len(names) and max(map(len, names)) < 150


def test_every_notebook_has_an_identity():
    assert {p.stem for p in (ROOT / "notebooks").glob("*.py")} == set(IDENTITY)


@pytest.mark.parametrize("name", MAIN_TABLES.values())
def test_no_configuration_writes_over_the_published_values(name):
    published = template("published_table", name=name)
    assert published != template("table", config="paper", name=f"{name}.csv")
    assert (ROOT / published).is_file()
