"""CLIP Score: how well captions fit their images.

The paper states neither its CLIP model nor how a cosine becomes a score. Cosines are
kept; both usual formulas are reported (paper, section 4.3 and Appendix I).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm.auto import tqdm

from paperlib.stimuli.clip import Clip, embed_images, embed_texts
from paperlib.stimuli.images import open_image
from paperlib.validation import check_finite

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the paper's ranges


@dataclass(frozen=True)
class Encoder:
    """A CLIP model and the prefix of its captions; ``name`` is shown in tables."""

    name: str
    clip: Clip
    prefix: str = ""


# Of Hessel et al. (2021, EMNLP), which may exceed 1, and one between 0 and 1.
SCORES = {
    "2.5 max(cos, 0)": lambda cosine: 2.5 * np.maximum(cosine, 0),
    "(1 + cos) / 2": lambda cosine: (1 + cosine) / 2,
}


def measure_cosines(
    images: pd.DataFrame,
    captions: Mapping[str, Sequence[str]],
    *,
    encoders: Sequence[Encoder],
    batch_size: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Compare images with their captions and with captions of other concepts.

    Images are a table of `read_images`, captions lists in its order by captioner. Every
    image is read once and embedded once by each ``Clip``; the image of another concept
    is the same for all captioners. The result has a row for each captioner, encoder and
    image: captioner, encoder, image_id, concept, cosine and other_cosine, the one with
    the caption of the other concept.
    """
    others = pair_across_concepts(images["concept"], rng)
    pictures: dict[Clip, list] = {encoder.clip: [] for encoder in encoders}
    for batch in _batches(images["path"].tolist(), batch_size, label="images"):
        opened = [open_image(path) for path in batch]
        for clip, embedded in pictures.items():
            embedded.append(embed_images(clip, opened))
    tables = []
    for captioner, texts in captions.items():
        distinct, rows = np.unique(list(texts), return_inverse=True)
        for encoder in encoders:
            seen = np.concatenate(pictures[encoder.clip])  # N D
            prefixed = [encoder.prefix + text for text in distinct]
            batches = _batches(prefixed, batch_size, label="captions")
            parts = [embed_texts(encoder.clip, batch) for batch in batches]
            read = np.concatenate(parts)[rows]  # N D
            cosines = {
                "cosine": np.einsum("nd,nd->n", seen, read, dtype=float),
                "other_cosine": np.einsum("nd,nd->n", seen, read[others], dtype=float),
            }
            check_finite(f"cosine ({captioner}, {encoder.name})", cosines["cosine"])
            names = {"captioner": captioner, "encoder": encoder.name}
            tables.append(images[["image_id", "concept"]].assign(**names, **cosines))
    return pd.concat(tables, ignore_index=True)


def pair_across_concepts(
    concepts: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """Assign to each image one of another concept, every image once.

    Images are shuffled such that those of a concept stay together; each gets the one as
    many places away as the largest concept has images.
    """
    names, codes, counts = np.unique(
        list(concepts), return_inverse=True, return_counts=True
    )
    step = counts.max()
    if 2 * step > len(codes):
        raise ValueError(
            f"{step} of {len(codes)} images show {names[counts.argmax()]}; expected "
            "half of them at most, so that each can be paired with another concept."
        )
    places = rng.permutation(len(names))[codes]
    order = np.lexsort((rng.permutation(len(codes)), places))
    others = np.empty_like(order)
    others[order] = np.roll(order, step)
    return others


def score_cosines(cosines: pd.DataFrame) -> pd.DataFrame:
    """Add the columns score (a formula of `SCORES`), value and other_value."""
    cosines = cosines.reset_index(drop=True)
    parts = [
        cosines.assign(
            score=formula,
            value=function(cosines["cosine"]),
            other_value=function(cosines["other_cosine"]),
        )
        for formula, function in SCORES.items()
    ]
    return pd.concat(parts).sort_index(kind="stable", ignore_index=True)


def count_ranges(scores: np.ndarray) -> np.ndarray:
    """Count scores in the paper's ranges [0, .2), … [.8, 1]; above 1 is in the last."""
    return np.histogram(np.minimum(scores, EDGES[-1]), EDGES)[0]


def describe_scores(
    scores: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """Summarize the scores of each captioner, data set, encoder and formula.

    A row has n_images, n_concepts; mean with its 95 % interval over concepts (low,
    high), sd over images, other_mean with captions of other concepts; count_0.0 … and
    share_0.0 … share_0.8 by the lower edge of the range.
    """
    parts = scores.groupby(["captioner", "dataset", "encoder", "score"], sort=False)
    table = parts.agg(
        n_images=("value", "size"),
        n_concepts=("concept", "nunique"),
        mean=("value", "mean"),
    )
    table[["low", "high"]] = [
        concept_interval(p["value"], p["concept"], rng=rng, n_resamples=n_resamples)
        for _, p in parts
    ]
    table["sd"] = parts["value"].std()
    table["other_mean"] = parts["other_value"].mean()
    counts = np.stack([count_ranges(part["value"]) for _, part in parts])  # rows, 5
    lower = EDGES[:-1]
    table[[f"count_{edge}" for edge in lower]] = counts
    table[[f"share_{edge}" for edge in lower]] = counts / counts.sum(1, keepdims=True)
    return table.reset_index()


def concept_interval(
    values: np.ndarray,
    concepts: Sequence[str],
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of a mean over images.

    Images of a concept resemble each other: whole concepts are resampled (cluster
    bootstrap, percentile interval).
    """
    names, codes = np.unique(list(concepts), return_inverse=True)
    totals, counts = np.bincount(codes, weights=values), np.bincount(codes)
    chance = np.full(len(names), 1 / len(names))
    drawn = rng.multinomial(len(names), chance, size=n_resamples)  # resamples, concepts
    low, high = np.quantile((drawn @ totals) / (drawn @ counts), [0.025, 0.975])
    return float(low), float(high)


def implied_spread(mean: float, share_below: float, edge: float) -> dict[str, float]:
    """Return, for each formula, the SD of normal cosines that published scores imply.

    ``share_below`` of the scores lie below ``edge``.
    """
    score_sd = (edge - mean) / norm.ppf(share_below)
    return {
        formula: float(score_sd / (function(1.0) - function(0.0)))
        for formula, function in SCORES.items()
    }


def _batches(items: Sequence, size: int, *, label: str) -> Iterator[Sequence]:
    """Yield items in batches under a progress bar."""
    starts = tqdm(range(0, len(items), size), desc=f"Embedding {label}", unit="batch")
    return (items[start : start + size] for start in starts)
