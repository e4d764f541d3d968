"""Pretrained weights: finding them, reading some of their tensors, checking them."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from paperlib.paths import ROOT
from paperlib.validation import did_you_mean

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
    with loading(index):
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
        with loading(model):
            path = Path(cached_file(model, shard, revision=revision))
        if path.suffix != ".safetensors":
            whole = read_torch_file(path)
            with loading(path):
                tensors |= {name: whole[name] for name in names}
            continue
        with loading(path), safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in names}
    return tensors


def read_torch_file(path: Path, key: str | None = None) -> dict:
    """Read tensors that ``torch.save`` wrote, or those under a key; nothing else."""
    if not path.is_file():
        raise FileNotFoundError(f"There are no weights at {path}; download them there.")
    with loading(path):
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
    with loading(source):
        model, report = kind.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"The weights of {source} lack {len(missing)} tensors, such as "
            f"{missing[0]}. Download them again."
        )
    surplus = [key for key in report["unexpected_keys"] if re.search(r"\.\d+\.", key)]
    if surplus:
        raise ValueError(
            f"The weights of {source} have more layers than its config.json, such as "
            f"{surplus[0]}. Download both again."
        )
    check_weights(source, model)
    return model.eval()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Load the tensors whose names begin with ``prefix``; a module needs all of its."""
    state = {}
    for name, parameter in module.state_dict().items():
        tensor = tensors.get(prefix + name)
        if tensor is None:
            raise ValueError(
                f"The weights must hold a tensor {prefix}{name}; there is none."
                f"{did_you_mean(prefix + name, tensors)}"
            )
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"The tensor {prefix}{name} must have shape {tuple(parameter.shape)}; "
                f"got {tuple(tensor.shape)}."
            )
        state[name] = tensor
    module.load_state_dict(state)
    check_weights(f"Tensors {prefix}*", module)


def check_weights(name: str, module: nn.Module) -> None:
    """Raise ValueError if a weight is NaN or infinite."""
    for key, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"{name}: the weights {key} are NaN or infinite. Download them again."
            )


@contextmanager
def loading(source: str | Path) -> Iterator[None]:
    """Name the weights that a library failed to load, and what to do."""
    try:
        yield
    except Exception as error:  # of any kind where files are damaged
        if isinstance(error, OSError) and not Path(source).exists():
            raise  # not there, or not reachable: says so itself
        raise ValueError(
            f"{source} cannot be loaded: its files are damaged, incomplete or hold "
            f"more than weights ({type(error).__name__}: {error}). Download it again."
        ) from error
