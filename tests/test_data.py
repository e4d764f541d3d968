import hashlib
import io
import json
import pickle
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml
from file_server import encrypted_zip, serving
from hub_server import COMMIT, serving_hub
from huggingface_hub import constants
from huggingface_hub.errors import RevisionNotFoundError
from meg_participant import EXCERPT, image_numbers, trial_table, write_epochs
from PIL import Image

from paperlib.config import load_config
from paperlib.recordings.things_meg import list_images
from workflow import data, downloads
from workflow.data import WEIGHTS, _Clip, _Model, list_bucket, list_items, main
from workflow.jobs import Jobs

SECRET = "correct horse"
TABLE = "sourcedata/sample_attributes_P1.csv"
PARTITIONS = ("training", "test")
OTHER = "f" * 40


@pytest.fixture(autouse=True)
def nothing_in_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


@pytest.fixture
def config(tmp_path):
    """Write config/paper.yaml for two participants each and for a new folder."""

    def write(**sources):
        changes = {"extends": "paper", "data_root": str(tmp_path / "data")}
        changes["datasets"] = {
            dataset: {"subjects": [1, 2], "preprocessing": {"source": source}}
            for dataset, source in (
                ("things-eeg2", sources.get("eeg", "raw")),
                ("things-meg", sources.get("meg", "epochs")),
            )
        }
        path = tmp_path / "test.yaml"
        path.write_text(yaml.safe_dump(changes))
        return str(path)

    return write


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the public files, all of them, at their addresses on this machine."""
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    sources = yaml.safe_load(data.SOURCES.read_text("utf-8"))
    with serving() as files:
        eeg, meg = sources["things-eeg2"], sources["things-meg"]
        eeg["raw"] = files.url + "/raw/sub-{subject}.zip"
        eeg["published"] = {n: f"{files.url}/published/{n}" for n in (1, 2)}
        eeg["images"]["lists"]["image_metadata.npy"]["url"] = f"{files.url}/metadata"
        for name in eeg["images"]["archives"]:
            eeg["images"]["archives"][name] = f"{files.url}/{name}"
        meg["images"]["archives"] = {"object_images": f"{files.url}/things"}
        files.sources = sources
        monkeypatch.setattr(data.yaml, "safe_load", lambda text: sources)
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


def serve(files, place, content):
    """Put a file on the server; return its entry of downloads.yml."""
    files[place] = content
    digest = hashlib.sha256(content).hexdigest()
    return {"url": files.url + place, "size": len(content), "sha256": digest}


def serve_meg(files, folder):
    """Put two small participants and the pictures that they saw on the server."""
    trials = trial_table(pd.read_csv(EXCERPT), np.random.default_rng(0))
    table = trials.to_csv(index=False).encode()
    path = folder / "served-epo.fif"
    write_epochs(path, image_numbers(trials))
    lists = files.sources["things-meg"]["images"]["lists"]
    lists[TABLE] = serve(files, "/table", table)
    parts = {
        name: serve(files, f"/meg/{name}", path.read_bytes())
        for name in ("preprocessed_P1-epo.fif", "preprocessed_P2-epo.fif")
    }
    for part in parts.values():
        del part["url"]
    epochs = {"folder": f"{files.url}/meg", "files": parts}
    files.sources["things-meg"]["epochs"] = epochs
    (folder / "sourcedata").mkdir()
    (folder / "sourcedata/sample_attributes_P1.csv").write_bytes(table)
    images = list_images(folder)
    places = images["concept"] + "/" + images["file"]
    shown = {f"object_images/{place}": picture() for place in places}
    files["/things"] = encrypted_zip(shown, SECRET.encode())


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
    serve_eeg(server)
    path = config(eeg=source)
    assert fetch(path, "things-eeg2", "--subjects", "2") == 0
    found = states(path, "things-eeg2")
    assert found["images"] is None and found[f"participant 2, {source}"] is None
    assert found[f"participant 1, {source}"].startswith("missing")
    assert not list((tmp_path / "data").rglob("*.zip"))
    server.asked.clear()
    assert fetch(path, "things-eeg2", "--subjects", "2") == 0 and server.asked == []


def test_an_interrupted_fetch_is_not_taken_for_whole(config, server, capsys):
    serve_eeg(server)
    path = config()
    server.cut = 0
    assert fetch(path, "things-eeg2", "--subjects", "1") == 1
    assert "Run the same command again" in capsys.readouterr().err
    assert states(path, "things-eeg2")["participant 1, raw"].startswith("missing")
    server.cut = None
    assert fetch(path, "things-eeg2", "--subjects", "1") == 0


@pytest.mark.parametrize("content", [b"404: not found", b""])
def test_damaged_recordings_are_told_from_missing_ones(
    config, server, tmp_path, capsys, content
):
    serve_eeg(server)
    path = config()
    fetch(path, "things-eeg2")
    folder = tmp_path / "data/things-eeg2/raw_data/sub-01"
    (folder / "ses-02/raw_eeg_test.npy").write_bytes(content)
    capsys.readouterr()
    main(["check", "--config", path])
    shown = capsys.readouterr().out
    assert "wrong    participant 1, raw" in shown and "empty or damaged" in shown


BARE_PICKLE = pickle.dumps({"times": np.zeros(3)}, protocol=4)


@pytest.mark.parametrize(
    ("source", "files", "content"),
    [
        ("published", [f"preprocessed_eeg_{p}.npy" for p in PARTITIONS], BARE_PICKLE),
        ("published", ["train.pt", "test.pt"], b"PK"),
        ("published", ["info.json", "training.npy", "test.npy"], BARE_PICKLE),
        ("raw", [f"ses-0{n}/eeg/task-test.bdf" for n in range(1, 5)], b"x"),
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
    assert all(Path(file).exists() for file in inputs)


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
    serve_eeg(server)
    recording = dictionary(raw_eeg_data=np.zeros((2, 3)))
    server["/raw/sub-01.zip"] = zipped({member: recording})
    assert fetch(config(), "things-eeg2", "--subjects", "1") == 1
    assert message in capsys.readouterr().err


def test_participants_of_meg(config, server, tmp_path, monkeypatch, capfd):
    serve_meg(server, tmp_path)
    monkeypatch.setattr(data, "ask_password", lambda prompt: SECRET.encode())
    path = config()
    assert fetch(path, "things-meg") == 0
    assert not any(states(path, "things-meg").values())
    stored = [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in p.read_bytes() for p in stored)
    assert SECRET not in "".join(capfd.readouterr())


def test_epochs_of_another_size_and_without_a_header(config, server, tmp_path):
    serve_meg(server, tmp_path)
    folder = tmp_path / "data/things-meg/derivatives/preprocessed"
    folder.mkdir(parents=True)
    size = len(server["/meg/preprocessed_P1-epo.fif"])
    (folder / "preprocessed_P1-epo.fif").write_bytes(b"x" * (size - 1))
    (folder / "preprocessed_P2-epo.fif").write_bytes(b"x" * size)
    found = states(config(), "things-meg")
    expected = f"has {size - 1:,} bytes; expected {size:,}"
    assert expected in found["participant 1, epochs"]
    assert "damaged" in found["participant 2, epochs"]


def test_the_password_is_asked_before_the_archive_is_brought(
    config, server, tmp_path, monkeypatch
):
    def no_terminal(prompt):
        assert "osf.io/jum2f/files/52wrx" in prompt
        raise OSError("no terminal")

    serve_meg(server, tmp_path)
    monkeypatch.setattr(data, "ask_password", no_terminal)
    assert fetch(config(), "things-meg") == 1
    assert "/things" not in [path for path, _ in server.asked]


def test_raw_runs_of_meg(config, server, tmp_path, monkeypatch):
    prefix, files = "ds004212/sub-BIGMEG1/", {}
    for n in (1, 2):
        stem = f"ses-01/meg/sub-BIGMEG1_ses-01_task-main_run-0{n}"
        run = f"{stem}_meg.ds/{stem.rpartition('/')[2]}_meg"
        files |= {f"{run}.res4": b"MEG42RS\0", f"{run}.meg4": b"MEG41CP\0data"}
        files[f"{stem}_events.tsv"] = b"onset\n"
    server.update({f"/{prefix}{name}": content for name, content in files.items()})
    source = {"bucket": server.url, "dataset": "ds004212", "runs": 2, "size": 12}
    server.sources["things-meg"]["raw_ctf"] = source
    listed = [(prefix + name, len(content)) for name, content in files.items()]
    monkeypatch.setattr(data, "list_bucket", lambda url, prefix: listed)
    item = next(
        i
        for i in list_items(load_config(config(meg="raw_ctf")))
        if i.name == "participant 1, raw_ctf"
    )
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
    assert item.problem() is None and len(server.asked) == 1


def test_a_bucket_is_listed_page_by_page(monkeypatch):
    page = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<Contents><Key>a/{0}</Key><Size>{0}</Size></Contents>{1}</ListBucketResult>"
    )
    more = "<NextContinuationToken>x y</NextContinuationToken>"
    asked = []

    class Answer:
        def __init__(self, query):
            asked.append(dict(query))
            is_first = "continuation-token" not in query
            self.content = page.format(*((1, more) if is_first else (2, ""))).encode()

        def raise_for_status(self):
            pass

    monkeypatch.setattr(
        data.requests, "get", lambda url, params, timeout: Answer(params)
    )
    assert list(list_bucket("https://bucket", "a/")) == [("a/1", 1), ("a/2", 2)]
    assert asked[1]["continuation-token"] == "x y"


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


@pytest.fixture
def hub(monkeypatch):
    """Serve a model with two shards; the client's cache is empty."""
    with serving_hub("owner/name") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        places = {
            "vision_model.a": "1.safetensors",
            "language_model.b": "2.safetensors",
        }
        index = json.dumps({"weight_map": places}).encode()
        hub["config.json"], hub["model.safetensors.index.json"] = b"{}", index
        hub["1.safetensors"], hub["2.safetensors"] = b"vision", b"language"
        yield hub


def test_a_model_is_brought_in_its_revision(hub):
    assert model().problem().startswith("missing: owner/name")
    model().fetch()
    assert model().problem() is None
    assert model(revision=OTHER).problem().startswith("missing: owner/name")
    with pytest.raises(RevisionNotFoundError, match=OTHER):
        model(revision=OTHER).fetch()


def test_only_the_shards_that_are_read_are_brought(hub):
    vision = model(prefixes=("vision_model.",))
    vision.fetch()
    assert not any("2.safetensors" in path for path in hub.asked)
    assert vision.problem() is None
    assert model().problem().endswith("2.safetensors")


def test_the_newest_revision_is_that_of_the_hub(hub):
    model(revision=None).fetch()
    assert model(revision=None).problem() is model().problem() is None


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


def test_a_model_in_one_piece(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model(str(tmp_path)).problem().endswith("model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert model(str(tmp_path)).problem() is None


def test_a_misspelt_model():
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


def test_the_published_weights_are_pinned():
    cfg = load_config("paper")
    for encoder in (cfg.embedding, *cfg.clip_score.encoders):
        assert re.fullmatch("[0-9a-f]{40}", encoder.revision)
        assert open_clip.get_pretrained_cfg(encoder.model, encoder.pretrained)["hf_hub"]
