"""Feature maps of a CNN as condition tokens: one token for each place of the map.

The channels of some layers are set side by side at each place, standardized, and
reduced to their principal components over images and places. One common scale gives
the tokens unit mean variance; the components keep their relative variances.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paperlib.stimuli.features import layer_maps
from paperlib.stimuli.tokens import Tokens

_BLOCK = 512  # images in memory at a time


@dataclass(frozen=True)
class MapTokens:
    """Tokens of a CNN's layers, read by image id as :class:`Tokens` are."""

    tokens: Tokens | None  # file of paperlib.stimuli.cnn.write_layer_outputs
    layers: list[str]  # with maps of the same grid
    mean: np.ndarray  # D channels of these layers; subtracted
    components: np.ndarray  # D P, standardization and principal components in one

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, places, P."""
        return self.tokens.shape[0], *self[self.tokens.image_ids[:1]].shape[1:]

    def __getitem__(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return the tokens of images, float32 of shape (B, places, P)."""
        maps = layer_maps(self.tokens, image_ids, self.layers)
        return (maps - self.mean) @ self.components


def fit_map_tokens(
    tokens: Tokens,
    layers: Sequence[str],
    image_ids: Sequence[str],
    *,
    n_components: int = 64,
) -> MapTokens:
    """Fit tokens of width ``n_components`` to the maps of the training images."""
    parts = [image_ids[i : i + _BLOCK] for i in range(0, len(image_ids), _BLOCK)]
    count, total, products = 0, 0.0, 0.0
    for part in parts:
        maps = layer_maps(tokens, part, layers).astype(float)
        rows = maps.reshape(-1, maps.shape[-1])  # B*places D
        count += len(rows)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    deviations = np.sqrt(np.maximum(covariance.diagonal(), 0))
    deviations = np.where(deviations < 1e-6, 1, deviations)
    variances, axes = np.linalg.eigh(covariance / np.outer(deviations, deviations))
    variances, axes = variances[::-1][:n_components], axes[:, ::-1][:, :n_components]
    components = axes / deviations[:, None] / np.sqrt(variances.mean())
    mean, components = mean.astype(np.float32), components.astype(np.float32)
    return MapTokens(tokens, list(layers), mean, components)
