"""Fit any method of the comparison, and let it answer for new images.

Three kinds of methods share recipe, checkpoint and arrays: diffusion models (DiT,
U-Net), SynBrain in its two stages, and linear encoders. Notebooks 04 and 05 do not tell
them apart.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paperlib.checkpoints import ARCHITECTURES, build_model
from paperlib.diffusion import linear_alpha_bar
from paperlib.generation import generate, predict
from paperlib.models.linear import FITS, LayerwiseEncoder, LinearEncoder
from paperlib.models.synbrain import BrainVAEObjective, MapperObjective
from paperlib.recordings.regions import channel_regions
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.features import LayerFeatures, token_features
from paperlib.training import Objective, Pairs, TrainingSettings, train
from paperlib.validation import check_option

Model = nn.Module | LinearEncoder | LayerwiseEncoder

METHODS = (*ARCHITECTURES, *FITS)


def architecture(
    method: str,
    options: dict,
    *,
    ch_names: Sequence[str],
    n_times: int,
    condition: Condition,
) -> dict:
    """Return the arguments of a method's network; none for linear encoders.

    Parameters
    ----------
    method
        One of :data:`METHODS`.
    options
        Of the method, from a configuration.
    ch_names, n_times
        Of the signals.
    condition
        Tokens that the network is conditioned on.
    """
    check_option("method", method, METHODS)
    if method in FITS:
        return {}
    context = {"n_times": n_times, "context_width": condition.width}
    if method == "synbrain":
        sizes = {k: v for k, v in options.items() if k != "autoencoder"}
        counts = {"n_channels": len(ch_names), "n_tokens": condition.n_tokens}
        return {**counts, **context, **sizes}
    return {"regions": channel_regions(ch_names), **context, **options}


def count_parameters(model: Model) -> int:
    """Count the numbers that a method learned."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return sum(array.size for array in model.to_tensors().values())


def fit(
    recipe: dict,
    training: Pairs,
    validation: Pairs,
    *,
    settings: dict,
    folder: Path,
    inputs: list,
) -> tuple[Model, list[dict]]:
    """Fit a method to pairs of responses and tokens.

    Parameters
    ----------
    recipe
        With ``method``, ``options`` of the method, ``seed``, and for networks what
        :func:`paperlib.checkpoints.build_model` needs.
    training, validation
        Pairs whose context is a :class:`paperlib.stimuli.conditions.Condition`.
    settings
        Sections ``training`` and ``device`` of a configuration.
    folder
        Where networks keep the state for a restart.
    inputs
        Fingerprints of the data: a state made from others is not continued.

    Returns
    -------
    model
        In evaluation mode.
    curve : list of dict
        step, training_loss, validation_loss, seconds; linear encoders have one row.
    """
    check_option("method", recipe["method"], METHODS)
    if recipe["method"] in FITS:
        return _fit_linear(recipe, training, validation)
    torch.manual_seed(recipe["seed"])
    fit_network = _fit_stages if recipe["method"] == "synbrain" else _fit_denoiser
    return fit_network(
        build_model(recipe),
        recipe,
        (training, validation),
        settings=TrainingSettings(**settings["training"]),
        folder=folder,
        identity={"recipe": recipe, "training": settings["training"], "inputs": inputs},
        device=settings["device"],
    )


def respond(
    model: Model,
    recipe: dict,
    condition: Condition,
    *,
    sampling: dict,
    seed: int,
) -> np.ndarray:
    """Generate signals for every image of a condition.

    Parameters
    ----------
    model, recipe
        From :func:`paperlib.checkpoints.load_checkpoint`.
    condition
        Tokens of the images.
    sampling
        Section of a configuration; see :func:`paperlib.generation.generate`.
    seed
        Of the noise.

    Returns
    -------
    ndarray of shape (N, K, C, T), float32
        In the unit of the training signals; K is 1 for methods that do not sample.
    """
    rows = np.arange(len(condition.image_ids))
    if recipe["method"] in FITS:
        shape = (len(rows), 1, len(recipe["ch_names"]), len(recipe["times"]))
        responses = model.predict(_features(recipe, condition, rows))
        return (responses * np.float32(recipe["scale"])).reshape(shape)
    if recipe["method"] == "synbrain":
        batch_size = sampling["batch_size"]
        return predict(model, recipe, condition, rows, batch_size=batch_size)
    return generate(model, recipe, condition, rows, seed=seed, **sampling)


def _fit_denoiser(
    model: nn.Module,
    recipe: dict,
    pairs: tuple[Pairs, Pairs],
    *,
    settings: TrainingSettings,
    folder: Path,
    identity: dict,
    device: str,
) -> tuple[nn.Module, list[dict]]:
    """Train a diffusion model (paper, section 3.3)."""
    schedule = dict(recipe["diffusion"])
    prediction = schedule.pop("prediction")
    alpha_bar = linear_alpha_bar(**schedule)
    return train(
        model,
        *pairs,
        objective=Objective(alpha_bar, prediction, recipe["seed"], settings.batch_size),
        settings=settings,
        state_file=folder / "state.safetensors",
        identity=identity,
        device=device,
    )


def _fit_stages(
    model: nn.Module,
    recipe: dict,
    pairs: tuple[Pairs, Pairs],
    *,
    settings: TrainingSettings,
    folder: Path,
    identity: dict,
    device: str,
) -> tuple[nn.Module, list[dict]]:
    """Train SynBrain: first the autoencoder of signals, then the mapper."""
    weights = dict(recipe["options"]["autoencoder"])
    first = replace(settings, steps=weights.pop("steps"))
    common = {"seed": recipe["seed"], "batch_size": settings.batch_size}
    model.vae, first_curve = train(
        model.vae,
        *pairs,
        objective=BrainVAEObjective(**weights, **common),
        settings=first,
        state_file=folder / "autoencoder.safetensors",
        identity=identity,
        device=device,
    )
    model.mapper, curve = train(
        model.mapper,
        *pairs,
        objective=MapperObjective(model.vae, **common),
        settings=settings,
        state_file=folder / "mapper.safetensors",
        identity=identity,
        device=device,
    )
    before = first_curve[-1]  # what the first stage cost
    return model.eval(), [
        row | {name: row[name] + before[name] for name in ("step", "seconds")}
        for row in curve
    ]


def _fit_linear(
    recipe: dict, training: Pairs, validation: Pairs
) -> tuple[LinearEncoder | LayerwiseEncoder, list[dict]]:
    """Fit a linear encoder to the mean over repetitions of each image."""
    began = time.monotonic()
    options = dict(recipe["options"])
    for name in ("layer", "pooling"):  # of the features
        options.pop(name, None)
    if recipe["method"] != "pls":
        options["seed"] = recipe["seed"]
    features, targets = _examples(recipe, training)
    encoder = FITS[recipe["method"]](features, targets, **options)
    losses = {
        name: float(np.square(encoder.predict(x) - y).mean())
        for name, (x, y) in {
            "training_loss": (features, targets),
            "validation_loss": _examples(recipe, validation),
        }.items()
    }
    return encoder, [{"step": 1, **losses, "seconds": time.monotonic() - began}]


def _examples(
    recipe: dict, pairs: Pairs
) -> tuple[np.ndarray | Mapping[str, np.ndarray], np.ndarray]:
    """Return features of the images of some pairs, and responses (N, C*T)."""
    responses = pairs.signals[pairs.rows].mean(axis=1) / pairs.scale
    return _features(recipe, pairs.context, pairs.rows), responses.reshape(
        len(pairs.rows), -1
    )


def _features(
    recipe: dict, condition: Condition, rows: np.ndarray
) -> np.ndarray | Mapping[str, np.ndarray]:
    """Return what a linear encoder sees of some images."""
    image_ids = condition.image_ids[rows]
    if "pooling" in recipe["options"]:
        pooling = recipe["options"]["pooling"]
        return token_features(
            condition.sources, image_ids, pooling=pooling, batch_size=512
        )
    layers = LayerFeatures(condition.sources[0], image_ids)
    if recipe["method"] == "layerwise_ridge":
        return layers
    if "layer" in recipe["options"]:
        return layers[recipe["options"]["layer"]]
    return np.hstack(list(layers.values()))
