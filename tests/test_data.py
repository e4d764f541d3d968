import hashlib
import io
import pickle
import re
from pathlib import Path
from urllib.parse import urlencode
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from file_server import encrypted_zip, serving
from hub_server import COMMIT
from huggingface_hub import constants
from huggingface_hub.errors import RevisionNotFoundError
from meg_participant import EXCERPT, image_numbers, trial_table, write_epochs
from PIL import Image

from paperlib.config import load_config
from paperlib.recordings.things_meg import list_images
from workflow import data, downloads
from workflow.data import WEIGHTS, _Clip, _Model, list_items, main
from workflow.jobs import Jobs

SECRET = "correct horse"
TABLE = "sourcedata/sample_attributes_P1.csv"
PARTITIONS = ("training", "test")
SESSIONS = [f"ses-{n:02d}" for n in range(1, 5)]
EPOCHS = [f"preprocessed_P{n}-epo.fif" for n in (1, 2)]
OTHER = "f" * 40


@pytest.fixture(autouse=True)
def nothing_in_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(downloads, "PAUSE", 0.0)


@pytest.fixture
def config(tmp_path):
    """Write config/paper.yaml for two participants each and for a new folder."""

    def write(eeg="raw", meg="epochs"):
        sources = {"things-eeg2": eeg, "things-meg": meg}
        datasets = {
            dataset: {"subjects": [1, 2], "preprocessing": {"source": source}}
            for dataset, source in sources.items()
        }
        changes = {"data_root": str(tmp_path / "data"), "datasets": datasets}
        path = tmp_path / "test.yaml"
        path.write_text(yaml.safe_dump({"extends": "paper"} | changes))
        return str(path)

    return write


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


def eeg_files():
    """Return two small participants and three images, by their places on the server."""
    files, recording = {}, dictionary(raw_eeg_data=np.zeros((2, 3)))
    names = [f"{s}/raw_eeg_{p}.npy" for s in SESSIONS for p in PARTITIONS]
    signals = [f"preprocessed_eeg_{p}.npy" for p in PARTITIONS]
    for n in (1, 2):
        raw = {f"sub-{n:02d}/{name}": recording for name in names}
        files[f"/raw/sub-{n:02d}.zip"] = zipped(raw)
        folder = f"sub-{n:02d}__63_channels"
        files[f"/published/{n}"] = zipped(
            {f"{folder}/{name}": recording for name in signals}
            | {f"__MACOSX/{folder}/._{name}": b"no" for name in signals}
        )
    lists = {"train": ["a_01b.jpg", "a_02s.jpg"], "test": ["b_01b.jpg"]}
    metadata = {}
    for key, listed in lists.items():
        folder = f"00001_{listed[0][0]}"
        top = f"{key.replace('train', 'training')}_images"
        metadata[f"{key}_img_concepts"] = [folder] * len(listed)
        metadata[f"{key}_img_files"] = listed
        files[f"/{top}"] = zipped({f"{top}/{folder}/{n}": picture() for n in listed})
    return files | {"/metadata": dictionary(**metadata)}


def meg_files(folder):
    """Return two small participants and the pictures that they saw."""
    trials = trial_table(pd.read_csv(EXCERPT), np.random.default_rng(0))
    write_epochs(folder / "served-epo.fif", image_numbers(trials))
    content = (folder / "served-epo.fif").read_bytes()
    (folder / "sourcedata").mkdir()
    trials.to_csv(folder / TABLE, index=False)
    images = list_images(folder)
    places = "object_images/" + images["concept"] + "/" + images["file"]
    pictures = encrypted_zip({place: picture() for place in places}, SECRET.encode())
    table = {"/table": (folder / TABLE).read_bytes(), "/things": pictures}
    return table | {f"/meg/{name}": content for name in EPOCHS}


def ctf_files(prefix):
    """Return two short raw runs, and their list on two pages as S3 has it."""
    files = {}
    for n in (1, 2):
        stem = f"ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-0{n}"
        run = f"{stem}_meg.ds/{stem.rpartition('/')[2]}_meg"
        files |= {f"{run}.res4": b"MEG42RS\0", f"{run}.meg4": b"MEG41CP\0data"}
        files[f"{stem}_events.tsv"] = b"onset\n"
    query = {"list-type": "2", "prefix": prefix}
    listed = [
        f"<Contents><Key>{prefix}{name}</Key><Size>{len(content)}</Size></Contents>"
        for name, content in files.items()
    ]
    listed[2] += "<NextContinuationToken>x y</NextContinuationToken>"
    pages = {"": listed[:3], "&" + urlencode({"continuation-token": "x y"}): listed[3:]}
    files = {f"/bucket/{prefix}{name}": content for name, content in files.items()}
    for token, entries in pages.items():
        page = '<L xmlns="http://s3.amazonaws.com/doc/">' + "".join(entries) + "</L>"
        files[f"/bucket?{urlencode(query)}{token}"] = page.encode()
    return files


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    meg = meg_files(tmp_path_factory.mktemp("meg"))
    return eeg_files() | meg | ctf_files("ds004212/sub-BIGMEG1/")


@pytest.fixture
def server(public, monkeypatch):
    """Serve the public files, all of them, at their addresses on this machine."""
    sources = yaml.safe_load(data.SOURCES.read_text("utf-8"))
    with serving() as files:
        files |= public

        def entry(place):
            digest = hashlib.sha256(files[place]).hexdigest()
            return {"size": len(files[place]), "sha256": digest}

        eeg, meg = sources["things-eeg2"], sources["things-meg"]
        eeg["raw"] = files.url + "/raw/sub-{subject}.zip"
        eeg["published"] = {n: f"{files.url}/published/{n}" for n in (1, 2)}
        eeg["images"]["lists"]["image_metadata.npy"]["url"] = f"{files.url}/metadata"
        for name in eeg["images"]["archives"]:
            eeg["images"]["archives"][name] = f"{files.url}/{name}"
        meg["images"]["archives"] = {"object_images": f"{files.url}/things"}
        meg["images"]["lists"][TABLE] = entry("/table") | {"url": f"{files.url}/table"}
        epochs = {name: entry(f"/meg/{name}") for name in EPOCHS}
        meg["epochs"] = {"folder": f"{files.url}/meg", "files": epochs}
        meg["raw_ctf"] |= {"bucket": f"{files.url}/bucket", "runs": 2, "size": 12}
        monkeypatch.setattr(data.yaml, "safe_load", lambda text: sources)
        files.sources = sources
        yield files


def fetch(config, dataset, *words):
    return main(["fetch", "--config", config, "--dataset", dataset, *words])


def states(config, group):
    """Say what is wrong with the items of a group, by name."""
    items = list_items(load_config(config))
    return {item.name: item.problem() for item in items if item.group == group}


def test_nothing_is_there(config, capsys, tmp_path):
    path = config()
    assert main(["check", "--config", path]) == 1
    shown = capsys.readouterr().out
    assert "missing  participant 2, raw" in shown and "ok" not in shown.split()
    assert f"./run_all.sh fetch --config {path}\n" in shown
    assert "missing  CLIP ViT-B-32-quickgelu (openai)" in shown
    assert "write data/paper/captions/visualglm.jsonl" in shown
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("source", ["raw", "published"])
def test_participants_of_eeg(config, server, tmp_path, source):
    path = config(eeg=source)
    assert fetch(path, "things-eeg2", "--subjects", "2") == 0
    found = states(path, "things-eeg2")
    assert found["images"] is None and found[f"participant 2, {source}"] is None
    assert found[f"participant 1, {source}"].startswith("missing")
    assert not list((tmp_path / "data").rglob("*.zip"))
    server.asked.clear()
    assert fetch(path, "things-eeg2", "--subjects", "2") == 0 and server.asked == []


def test_an_interrupted_fetch_is_not_taken_for_whole(config, server, capsys):
    path = config()
    server.cut = 0
    assert fetch(path, "things-eeg2", "--subjects", "1") == 1
    assert "Run the same command again" in capsys.readouterr().err
    assert states(path, "things-eeg2")["participant 1, raw"].startswith("missing")
    server.cut = None
    assert fetch(path, "things-eeg2", "--subjects", "1") == 0


BARE_PICKLE = pickle.dumps({"times": np.zeros(3)}, protocol=4)


@pytest.mark.parametrize(
    ("source", "files", "content"),
    [
        ("published", [f"preprocessed_eeg_{p}.npy" for p in PARTITIONS], BARE_PICKLE),
        ("published", ["train.pt", "test.pt"], b"PK"),
        ("published", ["info.json", "training.npy", "test.npy"], BARE_PICKLE),
        ("raw", [f"{session}/eeg/task-test.bdf" for session in SESSIONS], b"x"),
    ],
)
def test_every_layout_that_is_read_is_found(config, tmp_path, source, files, content):
    path = config(eeg=source)
    alias = "raw_data" if source == "raw" else "preprocessed_data"
    for name in files:
        file = tmp_path / "data/things-eeg2" / alias / "sub-01" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    found = states(path, "things-eeg2")
    assert found[f"participant 1, {source}"] is None
    assert "_eeg_training.npy" in found[f"participant 2, {source}"]
    inputs = Jobs(path, dry_run=lambda: False).recordings("things-eeg2", 1)
    assert all(Path(name).exists() for name in inputs)


@pytest.mark.parametrize("content", [b"404: not found", b""])
def test_damaged_recordings_are_told_from_missing_ones(
    config, tmp_path, capsys, content
):
    folder = tmp_path / "data/things-eeg2/preprocessed_data/sub-01"
    folder.mkdir(parents=True)
    (folder / "preprocessed_eeg_training.npy").write_bytes(content)
    main(["check", "--config", config(eeg="published")])
    shown = capsys.readouterr().out
    assert "wrong    participant 1, published" in shown and "or damaged" in shown


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("sub-02/ses-01/raw_eeg_training.npy", "holds none of the files expected"),
        ("ses-01/raw_eeg_training.npy", "Everything was downloaded, and yet: missing"),
    ],
)
def test_archives_of_others_and_incomplete_ones(
    config, server, capsys, member, message
):
    recording = dictionary(raw_eeg_data=np.zeros((2, 3)))
    server["/raw/sub-01.zip"] = zipped({member: recording})
    assert fetch(config(), "things-eeg2", "--subjects", "1") == 1
    assert message in capsys.readouterr().err


def test_participants_of_meg(config, server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(data, "ask_password", lambda prompt: SECRET.encode())
    path = config()
    assert fetch(path, "things-meg") == 0
    assert not any(states(path, "things-meg").values())
    stored = [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in p.read_bytes() for p in stored)
    assert SECRET not in "".join(capfd.readouterr())


def test_epochs_of_another_size_and_without_a_header(config, server, tmp_path):
    folder = tmp_path / "data/things-meg/derivatives/preprocessed"
    folder.mkdir(parents=True)
    size = len(server[f"/meg/{EPOCHS[0]}"])
    for name, n_bytes in zip(EPOCHS, (size - 1, size), strict=True):
        (folder / name).write_bytes(b"x" * n_bytes)
    found = states(config(), "things-meg")
    expected = f"has {size - 1:,} bytes; expected {size:,}"
    assert expected in found["participant 1, epochs"]
    assert "damaged" in found["participant 2, epochs"]
    server.sources["things-meg"]["epochs"]["files"].clear()  # of other participants
    (folder / EPOCHS[0]).unlink()
    assert states(config(), "things-meg")["participant 1, epochs"].startswith("missing")


def test_the_password_is_asked_before_the_archive_is_brought(
    config, server, monkeypatch
):
    def no_terminal(prompt):
        assert "osf.io/jum2f/files/52wrx" in prompt
        raise OSError("no terminal")

    monkeypatch.setattr(data, "ask_password", no_terminal)
    assert fetch(config(), "things-meg") == 1
    assert "/things" not in [path for path, _ in server.asked]


def test_raw_runs_of_meg(config, server):
    items = list_items(load_config(config(meg="raw_ctf")))
    item = next(item for item in items if item.name == "participant 1, raw_ctf")
    assert "missing: 2 of 2 runs" in item.problem()
    item.fetch()
    assert item.problem() is None
    signals = sorted(item.path.rglob("*.meg4"))[0]
    signals.write_bytes(b"MEG41CP\0dat")
    assert "has 11 bytes; expected 12" in item.problem()
    signals.write_bytes(b"x" * 12)
    assert "damaged" in item.problem()
    server.asked.clear()
    signals.unlink()
    item.fetch()
    brought = [path for path, _ in server.asked if "?" not in path]
    assert item.problem() is None and len(brought) == 1


def test_unknown_data_sets_and_participants(config, capsys):
    assert fetch(config(), "things-eeg") == 1
    assert re.search("--dataset must be one of.*Did you mean", capsys.readouterr().err)
    assert fetch(config(), "things-meg", "--subjects", "1,7") == 1
    assert "one of '1', '2'; got '7'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fetch", "--config", config(), "--subjects", "1"])
    assert "--subjects needs --dataset" in capsys.readouterr().err


def test_a_simulated_world_needs_nothing(capsys):
    for command in ("check", "fetch"):
        assert main([command, "--config", "mini"]) == 0
    assert "makes its own data" in capsys.readouterr().out


def test_weights_are_those_that_the_runs_name(config):
    assert set(states(config(), WEIGHTS)) == {
        "CLIP ViT-L-14-quickgelu (openai)",
        "CLIP ViT-B-32-quickgelu (openai)",
        "AlexNet",
        "qwen2-vl: Qwen/Qwen2-VL-2B-Instruct",
        "visualglm: captions",
        "minigpt4: Salesforce/blip2-flan-t5-xxl",
        "minigpt4: Vision-CAIR/vicuna-7b",
        "minigpt4: projection",
    }


def model(source="owner/name", revision=COMMIT, prefixes=("",)):
    about = (WEIGHTS, source, data.ROOT, source)
    return _Model(*about, revision=revision, prefixes=prefixes)


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_model_is_brought_in_its_revision_or_the_newest(hub, revision):
    assert model(revision=revision).problem().startswith("missing: owner/name")
    model(revision=revision).fetch()
    assert model(revision=revision).problem() is model().problem() is None
    assert model(revision=OTHER).problem().startswith("missing: owner/name")
    with pytest.raises(RevisionNotFoundError, match=OTHER):
        model(revision=OTHER).fetch()


def test_only_the_shards_that_are_read_are_brought(hub):
    vision = model(prefixes=("vision_model.",))
    vision.fetch()
    assert not any("2.safetensors" in path for path in hub.asked)
    assert vision.problem() is None
    assert model().problem().endswith("2.safetensors")


def test_a_file_with_another_checksum_is_removed_and_comes_again(hub):
    hub.promised["2.safetensors"] = b"LANGUAGE"
    with pytest.raises(ValueError, match=r"2\.safetensors of owner/name had another"):
        model().fetch()
    assert model().problem().endswith("2.safetensors")
    hub["2.safetensors"] = b"LANGUAGE"
    hub.asked.clear()
    model().fetch()
    assert model().problem() is None
    assert not any("1.safetensors" in path for path in hub.asked)  # what was good stays


def test_a_model_in_one_piece_and_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model(str(tmp_path)).problem().endswith("model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert model(str(tmp_path)).problem() is None
    assert model("no-such-model").problem().startswith("missing: no-such-model")


def test_clip_is_brought_and_compared(hub):
    hub["open_clip_model.safetensors"] = b"clip"
    clip = _Clip(WEIGHTS, "CLIP", data.ROOT, "owner/name/", revision=COMMIT)
    assert clip.problem() == "missing: owner/name"
    clip.fetch()
    assert clip.problem() is None
    hub.promised["open_clip_model.safetensors"] = b"CLIP"
    with pytest.raises(ValueError, match="another checksum"):
        clip.fetch()
    assert clip.problem() == "missing: owner/name"
