"""The paper as one HTML page: tables, pictures and scalp maps that it embeds.

The page is the Jinja template ``templates/paper.html`` and loads nothing.
"""

import base64
import re
from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import mne
import nbformat
import numpy as np
from jinja2 import Environment, PackageLoader
from latex2mathml import converter
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML
from PIL import Image
from pygments.formatters import HtmlFormatter
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

_HEAD = 0.88  # radius of a scalp map; the template draws the outline around it
_PUBLISHED = "Published: "
_MATH = re.compile(r"\$\$(.+?)\$\$|\$((?:[^$\n]|\n(?!\n))+)\$", re.DOTALL)


def render(template: str, **fields) -> str:
    """Fill in a file of ``templates/``; text is escaped."""
    loader = PackageLoader("paperlib.reporting")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(**fields)


def read_table(file: Path) -> dict:
    """Read a table that :func:`paperlib.reporting.tables.save_table` wrote as Markdown.

    Returns
    -------
    dict
        header (list), rows (a list of dicts: cells, and whether it is published) and
        caption.
    """
    table, _, caption = file.read_text(encoding="utf-8").strip().partition("\n\n")
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    header, _, *cells = [[cell.strip() for cell in line] for line in lines]
    rows = [
        {
            "cells": [cell.removeprefix(_PUBLISHED) for cell in row],
            "published": any(cell.startswith(_PUBLISHED) for cell in row),
        }
        for row in cells
    ]
    return {"header": header, "rows": rows, "caption": caption}


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


def notebook_page(executed: Path) -> str:
    """Return an executed notebook as an HTML page; its equations are MathML."""
    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _MATH.sub(_as_mathml, cell.source)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": "Figure drawn by the code above"}
    # HTMLExporter's own would parse the whole page again, to add attributes
    body, _ = super(HTMLExporter, _exporter()).from_notebook_node(notebook)
    styles = {name: HtmlFormatter(style=name) for name in ("default", "github-dark")}
    light, dark = (style.get_style_defs(".highlight") for style in styles.values())
    return render(
        "notebook.html", title=executed.stem, body=body, light=light, dark=dark
    )


def _as_mathml(match: re.Match) -> str:
    display = "block" if match[1] else "inline"
    return converter.convert(match[1] or match[2], display=display).replace("\n", " ")


@cache
def _exporter() -> HTMLExporter:
    hidden = ("exclude_anchor_links", "exclude_input_prompt", "exclude_output_prompt")
    exporter = HTMLExporter(template_name="basic", **dict.fromkeys(hidden, True))
    exporter.register_filter("highlight_code", Highlight2HTML(pygments_lexer="python"))
    exporter.register_filter("clean_html", lambda html: html)  # notebooks are our own
    return exporter
