import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.recordings.trials import select_trials

SEED = 20200220
# Lists computed once from numpy's RandomState(20200220).shuffle.
DRAWN = {2: [1, 0], 3: [1, 2], 4: [2, 1], 5: [3, 2]}
DRAWN_TEST = {
    20: [11, 1, 17, 0, 12, 10, 18, 14, 5, 19, 9, 16, 6, 15, 2, 3, 7, 13, 4, 8],
    21: [11, 1, 18, 0, 12, 10, 19, 14, 5, 20, 9, 17, 6, 16, 2, 15, 3, 7, 13, 4],
}
MERGED_TRAINING = [2, 1, 3, 0]
MERGED_TEST = [
    *[61, 73, 26, 56, 42, 37, 72, 78, 58, 24, 3, 76, 48, 38, 20, 47, 2, 21, 31, 67],
    *[11, 9, 54, 19, 50, 17, 69, 53, 59, 23, 6, 10, 68, 55, 39, 8, 65, 14, 28, 70],
    *[18, 64, 29, 4, 75, 49, 41, 45, 62, 46, 27, 71, 66, 16, 1, 43, 30, 51, 33, 5],
    *[25, 15, 32, 52, 0, 44, 13, 74, 12, 60, 79, 57, 77, 22, 34, 63, 35, 7, 36, 40],
]


def events(codes):
    """Events 100 samples apart."""
    return np.column_stack([100 * (1 + np.arange(len(codes))), codes])


def training(sessions):
    return select_trials(
        {name: events(codes) for name, codes in sessions.items()},
        partition="training",
        n_sessions_each=2,
        seed=SEED,
    )


def final_order(selections, row, n_slots):
    """Onset at each place of the product for one image, with its session."""
    places = [None] * n_slots
    for name, selection in selections.items():
        for condition in np.flatnonzero(selection.rows == row):
            for slot, onset in zip(
                selection.slots[condition], selection.onsets[condition], strict=True
            ):
                places[slot] = name, onset
    return places


@pytest.mark.parametrize("n_shown", DRAWN)
def test_surplus_training_trials_are_drawn_as_published(n_shown):
    # Condition 1 is shown n_shown times in both sessions, condition 2 twice.
    codes = [1] * n_shown + [2, 2]
    selections = training({"a": codes, "b": codes})
    for name in "ab":
        drawn = selections[name].onsets[0] // 100 - 1
        np.testing.assert_array_equal(drawn, DRAWN[n_shown])


@pytest.mark.parametrize("n_shown", DRAWN_TEST)
def test_surplus_test_trials_are_drawn_as_published(n_shown):
    shown = {"a": events([1] * n_shown + [2] * 20)}
    selections = select_trials(shown, partition="test", n_sessions_each=1, seed=SEED)
    drawn = selections["a"].onsets[0] // 100 - 1
    np.testing.assert_array_equal(drawn, DRAWN_TEST[n_shown])


def test_training_repetitions_stand_in_the_published_order():
    selections = training({"a": [1, 1], "b": [2, 2], "c": [2, 2], "d": [1, 1]})
    # Merged order: earlier session's [second, first], later session's the same.
    for row, (early, late) in enumerate([("a", "d"), ("b", "c")]):
        merged = [(early, 200), (early, 100), (late, 200), (late, 100)]
        expected = [merged[m] for m in MERGED_TRAINING]
        assert final_order(selections, row, 4) == expected


def test_test_repetitions_stand_in_the_published_order():
    sessions = ("a", "b", "c", "d")
    shown = {name: events([1] * 20) for name in sessions}
    selections = select_trials(shown, partition="test", n_sessions_each=4, seed=SEED)
    merged = [(n, 100 * (1 + i)) for n in sessions for i in DRAWN_TEST[20]]
    assert final_order(selections, 0, 80) == [merged[m] for m in MERGED_TEST]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 6))
def test_every_place_of_the_product_is_filled_once(seed, n_trials, n_images):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(1, n_images + 1), n_trials)
    shown = {name: events(rng.permutation(codes)) for name in "abc"}
    selections = select_trials(shown, partition="test", n_sessions_each=3, seed=seed)
    filled = np.zeros((n_images, 3 * n_trials), int)
    for name, selection in selections.items():
        np.add.at(filled, (selection.rows[:, None], selection.slots), 1)
        kept = np.sort(selection.onsets, axis=None)
        np.testing.assert_array_equal(kept, shown[name][:, 0])
    assert (filled == 1).all()


@pytest.mark.parametrize(
    ("sessions", "message"),
    [
        ({"a": [1, 1, 2, 2], "b": [1, 1]}, "condition 2, which is in a"),
        ({"a": [1, 1], "b": [1, 1], "c": [1, 1]}, "condition 1, which is in a, b, c"),
        ({"a": [1, 1, 3, 3], "b": [1, 1, 3, 3]}, "condition 2, which is in none"),
    ],
    ids=["one session", "three sessions", "gap in the numbering"],
)
def test_a_condition_must_be_in_exactly_two_sessions(sessions, message):
    with pytest.raises(ValueError, match=f"1 of . training.*exactly 2.*{message}"):
        training(sessions)


def test_a_lost_trigger_is_located():
    with pytest.raises(
        ValueError, match="2 times in a, 1 times in b. Condition 2 is short.* in b"
    ):
        training({"a": [1, 1, 2, 2], "b": [1, 2, 1]})
