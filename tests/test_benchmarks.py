"""What benchmarks say they measured is what their results hold."""

import importlib
import json

import pytest

from paperlib.config import load_config
from paperlib.paths import ROOT


@pytest.fixture
def selection(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("selection")


def test_every_candidate_was_scored_on_every_data_set(selection):
    wanted = {
        (dataset, run, change, seed)
        for dataset in load_config("mini")["datasets"]
        for run, changes in selection.CANDIDATES.items()
        for change in changes
        for seed in selection.SEEDS.get(run, (0,))
    }
    rows = json.loads(selection.RESULTS.read_text())["candidates"]
    found = [(r["dataset"], r["run"], r["change"], r["seed"]) for r in rows]
    assert sorted(found) == sorted(wanted)
