"""How well captions fit their images, by the cosine of their CLIP embeddings.

The paper names neither its CLIP nor how a cosine becomes a score. Cosines are kept;
both usual readings are reported (paper, section 4.3 and appendix I).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from paperlib.progress import progress_bar
from paperlib.stimuli.embeddings import Clip, embed_images, embed_texts, load_clip
from paperlib.stimuli.images import open_image
from paperlib.stimuli.pretrained import clip_source
from paperlib.validation import check_distinct, check_finite, check_shape

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the paper's ranges


@dataclass(frozen=True)
class Encoder:
    """A CLIP model and what it is told before each caption.

    Attributes
    ----------
    name : str
        As tables show it.
    clip : Clip
    prefix : str
        Put before every caption; may be empty.
    """

    name: str
    clip: Clip
    prefix: str


def hessel_score(cosine: np.ndarray) -> np.ndarray:
    """Return 2.5 max(cos, 0) (Hessel et al., 2021, EMNLP); may exceed 1."""
    return 2.5 * np.maximum(cosine, 0)


def shifted_score(cosine: np.ndarray) -> np.ndarray:
    """Return (1 + cos) / 2, which maps all cosines to 0 ... 1."""
    return (1 + cosine) / 2


SCORES = {"2.5 max(cos, 0)": hessel_score, "(1 + cos) / 2": shifted_score}


def load_encoders(
    entries: Sequence[Mapping[str, str | None]], *, device: str | torch.device
) -> list[Encoder]:
    """Load encoders; those with the same weights share one model.

    Parameters
    ----------
    entries
        Each with name and prefix, and model, pretrained and revision as for
        :func:`paperlib.stimuli.embeddings.load_clip`.
    device
        Where the models shall run.

    Raises
    ------
    ValueError
        If two have the same name, or as in ``load_clip``.
    FileNotFoundError
        As in ``load_clip``.
    """
    check_distinct("Encoders", "names", [entry["name"] for entry in entries])
    sources = [clip_source(entry) for entry in entries]
    clips = {source: load_clip(*source, device=device) for source in set(sources)}
    return [
        Encoder(entry["name"], clips[source], entry["prefix"])
        for entry, source in zip(entries, sources, strict=True)
    ]


def measure_cosines(
    images: pd.DataFrame,
    captions: Mapping[str, Sequence[str]],
    *,
    encoders: Sequence[Encoder],
    batch_size: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Compare images with their captions, and with those of other concepts.

    Every image is read once, and embedded once by each model. In memory are the
    embeddings, 3 kB an image and model for ViT-L/14.

    Parameters
    ----------
    images
        Table of :func:`paperlib.stimuli.images.read_images`, of N images.
    captions
        Captioner -> N captions, in the order of the images.
    encoders
        From :func:`load_encoders`.
    batch_size
        Images, or captions, embedded at a time.
    rng
        Draws the other image of each, the same for all captioners and encoders.

    Returns
    -------
    DataFrame
        A row for each captioner, encoder and image: captioner, encoder, image_id,
        concept, cosine, and other_cosine with the caption of an image of another
        concept, from :func:`pair_across_concepts`.

    Raises
    ------
    ValueError
        If a captioner has not N captions, a cosine is not finite, or as in
        ``pair_across_concepts``.
    """
    others = pair_across_concepts(images["concept"], rng)
    clips = list(dict.fromkeys(encoder.clip for encoder in encoders))
    pictures = _embed_pictures(clips, images["path"], batch_size=batch_size)
    tables = []
    for captioner, texts in captions.items():
        for encoder in encoders:
            seen = pictures[encoder.clip]  # N D
            read = _embed_captions(encoder, texts, batch_size=batch_size)  # N D
            columns = {
                "captioner": captioner,
                "encoder": encoder.name,
                "image_id": images["image_id"],
                "concept": images["concept"],
                "cosine": pair_cosines(seen, read),
                "other_cosine": pair_cosines(seen, read[others]),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def pair_across_concepts(
    concepts: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """Assign to each image one of another concept, every image once.

    Images are put in a random order in which those of a concept stay together; each
    gets the one as many places away as the largest concept has images.

    Parameters
    ----------
    concepts
        Of N images.
    rng
        Draws the order.

    Returns
    -------
    ndarray of int, shape (N,)
        A permutation.

    Raises
    ------
    ValueError
        If one concept has more than half of the images.
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


def pair_cosines(pictures: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the cosine of each picture with the text of the same row.

    Parameters
    ----------
    pictures, texts : ndarray of shape (N, D)
        Embeddings of norm 1.

    Returns
    -------
    ndarray of shape (N,)

    Raises
    ------
    ValueError
        If the shapes differ, or a cosine is not finite.
    """
    check_shape("texts", texts, pictures.shape)
    cosines = np.einsum("nd,nd->n", pictures, texts, dtype=float)
    check_finite("The cosines of images and captions", cosines)
    return cosines


def score_cosines(cosines: pd.DataFrame) -> pd.DataFrame:
    """Turn cosines into scores, once for each of :data:`SCORES`.

    Parameters
    ----------
    cosines
        From :func:`measure_cosines`; further columns are kept.

    Returns
    -------
    DataFrame
        With the columns score (its formula), value and other_value beside the others.
    """
    parts = [
        cosines.assign(
            score=formula,
            value=function(cosines["cosine"]),
            other_value=function(cosines["other_cosine"]),
        )
        for formula, function in SCORES.items()
    ]
    return pd.concat(parts, ignore_index=True)


def count_ranges(scores: np.ndarray) -> np.ndarray:
    """Count scores in the paper's ranges [0, .2), [.2, .4), ... [.8, 1].

    Parameters
    ----------
    scores : ndarray of shape (N,)
        At least 0. What exceeds 1 counts in the last range.

    Returns
    -------
    ndarray of int, shape (5,)
        With the sum N.

    Raises
    ------
    ValueError
        If a score is negative or not finite.
    """
    scores = np.asarray(scores)
    check_finite("scores", scores)
    if (scores < EDGES[0]).any():
        raise ValueError(f"scores must be at least 0; the least is {scores.min()}.")
    places = np.searchsorted(EDGES[1:-1], scores, side="right")
    return np.bincount(places, minlength=len(EDGES) - 1)


def describe_scores(
    scores: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """Summarize the scores of each captioner, data set, encoder and formula.

    Parameters
    ----------
    scores
        From :func:`score_cosines`, with a column dataset.
    rng, n_resamples
        As in :func:`concept_interval`.

    Returns
    -------
    DataFrame
        A row for each: n_images, n_concepts; mean with its 95 % interval over concepts
        (low, high), sd over images, other_mean with captions of other concepts;
        count_0.0 ... count_0.8 and share_0.0 ... share_0.8 by the lower edge of the
        range.
    """
    resamples = {"rng": rng, "n_resamples": n_resamples}
    keys = ["captioner", "dataset", "encoder"]
    rows = [
        dict(zip(keys, key, strict=True))
        | {"score": formula}
        | _describe(part, **resamples)
        for key, group in scores.groupby(keys, sort=False)
        for formula, part in group.groupby("score", sort=False)
    ]
    return pd.DataFrame(rows)


def concept_interval(
    values: np.ndarray,
    concepts: Sequence[str],
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> tuple[float, float]:
    """Return the 95 % interval of a mean over images, by resampling concepts.

    Images of a concept resemble each other, so a resample takes or leaves all of them
    (cluster bootstrap, percentile interval).

    Parameters
    ----------
    values : ndarray of shape (N,)
    concepts
        Of the N images.
    rng : numpy.random.Generator
        Draws the resamples.
    n_resamples : int
        Number of resamples.

    Returns
    -------
    tuple of float
        Low and high.
    """
    names, codes = np.unique(list(concepts), return_inverse=True)
    totals, counts = np.bincount(codes, weights=values), np.bincount(codes)
    chance = np.full(len(names), 1 / len(names))
    drawn = rng.multinomial(len(names), chance, size=n_resamples)
    low, high = np.quantile((drawn @ totals) / (drawn @ counts), [0.025, 0.975])
    return float(low), float(high)


def implied_spread(mean: float, share_below: float, edge: float) -> dict[str, float]:
    """Return the SD that cosines need for a published mean and share.

    Parameters
    ----------
    mean
        Of the scores.
    share_below
        Share of the scores below ``edge``.
    edge
        Of a range.

    Returns
    -------
    dict
        Formula of :data:`SCORES` -> SD of normally distributed, positive cosines.
    """
    score_sd = (edge - mean) / norm.ppf(share_below)
    return {
        formula: float(score_sd / (function(1.0) - function(0.0)))
        for formula, function in SCORES.items()
    }


def _embed_pictures(
    clips: Sequence[Clip], paths: Sequence[Path], *, batch_size: int
) -> dict[Clip, np.ndarray]:
    """Embed images with several models, reading each once."""
    parts: dict[Clip, list[np.ndarray]] = {clip: [] for clip in clips}
    for batch in _batches(paths, batch_size, label="Images"):
        opened = [open_image(path) for path in batch]
        for clip, embeddings in parts.items():
            embeddings.append(embed_images(clip, opened))
    return {clip: np.concatenate(embeddings) for clip, embeddings in parts.items()}


def _embed_captions(
    encoder: Encoder, captions: Sequence[str], *, batch_size: int
) -> np.ndarray:
    """Embed captions, those that occur more than once only once."""
    different, rows = np.unique(list(captions), return_inverse=True)
    parts = [
        embed_texts(encoder.clip, [encoder.prefix + caption for caption in batch])
        for batch in _batches(different, batch_size, label="Captions")
    ]
    return np.concatenate(parts)[rows]


def _batches(items: Sequence, size: int, *, label: str) -> Iterator[list]:
    """Yield items in batches under a progress bar."""
    items = list(items)
    with progress_bar(total=len(items), label=label, unit=label.lower()) as bar:
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            yield batch
            bar.update(len(batch))


def _describe(
    scores: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int
) -> dict:
    """Summarize the scores of one distribution."""
    values, concepts = scores["value"].to_numpy(), scores["concept"]
    low, high = concept_interval(values, concepts, rng=rng, n_resamples=n_resamples)
    counts = dict(zip(EDGES, count_ranges(values).tolist(), strict=False))
    return {
        "n_images": len(values),
        "n_concepts": concepts.nunique(),
        "mean": values.mean(),
        "low": low,
        "high": high,
        "sd": values.std(ddof=1),
        "other_mean": scores["other_value"].mean(),
        **{f"count_{edge}": count for edge, count in counts.items()},
        **{f"share_{edge}": count / len(values) for edge, count in counts.items()},
    }
