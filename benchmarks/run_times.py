"""Time, memory and disk of a whole run, from the records that it left.

    python benchmarks/run_times.py            # after ./run_all.sh
    python benchmarks/run_times.py paper      # of another configuration

Writes ``benchmarks/run_times_<config>.json``, from which the first run on another
machine estimates how long is left.
"""

import json
import os
import sys
from datetime import datetime
from pathlib import Path

import pandas as pd

from paperlib.atomic import write_text
from paperlib.config import load_config
from paperlib.paths import IDENTITY, ROOT, template


def read_records(folder: Path) -> pd.DataFrame:
    """Return notebook, start, seconds and peak memory of every execution."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        rows.append(
            {
                "notebook": next(n for n in IDENTITY if path.name.startswith(n)),
                "began": datetime.fromisoformat(record["started"]).timestamp(),
                "seconds": record["seconds"],
                "core_seconds": record["core_seconds"],
                "gib": record["peak_memory_bytes"] / 2**30,
                "commit": record["commit"],
                "machine": record["machine"],
            }
        )
    if not rows:
        raise SystemExit(f"There are no records in {folder}: run ./run_all.sh first.")
    return pd.DataFrame(rows)


def summarize(records: pd.DataFrame) -> dict:
    """Return what each notebook took, and the whole run from first to last."""
    notebooks = records.groupby("notebook").agg(
        executions=("seconds", "size"),
        median_seconds=("seconds", "median"),
        longest_seconds=("seconds", "max"),
        total_seconds=("seconds", "sum"),
        mean_core_seconds=("core_seconds", "mean"),
        peak_gib=("gib", "max"),
    )
    ended = records["began"] + records["seconds"]
    return {
        "wall_minutes": round((ended.max() - records["began"].min()) / 60, 1),
        "peak_gib": round(records["gib"].max(), 2),
        "notebooks": notebooks.round(2).to_dict("index"),
    }


def size_on_disk(folder: Path) -> float:
    """Return the size of a folder's files in GiB."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return round(sum(path.stat().st_size for path in files) / 2**30, 2)


def main(config: str) -> None:
    """Summarize the records of a configuration."""
    cfg = load_config(config)
    keys = {"config": cfg.name, "job": "any"}
    records = read_records((ROOT / template("record", **keys)).parent)
    folders = {"data": cfg.data_root, "results": f"results/{cfg.name}"}
    result = {
        "date": datetime.fromtimestamp(records["began"].max()).date().isoformat(),
        "commit": records["commit"].iloc[-1],
        "machine": f"{records['machine'].iloc[-1]}, {os.cpu_count()} cores",
        **summarize(records),
        "disk_gib": {name: size_on_disk(ROOT / f) for name, f in folders.items()},
    }
    text = json.dumps(result, indent=2) + "\n"
    write_text(ROOT / f"benchmarks/run_times_{cfg.name}.json", text)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["mini"])
