import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperlib.paths import ROOT
from paperlib.runs_left import Workload, describe, read_costs

NOWHERE = Path("nowhere.json")

SNAKEFILE = """
from snakemake.logging import logger
from paperlib.runs_left import RunsLeft

logger.addHandler(RunsLeft("records", elsewhere="times.json"))

rule all:
    input:
        "records/06_evaluate_eeg.json",

rule evaluate:
    input:
        expand("records/04_train_{run}.json", run=["a", "b"]),
    output:
        "records/06_evaluate_eeg.json",
    shell:
        "touch {output}"

rule train:
    output:
        "records/04_train_{run}.json",
    shell:
        "test {wildcards.run} != $BAD && touch {output}"
"""


def write_record(folder, name, *, seconds, threads=1):
    content = {"seconds": seconds, "environment": {"threads": threads}}
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def records(tmp_path):
    write_record(tmp_path, "04_train_eeg_ours_sub-01", seconds=100)
    write_record(tmp_path, "04_train_meg_ours_sub-01", seconds=40)
    write_record(tmp_path, "06_evaluate_eeg", seconds=60, threads=2)
    return tmp_path


def test_costs_are_read_for_each_rule(records):
    costs = read_costs(records, NOWHERE, ["train", "evaluate_eeg", "sample"])
    assert costs == {"train": [100, 40], "evaluate_eeg": [120], "sample": []}


def test_costs_of_a_first_execution_are_unknown(tmp_path):
    assert read_costs(tmp_path / "records", NOWHERE, ["train"]) == {"train": []}


def test_costs_of_another_machine_stand_in_for_those_of_this_one(records, tmp_path):
    costs = {"04_train": 7, "05_sample": 3, "06_evaluate": 9}
    notebooks = {name: {"mean_core_seconds": cost} for name, cost in costs.items()}
    elsewhere = tmp_path / "times.json"
    elsewhere.write_text(json.dumps({"notebooks": notebooks}))
    found = read_costs(records, elsewhere, ["train", "sample", "evaluate_meg"])
    assert found == {"train": [100, 40], "sample": [3], "evaluate_meg": [9]}


def test_without_any_cost_there_is_no_estimate():
    workload = Workload({"train": 2}, {})
    workload.start(1, "train", threads=1, now=0)
    assert workload.seconds_left(now=50) is None
    line = "Run 1 of 2 (04_train_a): time left not known yet"
    assert describe(workload, "04_train_a", now=50) == line


def test_earlier_executions_give_the_first_estimate(records):
    rules = {"train": 2, "evaluate_eeg": 1}
    workload = Workload(rules, read_costs(records, NOWHERE, rules))
    workload.start(1, "train", threads=1, now=0)
    assert workload.seconds_left(now=0) == 70 + 70 + 120  # on one core
    assert workload.seconds_left(now=30) == 40 + 70 + 120


def test_finished_runs_count_more_than_earlier_executions():
    workload = Workload({"train": 3}, {"train": [1000]})
    for job, (begins, ends) in enumerate([(0, 10), (10, 30)]):
        workload.start(job, "train", threads=1, now=begins)
        workload.finish(job, now=ends)
    assert workload.seconds_left(now=30) == 15


def test_rules_never_timed_cost_as_much_as_all():
    workload = Workload({"train": 1, "sample": 2}, {})
    workload.start(1, "train", threads=1, now=0)
    workload.finish(1, now=40)
    workload.start(2, "sample", threads=1, now=40)
    assert workload.seconds_left(now=40) == 80
    said = describe(workload, "05_sample_a", now=40)
    assert said == (
        "Run 2 of 3 (05_sample_a): about 1 min left, "
        "a guess: not every step is timed yet"
    )


def test_a_run_that_takes_longer_than_expected_leaves_no_negative_time():
    workload = Workload({"train": 1}, {"train": [10]})
    workload.start(1, "train", threads=1, now=0)
    assert workload.seconds_left(now=25) == 0


def test_a_failed_run_is_not_expected_to_end():
    workload = Workload({"train": 2}, {"train": [10]})
    workload.start(1, "train", threads=1, now=0)
    workload.fail(1)
    workload.start(2, "train", threads=1, now=3)
    assert workload.seconds_left(now=3) == 10


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (20, "less than a minute left"),
        (540, "about 9 min left"),
        (4 * 3600, "about 4 h left"),
        (10 * 86400, "about 10 days left"),
    ],
)
def test_times_are_told_in_the_unit_that_suits_them(seconds, said):
    workload = Workload({"train": 1}, {"train": [seconds]})
    workload.start(1, "train", threads=1, now=0)
    assert describe(workload, "a", now=0) == f"Run 1 of 1 (a): {said}"


@given(
    rounds=st.integers(2, 20),
    side_by_side=st.integers(1, 8),
    threads=st.integers(1, 4),
    seconds=st.floats(0.1, 1e4),
)
def test_equal_runs_side_by_side_are_foreseen_exactly(
    rounds, side_by_side, threads, seconds
):
    workload = Workload({"train": rounds * side_by_side}, {})
    for done in range(rounds):
        now = done * seconds
        jobs = [done * side_by_side + place for place in range(side_by_side)]
        for job in jobs:
            workload.start(job, "train", threads=threads, now=now)
        if done:
            left = (rounds - done) * seconds
            assert workload.seconds_left(now) == pytest.approx(left)
        for job in jobs:
            workload.finish(job, now + seconds)


def snakemake(folder, *arguments, bad="none"):
    (folder / "Snakefile").write_text(SNAKEFILE)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "BAD": bad},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("Run ")]
    return done, lines


def test_snakemake_says_which_run_is_at_work(tmp_path):
    done, lines = snakemake(tmp_path)
    assert done.returncode == 0, done.stdout
    assert lines[0].startswith("Run 1 of 3 (04_train_")
    assert lines[0].endswith("time left not known yet")
    assert lines[1].startswith("Run 2 of 3 (04_train_")
    assert lines[2].startswith("Run 3 of 3 (06_evaluate_eeg): less than a minute left")
    assert len(lines) == 3


def test_a_failing_run_stops_nothing_else(tmp_path):
    done, lines = snakemake(tmp_path, "--keep-going", bad="a")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert [line[:10] for line in lines] == ["Run 1 of 3", "Run 2 of 3"]


@pytest.mark.parametrize("arguments", [["-n"], ["--quiet", "progress"]])
def test_dry_and_quiet_executions_say_nothing(tmp_path, arguments):
    done, lines = snakemake(tmp_path, *arguments)
    assert done.returncode == 0 and not lines
