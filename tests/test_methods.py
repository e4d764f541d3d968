"""Every method of the comparison, from pairs to a stored model, on a tiny world."""

import numpy as np
import pytest
import torch

from paperlib import methods
from paperlib.checkpoints import Checkpoint, Recipe
from paperlib.config import (
    Diffusion,
    Machine,
    Methods,
    Sampling,
    Training,
)
from paperlib.coordinates import fit_coordinates
from paperlib.methods import DiffusionModel, LinearModel, build_model
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens, write_tokens
from paperlib.training import Pairs

CH_NAMES = ["Fp1", "Fp2", "Cz", "Pz", "O1", "Oz"]
N_TIMES = 12
PENALTIES = {"n_components": 4, "alphas": [0.1, 1.0, 10.0]}
OPTIONS = {
    "dit": {"width": 16, "depth": 1, "heads": 2, "mlp_ratio": 2.0, "patch": [2, 4]},
    "unet": {"widths": [16, 16], "heads": 2, "layers": 1, "patch": [6, 2]},
    "synbrain": {
        "widths": [16, 16],
        "heads": 2,
        "blocks": 1,
        "hidden": 16,
        "depth": 1,
        "autoencoder": {"steps": 60, "clip_weight": 0.1, "temperature": 0.1},
    },
    "ridge": {"pooling": "mean", **PENALTIES},
    "layerwise_ridge": PENALTIES,
    "pls": {"layer": "top", "n_components": 3},
    "kernel_regression": {"n_components": 4},
}
CNN_METHODS = ("layerwise_ridge", "pls", "kernel_regression")
LINEAR = ("ridge", *CNN_METHODS)
DIFFUSION = Diffusion(
    timesteps=50, beta_start=1e-3, beta_end=0.3, prediction="v", scale_input=True
)
TRAINING = Training(
    steps=60,
    batch_size=8,
    learning_rate=5e-3,
    warmup=5,
    ema_decay=0.9,
    precision="no",
    evaluate_every=30,
)
SAMPLING = Sampling(steps=3, samples=2, precision="no")
MACHINE = Machine(device="cpu", workers=0, sampling_batch=16, ridge_block=50)


@pytest.fixture
def world(tmp_path):
    """Make 40 images of four kinds: tokens that name the kind, responses to it."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 4
    tokens = rng.standard_normal((4, 3, 8))[kinds]
    tokens += 0.1 * rng.standard_normal(tokens.shape)
    responses = rng.standard_normal((4, 1, len(CH_NAMES), N_TIMES))[kinds]
    responses += 0.1 * rng.standard_normal(responses.shape)
    layers = {"layers": {"bottom": 8, "top": 16}, "channels": {"bottom": 2, "top": 4}}
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
            made_with=settings,
        )
    return tmp_path, (2 * responses).astype(np.float32)


def make(method, world, *, layers=None, coordinates=None):
    folder, responses = world
    is_cnn = method in CNN_METHODS or layers
    sources, maps = [Tokens(folder / f"{'cnn' if is_cnn else 'clip'}.npy")], None
    if layers:
        chosen = [str(i) for i in range(32)]
        maps = fit_map_tokens(sources[0], layers, chosen, n_components=3)
    condition = Condition([maps or sources[0]], [str(i) for i in range(40)])
    fitted = fit_coordinates(responses, range(32), **(coordinates or {}))
    options = Methods.model_fields[method].annotation(**OPTIONS[method])
    torch.manual_seed(0)
    sizes = {"n_tokens": condition.n_tokens, "context_width": condition.width}
    model = build_model(
        method,
        options,
        ch_names=CH_NAMES,
        coordinates=fitted,
        diffusion=DIFFUSION,
        **sizes,
    )
    pairs = [
        Pairs(responses, rows, context=condition, coordinates=fitted)
        for rows in (np.arange(32), np.arange(32, 40))
    ]
    common = {"options": TRAINING, "machine": MACHINE, "seed": 0}
    curve = model.fit(*pairs, folder=folder / "state", **common)
    recipe = Recipe(
        **{"simulated": True, "dataset": "things-eeg2", "subject": 1, "run": "test"},
        **{"seed": 0, "method": method, "options": options.model_dump(mode="json")},
        **{"embedding": {"networks": {"alexnet": {}}}, "captioning": {}},
        conditioning={"network": "alexnet" if is_cnn else None, "layers": layers},
        diffusion=DIFFUSION,
        training=TRAINING,
        ch_names=CH_NAMES,
        sfreq=100.0,
        times=[0.01 * i for i in range(N_TIMES)],
        unit="noise SD",
        **sizes,
    )
    return Checkpoint(model, recipe, maps), sources, condition, curve


def answers(model, condition):
    options = {"sampling": SAMPLING, "seed": 1, "machine": MACHINE}
    return model.sample(condition, **options), model.posterior_mean(
        condition, **options
    )


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("method", OPTIONS)
def test_a_method_learns_is_kept_and_answers(method, color, world, tmp_path):
    recipe = {"mean": True, "whitening": 0.25, "components": 4, "color": color}
    checkpoint, sources, condition, curve = make(method, world, coordinates=recipe)
    assert list(curve) == ["step", "training_loss", "validation_loss", "seconds"]
    assert curve["validation_loss"].iloc[-1] < 0.9  # of a variance of 1
    assert checkpoint.model.n_parameters > 0
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    again = Checkpoint.from_pretrained(tmp_path / "checkpoint", device="cpu")
    assert again.recipe == checkpoint.recipe
    condition_again = again.condition(sources, condition.image_ids)
    samples, expected = answers(checkpoint.model, condition)
    for one, other in zip(
        (samples, expected), answers(again.model, condition_again), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    n_samples = 1 if method in ("synbrain", *LINEAR) else 2
    assert samples.shape == (40, n_samples, len(CH_NAMES), N_TIMES)
    assert expected.shape == (40, len(CH_NAMES), N_TIMES)
    assert samples.dtype == expected.dtype == np.float32
    # the response to a kind of image is nearer to this kind's than to the next one's
    for predicted in (samples.mean(axis=1), expected):
        error = np.square(predicted - world[1][:, 0]).mean()
        others = np.roll(world[1][:, 0], 1, axis=0)
        assert error < np.square(predicted - others).mean()


@pytest.mark.parametrize("method", ["dit", "ridge"])
def test_maps_of_a_network_are_tokens_of_their_components(method, world, tmp_path):
    checkpoint, sources, condition, _ = make(method, world, layers=["bottom", "top"])
    assert (condition.n_tokens, condition.width) == (4, 3)  # places, components
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    again = Checkpoint.from_pretrained(tmp_path / "checkpoint", device="cpu")
    restored = again.condition(sources, condition.image_ids)
    np.testing.assert_array_equal(restored([3, 5]), condition([3, 5]))


@pytest.mark.parametrize("block", [1, 5, 512])
@pytest.mark.parametrize("method", LINEAR)
def test_losses_of_linear_encoders_are_those_of_their_predictions(
    method, block, world, monkeypatch
):
    monkeypatch.setattr(methods, "_BLOCK", block)
    checkpoint, _, condition, curve = make(method, world)
    _, expected = answers(checkpoint.model, condition)
    errors = np.square((expected - world[1][:, 0]) / world[1][:32].std())
    errors = errors.mean(axis=(1, 2))
    assert curve["training_loss"][0] == pytest.approx(errors[:32].mean(), rel=1e-4)
    assert curve["validation_loss"][0] == pytest.approx(errors[32:].mean(), rel=1e-4)


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
    checkpoint, *_ = make(method, world)
    n_targets = len(CH_NAMES) * N_TIMES
    readout = (n_components + 1) * n_targets
    assert isinstance(checkpoint.model, LinearModel)
    assert checkpoint.model.n_parameters == n_components * length + readout


def test_a_killed_synbrain_keeps_its_first_stage(world):
    unbroken, *_, curve = make("synbrain", world)
    assert list(curve["step"]) == [90, 120]  # the first stage's 60 are counted in
    first, second = (world[0] / "state" / f"{s}.pt" for s in ("autoencoder", "mapper"))
    second.unlink()  # as if killed before the second stage was saved
    written = first.stat().st_mtime_ns
    again, *_ = make("synbrain", world)
    assert first.stat().st_mtime_ns == written
    one, other = (c.model.network.state_dict() for c in (unbroken, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_diffusion_models_share_the_loss_of_their_coordinates(world):
    checkpoint, *_ = make("dit", world)
    assert isinstance(checkpoint.model, DiffusionModel)
    assert checkpoint.model.loss.coordinates is checkpoint.model.coordinates
