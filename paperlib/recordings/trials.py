"""Which trials of a THINGS-EEG2 participant are kept, and where they stand.

Sessions repeat some images more often than planned, so that a fixed number of trials of
each image is drawn; then the repetitions of all sessions are put into one random order.
Both draws are those of the published preprocessing (Gifford et al., 2022).
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils import shuffle


class Selection(NamedTuple):
    """Trials of one recording that are kept, and where they go."""

    rows: np.ndarray  # (N,): image, from 0, of each condition that the session shows
    onsets: np.ndarray  # (N R): samples of the image onsets in the recording
    slots: np.ndarray  # (N R): place of each trial among all repetitions of its image


def select_trials(
    events: dict[str, np.ndarray], *, partition: str, n_sessions_each: int, seed: int
) -> tuple[dict[str, Selection], int, int]:
    """Draw the same number of trials of each image and order the repetitions.

    ``events`` holds samples and conditions (n_events, 2) of each session, in order of
    time. Each condition must occur in ``n_sessions_each`` sessions; the smallest number
    of trials that occurs is kept per image and session. Returned are the selections by
    session, the number of images and the number of repetitions.
    """
    sessions = list(events)
    n_images = max(shown[:, 1].max() for shown in events.values())
    counts = np.stack(
        [np.bincount(e[:, 1], minlength=n_images + 1)[1:] for e in events.values()]
    )  # S N
    wrong = np.flatnonzero((counts > 0).sum(axis=0) != n_sessions_each)
    if len(wrong):
        shown = [sessions[s] for s in np.flatnonzero(counts[:, wrong[0]])]
        raise ValueError(
            f"{len(wrong)} of {n_images} {partition} conditions are not in exactly "
            f"{n_sessions_each} of the {len(sessions)} sessions; the first is "
            f"condition {wrong[0] + 1}, which is in {', '.join(shown) or 'none'}. "
            f"Check that all sessions are there, complete and of one participant."
        )
    fewest = np.where(counts > 0, counts, counts.max() + 1).min(axis=1)  # S
    if np.ptp(fewest):
        short = int(fewest.argmin())
        condition = int(np.flatnonzero(counts[short] == fewest[short])[0]) + 1
        pairs = zip(fewest, sessions, strict=True)
        listed = ", ".join(f"{n} times in {name}" for n, name in pairs)
        raise ValueError(
            f"the sessions do not repeat the {partition} conditions equally often: at "
            f"least {listed}. Condition {condition} is short of trials in "
            f"{sessions[short]}; its recording may be cut off or have lost triggers."
        )
    n_trials = int(fewest[0])
    earlier = np.cumsum(counts > 0, axis=0) - 1  # S N, sessions with it before this one
    final_slot = np.argsort(_permutation(n_sessions_each * n_trials, seed))
    selections = {}
    for s, (session, shown) in enumerate(events.items()):
        rows = np.flatnonzero(counts[s])
        onsets = [shown[shown[:, 1] == row + 1, 0] for row in rows]
        onsets = [x[_permutation(len(x), seed)[:n_trials]] for x in onsets]
        merged = earlier[s, rows, None] * n_trials + np.arange(n_trials)
        selections[session] = Selection(rows, np.stack(onsets), final_slot[merged])
    return selections, n_images, len(final_slot)


def _permutation(n: int, seed: int) -> np.ndarray:
    """Permutation of range(n) that the published preprocessing draws."""
    return shuffle(np.arange(n), random_state=seed)
