import hashlib
import importlib
import json

import pytest

from minithings.stimuli import write_stimuli
from minithings.world import Task, build
from paperlib.paths import ROOT

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
    state = manifest["stimuli of 24 pixels"]
    assert len(state.pop("code")) == 64
    assert state == {
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


def test_other_code_starts_from_an_empty_folder(tmp_path, monkeypatch, capsys):
    module = tmp_path / "drawing.py"
    code = "def draw(folder, name):\n    (folder / name).write_text('{}')\n"
    module.write_text(code.format("circle"))
    monkeypatch.syspath_prepend(tmp_path)
    drawing = importlib.import_module("drawing")
    task = Task("drawing", drawing.draw, tmp_path / "drawn", {"name": "shape.txt"})
    for shape, todo in [("circle", 1), ("circle", 0), ("square", 1)]:
        module.write_text(code.format(shape))
        build([task], tmp_path / "manifest.json")
        assert (tmp_path / "drawn/shape.txt").read_text() == shape
        assert f"{todo} of 1 tasks" in capsys.readouterr().out


def test_code_is_what_the_function_can_use_of_the_simulator(root):
    pictures = json.loads((root / "24/minithings.json").read_text())["code"]
    modules = ("__init__", "scenes", "stimuli")
    sources = (ROOT / f"paperlib/minithings/{name}.py" for name in modules)
    content = b"".join(path.read_bytes() for path in sources)
    assert pictures == hashlib.sha256(content).hexdigest()


def test_files_that_were_not_simulated_are_left_alone(tmp_path):
    recording = tmp_path / "16/sub-01.npy"
    recording.parent.mkdir()
    recording.write_text("recorded")
    with pytest.raises(FileExistsError, match="were not simulated.*data_root"):
        build([stimuli_task(tmp_path, 16)], tmp_path / "manifest.json")
    assert recording.read_text() == "recorded"
