"""Response coordinates: what a network learns in place of the recorded signal.

A response y (channels x times) is mostly drift and ongoing activity; what the image
explains is a small part, spread over all frequencies. A squared error on y is therefore
an error of the drift. The coordinates

    x = (y - mean) W,    W = U diag(g) U'

subtract the mean response of the training images and whiten partly in time: the columns
of U are the temporal principal components of the residuals, pooled over channels, with
variances l. For the first ``components`` of them g_k = c (l_k / l_1) ** -whitening;
all later ones, mostly noise, get a smaller common gain. The factor c makes the mean
variance of x 1. W is symmetric and invertible, so nothing is lost.

Diffusion noise may have the covariance of x instead of the identity (PriorGrad, Lee et
al., 2022): a covariance over channels for each of the first ``components`` temporal
components, and one that all later ones share. Where responses scatter about their
conditional mean as this noise does, every timestep has the same optimal velocity.

Everything is fitted on training images only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

_BLOCK = 2**24  # values of a response array in memory at a time
_SHRINKAGE = 0.02  # of channel covariances towards a multiple of the identity


@dataclass(frozen=True)
class Coordinates:
    """An invertible affine map of responses, and the color of their noise.

    Attributes
    ----------
    mean : Tensor of shape (C, T)
        Subtracted; zeros where it is not removed.
    axes : Tensor of shape (T, T)
        Temporal principal components u_k as columns; the identity without whitening.
    gains : Tensor of shape (T,)
        g_k, in 1 / unit of the responses.
    deviations : Tensor of shape (T,)
        Standard deviation of component k of x; ones where the noise is white.
    factors : Tensor of shape (K + 1, C, C), or (0, C, C) where the noise is white
        Cholesky factors of the covariance over channels of components 1 ... K, and of
        all later ones, each scaled to a mean variance of 1.
    """

    mean: Tensor
    axes: Tensor
    gains: Tensor
    deviations: Tensor
    factors: Tensor

    @cached_property
    def _whiten(self) -> Tensor:
        return (self.axes * self.gains) @ self.axes.T

    @cached_property
    def _unwhiten(self) -> Tensor:
        return (self.axes / self.gains) @ self.axes.T

    @cached_property
    def _components(self) -> Tensor:
        return (self.axes * self.deviations).T

    def forward(self, y: Tensor) -> Tensor:
        """Turn responses (B, C, T) into coordinates (B, C, T)."""
        return (y - self.mean) @ self._whiten

    def back(self, x: Tensor) -> Tensor:
        """Turn coordinates (..., C, T) into responses (..., C, T)."""
        return x @ self._unwhiten + self.mean

    def color(self, z: Tensor) -> Tensor:
        """Turn white noise (B, C, T) into noise with the covariance of x."""
        if not len(self.factors):
            return z
        first = len(self.factors) - 1  # components of a color of their own
        z_first = torch.einsum("kcd,bdk->bck", self.factors[:-1], z[..., :first])
        z_later = self.factors[-1] @ z[..., first:]
        return torch.cat([z_first, z_later], dim=-1) @ self._components  # B C T

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device."""
        return type(self)(**{k: v.to(device) for k, v in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Name what was fitted: the arguments that make these coordinates again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def fit_coordinates(
    responses: np.ndarray,
    rows: Sequence[int],
    *,
    mean: bool = False,
    whitening: float | None = None,
    components: int = 32,
    floor: float = 0.3,
    color: bool = False,
) -> Coordinates:
    """Fit response coordinates on some images, a block of images at a time.

    Without any option responses are divided by one standard deviation, as published.

    Parameters
    ----------
    responses : ndarray or memmap of shape (N, R, C, T)
        Responses to N images, R repetitions each.
    rows
        Images to use: those of the training split only.
    mean
        Subtract the mean response of these images.
    whitening
        Power of the variances of the temporal components that is divided out: 0.5
        whitens, 0.25 goes half of the way, None leaves time as it is.
    components
        Temporal components that are whitened, and that have a color of their own.
    floor
        Gain of all later components, relative to that of the first of them.
    color
        Whether the noise has the covariance of the coordinates, or the identity.

    Returns
    -------
    Coordinates
        In float32, on the CPU.
    """
    n_channels, n_times = responses.shape[2:]
    components = min(components, n_times)

    def blocks() -> Iterator[Tensor]:
        size = max(1, _BLOCK // responses[0].size)
        for part in np.split(np.asarray(rows), range(size, len(rows), size)):
            block = torch.from_numpy(np.asarray(responses[part], np.float32))
            yield block.flatten(0, 1)  # n C T

    n = len(rows) * responses.shape[1]
    average = sum(block.double().sum(0) for block in blocks()) / n  # C T
    center = (average if mean else average.mean().expand_as(average)).float()
    axes, gains, deviations = torch.eye(n_times), torch.ones(n_times), None
    if whitening is None and not color:
        total = sum((block - center).double().square().sum() for block in blocks())
        gains /= (total / (n * center.numel())).sqrt().float()
        factors, deviations = (
            torch.empty(0, n_channels, n_channels),
            torch.ones(n_times),
        )
    else:
        covariance = torch.zeros(n_times, n_times, dtype=torch.float64)
        for block in blocks():
            residuals = (block - center).flatten(0, 1)
            covariance += residuals.T @ residuals
        variances, axes = torch.linalg.eigh(covariance / (n * n_channels))
        variances, axes = variances.flip(0), axes.flip(1).float()
        variances = variances.clamp(min=1e-9 * variances[0].item())
        gains = (variances / variances[0]) ** -(whitening or 0.0)
        if whitening and components < n_times:
            gains[components:] = floor * gains[components]
        gains /= (gains.square() * variances).mean().sqrt()
        deviations = (gains * variances.sqrt()).float()
        factors = _channel_factors(blocks(), center, axes, variances, components)
        gains = gains.float()
        if not color:
            factors, deviations = factors[:0], torch.ones(n_times)
    kept = center if mean else torch.zeros_like(center)
    parts = (kept, axes, gains, deviations, factors)
    return Coordinates(*(part.contiguous() for part in parts))  # as when loaded


def _channel_factors(
    blocks: Iterator[Tensor],
    center: Tensor,
    axes: Tensor,
    variances: Tensor,
    components: int,
) -> Tensor:
    """Return Cholesky factors (components + 1, C, C) of channel covariances."""
    n_channels = len(center)
    covariances = torch.zeros(components + 1, n_channels, n_channels).double()
    for block in blocks:
        scores = (block - center) @ (axes / variances.sqrt().float())  # n C T
        first = scores[..., :components].permute(2, 1, 0)  # K C n
        rest = scores[..., components:].transpose(0, 1).flatten(1)  # C n*(T-K)
        covariances[:-1] += first @ first.mT
        covariances[-1] += rest @ rest.T
    if not covariances[-1].any():  # every component has a covariance of its own
        covariances[-1] = torch.eye(n_channels)
    scale = covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    identity = torch.eye(n_channels, dtype=torch.float64)
    covariances = (1 - _SHRINKAGE) * covariances / scale + _SHRINKAGE * identity
    return torch.linalg.cholesky(covariances).float()
