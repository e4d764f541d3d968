"""Scalp maps by time window (paper, Figures 3 and 7)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import mne
import numpy as np
from matplotlib.figure import Figure

from paperlib.reporting.figures import PAGE

_ELECTRODES = (0.0, 0.015, 0.0, 0.1)  # m: middle and radius of a head around them


def window_means(
    response: np.ndarray, times: np.ndarray, windows: Sequence[Sequence[float]]
) -> np.ndarray:
    """Average a response over time windows.

    Parameters
    ----------
    response : ndarray of shape (C, T)
    times : ndarray of shape (T,)
        In seconds.
    windows
        Start (inclusive) and end (exclusive) of each window, in seconds.

    Returns
    -------
    ndarray of shape (n_windows, C)

    Raises
    ------
    ValueError
        If a window holds no sample.
    """
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

    Colors end with the sensors: nothing is extrapolated to the edge of the head.

    Parameters
    ----------
    maps
        Row label -> ndarray of shape (n_windows, C), from :func:`window_means`.
    windows
        Start and end of each window, in seconds.
    info
        Sensor positions, channels in the order of the maps.
    unit
        Of the values, for the color bar.

    Returns
    -------
    Figure
    """
    sphere = _ELECTRODES if "eeg" in info.get_channel_types() else None
    limit = max(np.abs(values).max() for values in maps.values())
    size = (PAGE, 0.5 + len(maps) * 0.95 * PAGE / (len(windows) + 1))
    fig, axes = plt.subplots(len(maps), len(windows), figsize=size, squeeze=False)
    for row, (label, values) in zip(axes, maps.items(), strict=True):
        for ax, value in zip(row, values, strict=True):
            image, _ = mne.viz.plot_topomap(
                value,
                info,
                axes=ax,
                vlim=(-limit, limit),
                cmap="RdBu_r",
                contours=0,
                sphere=sphere,
                extrapolate="local",
                sensors="k.",
                show=False,
            )
            plt.setp(ax.lines, markersize=0.5)
        row[0].set_ylabel(label)
    for ax, (start, end) in zip(axes[0], windows, strict=True):
        ax.set_title(f"{1000 * start:.0f}-{1000 * end:.0f} ms")
    fig.colorbar(image, ax=axes, label=f"Mean response ({unit})", shrink=0.6, aspect=25)
    return fig
