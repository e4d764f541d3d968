"""SynBrain (Mai et al., 2025), the closest competitor, carried over from fMRI to M/EEG.

Two networks are trained one after the other:

1. **BrainVAE** encodes a signal as a Gaussian over latents in the shape of the image's
   CLIP tokens, and decodes latents to a signal. Its loss is the reconstruction error,
   the divergence from a standard Gaussian, and SoftCLIP, which makes latents as similar
   to each other's tokens as the tokens are among themselves.
2. **Mapper** regresses the mean of the latents on the CLIP tokens.

A signal is predicted from an image by decoding what the mapper makes of its tokens.
The variance of the latents depends on a recorded signal and is of no use then: the
prediction is the decoded mean, one for each image, as in the released implementation.

What differs from the published model, and why:

- Convolutions run along time with sensors as input features; voxels have no such order
  and are one long row in the original. Pooling to a fixed length is thus not needed.
- Losses are means over entries, so that their weights do not depend on the sizes.
- The mapper's blocks are plain pre-norm transformer blocks. The original modulates its
  norms by a timestep that is always 0: a constant, which the affine norms here can
  learn. A third of the weights go without loss of generality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlib.models.dit import Attention


class SynBrain(nn.Module):
    """Predict signals from CLIP tokens: BrainVAE and mapper together.

    In the published size (widths 128, 256, 512, 512, 2 blocks a level, hidden 2048,
    depth 8; here 12 heads) on 257 tokens of width 768 it has 99,811,761 parameters for
    63 x 250 signals and 100,030,980 for 271 x 200; the mapper has 57,492,480 of them.
    ``vae_options`` are those of :class:`BrainVAE`.
    """

    def __init__(
        self,
        n_channels: int,
        n_times: int,
        *,
        n_tokens: int,
        context_width: int,
        depth: int,
        heads: int,
        **vae_options,
    ):
        super().__init__()
        size = {"n_tokens": n_tokens, "context_width": context_width}
        self.vae = BrainVAE(n_channels, n_times, **size, **vae_options)
        self.mapper = Mapper(n_tokens, context_width, depth=depth, heads=heads)

    def forward(self, context: Tensor) -> Tensor:
        """Return the signals (B, C, T) expected after tokens (B, L, D)."""
        return self.vae.decode(self.mapper(context))


class BrainVAE(nn.Module):
    """Variational autoencoder whose latents have the shape of CLIP tokens.

    ``widths`` are the features of the first convolution and of each level; resolution
    is halved once, after the first level. A level of the encoder has ``blocks``
    residual blocks, one of the decoder one more. ``hidden`` is the width of the MLPs
    between time and latent axis.
    """

    def __init__(
        self,
        n_channels: int,
        n_times: int,
        *,
        n_tokens: int,
        context_width: int,
        widths: Sequence[int],
        blocks: int,
        hidden: int,
    ):
        super().__init__()
        self.n_times = n_times
        length = -(-n_times // 2)
        self.encoder = nn.Sequential(
            nn.Conv1d(n_channels, widths[0], kernel_size=7, padding=3),
            *_level(widths[0], widths[1], blocks),
            nn.Conv1d(widths[1], widths[1], kernel_size=3, stride=2, padding=1),
            *_levels(widths[1:], blocks),
            *_middle(widths[-1]),
            *_readout(widths[-1], n_tokens),
        )
        self.mean = _axis_mlp(length, hidden, context_width)
        self.logvar = _axis_mlp(length, hidden, context_width)
        self.decoder = nn.Sequential(
            _axis_mlp(context_width, hidden, length),
            nn.Conv1d(n_tokens, widths[-1], kernel_size=7, padding=3),
            *_middle(widths[-1]),
            *_levels(widths[:0:-1], blocks + 1),
            nn.ConvTranspose1d(
                widths[1], widths[1], kernel_size=4, stride=2, padding=1
            ),
            *_level(widths[1], widths[0], blocks + 1),
            *_readout(widths[0], n_channels),
        )

    def forward(self, y: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Encode signals (B, C, T), draw latents with Gaussian noise, and decode them.

        Returned are the reconstruction, and latents, their mean and their log variance,
        of the shape of the noise (B, L, D).
        """
        mean, logvar = self.encode(y)
        latent = mean + noise * torch.exp(0.5 * logvar)
        return self.decode(latent), latent, mean, logvar

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (B, L, D) of the latents of ``y`` (B, C, T)."""
        y = F.pad(y, (0, self.n_times % 2))  # B C T'
        h = self.encoder(y)  # B L T'/2
        return self.mean(h), self.logvar(h)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the signals (B, C, T) of latents (B, L, D)."""
        return self.decoder(latent)[..., : self.n_times]


class Mapper(nn.Module):
    """Transformer from CLIP tokens to latents (the semantic-to-neural mapper)."""

    def __init__(self, n_tokens: int, width: int, *, depth: int, heads: int):
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        block = {"dropout": 0.0, "activation": "gelu", "norm_first": True}
        block |= {"dim_feedforward": 4 * width, "batch_first": True}
        blocks = [
            nn.TransformerEncoderLayer(width, heads, **block) for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.output = nn.Linear(width, width)

    def forward(self, context: Tensor) -> Tensor:
        """Return latents (B, L, D) of tokens (B, L, D)."""
        return self.output(self.blocks(context + self.position))


class Residual(nn.Module):
    """Two convolutions along time, beside a shortcut."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.layers = nn.Sequential(
            _norm(width_in),
            nn.SiLU(),
            nn.Conv1d(width_in, width_out, kernel_size=3, padding=1),
            _norm(width_out),
            nn.SiLU(),
            nn.Conv1d(width_out, width_out, kernel_size=3, padding=1),
        )
        is_same = width_in == width_out
        self.shortcut = nn.Identity() if is_same else nn.Conv1d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (B, F, T)."""
        return self.shortcut(x) + self.layers(x)


class TimeAttention(nn.Module):
    """Single-head self-attention over all time points, beside a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.attention = Attention(width, 1, context_width=width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (B, F, T)."""
        h = self.norm(x).transpose(1, 2)  # B T F
        h = self.attention(h, self.attention.keys_values(h))
        return x + h.transpose(1, 2)


def softclip_loss(latent: Tensor, tokens: Tensor, *, temperature: float) -> Tensor:
    """Return how far latents (B, L, D) are from being as alike as the tokens are.

    Latents and tokens are flattened and normalized. The target of each image is the
    softmax of its tokens' cosine similarities to the batch, divided by a temperature
    (0.125 in the publication); the loss is the cross entropy of the similarities
    between latents and tokens, averaged over both directions.
    """
    latent = F.normalize(latent.flatten(1), dim=1)  # B L*D
    tokens = F.normalize(tokens.flatten(1), dim=1)
    target = (tokens @ tokens.T / temperature).softmax(dim=1)  # B B
    logits = latent @ tokens.T / temperature
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the divergence of N(mean, exp(logvar)) from N(0, 1), mean over entries.

    The published loss sums over the entries of a signal's latents: multiply by their
    number for its scale.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


@dataclass(frozen=True)
class BrainVAELoss:
    """Loss of the first stage: mean squared error, divergence and SoftCLIP."""

    kl_weight: float
    clip_weight: float
    temperature: float  # of SoftCLIP

    def __call__(
        self, model: nn.Module, y: Tensor, context: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of signals (B, C, T) and tokens (B, L, D)."""
        noise = torch.randn(context.shape, generator=generator, device=y.device)
        reconstruction, latent, mean, logvar = model(y, noise)
        softclip = softclip_loss(latent.float(), context, temperature=self.temperature)
        return (
            F.mse_loss(reconstruction.float(), y)
            + self.kl_weight * kl_divergence(mean.float(), logvar.float())
            + self.clip_weight * softclip
        )

    def to(self, device: torch.device) -> Self:
        """Do nothing: there is nothing to move to a device."""
        return self


@dataclass(frozen=True)
class MapperLoss:
    """Loss of the second stage: squared error of the latents' mean."""

    vae: BrainVAE  # trained, in evaluation mode
    trained_with: str  # a stopped training does not go on with another autoencoder

    def __call__(
        self, model: nn.Module, y: Tensor, context: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of signals (B, C, T) and tokens (B, L, D)."""
        with torch.no_grad():
            mean, _ = self.vae.encode(y)
        return F.mse_loss(model(context).float(), mean.float())

    def to(self, device: torch.device) -> Self:
        """Move the autoencoder to a device."""
        self.vae.to(device)
        return self


def _levels(widths: Sequence[int], blocks: int) -> list[nn.Module]:
    """Return the blocks of several levels, one for each step from width to width."""
    return [
        block
        for width_in, width_out in pairwise(widths)
        for block in _level(width_in, width_out, blocks)
    ]


def _level(width_in: int, width_out: int, blocks: int) -> list[nn.Module]:
    """Return residual blocks, the first of which changes the width."""
    rest = [Residual(width_out, width_out) for _ in range(blocks - 1)]
    return [Residual(width_in, width_out), *rest]


def _middle(width: int) -> list[nn.Module]:
    """Return the innermost blocks of encoder and decoder."""
    return [Residual(width, width), TimeAttention(width), Residual(width, width)]


def _readout(width: int, features: int) -> list[nn.Module]:
    """Return the last layers of encoder and decoder."""
    convolution = nn.Conv1d(width, features, kernel_size=7, padding=3)
    return [_norm(width), nn.SiLU(), convolution]


def _norm(width: int) -> nn.GroupNorm:
    """Return the normalization of 32 groups of features, of fewer if they are few."""
    return nn.GroupNorm(min(32, width // 4), width)


def _axis_mlp(size_in: int, hidden: int, size_out: int) -> nn.Sequential:
    """Return an MLP over the last axis: three times norm, GELU, linear."""
    layers = [
        layer
        for width_in, width_out in pairwise((size_in, hidden, hidden, size_out))
        for layer in (
            nn.LayerNorm(width_in),
            nn.GELU(),
            nn.Linear(width_in, width_out),
        )
    ]
    return nn.Sequential(*layers)
