import pytest
from pydantic import ValidationError

from minithings.world import World, clear_world


def test_unknown_values_are_refused():
    with pytest.raises(ValidationError, match="Did you mean 'n_images'"):
        World.model_validate({"meg": {"n_image": 3}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eeg": {"n_concepts": 300, "n_test_concepts": 85}}, r"384; got 300 \+ 85"),
        ({"meg": {"n_concepts": 400}}, "at most 384 .* got 400 and 60"),
        ({"meg": {"n_concepts": 4, "n_test_images": 5}}, "n_concepts; got 4 and 5"),
    ],
)
def test_too_many_concepts_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        World.model_validate(values)


def test_a_world_is_replaced_as_a_whole(tmp_path):
    clear_world(tmp_path)
    image = tmp_path / "things-eeg2/images/old.jpg"
    image.parent.mkdir(parents=True)
    image.write_text("simulated")
    (tmp_path / "notes.txt").write_text("mine")
    clear_world(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"SIMULATED.txt", "notes.txt"}


def test_files_that_were_not_simulated_are_left_alone(tmp_path):
    recording = tmp_path / "things-eeg2/raw_data/sub-01.npy"
    recording.parent.mkdir(parents=True)
    recording.write_text("recorded")
    with pytest.raises(FileExistsError, match="may not be simulated.*data_root"):
        clear_world(tmp_path)
    assert recording.read_text() == "recorded"
