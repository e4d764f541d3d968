import json

import open_clip
import pytest
import torch
from hub_server import COMMIT, serving_hub
from huggingface_hub import constants
from huggingface_hub.errors import RevisionNotFoundError
from tiny_clip import ARCHITECTURE, write_clip

from paperlib.config import load_config
from paperlib.minithings.encoders import build_captioner, build_processor
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.embeddings import load_clip
from paperlib.stimuli.pretrained import (
    clip_fault,
    fetch_clip,
    fetch_model,
    model_fault,
)
from paperlib.stimuli.weights import find_commit

OTHER = "f" * 40
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serve a model with two shards; the client's cache is empty."""
    with serving_hub("owner/name") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        where = {"vision_model.a": "1.safetensors", "language_model.b": "2.safetensors"}
        index = json.dumps({"weight_map": where}).encode()
        hub["config.json"], hub["model.safetensors.index.json"] = b"{}", index
        hub["1.safetensors"], hub["2.safetensors"] = b"vision", b"language"
        yield hub


def test_a_model_is_brought_in_its_revision(hub):
    assert "owner/name is not" in model_fault("owner/name", COMMIT)
    fetch_model("owner/name", COMMIT)
    assert model_fault("owner/name", COMMIT) is None
    assert "owner/name is not" in model_fault("owner/name", OTHER)


def test_only_the_shards_that_are_read_are_brought(hub):
    fetch_model("owner/name", COMMIT, ("vision_model.",))
    assert not any("2.safetensors" in path for path in hub.asked)
    assert model_fault("owner/name", COMMIT, ("vision_model.",)) is None
    assert model_fault("owner/name", COMMIT).endswith(": 2.safetensors")


def test_the_newest_revision_is_that_of_the_hub(hub):
    fetch_model("owner/name", None)
    assert model_fault("owner/name", None) is None
    assert model_fault("owner/name", COMMIT) is None


def test_the_commit_of_a_model_is_known(hub, tmp_path):
    fetch_model("owner/name", None)
    assert find_commit("owner/name", None) == COMMIT
    assert find_commit("owner/name", COMMIT) == COMMIT
    assert find_commit(str(tmp_path), None) is None


def test_captions_carry_the_commit_of_their_captioner(hub, tmp_path):
    processor = build_processor(["A red cat."], "What is it?")
    for part in (build_captioner(processor), processor):
        part.save_pretrained(tmp_path / "captioner")
    hub.clear()
    for path in (tmp_path / "captioner").iterdir():
        hub[path.name] = path.read_bytes()
    fetch_model("owner/name", COMMIT)
    entry = {"kind": "qwen2-vl", "model": "owner/name", "revision": COMMIT}
    entry |= {"pixels": 1024}
    captioner = load_captioner(entry, device="cpu", dtype=torch.float32)
    assert (captioner.name, captioner.revision) == ("owner/name", COMMIT)


def test_a_revision_that_the_hub_does_not_have(hub):
    with pytest.raises(RevisionNotFoundError, match=OTHER):
        fetch_model("owner/name", OTHER)


def test_a_file_with_another_checksum_is_removed_and_comes_again(hub):
    hub.promised["2.safetensors"] = b"LANGUAGE"
    with pytest.raises(ValueError, match=r"2\.safetensors of owner/name had another"):
        fetch_model("owner/name", COMMIT)
    assert model_fault("owner/name", COMMIT).endswith(": 2.safetensors")
    hub["2.safetensors"] = b"LANGUAGE"
    hub.asked.clear()
    fetch_model("owner/name", COMMIT)
    assert model_fault("owner/name", COMMIT) is None
    assert not any("1.safetensors" in path for path in hub.asked)  # what was good stays


@pytest.fixture
def tiny(hub, tmp_path, monkeypatch):
    """Let open_clip know a small model whose weights are on the hub."""
    tag = {"hf_hub": "owner/name/", "url": "", "quick_gelu": True}
    tag |= {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", ARCHITECTURE)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    (tmp_path / "tiny").mkdir()
    folder = write_clip(tmp_path / "tiny")
    weights = folder / "open_clip_model.safetensors"
    hub[weights.name] = weights.read_bytes()
    return load_clip(f"local-dir:{folder}", None, device="cpu")


def test_clip_is_brought_and_loaded_in_its_revision(hub, tiny):
    assert "missing: owner/name" in clip_fault("tiny", "openai", COMMIT)
    fetch_clip("tiny", "openai", COMMIT)
    assert clip_fault("tiny", "openai", COMMIT) is None
    assert "missing: owner/name" in clip_fault("tiny", "openai", OTHER)
    hub.clear()  # from now on there is only the cache
    clip = load_clip("tiny", "openai", COMMIT, device="cpu")
    assert (clip.pretrained, clip.revision) == ("openai", COMMIT)
    torch.testing.assert_close(clip.model.state_dict(), tiny.model.state_dict())
    normalize = clip.preprocess.transforms[-1]
    assert (tuple(normalize.mean), tuple(normalize.std)) == (MEAN, STD)


def test_a_clip_of_the_newest_revision_is_as_the_tag_says(hub, tiny):
    fetch_clip("tiny", "openai")
    clip = load_clip("tiny", "openai", device="cpu")
    torch.testing.assert_close(clip.model.state_dict(), tiny.model.state_dict())
    assert tuple(clip.preprocess.transforms[-1].mean) == MEAN


def test_a_clip_with_another_checksum(hub, tiny):
    hub.promised["open_clip_model.safetensors"] = b"other"
    with pytest.raises(ValueError, match="open_clip_model.safetensors of owner/name"):
        fetch_clip("tiny", "openai", COMMIT)
    assert "missing: owner/name" in clip_fault("tiny", "openai", COMMIT)


def test_a_revision_of_what_is_not_on_the_hub(tmp_path):
    write_clip(tmp_path)
    with pytest.raises(ValueError, match="revision must be null"):
        load_clip(f"local-dir:{tmp_path}", None, COMMIT, device="cpu")


def test_the_published_weights_are_pinned():
    config = load_config("paper")
    sources = [config["embedding"], *config["clip_score"]["encoders"]]
    sources += [
        {"revision": value}
        for entry in config["captioning"]["captioners"].values()
        for key, value in entry.items()
        if key.endswith("revision")
    ]
    revisions = [source["revision"] for source in sources]
    assert len(revisions) == 6
    assert all(len(revision) == 40 for revision in revisions)
