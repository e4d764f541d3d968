"""Score a model that never saw the channels of a region (paper, section 4.4)."""

from dataclasses import replace

import numpy as np
import pandas as pd

from paperlib.evaluation.comparison import Scores, compare_with, score
from paperlib.evaluation.responses import Responses

FULL = "full model, same channels"
RETRAINED = "trained without the region"
ZEROED = "full model, region set to zero, all channels"


def score_without_region(
    full: Responses,
    retrained: Responses,
    recorded: Responses,
    *,
    kept: np.ndarray,
    sfreq: float,
) -> dict[str, Scores]:
    """Score three readings of "removing the channels of a region".

    Parameters
    ----------
    full
        Prediction of the model of all channels.
    retrained
        Prediction of a model that was trained on the kept channels.
    recorded
        All channels of what was measured.
    kept : ndarray of int
        Positions of the channels outside the region.
    sfreq
        Sampling rate in Hz.

    Returns
    -------
    dict
        :data:`FULL` and :data:`RETRAINED`, scored on the kept channels, and
        :data:`ZEROED`, scored on all: there correlation and synchronization of the
        silent channels are not defined and both metrics are NaN.
    """
    left = recorded.select(kept)
    zeroed = np.zeros_like(full.values)
    zeroed[:, kept] = full.values[:, kept]
    silent = replace(full, values=zeroed, recurrences={})
    return {
        FULL: score(full.select(kept), left, sfreq=sfreq),
        RETRAINED: score(retrained, left, sfreq=sfreq),
        ZEROED: score(silent, recorded, sfreq=sfreq),
    }


def region_row(region: str, variant: str) -> str:
    """Name a row of Figure 6, such as ``Occipital: trained without the region``."""
    return f"{region}: {variant}"


def compare_regions(
    scores: pd.DataFrame, regions: list[str], *, seed: int, resamples: int
) -> pd.DataFrame:
    """Return what training without each region changes on the channels that are left.

    Parameters
    ----------
    scores
        From :func:`paperlib.evaluation.comparison.tidy_scores`; methods are named by
        :func:`region_row`.
    regions
        In the order wanted.
    seed, resamples
        Of the bootstrap, see :func:`paperlib.evaluation.comparison.summarize`.

    Returns
    -------
    DataFrame
        Paired differences, retrained less full model, as from
        :func:`paperlib.evaluation.comparison.compare_with`; a region is a method.
    """
    found = []
    for region in regions:
        pair = [region_row(region, variant) for variant in (RETRAINED, FULL)]
        compared = scores[scores["method"].isin(pair)]
        difference = compare_with(compared, pair[1], seed=seed, resamples=resamples)
        found.append(difference.assign(method=region))
    return pd.concat(found, ignore_index=True)
