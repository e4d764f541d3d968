"""Figures 1 and 2: drawings with fields that a notebook fills in.

The drawings are SVG files in ``templates/``; open and edit them like any other drawing.
"""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import typst
from PIL import Image

from paperlib.atomic import atomic_path
from paperlib.models.dit import DiT

TEMPLATES = Path(__file__).with_name("templates")
_FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"  # DejaVu, as in all other figures
_PAGE = b"""
#set document(date: none)
#set page(width: auto, height: auto, margin: 0pt)
#image(bytes(sys.inputs.svg), format: "svg", width: 6.75in)
"""


def fill_template(name: str, fields: dict[str, object]) -> str:
    """Return a drawing of ``templates/`` as SVG text with all its fields filled in."""
    template = (TEMPLATES / f"{name}.svg").read_text(encoding="utf-8")
    return template.format_map({key: escape(str(v)) for key, v in fields.items()})


def network_fields(network: DiT, tokens: dict[str, tuple[int, int]]) -> dict[str, str]:
    """Describe a network, which may be on the device ``"meta"``, in fields of Figure 2.

    ``tokens`` are number and width of the ``"image"`` or ``"text"`` tokens or both.
    """
    layout, block = network.layout, network.blocks[0]
    length = sum(n for n, _ in tokens.values())
    width = block.cross_attention.key.in_features
    codes = network.position.tables.items()
    return {
        "signal": f"{len(layout.channel_rows)} × {layout.n_times}",
        "patch": "{} × {}".format(*layout.patch),
        "grid": f"{layout.n_rows} × {layout.n_columns}",
        "patches": f"{layout.n_patches:,}",
        "regions": f"{layout.n_regions}",
        "condition": f"{length} × {width}",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "image_tokens": "{} × {}".format(*tokens.get("image", (0, 0))),
        "text_tokens": "{} × {}".format(*tokens.get("text", (0, 0))),
        "width": f"{network.position.width:,}",
        "depth": f"{len(network.blocks)}",
        "self_heads": f"{block.self_attention.heads}",
        "cross_heads": f"{block.cross_attention.heads}",
        "hidden": f"{block.mlp[0].out_features:,}",
        "vectors": f"{block.vectors}",
        "cross_visibility": "visible" if block.vectors == 9 else "hidden",
    } | {f"code_{name}": f"{len(table)}" for name, table in codes}


def save_schematic(svg: str, stem: str | Path) -> list[Path]:
    """Write an SVG as PDF and PNG (300 dpi), the same bytes at every run."""
    written = []
    for kind in ("pdf", "png"):
        written.append(Path(f"{stem}.{kind}"))
        with atomic_path(written[-1]) as partial:
            typst.compile(
                _PAGE,
                output=partial,
                format=kind,
                ppi=300,
                sys_inputs={"svg": svg},
                font_paths=[_FONTS],
                ignore_system_fonts=True,
            )
    return written


def picture_uri(picture: Image.Image | np.ndarray) -> str:
    """Return a picture, or an array of bytes (H, W, 3 or 4), as the URI of a PNG."""
    buffer = BytesIO()
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def heat_map(values: np.ndarray) -> np.ndarray:
    """Color an array (H, W) around zero, as bytes (H, W, 4); NaN is transparent."""
    limit = np.nanquantile(np.abs(values), 0.99)
    shown = np.ma.masked_invalid(0.5 + values / (2 * limit))
    return mpl.colormaps["RdBu_r"](shown, bytes=True)


def trace_path(signal: np.ndarray, width: float, height: float) -> str:
    """Return the channels of a signal (C, T) as the path of overlaid curves."""
    x = np.linspace(0, width, signal.shape[1])
    y = height * (signal.max() - signal) / np.ptp(signal)
    lines = (
        " L".join(f"{a:.1f} {b:.2f}" for a, b in zip(x, row, strict=True)) for row in y
    )
    return " ".join(f"M{line}" for line in lines)


def dot_path(sizes: np.ndarray, width: float) -> str:
    """Return a square grid (n, n) of dots as a path; a dot of size 1 touches others."""
    pitch = width / len(sizes)
    dots = (
        f"M{(column + 0.5) * pitch - r:.2f} {(row + 0.5) * pitch:.2f} "
        f"a{r:.2f} {r:.2f} 0 1 0 {2 * r:.2f} 0 a{r:.2f} {r:.2f} 0 1 0 {-2 * r:.2f} 0"
        for (row, column), size in np.ndenumerate(sizes)
        if (r := size * pitch / 2) > 0
    )
    return " ".join(dots)


def grid_path(n_rows: int, n_columns: int, width: float, height: float) -> str:
    """Return the lines between the cells of a grid, its border included, as a path."""
    across = (f"M0 {y:.2f} H{width}" for y in np.linspace(0, height, n_rows + 1))
    down = (f"M{x:.2f} 0 V{height}" for x in np.linspace(0, width, n_columns + 1))
    return " ".join([*across, *down])
