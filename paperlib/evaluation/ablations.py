"""Score a model that never saw the channels of a region (paper, section 4.4)."""

import numpy as np

from paperlib.evaluation.comparison import Recordings, Scores, score

FULL = "full model, same channels"
RETRAINED = "trained without the region"
ZEROED = "full model, region set to zero"


def score_without_region(
    full: np.ndarray, retrained: np.ndarray, recorded: Recordings, kept: np.ndarray
) -> dict[str, Scores]:
    """Score three readings of "removing the channels of a region".

    Parameters
    ----------
    full : ndarray of shape (N, C, T)
        Prediction of the model of all channels.
    retrained : ndarray of shape (N, n_kept, T)
        Prediction of a model that was trained on the kept channels.
    recorded
        All channels of what was measured.
    kept : ndarray of int
        Positions of the channels outside the region.

    Returns
    -------
    dict
        :data:`FULL` and :data:`RETRAINED`, scored on the kept channels, and
        :data:`ZEROED`, scored on all: there correlation and synchronization of the
        silent channels are not defined and both metrics are NaN.
    """
    left = recorded.select(kept)
    zeroed = np.zeros_like(full)
    zeroed[:, kept] = full[:, kept]
    return {
        FULL: score(full[:, kept], left),
        RETRAINED: score(retrained, left),
        ZEROED: score(zeroed, recorded),
    }
