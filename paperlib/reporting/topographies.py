"""Scalp maps (paper, Figures 3 and 7)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import mne
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from paperlib.reporting.figures import PAGE, REGION_COLORS

_ELECTRODES = (0.0, 0.015, 0.0, 0.1)  # m: middle and radius of a head around them


def window_means(
    response: np.ndarray, times: np.ndarray, windows: Sequence[Sequence[float]]
) -> np.ndarray:
    """Average a response (C, T) over windows (s, without their ends), as (W, C)."""
    chosen = [(times >= start) & (times < end) for start, end in windows]
    for (start, end), inside in zip(windows, chosen, strict=True):
        if not inside.any():
            raise ValueError(
                f"The window {start} to {end} s holds no sample; the signals run from "
                f"{times[0]:.3f} to {times[-1]:.3f} s."
            )
    return np.stack([response[:, inside].mean(axis=1) for inside in chosen])


def plot_topographies(
    maps: dict[str, np.ndarray],
    *,
    windows: Sequence[Sequence[float]],
    info: mne.Info,
    unit: str,
) -> Figure:
    """Draw rows of scalp maps on one color scale, symmetric about zero.

    Each row is labelled and has maps of shape (n_windows, C) from `window_means`.
    Colors end with the sensors: nothing is extrapolated to the edge of the head.
    """
    limit = max(np.abs(values).max() for values in maps.values())
    size = (PAGE, 0.5 + len(maps) * 0.95 * PAGE / (len(windows) + 1))
    fig, axes = plt.subplots(len(maps), len(windows), figsize=size, squeeze=False)
    for row, (label, values) in zip(axes, maps.items(), strict=True):
        for ax, value in zip(row, values, strict=True):
            image = _draw_map(ax, value, info=info, limit=limit)
        row[0].set_ylabel(label, parse_math=False)
    for ax, (start, end) in zip(axes[0], windows, strict=True):
        ax.set_title(f"{1000 * start:.0f}-{1000 * end:.0f} ms")
    fig.colorbar(image, ax=axes, label=f"Mean response ({unit})", shrink=0.6, aspect=25)
    return fig


def plot_response(
    image: Image.Image,
    responses: dict[str, np.ndarray],
    *,
    times: np.ndarray,
    moments: Sequence[float],
    regions: Sequence[str],
    info: mne.Info,
    unit: str,
) -> Figure:
    """Show responses (C, T) to an image: all channels over time, and scalp maps.

    Responses are rows with labels and share their scales. Times of the samples and
    moments of the maps are in s; regions are those of the channels.
    """
    n_rows, n_maps = len(responses), len(moments)
    colors = {name: c for name, c in REGION_COLORS.items() if name in regions}
    samples = [int(np.abs(times - moment).argmin()) for moment in moments]
    values = np.stack(list(responses.values()))  # rows C T
    limit = np.abs(values[..., samples]).max()
    fig = plt.figure(figsize=(PAGE, 0.6 + 1.1 * n_rows))
    grid = fig.add_gridspec(n_rows, 2 + n_maps, width_ratios=[1.3, 2.4] + [1] * n_maps)
    picture = fig.add_subplot(grid[:, 0])
    picture.imshow(image)
    picture.set_axis_off()
    curves, maps = None, []
    for row, (label, response) in enumerate(responses.items()):
        curves = fig.add_subplot(grid[row, 1], sharex=curves, sharey=curves)
        for region, color in colors.items():
            lines = response[np.array(regions) == region].T  # T channels
            curves.plot(1000 * times, lines, color=color, lw=0.4)
        for moment in moments:
            curves.axvline(1000 * moment, color="black", lw=0.5, ls=":")
        curves.set_title(label, loc="left", parse_math=False)
        curves.set(xlim=(1000 * times[0], 1000 * times[-1]), ylabel=unit)
        curves.tick_params(labelbottom=row == n_rows - 1)
        for column, sample in enumerate(samples):
            maps.append(fig.add_subplot(grid[row, 2 + column]))
            drawn = _draw_map(maps[-1], response[:, sample], info=info, limit=limit)
    curves.set_xlabel("Time (ms)")
    for ax, moment in zip(maps, moments, strict=False):
        ax.set_title(f"{1000 * moment:.0f} ms")
    fig.colorbar(drawn, ax=maps, label=unit, shrink=0.6, aspect=25)
    handles = [plt.Line2D([], [], color=c, label=name) for name, c in colors.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


def _draw_map(
    ax: Axes, values: np.ndarray, *, info: mne.Info, limit: float
) -> AxesImage:
    """Draw one scalp map with colors from -limit to limit."""
    image, _ = mne.viz.plot_topomap(
        values,
        info,
        axes=ax,
        vlim=(-limit, limit),
        cmap="RdBu_r",
        contours=0,
        sphere=_ELECTRODES if "eeg" in info.get_channel_types() else None,
        extrapolate="local",
        sensors="k.",
        show=False,
    )
    plt.setp(ax.lines, linewidth=0.7, markersize=0.5)
    return image
