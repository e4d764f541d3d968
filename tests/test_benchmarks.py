"""What benchmarks say they measured is what their results hold."""

import importlib
import json

from paperlib.config import load_config
from paperlib.paths import ROOT


def test_every_candidate_was_scored(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    selection = importlib.import_module("selection")
    wanted = [
        (dataset, run, change)
        for dataset in load_config("mini").datasets
        for run, changes in selection.CANDIDATES.items()
        for change in changes
    ]
    rows = json.loads(selection.RESULTS.read_text())
    scored = [(row["dataset"], row["run"], row["change"]) for row in rows]
    assert sorted(scored) == sorted(wanted)
