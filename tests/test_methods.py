"""Every method of the comparison, from pairs to responses, on a tiny world."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from paperlib import methods
from paperlib.checkpoints import load_checkpoint, save_checkpoint
from paperlib.methods import METHODS, architecture, count_parameters, fit, respond
from paperlib.models.linear import FITS
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.tokens import Tokens, write_tokens
from paperlib.training import Pairs, TrainingSettings

CH_NAMES = ["Fp1", "Fp2", "Cz", "Pz", "O1", "Oz"]
N_TIMES = 12
PENALTIES = {"n_components": 4, "alphas": [0.1, 1.0, 10.0], "block": 50}
OPTIONS = {
    "dit": {"width": 16, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "patch": [2, 4]},
    "unet": {"widths": [16, 16], "heads": 2, "layers": 1, "patch": [6, 2]},
    "synbrain": {
        "widths": [16, 16],
        "heads": 2,
        "blocks": 1,
        "hidden": 16,
        "depth": 1,
        "autoencoder": {
            "steps": 60,
            "kl_weight": 0.01,
            "clip_weight": 0.1,
            "temperature": 0.1,
        },
    },
    "ridge": {"pooling": "mean", **PENALTIES},
    "layerwise_ridge": PENALTIES,
    "pls": {"layer": "top", "n_components": 3},
    "kernel_regression": {"n_components": 4},
}
CNN_METHODS = ("layerwise_ridge", "pls", "kernel_regression")
DIFFUSION = {
    "timesteps": 50,
    "beta_start": 1e-3,
    "beta_end": 0.3,
    "prediction": "v",
}
SETTINGS = TrainingSettings(
    steps=60,
    batch_size=8,
    learning_rate=5e-3,
    weight_decay=0.0,
    warmup=5,
    clip_norm=1.0,
    ema_decay=0.9,
    precision="no",
    workers=0,
    evaluate_every=30,
    save_every=30,
)
SAMPLING = {"steps": 3, "eta": 0.0, "bound": None, "samples": 2, "batch_size": 16}


@pytest.fixture
def world(tmp_path):
    """Make 40 images of four kinds: tokens that tell the kind, responses to it."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 4
    tokens = rng.standard_normal((4, 3, 8))[kinds]
    tokens += 0.1 * rng.standard_normal(tokens.shape)
    responses = rng.standard_normal((4, 1, len(CH_NAMES), N_TIMES))[kinds]
    responses += 0.1 * rng.standard_normal(responses.shape)
    layers = {"layers": {"bottom": 8, "top": 16}}
    for name, shape, settings in (
        ("clip", (40, 3, 8), {}),
        ("cnn", (40, 1, 24), layers),
    ):
        write_tokens(
            tmp_path / f"{name}.npy",
            {str(i): i for i in range(40)},
            encode=lambda rows, shape=shape: torch.from_numpy(
                tokens.reshape(shape)[rows]
            ),
            batch_size=16,
            settings=settings,
        )
    return tmp_path, (2 * responses).astype(np.float32)


def make(method, world):
    folder, responses = world
    features = "cnn" if method in CNN_METHODS else "clip"
    sources = [Tokens(folder / f"{features}.npy")]
    condition = Condition(sources, [str(i) for i in range(40)])
    options = OPTIONS[method]
    sizes = {"ch_names": CH_NAMES, "n_times": N_TIMES}
    recipe = {
        "method": method,
        "options": options,
        "architecture": architecture(method, options, condition=condition, **sizes),
        "diffusion": DIFFUSION,
        "scale": 2.0,
        "seed": 0,
        "ch_names": CH_NAMES,
        "times": list(range(N_TIMES)),
    }
    pairs = [
        Pairs(responses, rows, context=condition, scale=2.0)
        for rows in (np.arange(32), np.arange(32, 40))
    ]
    settings = {"training": asdict(SETTINGS), "device": "cpu"}
    fitted = fit(recipe, *pairs, settings=settings, folder=folder / "state", inputs=[])
    return recipe, condition, fitted


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_is_kept_and_answers(method, world):
    recipe, condition, (model, curve) = make(method, world)
    assert curve[-1]["validation_loss"] < 0.9  # of a variance of 1
    assert count_parameters(model) > 0
    save_checkpoint(world[0] / "checkpoint", model, recipe)
    again, stored = load_checkpoint(world[0] / "checkpoint", device="cpu")
    first, second = (
        respond(m, r, condition, sampling=SAMPLING, seed=1)
        for m, r in ((model, recipe), (again, stored))
    )
    np.testing.assert_array_equal(first, second)
    n_samples = 2 if method in ("dit", "unet") else 1
    assert first.shape == (40, n_samples, len(CH_NAMES), N_TIMES)
    # the response to a kind of image is nearer to this kind's than to the next one's
    mean, wanted = first.mean(axis=1), world[1][:, 0]
    error = np.square(mean - wanted).mean()
    assert error < np.square(mean - np.roll(wanted, 1, axis=0)).mean()


@pytest.mark.parametrize("block", [1, 5, 512])
@pytest.mark.parametrize("method", FITS)
def test_losses_of_linear_encoders_are_those_of_what_they_answer(
    method, block, world, monkeypatch
):
    monkeypatch.setattr(methods, "_BLOCK", block)
    recipe, condition, (model, curve) = make(method, world)
    answers = respond(model, recipe, condition, sampling=SAMPLING, seed=0)
    errors = np.square((answers - world[1]) / recipe["scale"]).mean(axis=(1, 2, 3))
    assert curve[0]["training_loss"] == pytest.approx(errors[:32].mean(), rel=1e-5)
    assert curve[0]["validation_loss"] == pytest.approx(errors[32:].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "n_components", "length"),
    [
        ("ridge", 4, 8),  # pooled features
        ("pls", 3, 16),  # features of the layer
        ("kernel_regression", 4, 32),  # training images
    ],
)
def test_coefficients_are_counted_and_stored_examples_are_not(
    method, n_components, length, world
):
    _, _, (model, _) = make(method, world)
    n_targets = len(CH_NAMES) * N_TIMES
    readout = (n_components + 1) * n_targets
    assert count_parameters(model) == n_components * length + readout


def test_a_killed_synbrain_keeps_its_first_stage(world):
    _, _, (unbroken, _) = make("synbrain", world)
    first, second = (
        world[0] / "state" / f"{stage}.safetensors"
        for stage in ("autoencoder", "mapper")
    )
    second.unlink()  # as if killed before the second stage was saved
    written = first.stat().st_mtime_ns
    _, _, (again, _) = make("synbrain", world)
    assert first.stat().st_mtime_ns == written
    for one, other in zip(unbroken.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_unknown_method(world):
    with pytest.raises(ValueError, match="Did you mean 'ridge'"):
        architecture("rigde", {}, ch_names=CH_NAMES, n_times=4, condition=None)
