"""Condition tokens of images, and the split of images by concept."""

from collections.abc import Sequence

import numpy as np

from paperlib.stimuli.tokens import Tokens
from paperlib.validation import check_option


class Condition:
    """Unified embeddings (paper, section 3.2.3): tokens of several sources in a row.

    Parameters
    ----------
    sources
        :class:`~paperlib.stimuli.tokens.Tokens`, or anything with their shape and their
        reading by image id.
    image_ids
        The image of each row.

    Attributes
    ----------
    n_tokens, width : int
        Tokens of an image over all sources, and their width.

    Raises
    ------
    ValueError
        If there is no source, or widths differ.
    """

    def __init__(self, sources: Sequence[Tokens], image_ids: Sequence[str]):
        if not sources:
            raise ValueError(
                "A model needs a condition: set conditioning.image to true, name a "
                "captioner or a network."
            )
        widths = {tokens.shape[-1] for tokens in sources}
        if len(widths) > 1:
            raise ValueError(
                f"Tokens of one condition must have one width; got {sorted(widths)}."
            )
        self.sources = list(sources)
        self.image_ids = np.asarray(image_ids)
        self.width = widths.pop()
        self.n_tokens = sum(tokens.shape[1] for tokens in sources)

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        """Return the tokens of some rows, float32 of shape (B, n_tokens, width)."""
        ids = self.image_ids[rows]
        return np.concatenate([tokens[ids] for tokens in self.sources], axis=1)


def layer_maps(
    tokens: Tokens, image_ids: Sequence[str], layers: Sequence[str]
) -> np.ndarray:
    """Read layers of a CNN as maps, float32 (B, places, channels of all layers)."""
    widths, channels = tokens.settings["layers"], tokens.settings["channels"]
    for layer in layers:
        check_option(f"A layer in {tokens.path.name}", layer, tuple(widths))
    places = {layer: widths[layer] // channels[layer] for layer in layers}
    if len(set(places.values())) > 1:
        raise ValueError(
            f"Maps must have the same number of places to stand in a row; got {places}."
        )
    stops = dict(zip(widths, np.cumsum(list(widths.values())).tolist(), strict=True))
    maps = []
    for layer in layers:
        columns = slice(stops[layer] - widths[layer], stops[layer])
        flat = tokens.read(image_ids, columns=columns)  # N 1 channels*places
        maps.append(flat.reshape(len(flat), channels[layer], -1).swapaxes(1, 2))
    return np.concatenate(maps, axis=-1)


def hold_out_concepts(
    concepts: Sequence[str], *, n_held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split images by concept, so that validation uses concepts never trained on.

    Parameters
    ----------
    concepts
        Concept of each training image.
    n_held_out
        Concepts for validation.
    seed
        Of the draw.

    Returns
    -------
    training, validation : ndarray of int
        Rows of ``concepts``, sorted.

    Raises
    ------
    ValueError
        If there are not enough concepts.
    """
    names = np.unique(concepts)
    if not 1 <= n_held_out < len(names):
        raise ValueError(
            f"validation_concepts must lie between 1 and {len(names) - 1}, one less "
            f"than there are concepts; got {n_held_out}."
        )
    held_out = np.random.default_rng(seed).choice(names, n_held_out, replace=False)
    is_held_out = np.isin(concepts, held_out)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
