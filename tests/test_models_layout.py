import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.models.layout import patch_layout

EEG = (
    ["Frontal"] * 22
    + ["Central"] * 14
    + ["Temporal"] * 10
    + ["Parietal"] * 14
    + ["Occipital"] * 3
)
MEG_COUNTS = {"F": 67, "C": 52, "P": 45, "O": 39, "T": 68}
MEG = [region for region, count in MEG_COUNTS.items() for _ in range(count)]


@pytest.mark.parametrize(
    ("regions", "n_times", "padding", "rows", "columns"),
    [
        (EEG, 250, "region", 18, 63),  # Appendix B: 1134 tokens
        (EEG, 250, "global", 16, 63),  # Appendix E: 1008 tokens
        (MEG, 200, "region", 69, 50),
        (MEG, 200, "global", 68, 50),
    ],
)
def test_token_counts_of_the_paper(regions, n_times, padding, rows, columns):
    layout = patch_layout(regions, n_times, patch=(4, 4), padding=padding)
    assert (layout.n_rows, layout.n_columns) == (rows, columns)
    assert layout.n_patches == rows * columns


@given(
    regions=st.lists(st.sampled_from("FCTPO"), min_size=1, max_size=40),
    height=st.integers(1, 6),
    padding=st.sampled_from(["region", "global"]),
)
def test_every_channel_has_a_place_of_its_own(regions, height, padding):
    layout = patch_layout(regions, 10, patch=(height, 5), padding=padding)
    rows = layout.channel_rows
    assert len(set(rows)) == len(regions)
    assert 0 <= min(rows) and max(rows) < layout.n_rows * height


@given(
    regions=st.lists(st.sampled_from("FCTPO"), min_size=1, max_size=40),
    height=st.integers(1, 6),
)
def test_region_padding_keeps_a_row_of_patches_in_one_region(regions, height):
    layout = patch_layout(regions, 10, patch=(height, 5))
    names = list(dict.fromkeys(regions))
    for region, row in zip(regions, layout.channel_rows, strict=True):
        assert names[layout.row_regions[row // height]] == region


def test_global_padding_takes_the_majority():
    layout = patch_layout(list("AAABBBBB"), 4, patch=(4, 4), padding="global")
    assert layout.row_regions == (0, 1)


def test_channels_of_a_region_keep_their_order():
    layout = patch_layout(list("ABAB"), 4, patch=(2, 4))
    np.testing.assert_array_equal(layout.channel_rows, [0, 2, 1, 3])


def test_unknown_padding_is_an_error():
    with pytest.raises(ValueError, match="padding must be one of .*Did you mean"):
        patch_layout(["A"], 4, patch=(1, 1), padding="regions")
