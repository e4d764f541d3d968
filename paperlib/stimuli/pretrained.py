"""Are the weights of pretrained models there? If not, bring them to their caches.

Each by the means of the library that loads it: open_clip, the Hugging Face hub,
torchvision. Nothing here loads a model.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import download_pretrained_from_hf
from torchvision.models import AlexNet_Weights

from paperlib.paths import ROOT
from paperlib.stimuli.weights import find_model, find_shards

_LOCAL = "local-dir:"
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja")  # all of a model but its weights
_WHOLE = ("model.safetensors", "pytorch_model.bin")  # of a model in one piece


def clip_source(entry: Mapping) -> tuple[str, str | None, str | None]:
    """Return model, pretrained and revision of an entry of the configuration.

    They are the arguments of :func:`paperlib.stimuli.embeddings.load_clip`.
    """
    return entry["model"], entry["pretrained"], entry["revision"]


def clip_fault(
    model: str, pretrained: str | None, revision: str | None = None
) -> str | None:
    """Say what is missing of a CLIP model; None if nothing is.

    Parameters
    ----------
    model, pretrained, revision
        As for :func:`paperlib.stimuli.embeddings.load_clip`.
    """
    if model.startswith(_LOCAL):
        config = ROOT / model.removeprefix(_LOCAL) / "open_clip_config.json"
        return None if config.is_file() else f"missing: {config}"
    if pretrained and Path(pretrained).is_file():
        return None
    entry = open_clip.get_pretrained_cfg(model, pretrained or "")
    if not entry:
        return f"open_clip has no weights {pretrained!r} of {model!r}"
    if _clip_in_cache(entry, revision):
        return None
    return f"missing: {entry['hf_hub'] or entry['url']}"


def fetch_clip(model: str, pretrained: str, revision: str | None = None) -> None:
    """Download the weights of a CLIP model, through open_clip.

    Parameters
    ----------
    model, pretrained, revision
        As for :func:`paperlib.stimuli.embeddings.load_clip`.

    Raises
    ------
    ValueError
        If a file is not what the hub holds.
    """
    entry = open_clip.get_pretrained_cfg(model, pretrained)
    if not entry["hf_hub"]:
        open_clip.download_pretrained(entry)
        return
    path = clip_file(model, pretrained, revision)
    _verify(_place_on_hub(entry)[0], Path(path).parent)


def clip_file(model: str, pretrained: str, revision: str | None) -> str:
    """Return the file of a CLIP's weights, brought from the hub if it is not there.

    Parameters
    ----------
    model, pretrained, revision
        As for :func:`paperlib.stimuli.embeddings.load_clip`.

    Raises
    ------
    ValueError
        If the weights are not on the hub, where alone a revision means something.
    FileNotFoundError
        If they cannot be brought.
    """
    entry = open_clip.get_pretrained_cfg(model, pretrained or "")
    if not entry.get("hf_hub"):
        raise ValueError(
            f"revision must be null: the weights {pretrained!r} of {model!r} are not "
            f"on the Hugging Face hub; got {revision!r}."
        )
    name, file = _place_on_hub(entry)
    return download_pretrained_from_hf(name, file, revision=revision)


def model_fault(
    model: str, revision: str | None, prefixes: tuple[str, ...] = ("",)
) -> str | None:
    """Say what is missing of a model of transformers; None if nothing is.

    Parameters
    ----------
    model
        Name on the Hugging Face hub, or a folder.
    revision
        Commit or branch on the hub; None for the newest.
    prefixes
        Beginnings of the names of the tensors that are needed.
    """
    try:
        source = find_model(model)
    except FileNotFoundError as error:
        return str(error)
    folder = source if Path(source).is_dir() else _in_cache(source, revision)
    if folder is None:
        return f"missing: {model} is not, or not whole, in the cache of the hub"
    needed = ["config.json", *_weight_files(folder, prefixes)]
    gone = [name for name in needed if not Path(folder, name).is_file()]
    return f"missing in {folder}: {', '.join(gone)}" if gone else None


def fetch_model(
    model: str, revision: str | None, prefixes: tuple[str, ...] = ("",)
) -> None:
    """Download a model from the hub: its small files, and the weights needed.

    Parameters
    ----------
    model, revision, prefixes
        As for :func:`model_fault`.

    Raises
    ------
    FileNotFoundError
        If ``model`` is a folder, which cannot be downloaded.
    ValueError
        If a file is not what the hub holds.
    """
    source = find_model(model)
    if Path(source).is_dir():
        raise FileNotFoundError(
            f"{source} is a folder; what it lacks must be put there."
        )
    folder = snapshot_download(source, revision=revision, allow_patterns=list(_SMALL))
    commit = Path(folder).name
    files = _weight_files(folder, prefixes)
    snapshot_download(source, revision=commit, allow_patterns=files)
    _verify(source, Path(folder))


def cnn_fault(network: str) -> str | None:
    """Say what is missing of a convolutional network; None if nothing is.

    Parameters
    ----------
    network
        Key of :data:`paperlib.stimuli.cnn.LAYERS`.
    """
    if network != "alexnet":
        return None  # its weights are a Python package
    path = Path(torch.hub.get_dir(), "checkpoints", Path(_alexnet().url).name)
    if not path.is_file():
        return f"missing: {path}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = path.stem.rpartition("-")[2]
    if not digest.startswith(expected):
        return f"{path} has another checksum than its name says; delete it"
    return None


def fetch_cnn(network: str) -> None:
    """Download the weights of a convolutional network, through torchvision."""
    if network == "alexnet":
        _alexnet().get_state_dict(progress=True, check_hash=True, weights_only=True)


def _alexnet() -> AlexNet_Weights:
    return AlexNet_Weights.IMAGENET1K_V1


def _verify(model: str, folder: Path) -> None:
    """Compare the files of a snapshot with the hub's checksums; drop those that differ.

    The hub's client compares sizes only.
    """
    found = HfApi().verify_repo_checksums(model, revision=folder.name)
    wrong = [mismatch["path"] for mismatch in found.mismatches]
    for name in wrong:
        (folder / name).resolve().unlink()
        (folder / name).unlink(missing_ok=True)
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} of {model} had another checksum than on the hub and "
            "was removed; fetch it again."
        )


def _clip_in_cache(entry: dict, revision: str | None) -> bool:
    """Look where open_clip would: the hub's cache, or its own."""
    if not entry["hf_hub"]:
        return Path("~/.cache/clip", Path(entry["url"]).name).expanduser().is_file()
    name, file = _place_on_hub(entry)
    files = [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    return any(
        isinstance(try_to_load_from_cache(name, f, revision=revision), str)
        for f in files
    )


def _place_on_hub(entry: dict) -> tuple[str, str | None]:
    """Return model and file of open_clip's entry; None where it has the usual name."""
    name, _, file = entry["hf_hub"].rpartition("/")
    return name, file or None


def _in_cache(model: str, revision: str | None) -> str | None:
    """Return the folder of a model in the hub's cache, if its small files are there."""
    try:
        return snapshot_download(
            model, revision=revision, allow_patterns=list(_SMALL), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None


def _weight_files(folder: str, prefixes: tuple[str, ...]) -> list[str]:
    """Name the files of a model that hold the tensors needed."""
    try:
        return list(find_shards(folder, prefixes, revision=None))
    except FileNotFoundError:  # in one piece, in one format or the other
        there = [name for name in _WHOLE if Path(folder, name).is_file()]
        return there or list(_WHOLE)
