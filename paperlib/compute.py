"""What the executions of full-size models take, estimated before any has run.

The operations of the networks are counted, by torch, on tensors without data. All else
is an assumption; :func:`list_assumptions` tells those that matter most.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from paperlib.checkpoints import ARCHITECTURES, build_model
from paperlib.config import model_options, specialize, token_sources
from paperlib.methods import architecture
from paperlib.recordings.preprocessing import CHANNEL_SETS
from paperlib.recordings.regions import channels_outside

PEAK = {"bf16": 989e12, "fp16": 989e12, "no": 67e12}
"""Operations a second of an H100 or H200, dense, by precision (NVIDIA's data sheet)."""

UTILIZATION = {"dit": 0.3, "unet": 0.2, "synbrain": 0.2, "encoder": 0.3}
"""Share of them that a network reaches."""

BANDWIDTH = 3.35e12 * 0.3
"""Bytes a second at which a captioner reads its weights, once for every word piece."""

CORE_HOURS = {
    "01_preprocess": 1.0,
    "04_train": 2.0,
    "05_sample": 0.1,
    "06_evaluate": 20.0,
    "07_ablations": 10.0,
    "09_topographies": 0.2,
    "10_schematics": 0.1,
}
"""Of an execution on processors; 04 and 05 are those of linear encoders."""

IMAGES = {"things-eeg2": (16_540, 200), "things-meg": (22_248, 200)}
"""Training and test images."""

_MEG_SENSORS = {"F": 67, "C": 52, "P": 45, "O": 39, "T": 68}  # by letter of the region
_N_TIMES = {"things-eeg2": 250, "things-meg": 200}
_TOKEN_WIDTH = 768  # of CLIP ViT-L/14, as the following
_N_TOKENS = {"image": 257, "captions": 77}
_IMAGE_OPERATIONS = 162e9
_TEXT_OPERATIONS = 13e9
_NETWORK_OPERATIONS = 1.4e9  # AlexNet; other networks are of this order
_CAPTIONERS = {"file": 0, "qwen2-vl": 2.2e9, "minigpt4": 7.9e9}  # weights
_PROMPT = 300  # word pieces and image tokens that a captioner reads before it writes


@dataclass(frozen=True)
class Cost:
    """What an execution takes: hours of one GPU, hours of one core."""

    gpu_hours: float = 0.0
    core_hours: float = 0.0


@dataclass(frozen=True)
class _Tokens:
    """The size of a condition."""

    n_tokens: int
    width: int


def estimate_cost(notebook: str, settings: dict, keys: dict[str, str]) -> Cost:
    """Estimate what an execution takes with the data sets' and models' full sizes.

    Parameters
    ----------
    notebook
        Such as ``"04_train"``.
    settings
        A whole configuration.
    keys
        The execution's identity: data set, run, captioner and so on.
    """
    dataset, run = keys.get("dataset"), keys.get("run")
    chosen = specialize(settings, dataset=dataset, run=run)
    if run and chosen["method"] in ARCHITECTURES:
        count = _training_seconds if notebook == "04_train" else _sampling_seconds
        return Cost(gpu_hours=count(chosen, dataset, run) / 3600)
    on_gpu = {
        "02_caption": _captioning_seconds,
        "03_embed": _embedding_seconds,
        "08_clip_score": _scoring_seconds,
    }
    if notebook in on_gpu:
        return Cost(gpu_hours=on_gpu[notebook](chosen, keys) / 3600)
    return Cost(core_hours=CORE_HOURS.get(notebook, 0.0))


def list_assumptions() -> list[str]:
    """Say in sentences what the estimates rest on."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in UTILIZATION.items())
    return [
        f"GPU: H100 or H200, {PEAK['bf16'] / 1e12:.0f} TFLOP/s in bf16 (diffusion), "
        f"{PEAK['no'] / 1e12:.0f} in float32 (CLIP).",
        f"Of these are reached: {shares}. Validation and reading data are left out.",
        f"Captioners write at {BANDWIDTH / 1e12:.1f} TB/s of weights read, in bf16.",
        "Core hours are guesses from small runs; those of GPU executions are left out.",
    ]


def count_operations(forward: Callable[[], Tensor]) -> float:
    """Count the operations of a network's products, convolutions and attention.

    Parameters
    ----------
    forward
        Applies the network, to tensors on any device, ``meta`` among them.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return float(counter.get_total_flops())


def _training_seconds(settings: dict, dataset: str, run: str) -> float:
    """Return how long all steps take; gradients cost twice what the output does."""
    training, method = settings["training"], settings["method"]
    once = _count_parts(*_architecture(settings, dataset, run))
    if method == "synbrain":
        first = model_options(settings, run)["autoencoder"]["steps"]
        total = 3 * first * once["autoencoder"]
        total += training["steps"] * (3 * once["mapper"] + once["encoder"])
    else:
        total = 3 * training["steps"] * once["network"]
    speed = PEAK[training["precision"]] * UTILIZATION[method]
    return total * training["batch_size"] / speed


def _sampling_seconds(settings: dict, dataset: str, run: str) -> float:
    """Return how long all samples of the test images take."""
    sampling, method = settings["sampling"], settings["method"]
    once = _count_parts(*_architecture(settings, dataset, run))["network"]
    if method == "synbrain":  # has one answer, in single precision
        n_applied, peak = 1, PEAK["no"]
    else:
        n_applied = sampling["samples"] * sampling["steps"]
        peak = PEAK[sampling["precision"]]
    return IMAGES[dataset][1] * n_applied * once / (peak * UTILIZATION[method])


def _captioning_seconds(settings: dict, keys: dict[str, str]) -> float:
    captioning = settings["captioning"]
    weights = _CAPTIONERS[captioning["captioners"][keys["captioner"]]["kind"]]
    n_images = sum(IMAGES[keys["dataset"]])
    reading = 2 * weights * _PROMPT * n_images / (PEAK["bf16"] * UTILIZATION["encoder"])
    n_steps = captioning["max_new_tokens"] * n_images / captioning["batch_size"]
    return reading + n_steps * 2 * weights / BANDWIDTH  # 2 bytes a weight


def _embedding_seconds(settings: dict, keys: dict[str, str]) -> float:
    operations = _NETWORK_OPERATIONS
    if keys["tokens"] == "image":
        operations = _IMAGE_OPERATIONS
    elif keys["tokens"] in settings["captioning"]["captioners"]:
        operations = _TEXT_OPERATIONS
    n_images = sum(IMAGES[keys["dataset"]])
    return n_images * operations / (PEAK["no"] * UTILIZATION["encoder"])


def _scoring_seconds(settings: dict, keys: dict[str, str]) -> float:
    chosen = settings["clip_score"]
    operations = _IMAGE_OPERATIONS + _TEXT_OPERATIONS
    n_pairs = sum(sum(IMAGES[dataset]) for dataset in settings["datasets"])
    n_pairs *= len(chosen["captioners"]) * len(chosen["encoders"])
    return n_pairs * operations / (PEAK["no"] * UTILIZATION["encoder"])


def _architecture(settings: dict, dataset: str, run: str) -> tuple[str, str, int, int]:
    """Return method, arguments (JSON), channels and tokens of a run's network."""
    options = model_options(settings, run)
    method = options.pop("method")
    ch_names = _channel_names(dataset, settings["preprocessing"])
    kept = channels_outside(ch_names, settings["channels"]["without"])
    sources = token_sources(settings["conditioning"])
    n_tokens = sum(_N_TOKENS.get(name, _N_TOKENS["captions"]) for name in sources)
    sizes = architecture(
        method,
        options,
        ch_names=[ch_names[channel] for channel in kept],
        n_times=_N_TIMES[dataset],
        condition=_Tokens(n_tokens, _TOKEN_WIDTH),
    )
    return method, json.dumps(sizes), len(kept), n_tokens


@cache
def _count_parts(
    method: str, sizes: str, n_channels: int, n_tokens: int
) -> dict[str, float]:
    """Count the operations of a network, and of its parts, for one signal."""
    arguments = json.loads(sizes)
    with torch.device("meta"):
        model = build_model({"method": method, "architecture": arguments})
        y = torch.empty(1, n_channels, arguments["n_times"])
        t = torch.ones(1, dtype=torch.long)
        tokens = torch.empty(1, n_tokens, _TOKEN_WIDTH)
    if method != "synbrain":
        return {"network": count_operations(lambda: model(y, t, tokens))}
    return {
        "network": count_operations(lambda: model(tokens)),
        "autoencoder": count_operations(lambda: model.vae(y, torch.zeros_like(tokens))),
        "encoder": count_operations(lambda: model.vae.encode(y)),
        "mapper": count_operations(lambda: model.mapper(tokens)),
    }


def _channel_names(dataset: str, preprocessing: dict) -> list[str]:
    if dataset == "things-eeg2":
        return list(CHANNEL_SETS[preprocessing["channels"]])
    regions = "".join(letter * n for letter, n in _MEG_SENSORS.items())
    return [f"MZ{letter}01" for letter in regions]
