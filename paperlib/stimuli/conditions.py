"""Condition tokens of images, and the split of images by concept."""

from collections.abc import Sequence

import numpy as np

from paperlib.stimuli.tokens import Tokens


class Condition:
    """Unified embeddings (paper, section 3.2.3): tokens of several sources in a row.

    ``image_ids`` holds the image of each row.
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


def hold_out_concepts(
    concepts: Sequence[str], *, n_held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows of ``concepts`` by concept, for training and validation."""
    names = np.unique(concepts)
    if not 1 <= n_held_out < len(names):
        raise ValueError(
            f"validation_concepts must lie between 1 and {len(names) - 1}, one less "
            f"than there are concepts; got {n_held_out}."
        )
    held_out = np.random.default_rng(seed).choice(names, n_held_out, replace=False)
    is_held_out = np.isin(concepts, held_out)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
