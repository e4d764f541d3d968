import open_clip
import pytest
import torch
from hub_server import COMMIT
from huggingface_hub import snapshot_download
from tiny_captioner import write_captioner
from tiny_clip import ARCHITECTURE, write_clip

from paperlib.config import load_config
from paperlib.stimuli.captioners import load_captioner
from paperlib.stimuli.clip import load_clip
from paperlib.stimuli.weights import find_commit

OTHER = "f" * 40
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def test_the_commit_of_a_model_is_known(hub, tmp_path):
    snapshot_download("owner/name")
    assert find_commit("owner/name", None) == COMMIT
    assert find_commit("owner/name", COMMIT) == COMMIT
    assert find_commit(str(tmp_path), None) is None


def test_captions_carry_the_commit_of_their_captioner(hub, tmp_path):
    hub.clear()
    for path in write_captioner(tmp_path / "captioner").iterdir():
        hub[path.name] = path.read_bytes()
    snapshot_download("owner/name", revision=COMMIT)
    entry = {"model": "owner/name", "revision": COMMIT, "pixels": 1024}
    captioner = load_captioner("qwen2-vl", **entry, device="cpu")
    assert (captioner.name, captioner.revision) == ("owner/name", COMMIT)


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


def test_clip_is_loaded_in_its_revision(hub, tiny):
    with pytest.raises(FileNotFoundError):
        load_clip("tiny", "openai", OTHER, device="cpu")
    newest = load_clip("tiny", "openai", device="cpu")
    load_clip("tiny", "openai", COMMIT, device="cpu")
    hub.clear()  # from now on there is only the cache
    for clip in (newest, load_clip("tiny", "openai", COMMIT, device="cpu")):
        torch.testing.assert_close(clip.model.state_dict(), tiny.model.state_dict())
        normalize = clip.preprocess.transforms[-1]
        assert (tuple(normalize.mean), tuple(normalize.std)) == (MEAN, STD)


def test_a_revision_of_what_is_not_on_the_hub(tmp_path):
    write_clip(tmp_path)
    with pytest.raises(ValueError, match="revision must be null"):
        load_clip(f"local-dir:{tmp_path}", None, COMMIT, device="cpu")


def test_the_published_weights_are_pinned():
    config = load_config("paper")
    sources = [config.embedding, *config.clip_score.encoders]
    revisions = [source.revision for source in sources]
    for captioner in config.captioning.captioners.values():
        values = captioner.model_dump()
        revisions += [value for key, value in values.items() if "revision" in key]
    assert len(revisions) == 6
    assert all(len(revision) == 40 for revision in revisions)
