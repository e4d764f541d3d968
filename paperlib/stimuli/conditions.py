"""Which images a model learns from, and the tokens that condition it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paperlib.config import token_sources
from paperlib.stimuli.tokens import Tokens


class Condition:
    """Unified embeddings (paper, section 3.2.3): tokens of several sources in a row.

    Parameters
    ----------
    sources
        Token files, such as those of the images and those of their captions.
    image_ids
        The image of each row.

    Attributes
    ----------
    n_tokens, width : int
        Tokens of an image over all sources, and their width.
    """

    def __init__(self, sources: Sequence[Tokens], image_ids: Sequence[str]):
        if not sources:
            raise ValueError(
                "A model needs a condition: set conditioning.image to true, name a "
                "captioner, or both."
            )
        widths = {tokens.shape[-1] for tokens in sources}
        if len(widths) > 1:
            raise ValueError(
                f"Tokens must have one width to stand in a row; got {sorted(widths)}."
            )
        self.sources = list(sources)
        self.image_ids = np.asarray(image_ids)
        self.width = widths.pop()
        self.n_tokens = sum(tokens.shape[1] for tokens in sources)

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        """Return the tokens of some rows, float32 of shape (B, n_tokens, width)."""
        ids = self.image_ids[rows]
        return np.concatenate([tokens[ids] for tokens in self.sources], axis=1)


def open_condition(
    conditioning: dict, where: Callable[..., Path], image_ids: Sequence[str]
) -> Condition:
    """Open the token files of a condition.

    Parameters
    ----------
    conditioning
        With ``image`` (bool), ``captioner`` and ``network`` (names or None).
    where
        From :func:`paperlib.paths.locate`.
    image_ids
        The image of each row.
    """
    paths = [where("tokens", tokens=name) for name in token_sources(conditioning)]
    return Condition([Tokens(path) for path in paths], image_ids)


def hold_out_concepts(
    concepts: Sequence[str], *, n_held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split images by concept, so that validation asks for concepts never trained on.

    Parameters
    ----------
    concepts
        Concept of each training image.
    n_held_out
        Concepts for validation.
    seed
        Decides which.

    Returns
    -------
    training, validation : ndarray of int
        Rows of ``concepts``, sorted.
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
