"""How channels and times become patches (paper, Appendix B and E)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from paperlib.validation import check_option

PADDINGS = ("region", "global")


@dataclass(frozen=True)
class PatchLayout:
    """Place of every channel in a grid of whole patches."""

    channel_rows: tuple[int, ...]  # of the padded grid, in the order of the recording
    row_regions: tuple[int, ...]  # region of each row of patches, from 0
    n_times: int
    patch: tuple[int, int]  # channels, time points

    @property
    def n_rows(self) -> int:
        """Rows of patches."""
        return len(self.row_regions)

    @property
    def n_columns(self) -> int:
        """Columns of patches."""
        return ceil(self.n_times / self.patch[1])

    @property
    def n_regions(self) -> int:
        """Number of brain regions."""
        return max(self.row_regions) + 1

    @property
    def n_patches(self) -> int:
        """Tokens of the transformer."""
        return self.n_rows * self.n_columns

    @property
    def pieces(self) -> list[int]:
        """Place of each piece (a channel in a column of patches) in all patches' rows.

        The place is the patch's number times its height plus the row in the patch.
        Pieces stand in the order of channels, those of a channel in that of columns.
        """
        height = self.patch[0]
        return [
            (row // height * self.n_columns + column) * height + row % height
            for row in self.channel_rows
            for column in range(self.n_columns)
        ]


def patch_layout(
    regions: Sequence[str],
    n_times: int,
    *,
    patch: Sequence[int],
    padding: str = "region",
) -> PatchLayout:
    """Group channels by brain region and pad them to whole patches.

    Regions are numbered in order of first appearance. ``padding`` is ``"region"``: each
    region is padded, so that a row of patches belongs to one region (Appendix B: 18
    rows for EEG, 69 for MEG); or ``"global"``: padded once at the end (Appendix E: 16
    and 68 rows), and a row that straddles regions takes the one with most channels.
    """
    check_option("padding", padding, PADDINGS)
    height, width = patch
    names = list(dict.fromkeys(regions))
    groups = [[c for c, r in enumerate(regions) if r == name] for name in names]
    rows: dict[int, int] = {}
    occupants: list[int] = []  # region of each grid row, in order; -1 where padded
    for index, channels in enumerate(groups):
        for channel in channels:
            rows[channel] = len(occupants)
            occupants.append(index)
        if padding == "region":
            occupants += [-1] * (-len(occupants) % height)
    occupants += [-1] * (-len(occupants) % height)
    return PatchLayout(
        channel_rows=tuple(rows[channel] for channel in range(len(regions))),
        row_regions=_majorities(occupants, height),
        n_times=n_times,
        patch=(height, width),
    )


def _majorities(occupants: list[int], height: int) -> tuple[int, ...]:
    """Return the most frequent region of every ``height`` grid rows, padding aside."""
    starts = range(0, len(occupants), height)
    counts = (Counter(o for o in occupants[s : s + height] if o >= 0) for s in starts)
    return tuple(count.most_common(1)[0][0] for count in counts)
