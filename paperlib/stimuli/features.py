"""Features of images for the encoding baselines: layers of a network, pooled tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_option, check_shape, did_you_mean


class LayerFeatures(Mapping[str, np.ndarray]):
    """Features of some images, by layer; a layer is read when it is asked for.

    Parameters
    ----------
    tokens
        Opened file of :func:`paperlib.stimuli.cnn.write_layer_outputs`.
    image_ids
        The image of each row.

    Raises
    ------
    ValueError
        If the file holds something else.
    """

    def __init__(self, tokens: Tokens, image_ids: Sequence[str]):
        if "layers" not in tokens.settings:
            raise ValueError(
                f"{tokens.path} holds no layers of a network, but "
                f"{tokens.settings}; expected a file of write_layer_outputs."
            )
        widths = tokens.settings["layers"]
        check_shape(str(tokens.path), tokens, (None, 1, sum(widths.values())))
        stops = np.cumsum(list(widths.values())).tolist()
        starts = [0, *stops[:-1]]
        self._columns = dict(zip(widths, map(slice, starts, stops), strict=True))
        self._tokens = tokens
        self._image_ids = list(image_ids)

    def __getitem__(self, layer: str) -> np.ndarray:
        """Return a layer's features, float32 of shape (n_images, n_features)."""
        if layer not in self._columns:
            raise KeyError(
                f"{self._tokens.path.name} has no layer {layer!r}; it has "
                f"{', '.join(self._columns)}.{did_you_mean(layer, self._columns)}"
            )
        columns = self._columns[layer]
        return self._tokens.read(self._image_ids, columns=columns)[:, 0]

    def __contains__(self, layer: object) -> bool:
        return layer in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


_POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
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
    """Return one vector an image from its CLIP tokens, sources side by side.

    Parameters
    ----------
    sources
        Token files, such as those of the images and those of their captions.
    image_ids
        The image of each row.
    pooling
        ``"mean"`` over tokens, ``"first"`` (CLIP's image embedding; of a caption, the
        start token, which is the same for all) or ``"flatten"``.
    batch_size
        Images read at a time; only pooled ones stay in memory.

    Returns
    -------
    ndarray of shape (n_images, n_features), float32
        n_features is the sum of the sources' D, or of their L x D if flattened.

    Raises
    ------
    ValueError
        If a source has no tokens for one of the images.
    """
    check_option("pooling", pooling, tuple(_POOLINGS))
    ids = list(image_ids)
    batches = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    pool = _POOLINGS[pooling]
    parts = [np.concatenate([pool(s[batch]) for batch in batches]) for s in sources]
    return np.concatenate(parts, axis=1)
