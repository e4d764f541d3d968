"""A trained model as a folder, here or on the Hugging Face hub.

``model.safetensors`` holds the moving average of the weights. ``config.json`` is the
recipe: method and architecture, diffusion, scale and unit of the signals, channels and
times, and how the tokens that condition the model are made. ``README.md`` is the model
card, from the template ``model_card.md``.
"""

import json
from pathlib import Path
from typing import Self

import torch
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
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
_FILES = ("config.json", "model.safetensors", "README.md")
_CARD = Path(__file__).with_name("model_card.md")

Model = nn.Module | LinearEncoder | LayerwiseEncoder


class Checkpoint(ModelHubMixin):
    """A trained model with its recipe.

    ``save_pretrained(folder)`` writes the files of :func:`save_checkpoint`;
    ``push_to_hub("owner/name")`` uploads them.

    Parameters
    ----------
    model : Module or encoder
        In evaluation mode.
    recipe : dict
        All that is needed to build the model and to use it.
    """

    def __init__(self, model: Model, recipe: dict):
        self.model = model
        self.recipe = recipe

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: str = "auto"
    ) -> Self:
        """Load a checkpoint from a folder or from the hub.

        Parameters
        ----------
        name
            A folder, or ``"owner/name"`` on the hub.
        revision
            Branch, tag or commit on the hub; None for the newest.
        device
            See :func:`load_checkpoint`.

        Raises
        ------
        FileNotFoundError
            If there is neither such a folder nor such a model on the hub, or if it
            lacks a file.
        ValueError
            If a file is damaged or does not fit the others.
        """
        folder = Path(name) if Path(name).is_dir() else _download(str(name), revision)
        return cls(*load_checkpoint(folder, device=device))

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(save_directory, self.model, self.recipe)

    def generate_model_card(self) -> ModelCard:
        """Return the model card; see :func:`model_card`."""
        return model_card(self.recipe)


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


def save_checkpoint(folder: Path, model: Model, recipe: dict) -> None:
    """Write weights, card and recipe, the last so that a folder with one is whole."""
    if isinstance(model, nn.Module):
        weights = {k: v.contiguous().cpu() for k, v in model.state_dict().items()}
    else:
        weights = {k: torch.from_numpy(v) for k, v in model.to_tensors().items()}
    (folder / "config.json").unlink(missing_ok=True)  # of an earlier training
    with atomic_path(folder / "model.safetensors") as partial:
        save_file(weights, partial)
    write_text(folder / "README.md", str(model_card(recipe)))
    write_text(folder / "config.json", json.dumps(recipe, indent=2) + "\n")


def load_checkpoint(folder: Path, *, device: str = "auto") -> tuple[Model, dict]:
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
    ValueError
        If the recipe or the weights are damaged, or do not fit each other.
    """
    recipe = _read_recipe(folder)
    weights = _read_weights(folder)
    if recipe["method"] in FITS:
        return encoder_from_tensors({k: v.numpy() for k, v in weights.items()}), recipe
    try:
        model = build_model(recipe)
        model.load_state_dict(weights)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"The weights in {folder} are not those of the {recipe['method']} that "
            f"config.json describes ({error}). Both must come from one training."
        ) from error
    return model.to(pick_device(device)).eval(), recipe


def model_card(recipe: dict) -> ModelCard:
    """Say what a model is, what it was trained on, how it is used and its limits."""
    simulated = ["simulated"] if recipe.get("simulated") else []
    tags = ["image-to-brain", recipe["method"], *simulated]
    return ModelCard.from_template(
        ModelCardData(license="mit", tags=tags),
        template_str=_CARD.read_text(encoding="utf-8"),
        recipe=recipe,
    )


def pick_device(device: str) -> torch.device:
    """Return the torch device that ``"auto"``, ``"cpu"`` or ``"cuda"`` stands for."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _download(name: str, revision: str | None) -> Path:
    """Bring a checkpoint from the hub to its cache."""
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_FILES)
    except (HFValidationError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a model that can be read on the hub "
            f"({error}). Expected a folder with a checkpoint, or owner/name."
        ) from error
    return Path(folder)


def _read_recipe(folder: Path) -> dict:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json: expected a trained model. Run notebook 04 "
            "for this run, subject and seed first."
        )
    try:
        recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        check_option("method", recipe["method"], (*ARCHITECTURES, *FITS))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} is not the recipe of a model ({error!r}); "
            "expected what notebook 04 wrote."
        ) from error
    return recipe


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model.safetensors: expected the weights beside "
            "config.json. Copy them there, or run notebook 04 again."
        )
    try:
        return load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(
            f"{folder / 'model.safetensors'} is damaged or no safetensors file "
            f"({error}). Copy or download it again."
        ) from error
