"""Weights of pretrained models: where they lie, and reading some of their tensors."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from paperlib.paths import ROOT
from paperlib.validation import check_shape, did_you_mean

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def find_model(name: str) -> str:
    """Return the absolute folder of a local model, or the name of one on the hub.

    Parameters
    ----------
    name
        Name on the Hugging Face hub, or a folder; relative folders are relative to the
        repository.

    Raises
    ------
    FileNotFoundError
        If ``name`` is neither a folder nor of the form owner/name.
    """
    folder = ROOT / name
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"There is no folder {folder}; expected a folder with a model, or a name "
            "on the hub such as 'Qwen/Qwen2-VL-2B-Instruct'."
        )
    return name


def find_commit(model: str, revision: str | None) -> str | None:
    """Return the commit of a model in the cache of the hub; None for a folder.

    Parameters
    ----------
    model
        From :func:`find_model`.
    revision
        Commit or branch on the hub; None for the newest, or with a folder.
    """
    if Path(model).is_dir():
        return None
    return Path(cached_file(model, "config.json", revision=revision)).parent.name


def read_tensors(
    model: str, prefixes: tuple[str, ...], *, revision: str | None
) -> dict[str, Tensor]:
    """Read the tensors of a sharded model whose names begin in certain ways.

    Only shards that hold one of them are opened (and downloaded, from the hub).

    Parameters
    ----------
    model
        From :func:`find_model`.
    prefixes
        Beginnings of the names that are wanted.
    revision
        Commit or branch on the hub; None for the newest, or with a folder.

    Returns
    -------
    dict
        Tensors by their whole names, on the CPU.

    Raises
    ------
    FileNotFoundError
        If the model has no index of its shards.
    ValueError
        If a shard holds more than tensors.
    """
    tensors = {}
    for shard, names in find_shards(model, prefixes, revision=revision).items():
        path = Path(cached_file(model, shard, revision=revision))
        tensors |= _read_shard(path, names)
    return tensors


def find_shards(
    model: str, prefixes: tuple[str, ...], *, revision: str | None
) -> dict[str, list[str]]:
    """Name the shards that hold tensors whose names begin in certain ways.

    Parameters
    ----------
    model, prefixes, revision
        As for :func:`read_tensors`.

    Returns
    -------
    dict
        Of each shard, the names of these tensors.

    Raises
    ------
    FileNotFoundError
        If the model has no index of its shards.
    """
    shards: dict[str, list[str]] = {}
    for name, shard in _read_index(model, revision).items():
        if name.startswith(prefixes):
            shards.setdefault(shard, []).append(name)
    return shards


def read_torch_file(path: Path) -> dict:
    """Read what ``torch.save`` wrote, provided that it is tensors and plain containers.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file asks for anything else to be loaded; nothing of it is run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There are no weights at {path}; download them there.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: expected tensors in plain containers, but it asks "
            "for other objects, which could run code. Download it again from its "
            "authors."
        ) from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Load the tensors whose names begin with ``prefix`` into a module.

    Raises
    ------
    ValueError
        If a tensor of the module is not there or has another shape.
    """
    given = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    for name, parameter in module.state_dict().items():
        if name not in given:
            raise ValueError(
                f"The weights must hold a tensor {prefix}{name}; there is none."
                f"{did_you_mean(prefix + name, tensors)}"
            )
        check_shape(f"The tensor {prefix}{name}", given[name], tuple(parameter.shape))
    module.load_state_dict(given, strict=False)


def _read_index(model: str, revision: str | None) -> dict[str, str]:
    """Return the shard of each tensor, of safetensors where there are both kinds."""
    for index in _INDEXES:
        try:
            path = cached_file(model, index, revision=revision)
        except OSError:
            continue
        return json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"]
    raise FileNotFoundError(
        f"{model} has no index of its weights: expected {' or '.join(_INDEXES)}. Check "
        "the name, or the connection."
    )


def _read_shard(path: Path, names: list[str]) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        whole = read_torch_file(path)
        return {name: whole[name] for name in names}
    with safe_open(path, framework="pt") as shard:
        return {name: shard.get_tensor(name) for name in names}
