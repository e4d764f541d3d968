"""Fit any method of the comparison, and let it answer for new images.

Three kinds of methods share recipe, checkpoint and arrays: diffusion models (DiT,
U-Net), SynBrain in its two stages, and linear encoders. Notebooks 04 and 05 do not tell
them apart.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from paperlib.checkpoints import ARCHITECTURES, Model, build_model
from paperlib.config import without_speed
from paperlib.diffusion import linear_alpha_bar
from paperlib.models.dit import DiT
from paperlib.models.linear import FITS, LayerwiseEncoder, LinearEncoder
from paperlib.models.synbrain import BrainVAEObjective, MapperObjective
from paperlib.recordings.regions import channel_regions
from paperlib.sampling import predict, sample_signals
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.features import LayerFeatures, token_features
from paperlib.training import Objective, Pairs, TrainingSettings, train
from paperlib.validation import check_option

Optimize = Callable[..., tuple[nn.Module, list[dict]]]  # train on given pairs

METHODS = (*ARCHITECTURES, *FITS)
_SEEN = ("layer", "pooling")  # options that say what a linear encoder sees
_BLOCK = 512  # images whose features or predictions are in memory at a time


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
    """Count the weights of a network or the coefficients of a linear encoder."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return model.n_coefficients


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
        Where networks keep states for a restart: ``.safetensors`` files, one for each
        stage, for the caller to remove once the model is kept.
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
    optimize = partial(
        train,
        training=training,
        validation=validation,
        identity={"recipe": without_speed(recipe), "inputs": inputs},
        device=settings["device"],
    )
    fit_network = _fit_stages if recipe["method"] == "synbrain" else _fit_denoiser
    return fit_network(
        build_model(recipe),
        recipe,
        optimize,
        settings=TrainingSettings(**settings["training"]),
        folder=folder,
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
        Section of a configuration; see
        :func:`paperlib.sampling.sample_signals`.
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
    return sample_signals(model, recipe, condition, rows, seed=seed, **sampling)


def _fit_denoiser(
    model: nn.Module,
    recipe: dict,
    optimize: Optimize,
    *,
    settings: TrainingSettings,
    folder: Path,
) -> tuple[nn.Module, list[dict]]:
    """Train a diffusion model (paper, section 3.3)."""
    if isinstance(model, DiT):
        model.checkpointing = settings.checkpointing
    schedule = dict(recipe["diffusion"])
    prediction = schedule.pop("prediction")
    alpha_bar = linear_alpha_bar(**schedule)
    return optimize(
        model,
        objective=Objective(alpha_bar, prediction, recipe["seed"], settings.batch_size),
        settings=settings,
        state_file=folder / "state.safetensors",
    )


def _fit_stages(
    model: nn.Module,
    recipe: dict,
    optimize: Optimize,
    *,
    settings: TrainingSettings,
    folder: Path,
) -> tuple[nn.Module, list[dict]]:
    """Train SynBrain: first the autoencoder of signals, then the mapper."""
    weights = dict(recipe["options"]["autoencoder"])
    first = replace(settings, steps=weights.pop("steps"))
    common = {"seed": recipe["seed"], "batch_size": settings.batch_size}
    model.vae, first_curve = optimize(
        model.vae,
        objective=BrainVAEObjective(**weights, **common),
        settings=first,
        state_file=folder / "autoencoder.safetensors",
    )
    model.mapper, curve = optimize(
        model.mapper,
        objective=MapperObjective(model.vae, **common),
        settings=settings,
        state_file=folder / "mapper.safetensors",
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
    encoder = FITS[recipe["method"]](
        _features(recipe, training.context, training.rows),
        _responses(training, training.rows),
        **_fit_options(recipe),
    )
    row = {
        "step": 1,
        "training_loss": _mean_error(encoder, recipe, training),
        "validation_loss": _mean_error(encoder, recipe, validation),
    }
    return encoder, [row | {"seconds": time.monotonic() - began}]


def _fit_options(recipe: dict) -> dict:
    """Return the options of a linear encoder that are not about what it sees."""
    options = {k: v for k, v in recipe["options"].items() if k not in _SEEN}
    if recipe["method"] == "pls":  # has nothing random
        return options
    return options | {"seed": recipe["seed"]}


def _mean_error(
    encoder: LinearEncoder | LayerwiseEncoder, recipe: dict, pairs: Pairs
) -> float:
    """Return the mean squared error, a block of images at a time."""
    total, size = 0.0, 0
    for start in range(0, len(pairs.rows), _BLOCK):
        rows = pairs.rows[start : start + _BLOCK]
        error = encoder.predict(_features(recipe, pairs.context, rows))
        error -= _responses(pairs, rows)
        total += np.square(error).sum(dtype=float)
        size += error.size
    return float(total / size)


def _responses(pairs: Pairs, rows: np.ndarray) -> np.ndarray:
    """Return the mean responses to some images, scaled, of shape (N, C*T)."""
    responses = pairs.signals[rows].mean(axis=1) / pairs.scale  # N C T
    return responses.reshape(len(rows), -1)


def _features(
    recipe: dict, condition: Condition, rows: np.ndarray
) -> np.ndarray | Mapping[str, np.ndarray]:
    """Return what a linear encoder sees of some images."""
    image_ids = condition.image_ids[rows]
    if "pooling" in recipe["options"]:
        pooling = recipe["options"]["pooling"]
        return token_features(
            condition.sources, image_ids, pooling=pooling, batch_size=_BLOCK
        )
    layers = LayerFeatures(condition.sources[0], image_ids)
    if recipe["method"] == "layerwise_ridge":
        return layers
    if "layer" in recipe["options"]:
        return layers[recipe["options"]["layer"]]
    return np.hstack(list(layers.values()))
