import math
from dataclasses import replace

import pytest
import torch

from paperlib.models.synbrain import (
    BrainVAE,
    BrainVAELoss,
    Mapper,
    MapperLoss,
    SynBrain,
    kl_divergence,
    softclip_loss,
)

SMALL = dict(n_tokens=3, context_width=8, widths=(32, 32), blocks=1, hidden=16)
LOSS = BrainVAELoss(kl_weight=1e-3, clip_weight=0.1, temperature=0.125)


def small_synbrain(n_channels=6, n_times=13):
    torch.manual_seed(0)
    return SynBrain(n_channels, n_times, **SMALL, depth=1, heads=2)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(8, 6, 13), torch.randn(8, 3, 8)


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


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def test_first_stage_loss_is_the_weighted_sum_of_its_parts(batch):
    vae, (y, tokens) = small_synbrain().vae, batch
    only = replace(LOSS, kl_weight=0.0, clip_weight=0.0)
    parts = [
        replace(only, **weight)(vae, y, tokens, generator())
        for weight in ({}, {"kl_weight": 1.0}, {"clip_weight": 1.0})
    ]
    error, kl, clip = parts[0], parts[1] - parts[0], parts[2] - parts[0]
    noise = torch.randn(tokens.shape, generator=generator())
    reconstruction, latent, mean, logvar = vae(y, noise)
    torch.testing.assert_close(error, (reconstruction - y).square().mean())
    torch.testing.assert_close(kl, kl_divergence(mean, logvar))
    torch.testing.assert_close(clip, softclip_loss(latent, tokens, temperature=0.125))
    whole = LOSS(vae, y, tokens, generator())
    torch.testing.assert_close(whole, error + 1e-3 * kl + 0.1 * clip)
    assert whole != LOSS(vae, y, tokens, generator(4))


def test_second_stage_loss_is_the_error_of_the_mean(batch):
    model, (y, tokens) = small_synbrain(), batch
    loss = MapperLoss(model.vae, "")(model.mapper, y, tokens, generator())
    mean, _ = model.vae.encode(y)
    torch.testing.assert_close(loss, (model.mapper(tokens) - mean).square().mean())
    loss.backward()
    assert all(p.grad is None for p in model.vae.parameters())


def test_every_parameter_has_a_gradient(batch):
    model, (y, tokens) = small_synbrain(), batch
    LOSS(model.vae, y, tokens, generator()).backward()
    MapperLoss(model.vae, "")(model.mapper, y, tokens, generator()).backward()
    missing = [n for n, p in model.named_parameters() if not p.grad.abs().max() > 0]
    assert missing == []


def test_mapper_blocks_start_apart():
    first, second, _ = Mapper(3, 8, depth=2, heads=2).blocks
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
