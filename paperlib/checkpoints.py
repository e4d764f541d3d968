"""A trained model as a folder.

``model.safetensors`` holds the moving average of the weights. ``config.json`` is the
recipe: method and architecture, diffusion, scale and unit of the signals, channels and
times, and which tokens condition the model.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paperlib.atomic import atomic_path, write_text
from paperlib.models.dit import DiT
from paperlib.models.linear import (
    FITS,
    LayerwiseEncoder,
    LinearEncoder,
    encoder_from_tensors,
)
from paperlib.models.synbrain import SynBrain
from paperlib.models.unet import UNet
from paperlib.validation import check_option

ARCHITECTURES = {"dit": DiT, "unet": UNet, "synbrain": SynBrain}


def build_model(recipe: dict) -> nn.Module:
    """Return the untrained network that a recipe describes.

    Parameters
    ----------
    recipe
        With ``method`` (a key of :data:`ARCHITECTURES`) and ``architecture`` (the
        arguments of that class).
    """
    check_option("method", recipe["method"], tuple(ARCHITECTURES))
    return ARCHITECTURES[recipe["method"]](**recipe["architecture"])


def save_checkpoint(
    folder: Path, model: nn.Module | LinearEncoder | LayerwiseEncoder, recipe: dict
) -> None:
    """Write weights and recipe; the recipe last, so that a folder with one is whole."""
    if isinstance(model, nn.Module):
        weights = {k: v.contiguous().cpu() for k, v in model.state_dict().items()}
    else:
        weights = {k: torch.from_numpy(v) for k, v in model.to_tensors().items()}
    with atomic_path(folder / "model.safetensors") as partial:
        save_file(weights, partial)
    write_text(folder / "config.json", json.dumps(recipe, indent=2) + "\n")


def load_checkpoint(
    folder: Path, *, device: str = "auto"
) -> tuple[nn.Module | LinearEncoder | LayerwiseEncoder, dict]:
    """Read a trained network or a fitted encoder, and its recipe.

    Parameters
    ----------
    folder
        Written by :func:`save_checkpoint`.
    device
        ``"auto"`` takes a GPU if there is one; encoders stay where they are.

    Returns
    -------
    model : Module or encoder
        In evaluation mode.
    recipe : dict

    Raises
    ------
    FileNotFoundError
        If the folder holds no finished checkpoint.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json: expected a trained model. Run notebook 04 "
            "for this run, subject and seed first."
        )
    recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    if recipe["method"] in FITS:
        return encoder_from_tensors({k: v.numpy() for k, v in weights.items()}), recipe
    model = build_model(recipe)
    model.load_state_dict(weights)
    return model.to(pick_device(device)).eval(), recipe


def pick_device(device: str) -> torch.device:
    """Return the torch device that ``"auto"``, ``"cpu"`` or ``"cuda"`` stands for."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
