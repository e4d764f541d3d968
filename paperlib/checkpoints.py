"""A trained model as a folder, here or on the Hugging Face hub.

``model.safetensors`` holds the moving average of the weights and all else that was
fitted: the coordinates of the responses, and the components of a CNN's maps.
``config.json`` is the recipe, ``README.md`` the model card, from ``model_card.md``.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from safetensors.torch import load_file, save_file

from paperlib.atomic import atomic_path, write_text
from paperlib.config import (
    Captioning,
    Conditioning,
    Diffusion,
    Embedding,
    Method,
    Methods,
    Section,
    Training,
)
from paperlib.coordinates import Coordinates
from paperlib.methods import Model, build_model
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.map_tokens import MapTokens
from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_file, check_option, reading

_FILES = ("config.json", "model.safetensors", "README.md")
_TYPES = (torch.float32, torch.float64, torch.int64)
_CARD = Path(__file__).with_name("model_card.md")


class Recipe(Section):
    """What is needed to build a method again, and to use it."""

    simulated: bool
    dataset: str
    subject: PositiveInt
    run: str
    seed: NonNegativeInt
    method: Method
    options: dict  # of the method
    conditioning: Conditioning
    embedding: Embedding
    captioning: Captioning
    n_tokens: int
    context_width: int
    diffusion: Diffusion
    training: Training
    ch_names: list[str] = Field(min_length=1)
    sfreq: PositiveFloat
    times: list[float] = Field(min_length=1)  # s from image onset
    unit: str  # of the responses

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if not np.allclose(np.diff(self.times), 1 / self.sfreq):
            raise ValueError(f"times must ascend in steps of 1 / {self.sfreq:g} Hz")
        captioners, networks = self.captioning.captioners, self.embedding.networks
        chosen = self.conditioning
        check_option("conditioning.captioner", chosen.captioner, (None, *captioners))
        check_option("conditioning.network", chosen.network, (None, *networks))
        return self

    def build(self, coordinates: Coordinates) -> Model:
        """Build the method, without its weights."""
        options = Methods.model_fields[self.method].annotation
        return build_model(
            self.method,
            options.model_validate(self.options),
            ch_names=self.ch_names,
            n_tokens=self.n_tokens,
            context_width=self.context_width,
            coordinates=coordinates,
            diffusion=self.diffusion,
        )


class Checkpoint(ModelHubMixin):
    """A trained model with its recipe, and the tokens of the CNN that it attends to.

    ``save_pretrained(folder)`` writes a folder; ``push_to_hub("owner/name")`` uploads
    it.
    """

    def __init__(self, model: Model, recipe: Recipe, maps: MapTokens | None = None):
        self.model, self.recipe, self.maps = model, recipe, maps

    def condition(
        self, sources: Sequence[Tokens], image_ids: Sequence[str]
    ) -> Condition:
        """Return the condition tokens of images as the model was trained on them.

        Sources are token files in the order of ``Config.token_sources``.
        """
        if self.maps is not None:
            sources = [*sources[:-1], replace(self.maps, tokens=sources[-1])]
        return Condition(sources, image_ids)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, device: str = "auto"
    ) -> Self:
        """Load a checkpoint.

        Parameters
        ----------
        name
            A folder, or ``"owner/name"`` on the hub.
        revision
            Branch, tag or commit on the hub; None for the newest.
        device
            ``"auto"`` takes a GPU if there is one; linear encoders stay on the CPU.
        """
        folder = Path(name) if Path(name).is_dir() else _download(str(name), revision)
        recipe, tensors = _read(folder)
        parts: dict[str, dict] = {"model": {}, "coordinates": {}, "maps": {}}
        try:
            for key, tensor in tensors.items():
                part, _, rest = key.partition(".")
                parts[part][rest] = tensor
            coordinates = Coordinates(**parts["coordinates"])
            c, t, n = len(recipe.ch_names), len(recipe.times), len(coordinates.factors)
            shapes = [(c, t), (c, c), (t, t), (t,), (t,), (n, c, c)]
            if [v.shape for v in coordinates.tensors().values()] != shapes:
                raise ValueError(f"its responses are not of {c} x {t}")
            model = recipe.build(coordinates)
            model.load(parts["model"], pick_device(device))
            maps = {name: tensor.numpy() for name, tensor in parts["maps"].items()}
            layers = recipe.conditioning.layers
            map_tokens = MapTokens(None, layers, **maps) if maps else None
        except Exception as error:  # of any kind where files do not fit
            raise ValueError(
                f"The weights in {folder} are not those of the {recipe.method} that "
                f"config.json describes ({error}). Both must come from one training."
            ) from error
        return cls(model, recipe, map_tokens)

    def generate_model_card(self) -> ModelCard:
        """Describe the model, its training, its use and its limits."""
        simulated = ["simulated"] if self.recipe.simulated else []
        tags = ["image-to-brain", self.recipe.method, *simulated]
        return ModelCard.from_template(
            ModelCardData(license="mit", tags=tags),
            template_str=_CARD.read_text(encoding="utf-8"),
            recipe=self.recipe,
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights, card and recipe; a folder with a recipe is complete."""
        tensors = {f"model.{k}": v for k, v in self.model.tensors().items()}
        fitted = self.model.coordinates.tensors()
        tensors |= {f"coordinates.{k}": v for k, v in fitted.items()}
        if self.maps is not None:
            for name in ("mean", "components"):
                tensors[f"maps.{name}"] = torch.from_numpy(getattr(self.maps, name))
        (save_directory / "config.json").unlink(missing_ok=True)  # of another training
        with atomic_path(save_directory / "model.safetensors") as partial:
            save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, partial)
        write_text(save_directory / "README.md", str(self.generate_model_card()))
        recipe = self.recipe.model_dump_json(indent=2)
        write_text(save_directory / "config.json", recipe + "\n")


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


def _read(folder: Path) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """Read recipe and tensors of a folder."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        check_file(file, "Run notebook 04 for this run and subject first.")
    with reading(config, "Expected the recipe of a model, as notebook 04 wrote it."):
        values = json.loads(config.read_bytes())
        recipe = Recipe.model_validate(values)
        if recipe.model_dump(mode="json") != values:  # defaults are not what it had
            raise ValueError("some of its values are missing")
    with reading(weights, "Train it again (notebook 04) or download it again."):
        tensors = load_file(weights)
        for name, tensor in tensors.items():
            if tensor.dtype not in _TYPES or not tensor.isfinite().all():
                raise ValueError(f"{name!r} of {tensor.dtype} must hold finite numbers")
    return recipe, tensors
