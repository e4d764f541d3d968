import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from paperlib.sampling import predict

from paperlib.checkpoints import build_model, load_checkpoint, save_checkpoint
from paperlib.models.synbrain import (
    BrainVAE,
    BrainVAEObjective,
    Mapper,
    MapperObjective,
    SynBrain,
    kl_divergence,
    softclip_loss,
)
from paperlib.training import Pairs, TrainingSettings, train

SMALL = dict(n_tokens=3, context_width=8, widths=(32, 32), blocks=1, hidden=16)
SETTINGS = TrainingSettings(
    steps=90,
    batch_size=8,
    learning_rate=3e-3,
    weight_decay=0.0,
    warmup=5,
    clip_norm=1.0,
    ema_decay=0.9,
    precision="no",
    workers=0,
    evaluate_every=30,
    save_every=1000,
)
OBJECTIVE = BrainVAEObjective(
    kl_weight=1e-3, clip_weight=0.1, temperature=0.125, seed=3, batch_size=8
)


def small_synbrain(n_channels=6, n_times=13):
    torch.manual_seed(0)
    return SynBrain(n_channels, n_times, **SMALL, depth=1, heads=2)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(8, 6, 13), torch.randn(8, 3, 8)


@pytest.fixture
def data():
    """Make images of four kinds, each with a response of its own, and some noise."""
    rng = np.random.default_rng(0)
    kinds = np.arange(40) % 4
    tokens = rng.standard_normal((4, 3, 8))[kinds]
    tokens = tokens + 0.1 * rng.standard_normal((40, 3, 8))
    signals = 2 * rng.standard_normal((4, 1, 6, 13))[kinds]
    signals = signals + 0.2 * rng.standard_normal((40, 1, 6, 13))
    return tokens.astype(np.float32), signals.astype(np.float32)


@pytest.mark.parametrize(
    ("n_channels", "n_times", "parameters"),
    [(63, 250, 99_811_761), (271, 200, 100_030_980)],
)
def test_full_size_has_the_known_parameter_count(n_channels, n_times, parameters):
    with torch.device("meta"):
        model = SynBrain(
            n_channels,
            n_times,
            n_tokens=257,
            context_width=768,
            widths=(128, 256, 512, 512),
            blocks=2,
            hidden=2048,
            depth=8,
            heads=12,
        )
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.mapper.parameters()) == 57_492_480


@pytest.mark.parametrize(("n_channels", "n_times"), [(63, 250), (271, 200), (6, 13)])
def test_signals_and_latents_keep_their_shape(n_channels, n_times):
    model = small_synbrain(n_channels, n_times)
    y, context = torch.randn(2, n_channels, n_times), torch.randn(2, 3, 8)
    reconstruction, *latents = model.vae(y, torch.randn(2, 3, 8))
    assert reconstruction.shape == y.shape
    assert [part.shape for part in latents] == [context.shape] * 3
    assert model(context).shape == y.shape


def test_deeper_levels_keep_the_shape():
    vae = BrainVAE(6, 13, **(SMALL | {"widths": (32, 64, 32, 64), "blocks": 2}))
    assert vae(torch.randn(2, 6, 13), torch.zeros(2, 3, 8))[0].shape == (2, 6, 13)


def test_noise_moves_latents_by_their_deviation(batch):
    vae, (y, noise) = small_synbrain().vae, batch
    _, latent, mean, logvar = vae(y, noise)
    torch.testing.assert_close(latent, mean + noise * logvar.exp().sqrt())
    reconstruction, latent, mean, _ = vae(y, torch.zeros_like(noise))
    assert torch.equal(latent, mean)
    torch.testing.assert_close(reconstruction, vae.decode(mean))


def test_divergence_has_its_closed_form():
    mean, logvar = torch.tensor([0.0, 1.0, 2.0]), torch.log(torch.tensor([1.0, 4.0, 1]))
    by_hand = (0 + 0.5 * (1 + 4 - 1 - math.log(4)) + 2) / 3
    assert kl_divergence(mean, logvar).item() == pytest.approx(by_hand)
    mean, logvar = torch.randn(2, 4, 3, 8)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    independent = torch.distributions.kl_divergence(posterior, prior).mean()
    torch.testing.assert_close(kl_divergence(mean, logvar), independent)


def test_softclip_of_two_images_by_hand():
    """Tokens at right angles; the second latent halfway between them."""
    tokens = torch.tensor([[[3.0], [0.0]], [[0.0], [0.5]]])  # B L D
    latent = torch.tensor([[[2.0], [0.0]], [[1.0], [1.0]]])
    half = math.sqrt(0.5)
    aim = math.e / (math.e + 1)  # softmax of similarities 1 and 0 at temperature 1
    rows = [(1, 0), (half, half)]  # cosines of each latent with the tokens
    columns = [(1, half), (0, half)]
    aims = [(aim, 1 - aim), (1 - aim, aim)]

    def cross_entropy(logits, target):
        total = math.log(sum(math.exp(x) for x in logits))
        return -sum(p * (x - total) for p, x in zip(target, logits, strict=True))

    by_hand = sum(
        cross_entropy(x, p) / 4
        for similarities in (rows, columns)
        for x, p in zip(similarities, aims, strict=True)
    )
    loss = softclip_loss(latent, tokens, temperature=1.0)
    assert loss.item() == pytest.approx(by_hand)


def test_softclip_ignores_length_and_is_least_for_the_tokens_themselves(batch):
    _, tokens = batch
    least = softclip_loss(tokens, tokens, temperature=0.125)
    torch.testing.assert_close(
        softclip_loss(7 * tokens, tokens, temperature=0.125), least
    )
    other = softclip_loss(tokens.flip(0), tokens, temperature=0.125)
    assert other > least + 1


def test_first_stage_loss_is_the_weighted_sum_of_its_parts(batch):
    vae, (y, tokens) = small_synbrain().vae, batch
    only = replace(OBJECTIVE, kl_weight=0.0, clip_weight=0.0)
    parts = [
        replace(only, **weight).loss(vae, y, tokens, 1, slice(None))
        for weight in ({}, {"kl_weight": 1.0}, {"clip_weight": 1.0})
    ]
    error, kl, clip = parts[0], parts[1] - parts[0], parts[2] - parts[0]
    generator = torch.Generator().manual_seed(3 * 2**32 + 1)
    noise = torch.randn(tokens.shape, generator=generator)
    reconstruction, latent, mean, logvar = vae(y, noise)
    torch.testing.assert_close(error, (reconstruction - y).square().mean())
    torch.testing.assert_close(kl, kl_divergence(mean, logvar))
    torch.testing.assert_close(clip, softclip_loss(latent, tokens, temperature=0.125))
    whole = OBJECTIVE.loss(vae, y, tokens, 1, slice(None))
    torch.testing.assert_close(whole, error + 1e-3 * kl + 0.1 * clip)


def test_noise_of_a_step_is_shared_between_processes(batch):
    vae, (y, tokens) = small_synbrain().vae, batch
    error = replace(OBJECTIVE, clip_weight=0.0)
    whole = error.loss(vae, y, tokens, 5, slice(None))
    parts = [
        error.loss(vae, y[share], tokens[share], 5, share)
        for share in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)
    assert whole != error.loss(vae, y, tokens, 6, slice(None))


def test_second_stage_loss_is_the_error_of_the_mean(batch):
    model, (y, tokens) = small_synbrain(), batch
    loss = MapperObjective(model.vae, seed=3, batch_size=8).loss(
        model.mapper, y, tokens, 1, slice(None)
    )
    mean, _ = model.vae.encode(y)
    torch.testing.assert_close(loss, (model.mapper(tokens) - mean).square().mean())
    loss.backward()
    assert all(p.grad is None for p in model.vae.parameters())


def test_every_parameter_has_a_gradient(batch):
    model, (y, tokens) = small_synbrain(), batch
    OBJECTIVE.loss(model.vae, y, tokens, 1, slice(None)).backward()
    second = MapperObjective(model.vae, seed=3, batch_size=8)
    second.loss(model.mapper, y, tokens, 1, slice(None)).backward()
    missing = [n for n, p in model.named_parameters() if not p.grad.abs().max() > 0]
    assert missing == []


def test_mapper_blocks_start_apart():
    first, second, _ = Mapper(3, 8, depth=2, heads=2).blocks
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_validation_loss_weighs_images_alike(data):
    """Ten images in batches of eight and two: the error of all of them at once."""
    tokens, signals = data
    model = small_synbrain().eval()
    pairs = Pairs(signals, range(10), context=tokens.__getitem__, scale=1.0)
    y, context = pairs.__getitems__(range(10))
    error = replace(OBJECTIVE, clip_weight=0.0, kl_weight=0.0)
    reconstruction, _, mean, _ = model.vae(y, torch.zeros_like(context))
    assert error.validation_loss(model.vae, pairs, "cpu") == pytest.approx(
        (reconstruction - y).square().mean().item(), rel=1e-5
    )
    second = MapperObjective(model.vae, seed=3, batch_size=8)
    assert second.validation_loss(model.mapper, pairs, "cpu") == pytest.approx(
        (model.mapper(context) - mean).square().mean().item(), rel=1e-5
    )


def trained(data, folder, settings=SETTINGS):
    """Train both stages with the loop that also trains the diffusion models."""
    tokens, signals = data
    pairs = [
        Pairs(signals, rows, context=tokens.__getitem__, scale=2.0)
        for rows in (range(32), range(32, 40))
    ]
    options = dict(settings=settings, state_file=folder / "state", device="cpu")
    model = small_synbrain()
    model.vae, first = train(
        model.vae, *pairs, objective=OBJECTIVE, identity={"stage": 1}, **options
    )
    model.mapper, second = train(
        model.mapper,
        *pairs,
        objective=MapperObjective(model.vae, seed=3, batch_size=8),
        identity={"stage": 2},
        **options,
    )
    return model, first, second


def test_two_stages_learn_signals_from_tokens_and_survive_a_checkpoint(data, tmp_path):
    tokens, signals = data
    model, first, second = trained(data, tmp_path)
    for curve in (first, second):
        assert curve[-1]["training_loss"] < 0.5 * curve[0]["training_loss"]
        assert curve[-1]["validation_loss"] < 0.7 * curve[0]["validation_loss"]
    size = dict(n_channels=6, n_times=13)
    recipe = {
        "method": "synbrain",
        "architecture": size | SMALL | dict(depth=1, heads=2),
        "scale": 2.0,
    }
    save_checkpoint(tmp_path / "checkpoint", model, recipe)
    loaded, recipe = load_checkpoint(tmp_path / "checkpoint", device="cpu")
    rows = np.arange(32, 40)
    context = tokens.__getitem__
    predicted = predict(loaded, recipe, context, rows, batch_size=3)
    assert predicted.shape == (8, 1, 6, 13) and predicted.dtype == np.float32
    np.testing.assert_allclose(
        predicted, predict(model, recipe, context, rows, batch_size=8), atol=1e-5
    )
    kinds = np.stack([signals[kind:32:4].mean(axis=0) for kind in range(4)])
    error = np.square(predicted - kinds[rows % 4]).mean()
    assert error < 0.1 * kinds.var()


def test_seed_decides_everything(data, tmp_path):
    settings = replace(SETTINGS, steps=10)
    models = [trained(data, tmp_path, settings)[0] for _ in range(2)]
    for first, second in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(first, second)


def test_widths_without_a_level():
    with pytest.raises(ValueError, match=r"of one level or more; got \[32\]"):
        BrainVAE(6, 13, **(SMALL | {"widths": [32]}))


def test_a_recipe_builds_the_network():
    architecture = dict(n_channels=6, n_times=13, **SMALL, depth=1, heads=2)
    recipe = {"method": "synbrain", "architecture": architecture}
    assert isinstance(build_model(recipe), SynBrain)
