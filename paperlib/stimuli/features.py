"""Features of images for linear encoders: layers of a network, pooled tokens."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_option


class LayerFeatures(Mapping[str, np.ndarray]):
    """Flat features of N images by layer of a CNN, float32 (N, D), read on demand."""

    def __init__(self, tokens: Tokens, image_ids: Sequence[str]):
        if "layers" not in tokens.made_with:
            raise ValueError(
                f"{tokens.path} holds no layers of a network, but {tokens.made_with}. "
                "Name a network in the run's conditioning."
            )
        self._widths = tokens.made_with["layers"]
        self._tokens, self._image_ids = tokens, list(image_ids)

    def __getitem__(self, layer: str) -> np.ndarray:
        layers = tuple(self._widths)
        check_option(f"A layer in {self._tokens.path.name}", layer, layers)
        start = sum(self._widths[name] for name in layers[: layers.index(layer)])
        columns = slice(start, start + self._widths[layer])
        return self._tokens.read(self._image_ids, columns=columns)[:, 0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)


def layer_maps(
    tokens: Tokens, image_ids: Sequence[str], layers: Sequence[str]
) -> np.ndarray:
    """Read layers of a CNN as maps, float32 (B, places, channels of all layers)."""
    features, maps = LayerFeatures(tokens, image_ids), []
    for layer in layers:
        flat = features[layer]  # B channels*places
        n_channels = tokens.made_with["channels"][layer]
        maps.append(flat.reshape(len(flat), n_channels, -1).swapaxes(1, 2))
    places = {layer: m.shape[1] for layer, m in zip(layers, maps, strict=True)}
    if len(set(places.values())) > 1:
        raise ValueError(
            f"Maps must have the same number of places to stand in a row; got {places}."
        )
    return np.concatenate(maps, axis=-1)


_POOLINGS = {  # B L D to B features
    "mean": lambda tokens: tokens.mean(axis=1),
    "first": lambda tokens: tokens[:, 0],
    "flatten": lambda tokens: tokens.reshape(len(tokens), -1),
}


def token_features(
    sources: Sequence[Tokens],
    image_ids: Sequence[str],
    *,
    pooling: str,
    batch_size: int,
) -> np.ndarray:
    """Return one vector an image from its tokens, float32 (N, D), sources side by side.

    ``pooling`` is ``"mean"`` over tokens, ``"first"`` (CLIP's image embedding; of a
    caption, the start token, which is the same for all) or ``"flatten"``.
    """
    check_option("pooling", pooling, tuple(_POOLINGS))
    pool, ids = _POOLINGS[pooling], list(image_ids)
    batches = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    parts = [np.concatenate([pool(s[batch]) for batch in batches]) for s in sources]
    return np.concatenate(parts, axis=1)
