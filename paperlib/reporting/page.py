"""The paper as one HTML page: the template ``templates/paper.html`` and its parts."""

import json
import re
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader

_PUBLISHED = "Published: "


def render(template: str, **fields) -> str:
    """Fill in a file of ``templates/``; text is escaped."""
    return _environment().get_template(template).render(**fields)


@cache
def _environment() -> Environment:
    loader = PackageLoader("paperlib.reporting")
    return Environment(loader=loader, autoescape=True, trim_blocks=True)


def read_table(file: Path) -> dict:
    """Read the Markdown of :func:`save_table`: a dict of header, rows and caption.

    A row is a dict of cells, and of whether it is published.
    """
    table, _, caption = file.read_text(encoding="utf-8").strip().partition("\n\n")
    table = re.sub(r"(?<!\w)-(?=\d)", "−", table)
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


def read_records(files: list[Path]) -> dict:
    """Summarize run records: versions, machine, minutes; ``costs`` of each notebook."""
    records = [
        json.loads(file.read_text(encoding="utf-8")) | {"job": file.stem}
        for file in sorted(files)
    ]
    costs = []
    for number, alike in groupby(records, key=lambda record: record["job"][:2]):
        alike = list(alike)
        costs.append(
            {
                "number": int(number),
                "jobs": [record["job"] for record in alike],
                "seconds": median(record["seconds"] for record in alike),
                "core_minutes": sum(record["core_seconds"] for record in alike) / 60,
                "gib": max(record["peak_memory_bytes"] for record in alike) / 2**30,
            }
        )
    return {
        "commits": sorted({record["commit"] for record in records} - {None}),
        "changed": max(record["changed_files"] for record in records),
        "machine": ", ".join(sorted({record["machine"] for record in records})),
        "python": ", ".join(sorted({record["python"] for record in records})),
        "packages": records[-1]["packages"],
        "began": min(record["started"] for record in records)[:16].replace("T", " "),
        "core_minutes": sum(row["core_minutes"] for row in costs),
        "costs": costs,
    }
