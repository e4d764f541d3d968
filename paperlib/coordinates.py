"""Response coordinates: what a network learns in place of the recorded signal.

A response y (channels x times) is mostly drift and ongoing activity; what the image
explains is a small part, spread over all frequencies. A squared error on y is therefore
an error of the drift. The coordinates

    x = S (y - mean) W,    S = E diag(h) E',    W = U diag(g) U'

subtract the mean response of the training images and whiten partly, over channels and
in time. The columns of E are the principal components of the residuals over channels,
pooled over times, and h_j = (m_j / m_1) ** -spatial_whitening with their variances m
(at least m_1 / 1000). The columns of U are the temporal principal components of what S
leaves, pooled over channels, with variances l. For the first ``components`` of them
g_k = c (l_k / l_1) ** -whitening; all later ones, mostly noise, get a smaller common
gain. The factor c makes the mean variance of x 1. S and W are symmetric and invertible,
so nothing is lost.

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
    """An invertible affine map of responses, and the color of their noise."""

    mean: Tensor  # C T, subtracted; zeros where it is not removed
    space: Tensor  # C C, S; the identity without spatial whitening
    axes: Tensor  # T T, components u_k as columns; the identity without whitening
    gains: Tensor  # (T,), g_k, in 1 / unit of the responses
    deviations: Tensor  # (T,), SD of component k of x; ones where the noise is white
    # K+1 C C, Cholesky factors of the covariance over channels of components 1 ... K,
    # and of all later ones, each of mean variance 1; 0 C C where the noise is white
    factors: Tensor

    @cached_property
    def _whiten(self) -> Tensor:
        return (self.axes * self.gains) @ self.axes.T

    @cached_property
    def _unwhiten(self) -> Tensor:
        return (self.axes / self.gains) @ self.axes.T

    @cached_property
    def _unmix(self) -> Tensor:
        return torch.linalg.inv(self.space)

    @cached_property
    def _components(self) -> Tensor:
        return (self.axes * self.deviations).T

    def forward(self, y: Tensor) -> Tensor:
        """Turn responses (B, C, T) into coordinates (B, C, T)."""
        return self.space @ (y - self.mean) @ self._whiten

    def back(self, x: Tensor) -> Tensor:
        """Turn coordinates (..., C, T) into responses (..., C, T)."""
        return self._unmix @ x @ self._unwhiten + self.mean

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
    whitening: float = 0.0,
    spatial_whitening: float = 0.0,
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
    whitening, spatial_whitening
        Power of the variances of the temporal (spatial) components that is divided
        out: 0.5 whitens, 0.25 goes half of the way, 0 leaves time (space) as it is.
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
    size = max(1, _BLOCK // responses[0].size)
    parts = np.split(np.asarray(rows), range(size, len(rows), size))

    def blocks() -> Iterator[Tensor]:
        for part in parts:
            block = torch.from_numpy(np.asarray(responses[part], np.float32))
            yield block.flatten(0, 1)  # n C T

    n = len(rows) * responses.shape[1]
    average = sum(block.double().sum(0) for block in blocks()) / n  # C T
    center = (average if mean else average.mean().expand_as(average)).float()
    space, axes = torch.eye(n_channels), torch.eye(n_times)
    gains, deviations = torch.ones(n_times), torch.ones(n_times)
    factors = torch.empty(0, n_channels, n_channels)
    if spatial_whitening:
        residuals = (block.sub(center).transpose(0, 1).flatten(1) for block in blocks())
        m, e = _components(sum((r @ r.T).double() for r in residuals), 1e-3)
        space = ((e * (m / m[0]) ** -spatial_whitening) @ e.T).float()

    def mixed() -> Iterator[Tensor]:
        return (space @ (block - center) for block in blocks())

    covariance = sum((r.flatten(0, 1).T @ r.flatten(0, 1)).double() for r in mixed())
    covariance /= n * n_channels  # T T
    if whitening or color:
        variances, axes = _components(covariance, 1e-9)
        gains = (variances / variances[0]) ** -whitening
        if whitening and components < n_times:
            gains[components:] = floor * gains[components]
    else:
        variances = covariance.diagonal()
    gains = gains / (gains.square() * variances).mean().sqrt()
    if color:
        deviations = (gains * variances.sqrt()).float()
        factors = _channel_factors(mixed(), axes.float(), variances, components)
    kept = center if mean else torch.zeros_like(center)
    fitted = (kept, space, axes.float(), gains.float(), deviations, factors)
    return Coordinates(*(part.contiguous() for part in fitted))  # as when loaded


def _components(covariance: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """Return variances and axes of principal components, the largest first.

    Variances are raised to a share of at least ``smallest`` of the largest one.
    """
    variances, axes = torch.linalg.eigh(covariance)
    variances, axes = variances.flip(0), axes.flip(1)
    return variances.clamp(min=smallest * variances[0].item()), axes


def _channel_factors(
    residuals: Iterator[Tensor], axes: Tensor, variances: Tensor, components: int
) -> Tensor:
    """Return Cholesky factors (components + 1, C, C) of channel covariances."""
    covariances = 0
    for block in residuals:
        scores = block @ (axes / variances.sqrt().float())  # n C T
        first = scores[..., :components].permute(2, 1, 0)  # K C n
        rest = scores[..., components:].transpose(0, 1).flatten(1)  # C n*(T-K)
        products = [first @ first.mT, (rest @ rest.T)[None]]
        covariances = covariances + torch.cat(products).double()  # K+1 C C
    identity = torch.eye(covariances.shape[-1], dtype=torch.float64)
    if not covariances[-1].any():  # every component has a covariance of its own
        covariances[-1] = identity
    scale = covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    covariances = (1 - _SHRINKAGE) * covariances / scale + _SHRINKAGE * identity
    return torch.linalg.cholesky(covariances).float()
