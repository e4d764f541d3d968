"""What benchmarks say they measured is what their results hold."""

import importlib
import json

import pytest

from paperlib.paths import ROOT


@pytest.fixture
def selection(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("selection")


def test_every_candidate_was_scored(selection):
    wanted = [
        (dataset, run, change)
        for dataset, runs in selection.CANDIDATES.items()
        for run, changes in runs.items()
        for change in changes
    ]
    rows = json.loads(selection.RESULTS.read_text())
    scored = [(row["dataset"], row["run"], row["change"]) for row in rows]
    assert sorted(scored) == sorted(wanted)
