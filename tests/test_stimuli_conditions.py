import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.stimuli.conditions import Condition, hold_out_concepts


class Source:
    """Tokens in memory: L of width D for each image, which hold its number."""

    def __init__(self, length, width):
        self.shape = (3, length, width)

    def __getitem__(self, image_ids):
        numbers = np.array(["abc".index(name) for name in image_ids], np.float32)
        return numbers[:, None, None] * np.ones(self.shape[1:], np.float32)


def test_tokens_of_all_sources_stand_in_a_row():
    condition = Condition([Source(2, 4), Source(3, 4)], ["c", "a", "b"])
    assert (condition.n_tokens, condition.width) == (5, 4)
    chosen = condition([0, 2])
    assert (chosen.shape, chosen.dtype) == ((2, 5, 4), np.float32)
    np.testing.assert_array_equal(chosen[:, :, 0], [[2] * 5, [1] * 5])


def test_sources_of_other_widths_or_none():
    with pytest.raises(ValueError, match=r"must have one width; got \[3, 4\]"):
        Condition([Source(2, 3), Source(2, 4)], ["a"])
    with pytest.raises(ValueError, match="A model needs a condition"):
        Condition([], ["a"])


@given(st.lists(st.sampled_from("abcdefg"), min_size=1), st.integers(0, 9))
def test_concepts_are_either_trained_on_or_held_out(concepts, seed):
    n_held_out = len(set(concepts)) - 1
    if n_held_out < 1:
        with pytest.raises(ValueError, match="validation_concepts must lie between"):
            hold_out_concepts(concepts, n_held_out=1, seed=seed)
        return
    rows = hold_out_concepts(concepts, n_held_out=n_held_out, seed=seed)
    training, validation = ({concepts[row] for row in part} for part in rows)
    assert len(validation) == n_held_out and not training & validation
    assert sorted(np.concatenate(rows)) == list(range(len(concepts)))
    again = hold_out_concepts(concepts, n_held_out=n_held_out, seed=seed)
    np.testing.assert_array_equal(again[0], rows[0])
