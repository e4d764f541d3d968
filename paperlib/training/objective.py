"""The denoising loss, a function of seed and step (paper, section 3.3)."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from paperlib.diffusion import diffuse, target
from paperlib.training.pairs import Pairs


class Loss(Protocol):
    """What :func:`train` asks of an objective; see :class:`Objective`."""

    @property
    def seed(self) -> int:
        """Decides the batches."""

    def loss(
        self, model: nn.Module, y0: Tensor, context: Tensor, step: int, share: slice
    ) -> Tensor:
        """Return the loss of a training step."""

    def validation_loss(self, model: nn.Module, pairs: Pairs, device) -> float:
        """Return the loss over all pairs."""


@dataclass(frozen=True)
class Objective:
    """The denoising loss (paper, section 3.3).

    Attributes
    ----------
    alpha_bar : Tensor of shape (timesteps + 1,)
        Noise schedule.
    prediction : str
        ``"epsilon"`` or ``"v"``.
    seed : int
        Decides timesteps and noise, with the step.
    batch_size : int
        Pairs per step over all processes.
    """

    alpha_bar: Tensor
    prediction: str
    seed: int
    batch_size: int

    def loss(
        self, model: nn.Module, y0: Tensor, context: Tensor, step: int, share: slice
    ) -> Tensor:
        """Return the mean squared error of a training step's prediction.

        Parameters
        ----------
        model
            Network ``model(y, t, context)``.
        y0 : Tensor of shape (B, C, T)
        context : Tensor of shape (B, L, D)
        step
            From 1; decides timesteps and noise.
        share
            The part of the effective batch that is given.
        """
        generator = torch.Generator(y0.device).manual_seed(self.seed * 2**32 + step)
        shape = (self.batch_size, *y0.shape[1:])
        timesteps = len(self.alpha_bar) - 1
        t = torch.randint(
            1, timesteps + 1, shape[:1], generator=generator, device=y0.device
        )
        noise = torch.randn(shape, generator=generator, device=y0.device)
        return self._error(model, y0, context, t[share], noise[share]).mean()

    @torch.inference_mode()
    def validation_loss(self, model: nn.Module, pairs: Pairs, device) -> float:
        """Return the loss over all pairs, at fixed noise and evenly spread timesteps.

        A low value at one evaluation and a higher one at the next is then a change of
        the model, not of the draw.
        """
        generator = torch.Generator(device).manual_seed(self.seed)
        timesteps = len(self.alpha_bar) - 1
        spread = torch.linspace(1, timesteps, len(pairs)).round().long().to(device)
        parts = spread.split(self.batch_size)
        total = 0.0
        batches = pairs.batches(self.batch_size, device)
        for t, (y0, context) in zip(parts, batches, strict=True):
            noise = torch.randn(y0.shape, generator=generator, device=device)
            total += self._error(model, y0, context, t, noise).sum().item()
        return total / len(pairs)

    def _error(
        self, model: nn.Module, y0: Tensor, context: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the error of each signal (B,)."""
        alpha_bar = self.alpha_bar.to(y0.device)[t]
        output = model(diffuse(y0, noise, alpha_bar), t, context)
        wanted = target(y0, noise, alpha_bar, self.prediction)
        return (output.float() - wanted).square().mean(dim=(1, 2))
