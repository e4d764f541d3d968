"""Pretrained weights: finding them, reading some of their tensors, checking them."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from paperlib.paths import ROOT
from paperlib.validation import check_file, did_you_mean, reading

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def find_model(name: str) -> str:
    """Return the absolute folder of a local model, or the name of one on the hub."""
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
    """Return the commit of a model in the cache of the hub; None for a folder."""
    if Path(model).is_dir():
        return None
    return Path(cached_file(model, "config.json", revision=revision)).parent.name


def find_shards(
    model: str, prefixes: tuple[str, ...], *, revision: str | None
) -> dict[str, list[str]]:
    """List, by file of a sharded model, its tensors whose names have these prefixes."""
    for name in _INDEXES:
        with suppress(OSError):
            index = cached_file(model, name, revision=revision)
            break
    else:
        raise FileNotFoundError(
            f"{model} has no index of its weights: expected {' or '.join(_INDEXES)}. "
            "Check the name, or the connection."
        )
    shards: dict[str, list[str]] = {}
    with reading(index):
        places = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        for name, shard in places.items():
            if name.startswith(prefixes):
                shards.setdefault(shard, []).append(name)
    return shards


def read_tensors(
    model: str, prefixes: tuple[str, ...], *, revision: str | None
) -> dict[str, Tensor]:
    """Read the tensors that :func:`find_shards` names; no other file is downloaded."""
    tensors = {}
    for shard, names in find_shards(model, prefixes, revision=revision).items():
        with reading(model):
            path = Path(cached_file(model, shard, revision=revision))
        if path.suffix == ".safetensors":
            with reading(path), safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in names}
        else:
            whole = read_torch_file(path)
            with reading(path):
                tensors |= {name: whole[name] for name in names}
    return tensors


def read_torch_file(path: Path, key: str | None = None) -> dict:
    """Read tensors that ``torch.save`` wrote, or those under a key; nothing else."""
    check_file(path, "Download the weights there.")
    with reading(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content[key] if key else content)


def load_model(
    kind: type[PreTrainedModel],
    source: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """Load a model of transformers, which would fill in missing tensors at random."""
    with reading(source):
        model, report = kind.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{len(missing)} tensors are missing, such as {missing[0]}"
            )
        surplus = [k for k in report["unexpected_keys"] if re.search(r"\.\d+\.", k)]
        if surplus:
            raise ValueError(f"config.json has fewer layers than weights: {surplus[0]}")
    check_weights(source, model)
    return model.eval()


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: str | Path
) -> None:
    """Load the tensors of a source whose names begin with ``prefix``; none may lack."""
    own = {
        k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)
    }
    with reading(source):
        missing, _ = module.load_state_dict(own, strict=False)
        if missing:
            name = prefix + missing[0]
            raise ValueError(f"there is no tensor {name}.{did_you_mean(name, tensors)}")
    check_weights(f"{source}, {prefix}*", module)


def check_weights(name: str, module: nn.Module) -> None:
    """Raise ValueError if a weight is NaN or infinite."""
    for key, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"{name}: the weights {key} are NaN or infinite. Download them again."
            )
