"""Executed notebooks as HTML pages that need no network."""

import re
from functools import cache
from pathlib import Path

import nbformat
from latex2mathml import converter
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML
from pygments.formatters import HtmlFormatter

from paperlib.reporting.page import render

_MATH = re.compile(r"\$\$(.+?)\$\$|\$((?:[^$\n]|\n(?!\n))+)\$", re.DOTALL)


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
