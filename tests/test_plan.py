import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from paperlib.config import ABLATIONS, load_config, merge
from paperlib.paths import ROOT, template
from paperlib.plan import Hours, know_hours, name_execution, tabulate_plan

NOWHERE = Path("nowhere")
TRAIN = "04_train_things-eeg2_ours_v_sub-{}_seed-0"


def training(subject):
    wildcards = {"dataset": "things-eeg2", "run": "ours_v", "seed": "0"}
    return name_execution(TRAIN.format(subject), wildcards | {"subject": subject})


def write_record(folder, job, *, seconds, gpu=None, threads=1):
    environment = {"gpu": gpu, "threads": threads}
    content = {"seconds": seconds, "environment": environment}
    (folder / f"{job}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def mini():
    return load_config("mini")


def test_executions_are_told_by_their_names():
    assert training("01").row == ("04_train", "things-eeg2", "ours_v")
    fixed = name_execution("06_evaluate_things-meg", {})
    assert fixed.row == ("06_evaluate", "things-meg", "")
    assert name_execution("08_clip_score", {}).row == ("08_clip_score", "", "")


def test_records_come_before_other_sources(mini, tmp_path):
    executions = [training(subject) for subject in ("01", "02", "03")]
    write_record(tmp_path, executions[0].job, seconds=3600, gpu="H200", threads=4)
    write_record(tmp_path, executions[1].job, seconds=7200, gpu="H200")
    elsewhere = ROOT / "benchmarks/run_times_mini.json"
    hours = know_hours(executions, mini, records=tmp_path, elsewhere=elsewhere)
    known = [hours[execution.job] for execution in executions]
    assert known[:2] == [Hours(1, 0, "records"), Hours(2, 0, "records")]
    assert known[2] == Hours(1.5, 0, "records")  # as the others of its row


def test_times_without_a_gpu_are_core_hours(mini, tmp_path):
    execution = training("01")
    write_record(tmp_path, execution.job, seconds=1800, threads=4)
    hours = know_hours([execution], mini, records=tmp_path, elsewhere=NOWHERE)
    assert hours[execution.job] == Hours(0, 2, "records")


def test_times_of_another_machine_come_before_estimates(tmp_path):
    times = tmp_path / "times.json"
    entry = {"mean_core_seconds": 7200}
    times.write_text(json.dumps({"notebooks": {"04_train": entry}}))
    paper, execution = load_config("paper"), training("01")
    hours = know_hours([execution], paper, records=NOWHERE, elsewhere=times)
    assert hours[execution.job] == Hours(0, 2, "times.json")


def test_what_a_simulated_configuration_takes_is_never_estimated(mini):
    execution = training("01")
    hours = know_hours([execution], mini, records=NOWHERE, elsewhere=NOWHERE)
    assert hours == {execution.job: None}


def test_rows_sum_participants_and_hours():
    executions = [training("01"), training("02"), name_execution("08_clip_score", {})]
    hours = dict.fromkeys((e.job for e in executions[:2]), Hours(1.5, 0, "estimate"))
    hours[executions[2].job] = Hours(0, 2, "records")
    rows = tabulate_plan(executions, hours)
    assert rows == [
        ["04_train", "things-eeg2", "ours_v", 2, 1, 2, 3.0, 0, "estimate"],
        ["08_clip_score", "", "", "", "", 1, 0, 2, "records"],
        ["sum", "", "", "", "", 3, 3.0, 2, ""],
    ]


def test_one_unknown_makes_a_sum_unknown():
    executions = [training("01"), training("02")]
    hours = {executions[0].job: Hours(1, 0, "records"), executions[1].job: None}
    assert tabulate_plan(executions, hours)[0][5:] == [2, None, None, "records"]


def snakemake(*arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def dry_run(*configuration):
    """Return a dry run's counts of jobs and the rows of its run matrix."""
    done = snakemake("-n", "--forceall", "--config", *configuration)
    assert done.returncode == 0, done.stdout[-3000:]
    stats = done.stdout.split("Job stats:\n")[1].split("\n\n")[0].splitlines()
    counts = dict(line.split() for line in stats[2:])
    matrix = done.stdout.split("Run matrix of ")[1].split("\n\n")[1]
    return counts, [line.split() for line in matrix.splitlines()[2:]]


def test_the_matrix_has_exactly_the_runs_of_the_graph(mini):
    counts, rows = dry_run("config=mini")
    assert int(rows[-1][1]) == int(counts["total"]) - 1  # without all
    trained = {(row[1], row[2]): row[3:6] for row in rows if row[0] == "04_train"}
    compared = {row["run"] for row in mini["comparison"]}
    ablated = {run for group in ABLATIONS for run in mini["ablations"][group]}
    expected = {
        (name, run): entry if run in compared else entry["ablations"]
        for name, entry in mini["datasets"].items()
        for run in compared | ablated
    }
    assert trained.keys() == expected.keys()
    for key, entry in expected.items():
        n = len(entry["subjects"])
        assert trained[key] == [str(n), "1", str(n)]


@pytest.fixture
def paper(tmp_path):
    """Write the paper's configuration with changes, a name of its own and no data."""

    def write(**changes):
        nowhere = {"name": "elsewhere", "data_root": str(tmp_path / "nowhere")}
        settings = merge(load_config("paper"), nowhere | changes)
        path = tmp_path / "paper.yaml"
        path.write_text(yaml.safe_dump(settings, allow_unicode=True))
        return f"config={path}"

    return write


def test_a_dry_run_of_the_paper_needs_no_data(paper):
    of_runs = {"things-meg": {"preprocessing": {"source": "raw_ctf"}}}
    counts, rows = dry_run(paper(datasets=of_runs), "only=fig0")
    assert counts["preprocess"] == "14"
    assert rows[0][:4] == ["01_preprocess", "things-eeg2", "10", "10"]
    assert rows[1][:4] == ["01_preprocess", "things-meg", "4", "4"]


@pytest.mark.parametrize(
    ("captioner", "key"), [("visualglm", "file"), ("minigpt4", "projection")]
)
def test_captions_depend_on_the_files_of_their_captioner(
    paper, tmp_path, captioner, key
):
    own = tmp_path / "own"
    config = paper(captioning={"captioners": {captioner: {key: str(own)}}})
    where = partial(template, dataset="things-meg", captioner=captioner)
    images = Path(where("image_list", data_root=tmp_path / "nowhere"))
    images.parent.mkdir(parents=True)
    images.touch()
    target = where("captions", config="elsewhere")
    done = snakemake("--summary", "--config", config, "--", target)
    assert "MissingInputException in rule caption" in done.stdout
    assert f"affected files:\n        {own}\n" in done.stdout


def test_captions_of_another_program_take_no_gpu(paper):
    where = partial(template, "captions", config="elsewhere", dataset="things-meg")
    granted = {"visualglm": 0, "minigpt4": 1}
    targets = [where(captioner=name) for name in granted]
    done = snakemake("-n", "--printshellcmds", "--config", paper(), "--", *targets)
    found = re.findall(r"captioner: (\w+).*?--gpu (\d)", done.stdout, re.DOTALL)
    assert dict(found) == {name: str(n) for name, n in granted.items()}
