import json

import pytest

from paperlib.minithings.stimuli import write_stimuli
from paperlib.minithings.world import Task, build

SIZES = {"seed": 0, "n_concepts": 2, "n_images": 1, "n_test_concepts": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    build([stimuli_task(root, 16), stimuli_task(root, 24)], root / "manifest.json")
    return root


def stimuli_task(root, image_size):
    return Task(
        name=f"stimuli of {image_size} pixels",
        function=write_stimuli,
        folder=root / str(image_size),
        arguments={**SIZES, "image_size": image_size},
    )


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_every_task_fills_its_folder_and_is_in_the_manifest(root):
    assert len(list(root.rglob("*.jpg"))) == 6
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["stimuli of 24 pixels"] == {
        "done": True,
        "arguments": {**SIZES, "image_size": 24},
        "result": None,
    }


def test_what_is_done_is_not_done_again(root, capsys):
    before = times(root / "16")
    (root / "manifest.json").unlink()
    build([stimuli_task(root, 16)], root / "manifest.json")
    assert times(root / "16") == before
    assert (root / "manifest.json").is_file()
    assert "0 of 1 tasks" in capsys.readouterr().out


def test_other_arguments_start_from_an_empty_folder(root, tmp_path):
    fewer = {**SIZES, "n_concepts": 1, "image_size": 16}
    task = Task("stimuli", write_stimuli, root / "16", fewer)
    build([task], tmp_path / "manifest.json")
    assert len(list((root / "16").rglob("*.jpg"))) == 2


def test_files_that_were_not_simulated_are_left_alone(tmp_path):
    recording = tmp_path / "16/sub-01.npy"
    recording.parent.mkdir()
    recording.write_text("recorded")
    with pytest.raises(FileExistsError, match="were not simulated.*data_root"):
        build([stimuli_task(tmp_path, 16)], tmp_path / "manifest.json")
    assert recording.read_text() == "recorded"
