"""The index of tables and figures, against what Snakemake would make."""

import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from paperlib.paths import IDENTITY, ROOT

COLUMNS = ["in the paper", "tables", "figures", "rule", "notebook", "published values"]
ENDINGS = {"tables": ("csv", "md", "tex"), "figures": ("png", "pdf")}


def split(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def index():
    """Read the rows of the index, by the names of its columns."""
    lines = (ROOT / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    header = next(n for n, line in enumerate(lines) if split(line) == COLUMNS)
    rows = takewhile(lambda line: line.startswith("|"), lines[header + 2 :])
    return [dict(zip(COLUMNS, split(row), strict=True)) for row in rows]


@pytest.fixture(scope="module")
def made():
    """Ask Snakemake which rule makes which file of ``mini``."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"]
    done = subprocess.run(
        [*command, "--nolock", "--config", "config=mini", "--summary"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()[1:]]
    return {Path(row[0]): row[2] for row in rows}


def named(cell):
    """List the names in a cell."""
    return re.findall("`([^`]+)`", cell)


def listed_files(row):
    """Write out the names of a row of the index, as files of ``mini``."""
    first = named(row["tables"] + row["figures"])[0]
    return [
        Path(f"{kind}/mini/{name.replace('…', first)}.{ending}")
        for kind, endings in ENDINGS.items()
        for name in named(row[kind])
        for ending in endings
    ]


def test_the_index_lists_every_table_and_figure_under_its_rule(index, made):
    results = {file: rule for file, rule in made.items() if file.parts[0] in ENDINGS}
    listed = [(file, row["rule"]) for row in index for file in listed_files(row)]
    assert sorted(listed) == sorted((f, f"`{rule}`") for f, rule in results.items())


def test_the_index_names_the_notebook_of_every_rule(index, made):
    executed = {rule: f.stem for f, rule in made.items() if f.parent.name == "records"}
    for row in index:
        job = executed[row["rule"].strip("`")]
        assert [n for n in IDENTITY if job.startswith(n)] == named(row["notebook"])


def test_the_index_names_all_published_values(index):
    published = {path.name for path in (ROOT / "tables/published").glob("*.csv")}
    listed = [name for row in index for name in named(row["published values"])]
    assert sorted(listed) == sorted(published)


def test_the_index_has_every_number_of_the_paper(index):
    numbers = {row["in the paper"].split(",")[0] for row in index}
    expected = {f"{kind} {n}" for kind in ("Table", "Figure") for n in range(1, 9)}
    assert expected <= numbers
