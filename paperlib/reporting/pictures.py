"""Pictures and scalp maps that a page holds in itself."""

import base64
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import mne
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from paperlib.reporting.page import render

_HEAD = 0.88  # radius of a scalp map; the template draws the outline around it


def embed(picture: Path | Image.Image | Figure, scale: float = 1.0) -> dict:
    """Return a picture as WebP: src (a data URI), width and height.

    ``scale`` makes it smaller, all figures by the same factor for equal letters.
    """
    if isinstance(picture, Figure):
        file = BytesIO()
        picture.savefig(file, dpi=180, transparent=True)
        picture = file
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    width, height = (round(scale * side) for side in image.size)
    file = BytesIO()
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    image.save(file, "WEBP", quality=80, use_sharp_yuv=True)
    src = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    return {"src": src, "width": width, "height": height}


def map_samples(times: np.ndarray) -> np.ndarray:
    """Return the samples nearest to twelve times from 50 to 600 ms."""
    return np.abs(times[:, None] - np.linspace(0.05, 0.6, 12)).argmin(axis=0)


def draw_maps(
    values: np.ndarray, info: mne.Info, *, limit: float, size: int = 96
) -> Image.Image:
    """Draw scalp maps (rows, columns, C) side by side in one picture, nose up.

    Sensors are seen from above, at their angle from the vertex (azimuthal equidistant
    projection); thin-plate splines interpolate between them. Colors run from -limit to
    limit, and what is far from every sensor is transparent. Each map has ``size``
    pixels to a side.
    """
    rows, columns, n_channels = values.shape
    positions = np.array([channel["loc"][:3] for channel in info["chs"]])  # C 3
    sphere = np.c_[2 * positions, np.ones(n_channels)]  # |p|^2 = 2 p c + constant
    center = np.linalg.lstsq(sphere, (positions**2).sum(axis=1))[0][:3]
    x, y, z = (
        (positions - center) / np.linalg.norm(positions - center, axis=1)[:, None]
    ).T
    sensors = np.c_[x, y] / np.sinc(np.arccos(z) / np.pi)[:, None]  # C 2
    sensors *= 0.82 / np.linalg.norm(sensors, axis=1).max()
    ticks = (np.arange(size) + 0.5) / size * 2 - 1
    pixels = np.stack(np.meshgrid(ticks, -ticks), axis=-1).reshape(-1, 2)
    spline = RBFInterpolator(sensors, values.reshape(-1, n_channels).T)
    levels = np.clip(spline(pixels) / limit, -1, 1)  # pixels maps
    colors = mpl.colormaps["RdBu_r"]((levels + 1) / 2, bytes=True)
    near = KDTree(sensors).query(pixels)[0] < 0.25
    inside = near & (np.linalg.norm(pixels, axis=1) < _HEAD)
    colors[~inside] = 0
    colors = colors.reshape(size, size, rows, columns, 4).transpose(2, 0, 3, 1, 4)
    return Image.fromarray(colors.reshape(rows * size, columns * size, 4))


def slide_maps(maps: Image.Image, moments: list[int]) -> str:
    """Return HTML that shows one column of :func:`draw_maps`, and a slider for which.

    ``moments`` are the times of the columns in ms.
    """
    size = {"width": maps.width // len(moments)}
    return render("slider.html", picture=embed(maps), moments=moments, **size)
