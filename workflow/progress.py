"""The page of the paper while the run goes on: what is there already."""

import logging
from datetime import UTC, datetime
from os.path import relpath

from paperlib import paths
from paperlib.atomic import write_text
from paperlib.config import Config
from paperlib.reporting import page


def show_progress(cfg: Config, left: str) -> None:
    """Write the page of a run that is not finished; a failure to do so is logged.

    Tables and figures that are older than the run are left out. What notebook 12 has
    written stays; its record says that it has.
    """
    file, last, tables, figures = (
        paths.ROOT / paths.template(alias, config=cfg.name, job="12_paper", name="")
        for alias in ("page", "record", "table", "figure")
    )
    if last.exists():
        return
    try:
        records = list(last.parent.glob("*.json"))
        began = min((r.stat().st_mtime for r in records), default=float("inf"))
        made = [*sorted(tables.glob("*.md")), *sorted(figures.glob("*.png"))]
        made = [f for f in made if f.stat().st_mtime > began]
        drawn = [f for f in made if f.suffix == ".png"]
        text = page.render(
            "paper.html",
            cfg=cfg.of(dataset=next(iter(cfg.datasets)), run=cfg.evaluation.reference),
            tables={f.stem: page.read_table(f) for f in made if f not in drawn},
            figures={f.stem: {"src": relpath(f, file.parent)} for f in drawn},
            **{"paths": paths, "results": {}, "effects": {}, "sources": {}},
            run=page.read_records(records) if records else None,
            so_far=f"{datetime.now(UTC):%H:%M} UTC: {left}",
        )
        write_text(file, text)
    except Exception as error:  # a page must never end a run
        logging.warning("The page so far was not written: %r", error)
