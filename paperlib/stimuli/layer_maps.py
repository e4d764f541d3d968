"""Feature maps of a CNN as condition tokens: one token for each place of the map.

The channels of some layers are set side by side at each place, standardized, and
reduced to their principal components over images and places. One common scale gives
the tokens unit mean variance; the components keep their relative variances.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_option

_BLOCK = 512  # images in memory at a time


@dataclass(frozen=True)
class LayerMaps:
    """Tokens of a CNN's layers, read by image id as :class:`Tokens` are.

    Attributes
    ----------
    tokens : Tokens or None
        Opened file of :func:`paperlib.stimuli.cnn.write_layer_outputs`.
    layers : list of str
        Layers whose maps have the same grid.
    mean : ndarray of shape (D,)
        Of all channels of these layers; subtracted.
    components : ndarray of shape (D, P)
        Standardization and principal components in one matrix.
    """

    tokens: Tokens | None
    layers: list[str]
    mean: np.ndarray
    components: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, places, P."""
        places = self.tokens.settings["grid"] ** 2
        return self.tokens.shape[0], places, self.components.shape[1]

    def __getitem__(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return the tokens of images, float32 of shape (B, places, P)."""
        maps = _read_maps(self.tokens, self.layers, image_ids)
        return (maps - self.mean) @ self.components


def fit_layer_maps(
    tokens: Tokens,
    layers: Sequence[str],
    image_ids: Sequence[str],
    *,
    n_components: int = 64,
) -> LayerMaps:
    """Fit the tokens of a CNN's layers on some images.

    Parameters
    ----------
    tokens, layers
        As for :class:`LayerMaps`.
    image_ids
        Images of the training split only.
    n_components
        Width of the tokens.

    Raises
    ------
    ValueError
        If the network has no such layer, or the layers' maps differ in their grid.
    """
    parts = [image_ids[i : i + _BLOCK] for i in range(0, len(image_ids), _BLOCK)]
    count, total, products = 0, 0.0, 0.0
    for part in parts:
        maps = _read_maps(tokens, layers, part).astype(float)
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
    return LayerMaps(tokens, list(layers), mean, components)


def _read_maps(
    tokens: Tokens, layers: Sequence[str], image_ids: Sequence[str]
) -> np.ndarray:
    """Return the channels of some layers at each place, (B, places, D)."""
    widths = tokens.settings.get("layers", {})
    places = tokens.settings.get("grid", 1) ** 2
    stops = dict(zip(widths, np.cumsum(list(widths.values())).tolist(), strict=True))
    maps = []
    for layer in layers:
        check_option(f"{tokens.path.name}: layer", layer, tuple(widths))
        columns = slice(stops[layer] - widths[layer], stops[layer])
        values = tokens.read(image_ids, columns=columns)[:, 0]  # B channels*places
        if widths[layer] % places:
            raise ValueError(
                f"The layer {layer!r} has {widths[layer]} values an image: no map of "
                f"{places} places. Choose layers whose maps have this grid."
            )
        maps.append(values.reshape(len(values), -1, places).transpose(0, 2, 1))
    return np.concatenate(maps, axis=2)
