"""Boxes, arrows and stacks of a schematic.

Places are in inches from the lower left corner of the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from paperlib.reporting.figures import PAGE

TITLE, DETAIL = 7.0, 6.5  # points
INK = "#262626"
_LINE = 1.25 / 72  # inches that a line of text takes, for each point of its size
_HEAD = 0.07  # inches that the head of an arrow takes


@dataclass(frozen=True)
class Box:
    """A rectangle of the page."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.left + self.width

    @property
    def top(self) -> float:
        """Upper edge."""
        return self.bottom + self.height

    @property
    def x(self) -> float:
        """Middle between left and right."""
        return self.left + self.width / 2

    @property
    def y(self) -> float:
        """Middle between top and bottom."""
        return self.bottom + self.height / 2


def surround(*boxes: Box, margin: float, heading: float) -> Box:
    """Return a box around others, with room for a heading."""
    left, bottom = (min(getattr(b, side) for b in boxes) for side in ("left", "bottom"))
    right, top = (max(getattr(b, side) for b in boxes) for side in ("right", "top"))
    width, height = right - left + 2 * margin, top - bottom + margin + heading
    return Box(left - margin, bottom - margin, width, height)


def draw_page(height: float) -> Axes:
    """Return empty axes that cover a new page, as wide as both columns."""
    fig = plt.figure(figsize=(PAGE, height))
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, PAGE), ylim=(0, height), autoscale_on=False)
    ax.set_axis_off()
    return ax


def draw_box(
    ax: Axes,
    box: Box,
    title: str,
    details: Sequence[str] = (),
    *,
    color: str,
    room: float = 0.0,
) -> None:
    """Draw a box around centered lines of text.

    Parameters
    ----------
    ax
        From :func:`draw_page`.
    box
        Its place.
    title
        Lines in bold.
    details
        Lines below the title.
    color
        Of the edge; the box is filled with a tint of it.
    room
        Height that is left free at the bottom, for a picture.
    """
    look = {"edgecolor": color, "facecolor": to_rgba(color, 0.12), "linewidth": 0.8}
    ax.add_patch(Rectangle((box.left, box.bottom), box.width, box.height, **look))
    lines = [(line, TITLE, "bold") for line in title.splitlines()]
    lines += [(line, DETAIL, "normal") for line in details]
    y = box.y + room / 2 + sum(size for _, size, _ in lines) * _LINE / 2
    for line, size, weight in lines:
        middle = y - size * _LINE / 2
        write(ax, box.x, middle, line, size=size, weight=weight)
        y -= size * _LINE


def draw_frame(ax: Axes, box: Box, heading: str, *, color: str) -> None:
    """Draw a dashed frame around other boxes, its heading at the upper left."""
    look = {"edgecolor": color, "facecolor": "none", "linewidth": 0.8}
    dashes = (0, (4, 2))
    place = (box.left, box.bottom)
    ax.add_patch(Rectangle(place, box.width, box.height, linestyle=dashes, **look))
    write(ax, box.left + 0.05, box.top - 0.09, heading, ha="left", color=color)


def draw_arrow(ax: Axes, *corners: tuple[float, float], dashed: bool = False) -> None:
    """Draw an arrow along corners; its tip is the last of them."""
    look = {"color": INK, "linewidth": 0.8}
    *shaft, end = np.asarray(corners, dtype=float)
    neck = end - _HEAD * (end - shaft[-1]) / np.linalg.norm(end - shaft[-1])
    line = ax.plot(*np.transpose([*shaft, neck]), solid_capstyle="butt", **look)
    plt.setp(line, linestyle=(0, (3, 1.5)) if dashed else "-")
    head = {"arrowstyle": "-|>", "mutation_scale": 6, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, neck, arrowprops={**head, **look})


def draw_stack(ax: Axes, box: Box, colors: Sequence[str]) -> None:
    """Draw tokens as bars on top of each other, one for each color."""
    bar = box.height / (1.25 * len(colors) - 0.25)  # a quarter of it between two
    for index, color in enumerate(colors):
        look = {"edgecolor": color, "facecolor": to_rgba(color, 0.5), "linewidth": 0.5}
        place = (box.left, box.top - (1.25 * index + 1) * bar)
        ax.add_patch(Rectangle(place, box.width, bar, **look))


def draw_picture(ax: Axes, box: Box, picture: np.ndarray) -> None:
    """Draw an image of shape (H, W, 3), or signals (C, T) on a scale around zero.

    Entries of signals that are not a number stay empty.
    """
    limit = np.nanquantile(np.abs(picture), 0.99)
    extent = (box.left, box.right, box.bottom, box.top)
    scale = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    look = {"aspect": "auto", "interpolation": "nearest", "zorder": 1.5}
    ax.imshow(picture, extent=extent, **scale, **look)


def draw_dots(ax: Axes, box: Box, sizes: np.ndarray, *, color: str) -> None:
    """Draw a square grid of dots on black, of sizes from 0 to 1 (n, n)."""
    pitch = box.width / len(sizes)
    middles = (np.arange(len(sizes)) + 0.5) * pitch
    x, y = np.meshgrid(box.left + middles, box.top - middles)
    place = (box.left, box.bottom)
    ax.add_patch(
        Rectangle(place, box.width, box.height, facecolor="black", linewidth=0)
    )
    ax.scatter(x, y, s=(72 * pitch * sizes) ** 2, c=color, linewidths=0)


def write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = DETAIL,
    weight: str = "normal",
    ha: str = "center",
    color: str = INK,
) -> None:
    """Write a line of text, centered vertically."""
    look = {"size": size, "weight": weight, "color": color}
    ax.text(x, y, text, ha=ha, va="center", **look)
