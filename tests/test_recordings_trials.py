import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.recordings.trials import select_trials

SEED = 20200220


def published_order(n):
    """The permutation that the published preprocessing draws."""
    order = np.arange(n)
    np.random.RandomState(SEED).shuffle(order)  # noqa: NPY002
    return order


def events(codes):
    """Events 100 samples apart."""
    return np.column_stack([100 * (1 + np.arange(len(codes))), codes])


def training(sessions):
    shown = {name: events(codes) for name, codes in sessions.items()}
    options = {"partition": "training", "n_sessions_each": 2, "seed": SEED}
    selections, n_images, n_repetitions = select_trials(shown, **options)
    assert n_images == max(map(max, sessions.values())) and n_repetitions == 4
    return selections


@pytest.mark.parametrize("n_shown", [2, 3, 4, 5])
def test_surplus_trials_are_drawn_as_published(n_shown):
    # Condition 1 is shown n_shown times in both sessions, condition 2 twice.
    codes = [1] * n_shown + [2, 2]
    selections = training({"a": codes, "b": codes})
    for name in "ab":
        drawn = selections[name].onsets[0] // 100 - 1
        np.testing.assert_array_equal(drawn, published_order(n_shown)[:2])


def test_repetitions_stand_in_the_published_order():
    selections = training({"a": [1, 1], "b": [2, 2], "c": [2, 2], "d": [1, 1]})
    for sessions in ("ad", "bc"):  # of conditions 1 and 2
        placed = [None] * 4
        for name in sessions:
            for slot, onset in zip(
                *(selections[name].slots[0], selections[name].onsets[0]), strict=True
            ):
                placed[slot] = name, onset
        merged = [(n, 100 * (1 + i)) for n in sessions for i in published_order(2)]
        assert placed == [merged[m] for m in published_order(4)]


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
    with pytest.raises(ValueError, match=message):
        training(sessions)
