import numpy as np
import pytest
from PIL import Image

from minithings.eeg_stimuli import draw_eeg_stimuli, write_eeg_stimuli
from minithings.scenes import CONCEPTS
from minithings.world import World
from paperlib.stimuli.images import read_images

WORLD = World.model_validate(
    {
        "seed": 3,
        "image_size": 40,
        "eeg": {"n_concepts": 5, "n_images": 3, "n_test_concepts": 4},
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_eeg_stimuli(folder, WORLD)
    return folder


def test_training_and_test_concepts_are_disjoint():
    stimuli = draw_eeg_stimuli(World())
    training = {image.scene.concept for image in stimuli["training"]}
    test = {image.scene.concept for image in stimuli["test"]}
    assert (len(training), len(test)) == (120, 60)
    assert not training & test


def test_the_reader_of_the_public_files_finds_every_image_in_order(folder):
    images = read_images(folder)
    assert images["partition"].value_counts().to_dict() == {"training": 15, "test": 4}
    assert [Image.open(path).size for path in images["path"]] == [(40, 40)] * 19
    for partition, drawn in draw_eeg_stimuli(WORLD).items():
        listed = images[images["partition"] == partition]
        stems = [image.file.removesuffix(".jpg") for image in drawn]
        assert listed["image_id"].tolist() == stems
        paths = sorted((folder / f"{partition}_images").glob("*/*.jpg"))
        assert list(map(str, paths)) == listed["path"].astype(str).tolist()


def test_metadata_have_the_six_lists_of_things_eeg2(folder):
    metadata = np.load(folder / "image_metadata.npy", allow_pickle=True).item()
    assert all(type(entries) is list for entries in metadata.values())
    first = draw_eeg_stimuli(WORLD)["training"][0].scene.concept
    number = CONCEPTS.index(first) + 1
    assert metadata["train_img_concepts"][0] == f"00001_{first}"
    assert metadata["train_img_concepts_THINGS"][0] == f"{number:05d}_{first}"
    assert metadata["train_img_files"][0] == f"{first}_01b.jpg"
    assert metadata["test_img_files"][0].endswith("_06s.jpg")
    assert [len(entries) for entries in metadata.values()] == [15] * 3 + [4] * 3


def test_the_same_seed_writes_the_same_bytes(folder, tmp_path):
    write_eeg_stimuli(tmp_path, WORLD)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()
