import os
import subprocess
import sys
from pathlib import Path

import pytest

from paperlib.paths import ROOT
from paperlib.results import select_results

RESULTS = {
    "06_evaluate_eeg": ["tables/mini/tab01_eeg.csv", "figures/mini/tab01_scores.png"],
    "08_clip_score": ["tables/mini/tab07_clip_score.csv", "figures/mini/fig05_a.png"],
}


def test_an_empty_beginning_keeps_all():
    assert select_results(RESULTS, "") == RESULTS


@pytest.mark.parametrize("beginning", ["tab07", "tab07_clip_score"])
def test_only_the_run_that_makes_the_result_is_kept(beginning):
    kept = {"08_clip_score": ["tables/mini/tab07_clip_score.csv"]}
    assert select_results(RESULTS, beginning) == kept


@pytest.mark.parametrize(
    ("misspelt", "meant"), [("tab7", "tab07"), ("tab07_clipscore", "tab07_clip_score")]
)
def test_an_unknown_beginning_is_an_error(misspelt, meant):
    message = f"begins with '{misspelt}'; there are fig05, tab01, tab07. .*'{meant}'"
    with pytest.raises(ValueError, match=message):
        select_results(RESULTS, misspelt)


def run(command, **variables):
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture
def environment(tmp_path):
    """Make an environment whose Python prints what it is given, and does nothing."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ([], "--config config=mini --max-jobs"),
        (["--only", "tab07"], "--config config=mini only=tab07 --max-jobs"),
        (["--only=tab07"], "--config config=mini only=tab07 --max-jobs"),
    ],
)
def test_the_command_passes_what_is_wanted(environment, arguments, passed):
    done = run(["./run_all.sh", "-n", *arguments], VIRTUAL_ENV=environment)
    assert done.returncode == 0 and passed in done.stdout


def test_the_command_lists_what_is_wanted(environment):
    done = run(["./run_all.sh", "--only", "tab01"], VIRTUAL_ENV=environment)
    assert "tables/mini/tab01_things_eeg2.csv" in done.stdout
    assert "tab02" not in done.stdout and "fig03" not in done.stdout


def snakemake(*configuration):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", "-n"]
    return run([*command, "--forceall", "--config", *configuration])


def test_only_what_is_needed_would_run():
    printed = snakemake("config=tests/small.yaml", "only=fig03").stdout
    stats = printed.split("Job stats:\n")[1].split("\n\n")[0].splitlines()
    counts = dict(line.split() for line in stats[2:])
    assert counts == {
        "minithings": "1",
        "preprocess": "2",
        "topographies_things-eeg2": "1",
        "all": "1",
        "total": "5",
    }


def test_the_command_explains_an_unknown_name():
    done = snakemake("config=tests/small.yaml", "only=fig3")
    assert done.returncode != 0
    assert "begins with 'fig3'; there are " in done.stdout
    assert "fig01, fig02, fig03" in done.stdout
    assert "Did you mean 'fig03'?" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        ([], False),
        (["--profile", "config/profiles/slurm"], False),
        (["--show-failed-logs"], False),
        (["--only", "tab07"], True),
        (["tables/mini/tab07_clip_score.csv"], True),
    ],
)
def test_a_whole_run_stops_without_its_inputs(environment, arguments, goes_on):
    python = Path(environment, "bin/python")
    python.write_text('#!/bin/sh\ncase "$*" in *" check "*) exit 1;; esac\necho "$@"\n')
    done = run(["./run_all.sh", *arguments], VIRTUAL_ENV=environment)
    assert ("the run needs what is missing" in done.stdout) != goes_on
    assert ("snakemake" in done.stdout) == goes_on
