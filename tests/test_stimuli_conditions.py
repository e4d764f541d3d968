import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.stimuli.conditions import Condition, hold_out_concepts
from paperlib.stimuli.tokens import Tokens, write_tokens

IDS = ["a", "b", "c"]


def tokens_of(path, shape):
    """Write tokens of shape (L, D) that hold the number of their image."""

    def encode(numbers):
        return np.array(numbers)[:, None, None] * np.ones(shape)

    items = {name: number for number, name in enumerate(IDS)}
    write_tokens(path, items, encode=encode, batch_size=2, settings={})
    return Tokens(path)


def test_tokens_of_all_sources_stand_in_a_row(tmp_path):
    sources = [tokens_of(tmp_path / f"{n}.npy", (n, 4)) for n in (2, 3)]
    condition = Condition(sources, ["c", "a", "b"])
    assert (condition.n_tokens, condition.width) == (5, 4)
    chosen = condition([0, 2])
    assert (chosen.shape, chosen.dtype) == ((2, 5, 4), np.float32)
    np.testing.assert_array_equal(chosen[:, :, 0], [[2] * 5, [1] * 5])


def test_sources_of_other_widths_or_none(tmp_path):
    sources = [tokens_of(tmp_path / f"{d}.npy", (2, d)) for d in (3, 4)]
    with pytest.raises(ValueError, match=r"must have one width; got \[3, 4\]"):
        Condition(sources, IDS)
    with pytest.raises(ValueError, match="A model needs a condition"):
        Condition([], IDS)


@given(st.lists(st.sampled_from("abcdefg"), min_size=1), st.integers(0, 9))
def test_concepts_are_either_trained_on_or_held_out(concepts, seed):
    n_concepts = len(set(concepts))
    if n_concepts < 2:
        with pytest.raises(ValueError, match="validation_concepts must lie between"):
            hold_out_concepts(concepts, n_held_out=1, seed=seed)
        return
    n_held_out = n_concepts - 1
    rows = hold_out_concepts(concepts, n_held_out=n_held_out, seed=seed)
    training, validation = ({concepts[row] for row in part} for part in rows)
    assert len(validation) == n_held_out and not training & validation
    assert sorted(np.concatenate(rows)) == list(range(len(concepts)))
    again = hold_out_concepts(concepts, n_held_out=n_held_out, seed=seed)
    np.testing.assert_array_equal(again[0], rows[0])
