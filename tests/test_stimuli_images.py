import numpy as np
import pytest
from PIL import Image

from paperlib.stimuli.images import open_image, read_images

CONCEPTS = {"training": ["00001_aardvark", "00002_t-shirt"], "test": ["00001_bat1"]}


def write_image_set(folder, n_images=2):
    metadata = {}
    for partition, prefix in (("training", "train"), ("test", "test")):
        concepts, files = [], []
        for concept in CONCEPTS[partition]:
            name = concept.split("_", maxsplit=1)[1]
            for i in range(n_images):
                path = folder / f"{partition}_images" / concept / f"{name}_{i:02d}b.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (i, 100, 200)).save(path)
                concepts.append(concept)
                files.append(path.name)
        metadata[f"{prefix}_img_concepts"] = concepts
        metadata[f"{prefix}_img_concepts_THINGS"] = concepts
        metadata[f"{prefix}_img_files"] = files
    save_metadata(folder, metadata)
    return metadata


def save_metadata(folder, metadata):
    np.save(folder / "image_metadata.npy", np.array(metadata, dtype=object))


def test_rows_follow_the_conditions(tmp_path):
    write_image_set(tmp_path)
    images = read_images(tmp_path)
    assert images["image_id"].tolist() == [
        *("aardvark_00b", "aardvark_01b", "t-shirt_00b", "t-shirt_01b"),
        *("bat1_00b", "bat1_01b"),
    ]
    assert images["partition"].tolist() == ["training"] * 4 + ["test"] * 2
    assert images["condition"].tolist() == [1, 2, 3, 4, 1, 2]
    assert images["concept"].unique().tolist() == ["aardvark", "t-shirt", "bat1"]
    assert all(path.is_absolute() and path.is_file() for path in images["path"])


def test_every_missing_image_is_counted(tmp_path):
    write_image_set(tmp_path, n_images=4)
    for path in (tmp_path / "training_images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"8 of 12 images .*aardvark_00b.jpg"):
        read_images(tmp_path)


def test_missing_metadata(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="image_metadata.npy is missing.*sample_attr"
    ):
        read_images(tmp_path)


def test_metadata_without_a_list(tmp_path):
    metadata = write_image_set(tmp_path)
    del metadata["test_img_files"]
    save_metadata(tmp_path, metadata)
    with pytest.raises(ValueError, match="must hold the list 'test_img_files'"):
        read_images(tmp_path)


def test_metadata_with_lists_of_two_lengths(tmp_path):
    metadata = write_image_set(tmp_path)
    metadata["train_img_files"].pop()
    save_metadata(tmp_path, metadata)
    with pytest.raises(ValueError, match="4 concepts and 3 files"):
        read_images(tmp_path)


def test_two_images_with_one_stem(tmp_path):
    metadata = write_image_set(tmp_path)
    metadata["test_img_files"][0] = "aardvark_01b.jpg"
    save_metadata(tmp_path, metadata)
    with pytest.raises(ValueError, match=r"1 stems occur more than once.*aardvark_01b"):
        read_images(tmp_path)


def write_meg_image_set(folder):
    """Two training images, a test image shown twice, a catch trial."""
    table = (
        "trial_type,things_image_nr,image_path\n"
        "exp,12,images_meg/t-shirt/t-shirt_01b.jpg\n"
        "test,3,images_test_meg/bat1_13s.jpg\n"
        "catch,,images_catch_meg/catch001.jpg\n"
        "exp,7,images_meg/hot_tub/hot_tub_02s.jpg\n"
        "test,3,images_test_meg/bat1_13s.jpg\n"
    )
    (folder / "sourcedata").mkdir()
    (folder / "sourcedata/sample_attributes_P1.csv").write_text(table)
    for name in ("t-shirt/t-shirt_01b", "bat1/bat1_13s", "hot_tub/hot_tub_02s"):
        path = folder / f"object_images/{name}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)


def test_meg_images_follow_their_numbers(tmp_path):
    write_meg_image_set(tmp_path)
    images = read_images(tmp_path)
    assert images.drop(columns="path").to_numpy().tolist() == [
        ["hot_tub_02s", "training", 1, "hot_tub"],
        ["t-shirt_01b", "training", 2, "t-shirt"],
        ["bat1_13s", "test", 1, "bat1"],
    ]
    assert all(path.is_absolute() and path.is_file() for path in images["path"])


def test_missing_meg_image(tmp_path):
    write_meg_image_set(tmp_path)
    (tmp_path / "object_images/bat1/bat1_13s.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 3 .*bat1_13s.jpg.*images_THINGS"
    ):
        read_images(tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new("RGB", (6, 4), (255, 0, 0)).convert(mode).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (6, 4))


def test_truncated_picture(tmp_path):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        open_image(path)


def test_text_that_calls_itself_a_picture(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("404 not found")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        open_image(path)


def test_missing_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no image"):
        open_image(tmp_path / "a.jpg")
