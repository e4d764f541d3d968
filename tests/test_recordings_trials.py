import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.recordings.trials import select_trials


def events(codes):
    """Events 100 samples apart."""
    return np.column_stack([100 * (1 + np.arange(len(codes))), codes])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6))
def test_every_place_of_the_product_is_filled_once(seed, n_trials, n_images):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(1, n_images + 1), n_trials)
    shown = {name: events(rng.permutation(codes)) for name in "abc"}
    options = {"partition": "test", "n_sessions_each": 3, "seed": seed}
    selections, *shape = select_trials(shown, **options)
    assert shape == [n_images, 3 * n_trials]
    filled = np.zeros((n_images, 3 * n_trials), int)
    for name, selection in selections.items():
        np.add.at(filled, (selection.rows[:, None], selection.slots), 1)
        kept = np.sort(selection.onsets, axis=None)
        np.testing.assert_array_equal(kept, shown[name][:, 0])
    assert (filled == 1).all()


EXACTLY = "1 of . training.*exactly 2.*"


@pytest.mark.parametrize(
    ("sessions", "message"),
    [
        ({"a": [1, 1, 2, 2], "b": [1, 1]}, EXACTLY + "condition 2, which is in a"),
        ({x: [1, 1] for x in "abc"}, EXACTLY + "condition 1, which is in a, b, c"),
        ({x: [1, 1, 3, 3] for x in "ab"}, EXACTLY + "condition 2, which is in none"),
        (
            {"a": [1, 1, 2, 2], "b": [1, 2, 1]},
            "2 times in a, 1 times in b. Condition 2 is short.* in b",
        ),
    ],
    ids=["one session", "three sessions", "gap in the numbering", "lost trigger"],
)
def test_conditions_that_are_not_shown_as_designed(sessions, message):
    shown = {name: events(codes) for name, codes in sessions.items()}
    with pytest.raises(ValueError, match=message):
        select_trials(shown, partition="training", n_sessions_each=2, seed=0)
