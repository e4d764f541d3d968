"""What README.md, CONTRIBUTING.md and CITATION.cff say is true."""

import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from paperlib.paths import ROOT

NETWORK = '''"""A network of two layers."""

import torch
from torch import nn


class Dummy(nn.Module):
    """Predicts from signal, time and the mean token."""

    def __init__(self, regions, n_times, *, context_width, width=128):
        super().__init__()
        size = len(regions) * n_times
        self.inner = nn.Linear(size + 1 + context_width, width)
        self.outer = nn.Linear(width, size)

    def forward(self, y, t, context):
        known = (y.flatten(1), t[:, None] / 50, context.mean(dim=1))
        return self.outer(self.inner(torch.cat(known, dim=1)).relu()).view_as(y)
'''
STEPS = (  # of "A method": file, what stands there, what is put in its place
    (
        "paperlib/config.py",
        "class UNetOptions(Section):",
        "class DummyOptions(Section):\n    width: int = 128\n\n\n"
        "class UNetOptions(Section):",
    ),
    (
        "paperlib/config.py",
        "    unet: UNetOptions = UNetOptions()\n",
        "    unet: UNetOptions = UNetOptions()\n"
        "    dummy: DummyOptions = DummyOptions()\n",
    ),
    (
        "paperlib/methods.py",
        "from paperlib.models.dit import DiT\n",
        "from paperlib.models.dit import DiT\n"
        "from paperlib.models.dummy import Dummy\n",
    ),
    ("paperlib/methods.py", 'method in ("dit", ', 'method in ("dummy", "dit", '),
    ("paperlib/methods.py", '{"dit": DiT, ', '{"dummy": Dummy, "dit": DiT, '),
    (
        "config/paper.yaml",
        "\nruns:",
        "\nruns:\n  dummy: {label: Dummy, method: dummy}",
    ),
    ("config/paper.yaml", "\ncomparison:", "\ncomparison:\n  - {run: dummy}"),
    ("tests/test_methods.py", "OPTIONS = {\n", 'OPTIONS = {\n    "dummy": {},\n'),
)


def test_a_method_is_added_in_these_steps(tmp_path):
    for name in ("config", "paperlib", "minithings", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    guide = (ROOT / "CONTRIBUTING.md").read_text().split("## ")[1]
    (tmp_path / "paperlib/models/dummy.py").write_text(NETWORK)
    for file, old, new in STEPS:
        text = (tmp_path / file).read_text()
        assert file in guide and old in text, (file, old)
        (tmp_path / file).write_text(text.replace(old, new, 1))
    check = (
        "from paperlib.config import load_config; cfg = load_config('paper').of(run="
        "'dummy'); cfg.check_runs(); print(cfg.model.width)"
    )
    tests = ["-m", "pytest", "-q", "-n0", "-k", "dummy", "tests/test_methods.py"]
    for command in (["-c", check], tests):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "no tests ran" not in done.stdout


def test_the_main_result_is_that_of_the_committed_tables():
    tables = (
        ROOT / f"tables/mini/tab01_things_eeg2{end}.csv" for end in ("", "_supplement")
    )
    scores = pd.concat(map(pd.read_csv, tables)).set_index(["method", "metric"])
    readme = (ROOT / "README.md").read_text()
    section = readme.split("## Main result")[1].split("## ")[0]
    rows = [
        line.strip("| ").split(" | ") for line in section.splitlines() if "| " in line
    ]
    assert len(rows) > 2
    for method, *cells in rows[2:]:
        for metric, cell in zip(
            ("mse", "pearson", "specific", "top5"), cells, strict=True
        ):
            mean, low, high = scores.loc[(method, metric), ["mean", "low", "high"]]
            digits = 2 if metric == "top5" else 3
            shown = f"{mean:.{digits}f}" if mean == mean else "–"
            if metric == "specific" and mean == mean:
                shown += f" [{low:.3f}, {high:.3f}]"
            assert cell == shown, (method, metric)


def test_what_the_guide_names_is_there():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`((?:paperlib|config|tests|workflow)/[\w/.]+)`", guide):
        assert (ROOT / name).exists(), name
    for section in guide.split("## ")[1:]:
        assert len(section.strip().splitlines()) <= 12


@pytest.mark.parametrize("part", [None, "preferred-citation"])
def test_the_citation_has_what_its_format_asks_for(part):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"]
    entry = citation[part] if part else citation
    assert entry["title"] and entry["type"] in ("software", "article")
    for author in entry["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= author.keys()
    for identifier in entry.get("identifiers", []):
        assert identifier["type"] in ("doi", "url", "swh", "other")
