"""What benchmarks say they measured is what their results hold."""

import importlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from paperlib.config import load_config
from paperlib.paths import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_every_candidate_was_scored(benchmark):
    selection = benchmark("selection")
    wanted = [
        (dataset, run, change)
        for dataset in load_config("mini").datasets
        for run, changes in selection.CANDIDATES.items()
        for change in changes
    ]
    rows = json.loads(selection.RESULTS.read_text())
    scored = [(row["dataset"], row["run"], row["change"]) for row in rows]
    assert sorted(scored) == sorted(wanted)


def refuse(error):
    raise error


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda _: {"x": np.ones(3)}, "accepted rightly"),
        (lambda _: {"x": np.zeros(3)}, "legal, other values"),
        (lambda _: {"x": np.full(3, np.nan)}, "accepted wrongly"),
        (lambda _: {"x": np.ones(2)}, "accepted wrongly"),
        (lambda _: {"x": "text"}, "accepted wrongly"),
        (lambda _: refuse(ValueError("file.npy must be whole")), "refused clearly"),
        (lambda _: refuse(ValueError("something must be whole")), "refused unclearly"),
        (lambda _: refuse(KeyError("file.npy must be whole")), "refused unclearly"),
        (lambda _: np.load("file.npy"), "refused unclearly"),
        (lambda _: np.ones(2**28), "hung"),
        (lambda _: time.sleep(9), "hung"),
        (lambda _: os.abort(), "crashed"),
        (lambda _: os.system("true"), "dangerous"),
    ],
)
def test_classes_of_malformed_files(benchmark, monkeypatch, tmp_path, read, kind):
    malformed = benchmark("malformed")
    monkeypatch.setattr(malformed, "SECONDS", 1)
    (tmp_path / "file.npy").write_bytes(b"damaged")
    assert malformed.try_case(read, tmp_path, {"x": np.ones(3)})[0] == kind


RUN = """
mkdir -p results/small/records tables/small
for job in 1 2 3 4; do
    record=results/small/records/$job.json
    [ -f $record ] || { sleep 0.7; echo $job >tables/small/$job.csv; echo >$record; }
done
"""


def test_a_run_that_is_killed_ends_as_one_that_is_not(benchmark, monkeypatch, tmp_path):
    kills = benchmark("kills")
    script = tmp_path / "run.sh"
    script.write_text(RUN)
    subprocess.run(["git", "init", "-q", tmp_path / "repository"], check=True)
    name = ["-c", "user.name=x", "-c", "user.email=x@y"]
    commit = ["git", *name, "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(commit, cwd=tmp_path / "repository", check=True)
    monkeypatch.setattr(kills, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(kills, "RESULTS", tmp_path / "kills.json")
    monkeypatch.setattr(kills, "COMMAND", ["bash", str(script)])
    monkeypatch.setattr(kills, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "work"), "--kills", "3"])
    kills.main()
    report = json.loads((tmp_path / "kills.json").read_text())["kills"]
    assert report["interruptions"] == 3
    assert report["files_compared"] == 4
    assert not report["files_that_differ"] + report["files_lost"]
