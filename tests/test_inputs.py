import hashlib
import io
import json
import os
import pickle
import re
import subprocess
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from file_server import encrypted_zip, serving
from meg_participant import EXCERPT, image_numbers, trial_table, write_epochs
from PIL import Image

from paperlib import inputs
from paperlib.__main__ import main
from paperlib.inputs import WEIGHTS, fetch_inputs, list_inputs, select_inputs
from paperlib.paths import ROOT
from paperlib.recordings import downloads
from paperlib.recordings.things_meg import list_images
from paperlib.stimuli import pretrained
from paperlib.stimuli.pretrained import clip_fault, cnn_fault, model_fault

SECRET = "correct horse"


@pytest.fixture(autouse=True)
def nothing_in_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_in_cache", lambda model, revision: None)
    monkeypatch.setattr(
        pretrained, "try_to_load_from_cache", lambda name, file, revision: None
    )
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def config(tmp_path):
    """Write config/paper.yaml for two participants each and for a new folder."""
    settings = yaml.safe_load((ROOT / "config/paper.yaml").read_text(encoding="utf-8"))
    settings["data_root"] = str(tmp_path / "data")
    for entry in settings["datasets"].values():
        entry["subjects"] = entry["ablations"]["subjects"] = [1, 2]

    def write(**sources):
        for dataset, source in sources.items():
            entry = settings["datasets"][dataset.replace("_", "-")]
            entry["preprocessing"]["source"] = source
        path = tmp_path / "test.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def server(monkeypatch):
    """Serve the public files, all of them, at their addresses on this machine."""
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    sources = yaml.safe_load((ROOT / "config/downloads.yml").read_text("utf-8"))
    with serving() as files:
        eeg, meg = sources["things-eeg2"], sources["things-meg"]
        eeg["raw"]["urls"] = files.url + "/raw/sub-{subject}.zip"
        eeg["published"]["urls"] = {n: f"{files.url}/published/{n}" for n in (1, 2)}
        eeg["images"]["image_metadata"] = f"{files.url}/metadata"
        for name in eeg["images"]["archives"]:
            eeg["images"]["archives"][name] = f"{files.url}/{name}"
        meg["url"], meg["images"]["url"] = f"{files.url}/meg/", f"{files.url}/things"
        for source in (eeg["raw"], eeg["published"], eeg["images"], meg["images"]):
            source["gigabytes"] = {"archive": 0.0, "files": 0.0}
        monkeypatch.setattr(inputs, "_sources", lambda: sources)
        files.sources = sources
        yield files


def dictionary(**content):
    stream = io.BytesIO()
    np.save(stream, content)
    return stream.getvalue()


def zipped(members):
    stream = io.BytesIO()
    with ZipFile(stream, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return stream.getvalue()


def picture():
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "jpeg")
    return stream.getvalue()


def serve_eeg(files):
    """Put two small participants and three images on the server."""
    recording = dictionary(raw_eeg_data=np.zeros((2, 3)))
    names = [f"ses-{n:02d}/raw_eeg_{p}.npy" for n in range(1, 5) for p in PARTITIONS]
    signals = [f"preprocessed_eeg_{p}.npy" for p in PARTITIONS]
    for n in (1, 2):
        files[f"/raw/sub-{n:02d}.zip"] = zipped(
            {f"sub-{n:02d}/{name}": recording for name in names}
        )
        files[f"/published/{n}"] = zipped(
            {f"sub-{n:02d}__63_channels/{name}": recording for name in signals}
            | {f"__MACOSX/sub-{n:02d}/._{name}": b"no" for name in signals}
        )
    training, test = ["a_01b.jpg", "a_02s.jpg"], ["b_01b.jpg"]
    files["/metadata"] = dictionary(
        train_img_concepts=["00001_a"] * 2,
        train_img_files=training,
        test_img_concepts=["00001_b"],
        test_img_files=test,
    )
    for top, folder, listed in (
        ("training_images", "00001_a", training),
        ("test_images", "00001_b", test),
    ):
        members = {f"{top}/{folder}/{name}": picture() for name in listed}
        files[f"/{top}"] = zipped(members)


def serve_meg(files, folder):
    """Put two small participants and the pictures that they saw on the server."""
    trials = trial_table(pd.read_csv(EXCERPT), np.random.default_rng(0))
    table = trials.to_csv(index=False).encode()
    path = folder / "served-epo.fif"
    write_epochs(path, image_numbers(trials))
    listed = {"sourcedata/sample_attributes_P1.csv": table}
    for n in (1, 2):
        listed[f"derivatives/preprocessed/preprocessed_P{n}-epo.fif"] = (
            path.read_bytes()
        )
    files.sources["things-meg"]["files"] = {
        name: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()}
        for name, c in listed.items()
    }
    files.update({f"/meg/{name}": content for name, content in listed.items()})
    (folder / "sourcedata").mkdir()
    (folder / "sourcedata/sample_attributes_P1.csv").write_bytes(table)
    images = list_images(folder)
    places = images["concept"] + "/" + images["file"]
    shown = {f"object_images/{place}": picture() for place in places}
    files["/things"] = encrypted_zip(shown, SECRET.encode())


PARTITIONS = ("training", "test")


def states(config, group):
    """Look at the inputs of a group: what is wrong, by name."""
    return {i.name: i.faults() for i in list_inputs(config) if i.group == group}


def test_nothing_is_there(config, capsys, tmp_path):
    path = config()
    assert main(["check", "--config", path]) == 1
    shown = capsys.readouterr().out
    assert "missing  participant 2, raw" in shown and "ok" not in shown.split()
    assert f"./run_all.sh fetch --config {path} --dataset things-eeg2\n" in shown
    assert f"./run_all.sh fetch --config {path} --weights\n" in shown
    assert "missing  CLIP ViT-B-32-quickgelu (openai)" in shown
    assert "write data/paper/captions/visualglm.jsonl" in shown
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("source", ["raw", "published"])
def test_participants_of_eeg(config, server, capsys, tmp_path, source):
    serve_eeg(server)
    path = config(things_eeg2=source)
    fetch = ["fetch", "--config", path, "--dataset", "things-eeg2"]
    assert main([*fetch, "--subjects", "2"]) == 0
    found = states(path, "things-eeg2")
    assert found["images"] == found[f"participant 2, {source}"] == []
    assert len(found[f"participant 1, {source}"]) == {"raw": 8, "published": 2}[source]
    assert not list((tmp_path / "data").rglob("*.zip"))
    main(["check", "--config", path])
    assert "--dataset things-eeg2 --subjects 1\n" in capsys.readouterr().out
    server.asked.clear()
    assert main([*fetch, "--subjects", "2"]) == 0 and server.asked == []


def test_an_interrupted_fetch_is_not_taken_for_whole(config, server, capsys):
    serve_eeg(server)
    path = config()
    server.cut = 0
    fetch = ["fetch", "--config", path, "--dataset", "things-eeg2", "--subjects", "1"]
    assert main(fetch) == 1
    assert "Run the same command again" in capsys.readouterr().err
    assert len(states(path, "things-eeg2")["participant 1, raw"]) == 8
    server.cut = None
    assert main(fetch) == 0


def test_damaged_recordings_are_told_from_missing_ones(
    config, server, tmp_path, capsys
):
    serve_eeg(server)
    path = config()
    main(["fetch", "--config", path, "--dataset", "things-eeg2"])
    folder = tmp_path / "data/things-eeg2/raw_data/sub-01"
    cut, text, empty = (folder / f"ses-0{n}/raw_eeg_test.npy" for n in (1, 2, 3))
    cut.write_bytes(cut.read_bytes()[:-1])
    text.write_text("404: not found")
    empty.write_bytes(b"")
    found = states(path, "things-eeg2")["participant 1, raw"]
    assert [fault.split(":")[0].split("(")[0] for fault in found] == [
        "has an unreadable header ",
        "has an unreadable header ",
        "is empty",
    ]
    capsys.readouterr()
    main(["check", "--config", path])
    assert "wrong    participant 1, raw" in capsys.readouterr().out


def test_bare_pickles_are_a_layout_too(config, tmp_path):
    folder = tmp_path / "data/things-eeg2/preprocessed_data/sub-01"
    folder.mkdir(parents=True)
    for partition in PARTITIONS:
        path = folder / f"preprocessed_eeg_{partition}.npy"
        path.write_bytes(pickle.dumps({"times": np.zeros(3)}, protocol=4))
    found = states(config(things_eeg2="published"), "things-eeg2")
    assert found["participant 1, published"] == []


def test_participants_of_meg(config, server, tmp_path, monkeypatch, capfd):
    serve_meg(server, tmp_path)
    monkeypatch.setattr(inputs, "ask_password", lambda prompt: SECRET.encode())
    path = config()
    assert main(["fetch", "--config", path, "--dataset", "things-meg"]) == 0
    assert not any(states(path, "things-meg").values())
    stored = [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in p.read_bytes() for p in stored)
    assert SECRET not in "".join(capfd.readouterr())


def test_epochs_of_another_size_and_without_a_header(config, server, tmp_path):
    serve_meg(server, tmp_path)
    path = config()
    folder = tmp_path / "data/things-meg/derivatives/preprocessed"
    folder.mkdir(parents=True)
    size = len(server["/meg/derivatives/preprocessed/preprocessed_P1-epo.fif"])
    (folder / "preprocessed_P1-epo.fif").write_bytes(b"x" * (size - 1))
    (folder / "preprocessed_P2-epo.fif").write_bytes(b"x" * size)
    found = states(path, "things-meg")
    assert (
        f"has {size - 1:,} bytes; expected {size:,}"
        in found["participant 1, epochs"][1]
    )
    assert "unreadable header" in found["participant 2, epochs"][1]


def test_the_password_is_asked_before_the_archive_is_brought(
    config, server, tmp_path, monkeypatch
):
    def no_terminal(prompt):
        assert "osf.io/jum2f/files/52wrx" in prompt
        raise OSError("no terminal")

    serve_meg(server, tmp_path)
    monkeypatch.setattr(inputs, "ask_password", no_terminal)
    assert main(["fetch", "--config", config(), "--dataset", "things-meg"]) == 1
    assert "/things" not in [path for path, _ in server.asked]


def test_raw_runs_of_meg(config, server, tmp_path, capsys):
    serve_meg(server, tmp_path)
    server.sources["things-meg"]["raw_ctf"] = {"runs": 2, "size": 12}
    path = config(things_meg="raw_ctf")
    meg = tmp_path / "data/things-meg/sub-BIGMEG1/ses-01/meg"
    for n in (1, 2):
        name = f"sub-BIGMEG1_ses-01_task-main_run-0{n}"
        run = meg / f"{name}_meg.ds"
        run.mkdir(parents=True)
        (run / f"{name}_meg.res4").write_bytes(b"MEG42RS\0")
        (run / f"{name}_meg.meg4").write_bytes(b"MEG41CP\0data")
        (meg / f"{name}_events.tsv").write_text("onset\n")
    table = meg.parents[2] / "sourcedata/sample_attributes_P1.csv"
    table.parent.mkdir()
    table.write_text("trial_type\n")
    found = states(path, "things-meg")
    assert found["participant 1, raw_ctf"] == []
    assert "sub-BIGMEG2 holds no run" in found["participant 2, raw_ctf"][0]
    (run / f"{name}_meg.meg4").write_bytes(b"MEG41CP\0dat")
    assert (
        "has 11 bytes; expected 12"
        in states(path, "things-meg")["participant 1, raw_ctf"][0]
    )
    (run / f"{name}_meg.meg4").write_bytes(b"x" * 12)
    assert "no MEG4" in states(path, "things-meg")["participant 1, raw_ctf"][0]
    server.sources["things-meg"]["raw_ctf"]["runs"] = 3
    assert (
        "2 of 3 runs are there"
        in states(path, "things-meg")["participant 1, raw_ctf"][1]
    )
    main(["check", "--config", path])
    assert "openneuro-py download --dataset=ds004212" in capsys.readouterr().out


def test_room_is_looked_for_before_anything_is_brought(config, server, tmp_path):
    serve_eeg(server)
    server.sources["things-eeg2"]["raw"]["gigabytes"] = {"archive": 3.0, "files": 5.0}
    chosen = select_inputs(list_inputs(config()), group="things-eeg2")
    asked = []

    def full(folder, n_bytes):
        asked.append((folder, n_bytes))
        raise OSError("full")

    def try_to_fetch():
        with pytest.raises(OSError, match="full"):
            fetch_inputs(chosen, tmp_path, check_room=full)

    try_to_fetch()
    folder = tmp_path / "data/things-eeg2/raw_data"
    (folder / "sub-01/ses-01").mkdir(parents=True)
    (folder / "sub-01/ses-01/raw_eeg_test.npy").write_bytes(bytes(700))
    try_to_fetch()  # less is left to come
    for name in (".sub-01.zip.partial", "sub-02.zip"):
        (folder / name).write_bytes(bytes(50))
        try_to_fetch()
    needed = [13e9, 13e9 - 700, 13e9 - 700, 13e9 - 750]  # the larger archive counts
    assert asked == [(tmp_path, n_bytes) for n_bytes in needed]
    assert server.asked == []


@pytest.mark.parametrize("disks", [["data", "hub", "torch"], ["one", "one", "one"]])
def test_caches_of_weights_need_room_on_their_own_disks(
    config, server, tmp_path, monkeypatch, disks
):
    server.sources["things-eeg2"]["raw"]["gigabytes"] = {"archive": 3.0, "files": 5.0}
    folders = (tmp_path, tmp_path / "hf", tmp_path / "hub")
    places = dict(zip(folders, disks, strict=True))
    monkeypatch.setattr(inputs, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(inputs, "disk_of", places.get)
    wanted = (WEIGHTS, "things-eeg2")
    chosen = [item for item in list_inputs(config()) if item.group in wanted]
    asked = {}

    def look(folder, n_bytes):
        asked[places[folder]] = n_bytes
        if len(asked) == len(set(disks)):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fetch_inputs(chosen, tmp_path, check_room=look)
    sizes = {"data": 13e9, "hub": 30.2e9, "torch": 0.24e9, "one": 43.44e9}
    assert asked == pytest.approx({name: sizes[name] for name in disks})
    assert server.asked == []


def test_archives_in_a_folder_are_not_counted_as_its_files(config, server, tmp_path):
    sizes = {"archive": 3.0, "files": 5.0}
    server.sources["things-eeg2"]["images"]["gigabytes"] = sizes
    images, *_ = list_inputs(config())
    folder = tmp_path / "data/things-eeg2/images"
    folder.mkdir(parents=True)
    assert images.room() == (3e9, 5e9)
    (folder / ".training_images.zip.partial").write_bytes(bytes(50))
    (folder / "test_images.zip").write_bytes(bytes(20))
    assert images.room() == (3e9 - 70, 5e9)


def test_an_archive_that_lacks_a_session_is_not_enough(config, server, capsys):
    serve_eeg(server)
    recording = dictionary(raw_eeg_data=np.zeros((2, 3)))
    server["/raw/sub-01.zip"] = zipped({"ses-01/raw_eeg_training.npy": recording})
    fetch = ["fetch", "--config", config(), "--dataset", "things-eeg2"]
    assert main([*fetch, "--subjects", "1"]) == 1
    assert "all was brought, but missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "things-eeg"], "--dataset must be one of.*Did you mean"),
        (
            ["--dataset", "things-meg", "--subjects", "1,7"],
            "no participant 7; it has 1, 2",
        ),
    ],
)
def test_unknown_data_sets_and_participants(config, capsys, words, message):
    assert main(["fetch", "--config", config(), *words]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_numbers_of_participants_belong_to_a_data_set(config, capsys):
    with pytest.raises(SystemExit):
        main(["fetch", "--config", config(), "--subjects", "1"])
    assert "--subjects needs --dataset" in capsys.readouterr().err


def test_a_simulated_world_needs_nothing(capsys):
    for command in ("check", "fetch"):
        assert main([command, "--config", "mini"]) == 0
    assert "makes its own data" in capsys.readouterr().out


def test_weights_are_those_that_the_runs_name(config):
    names = [i.name for i in list_inputs(config()) if i.group == WEIGHTS]
    assert names == [
        "CLIP ViT-L-14-quickgelu (openai)",
        "CLIP ViT-B-32-quickgelu (openai)",
        "alexnet",
        "qwen2-vl: Qwen/Qwen2-VL-2B-Instruct",
        "visualglm: captions",
        "minigpt4: Salesforce/blip2-flan-t5-xxl",
        "minigpt4: Vision-CAIR/vicuna-7b",
        "minigpt4: projection",
    ]


@pytest.fixture
def sharded(tmp_path):
    """Make a folder of a model in two shards, of which one is missing."""
    where = {"vision_model.a": "1.safetensors", "language_model.b": "2.safetensors"}
    index = json.dumps({"weight_map": where})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "1.safetensors").touch()
    return tmp_path


def test_only_the_shards_that_are_read_are_needed(sharded):
    assert model_fault(str(sharded), None).endswith(f"{sharded}: 2.safetensors")
    assert model_fault(str(sharded), None, ("vision_model.",)) is None


def test_a_model_in_one_piece(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "model.safetensors, pytorch_model.bin" in model_fault(str(tmp_path), None)
    (tmp_path / "pytorch_model.bin").touch()
    assert model_fault(str(tmp_path), None) is None


def test_a_misspelt_model(config):
    assert "expected a folder with a model" in model_fault("no-such-model", None)
    assert "open_clip has no weights 'open'" in clip_fault("ViT-L-14-quickgelu", "open")


def test_alexnet_has_its_checksum_in_its_name(tmp_path):
    path = tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth"
    assert cnn_fault("alexnet") == f"missing: {path}"
    path.parent.mkdir(parents=True)
    path.write_text("other")
    assert "another checksum" in cnn_fault("alexnet")
    assert cnn_fault("efficientnet-lite0") is None


@pytest.fixture
def environment(tmp_path):
    """Make an environment whose Python finds that inputs are missing."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text('#!/bin/sh\necho "$@"\n[ "$3" != check ]\n')
    python.chmod(0o755)
    return os.environ | {"VIRTUAL_ENV": str(tmp_path)}


@pytest.mark.parametrize(
    ("words", "status", "starts"),
    [([], 1, False), (["--only", "tab01"], 0, True), (["-n"], 0, True)],
)
def test_a_whole_run_needs_all_inputs(environment, words, status, starts):
    done = subprocess.run(
        ["./run_all.sh", "--config", "paper", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert ("-m snakemake" in done.stdout) == starts


def test_the_command_passes_what_to_fetch(environment):
    words = "fetch --config paper --dataset things-eeg2 --subjects 1,3"
    done = subprocess.run(
        ["./run_all.sh", *words.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"-m paperlib {words}"
