"""What run_all.sh does around Snakemake, its profiles, and what a job depends on."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import PurePath
from types import SimpleNamespace

import psutil
import pytest
import yaml
from snakemake.cli import get_argument_parser
from snakemake_interface_logger_plugins.common import LogEvent

from paperlib.config import load_config
from paperlib.paths import ROOT
from workflow import downloads, preflight, time_left
from workflow.generate import generate
from workflow.jobs import Jobs, code
from workflow.time_left import TimeLeft

PROFILES = sorted((ROOT / "workflow/profiles").glob("*/config.yaml"))
SERVE = "workflow/preloaded.py serve python "
FREE = namedtuple("Usage", "free")


@pytest.fixture
def options():
    """List the long options of Snakemake."""
    actions = get_argument_parser()._actions
    return [s for a in actions for s in a.option_strings if s.startswith("--")]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_options_of_profiles_exist(path, options):
    of_plugin = {"slurm-logdir", "slurm-status-command"}
    named = set(yaml.safe_load(path.read_text())) - of_plugin
    assert {f"--{name}" for name in named} <= set(options)


def write_program(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """Make a repository with an environment whose Python prints what it is given."""
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    environment = "env | grep -E '^(HOME|SNAKEMAKE|JUPYTER_PATH|PYTHONOPT)'"
    write_program(
        tmp_path / "bin/python",
        f'[ "$1" = -c ] && exit 0\n{environment} >&2\n'
        f'[ "$2" != workflow.preflight ] || exec {sys.executable} "$@"\necho "$@"',
    )
    write_program(tmp_path / "bin/nvidia-smi", "echo GPU-a; echo GPU-b")
    for folder in ("config", "minithings", "paperlib", "workflow", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    return tmp_path


def run(folder, environment, *arguments):
    return subprocess.run(
        [shutil.which("bash"), "./run_all.sh", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_all(machine, *arguments, **variables):
    environment = os.environ | {"VIRTUAL_ENV": str(machine)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    return run(machine, environment | variables, *arguments)


def passed_on(machine, *arguments, **variables):
    done = run_all(machine, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    starts = ("-m snakemake", f"{SERVE}-m snakemake")
    return next(line for line in done.stdout.splitlines() if line.startswith(starts))


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        ("", {}, f"mem_mb={psutil.virtual_memory().total // 10**6} gpu=2 --prior"),
        ("", {"CUDA_VISIBLE_DEVICES": ""}, r"--resources mem_mb=\d+ --prioritize"),
        ("", {}, "--prioritize evaluate_things-eeg2 --cores all"),  # Table 1 first
        ("--resources gpu=1", {}, "gpu=2 .* gpu=1"),  # the last one decides
        ("tab07 fig03 --cores 1", {}, "--cores 1 .* only=tab07,fig03"),
        ("a/b.json", {}, "a/b.json --quiet reason --config config=mini$"),  # a target
    ],
)
def test_what_snakemake_is_given(machine, words, variables, expected):
    assert re.search(expected, passed_on(machine, *words.split(), **variables))


@pytest.mark.parametrize("form", ["--profile {}", "--profile={}"])
def test_a_profile_decides_about_cores_and_gpus(machine, form):
    words = form.format("workflow/profiles/slurm").split()
    passed = passed_on(machine, *words, "-n")
    assert " ".join(words) in passed and "config=mini" in passed
    assert "--cores" not in passed and "--resources" not in passed


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["test", "-k", "plan", "--config", "a", "-h"], " -k plan --config a -h"),
        (["fetch", "--weights", "--config", "paper"], "--weights --config paper"),
        (["check"], "-m workflow.data check --config mini"),
        (["generate", "a b.jpg"], "-m workflow.generate a b.jpg"),
    ],
)
def test_commands_are_given_every_word(machine, words, passed):
    done = run_all(machine, *words)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].endswith(passed)


@pytest.mark.parametrize(
    ("words", "hint", "is_at_once"),
    [
        ("--confg=mini", "--config", True),  # before anything is installed
        ("--cnofig mini", "--config", True),
        ("chekc", "check", True),
        ("fetch --datset things-eeg2", "--dataset", True),
        ("--quite", "--quiet", False),
        ("--config papr", "paper", False),
    ],
)
def test_a_misspelt_word_is_one_sentence(machine, words, hint, is_at_once):
    done = run_all(machine, *words.split())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"Did you mean '{hint}'?")
    assert "snakemake" not in done.stdout and "Traceback" not in done.stderr
    assert is_at_once == (not done.stdout)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("runs: {ours_v: {training: {steps: x}}}", "wrong, ours_v of .*training.steps"),
        ("minithings: {eeg: {n_image: 2}}", "wrong, minithings is .*eeg: .*'n_images'"),
        ("minithings: null", "wrong, minithings is not a valid"),
    ],
)
def test_a_wrong_value_is_told_before_snakemake_starts(machine, line, message):
    (machine / "wrong.yaml").write_text(f"extends: mini\n{line}\n")
    done = run_all(machine, "--config", machine / "wrong.yaml", "-n")
    assert re.search(message, done.stderr.replace("\n", " ")), done.stderr
    assert "snakemake" not in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(("room", "is_full"), [(99_999, True), (999_999, False)])
def test_a_full_disk_is_the_last_that_is_told(machine, room, is_full):
    write_program(machine / "bin/python", '[ "$1" = -c ] || [ "$2" != snakemake ]')
    write_program(machine / "bin/df", f"echo /dev/x 9 9 {room} 9")
    done = run_all(machine, "--profile", "p")
    assert done.returncode == 1
    assert done.stderr.endswith("run the same command again.\n") == is_full


def test_a_name_that_no_notebook_can_hold_is_refused(tmp_path):
    picture = tmp_path / os.fsdecode(b"\xff.jpg")
    picture.touch()
    with pytest.raises(ValueError, match="not UTF-8. Rename"):
        generate([picture], "mini", {})


def test_no_option_of_snakemake_is_taken_for_a_misspelt_one(machine, options):
    ours = {"--config", "--cores", "--help", "--profile"}
    words = [option for option in options if option not in ours]
    assert f" {words[-1]} --config " in passed_on(machine, "-n", *words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_someone_else_is_refused(machine):
    machine.chmod(0o555)
    done = run_all(machine)
    machine.chmod(0o755)
    assert done.returncode == 1 and done.stderr.endswith("folder of your own.\n")


def test_a_second_run_in_the_same_folder_is_refused(machine):
    (machine / ".snakemake").mkdir()
    with (machine / ".snakemake/run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run_all(machine)
        assert done.returncode == 1 and "Another ./run_all.sh is at work" in done.stderr
        assert run_all(machine, "-n").returncode == 0  # a dry run changes nothing
    assert run_all(machine).returncode == 0


def test_a_whole_run_needs_its_data_and_a_part_goes_on(machine):
    done = run_all(machine, "--config", "paper")
    assert done.returncode == 1 and "missing  participant 1, raw" in done.stderr
    assert "-m snakemake" in run_all(machine, "--config", "paper", "tab01").stdout


def test_what_the_shell_holds_for_other_work_is_kept_away(machine):
    foreign = {"SNAKEMAKE_PROFILE": "other", "JUPYTER_PATH": "/other"}
    foreign["PYTHONOPTIMIZE"] = "2"  # transformers needs its docstrings
    done = run_all(machine, "-n", HOME="/nowhere", **foreign)
    assert done.returncode == 0 and f"HOME={machine}/.home" in done.stderr
    assert "other" not in done.stderr and "PYTHONOPT" not in done.stderr


def test_the_script_finds_its_folder_from_elsewhere(machine):
    name, parent = machine.name, machine.parent
    (machine / "other" / name).mkdir(parents=True)
    command = ["bash", f"{name}/run_all.sh", "--help"]
    environment = os.environ | {"CDPATH": str(machine / "other")}
    told = subprocess.check_output(command, cwd=parent, env=environment, text=True)
    assert told.startswith("Reproduces the paper.")


def test_results_of_a_file_elsewhere_are_listed(machine):
    (machine / "tables/small").mkdir(parents=True)
    (machine / "tables/small/tab01.csv").touch()
    done = run_all(machine, "--config", "tests/small.yaml")
    assert "tables/small/tab01.csv" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"python3": "3.15.0"}, "needs Python 3.11, 3.12 or 3.13; found Python 3.15.0"),
        ({"python3": "3.14.1", "python3.12": "3.12.1"}, "with Python 3.12.1"),
        ({"python3": "3.13.2", "python3.12": "3.12.1"}, "with Python 3.13.2"),
    ],
)
def test_the_right_python_is_chosen(tmp_path, versions, expected):
    for name in ("run_all.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, version in versions.items():
        info = tuple(map(int, version.split(".")))
        write_program(
            tmp_path / "bin" / name,
            f'[ "$1" = --version ] && echo Python {version} && exit\n'
            f'[ "$1" = -c ] || exit 3\n'
            f'exec {sys.executable} -c "import sys; sys.version_info = {info}; $2"',
        )
    for name in ("dirname", "cmp", "grep", "mkdir"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    done = run(tmp_path, {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)})
    assert done.returncode != 0 and expected in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["run_all.sh", "workflow/Snakefile", "x/y.py"])
def test_line_endings_are_those_of_unix_in_every_checkout(name):
    rules = (ROOT / ".gitattributes").read_text().splitlines()
    patterns = [line.split()[0] for line in rules if line.endswith("text eol=lf")]
    assert any(PurePath(name).match(pattern) for pattern in patterns)


def test_a_full_disk_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "ROOT", tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: FREE(9.7e9))
    with pytest.raises(OSError, match="has 9.7 GB of free .*room for 10.7 GB. Make"):
        preflight.check_disk("mini", "data/mini")
    (tmp_path / "data/mini").mkdir(parents=True)
    with (tmp_path / "data/mini/there.npy").open("wb") as file:
        file.truncate(10**9)  # what is there needs no space
    preflight.check_disk("mini", "data/mini")


def test_a_table_that_no_rule_makes_is_named():
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"]
    command += ["--nolock", "-n", "--config", "config=mini", "only=tab07,tab99"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No table or figure of mini is called tab99…" in done.stdout


@pytest.mark.parametrize("config", ["mini", "paper", "tests/small.yaml"])
def test_every_run_without_a_network_leaves_gpus_to_others(config):
    cfg = load_config(config)
    for run in cfg.runs:
        chosen = cfg.of(run=run)
        is_network = chosen.method in ("dit", "unet", "synbrain")
        for notebook in ("04_train", "05_sample"):
            assert is_network or not chosen.resources[notebook].gpu


def test_a_job_depends_on_the_modules_that_it_imports():
    found = code("04_train")["modules"]
    assert {"paperlib/models/dit.py", "paperlib/diffusion.py"} <= set(found)
    assert not any("config" in file or "reporting" in file for file in found)
    assert any("reporting" in file for file in code("06_evaluate")["modules"])
    assert "minithings/world.py" in code("00_minithings")["modules"]


@pytest.fixture(scope="module")
def jobs():
    return Jobs("mini", dry_run=lambda: True)


def test_values_are_those_that_decide(jobs):
    wildcards = SimpleNamespace(captioner="qwen2-vl", tokens="efficientnet-lite0")
    assert jobs.captioning(wildcards)["captioners"]["kind"] == "qwen2-vl"
    assert jobs.embedding(wildcards) == {"grid": 4}
    wildcards.tokens = "image"
    assert "networks" not in jobs.embedding(wildcards)
    keys = {"dataset": "things-meg", "run": "ours_v"}
    values = jobs.values("training", "model")(keys)
    assert values["training"]["seeds"] == jobs.cfg.of(**keys).seeds
    assert values["model"] == jobs.cfg.of(**keys).model.model_dump(mode="json")
    assert not {"machine", "resources"} & set(jobs.options(["ours_v"])["ours_v"])


def test_parameters_are_typed(jobs):
    keys = {"dataset": "things-eeg2", "run": "ours", "subject": "02"}
    expected = keys | {"config": "mini", "subject": 2}
    assert yaml.safe_load(jobs.parameters()(keys)) == expected


def test_memory_grows_with_every_attempt(jobs):
    granted = jobs.granted("memory", 1000)
    job = SimpleNamespace(notebook="notebooks/06_evaluate.py")
    first, second = (granted({}, job, "evaluate_things-meg", n) for n in (1, 2))
    assert second == 2 * first > 0


def test_time_left_follows_the_costs_of_jobs(tmp_path, monkeypatch):
    times = tmp_path / "times.json"
    entries = {"04_train": 30, "05_sample": 10}
    notebooks = {name: {"mean_core_seconds": n} for name, n in entries.items()}
    times.write_text(f'{{"notebooks": {notebooks}}}'.replace("'", '"'))
    lines, shown, now = [], [], iter((0.0, 60.0, 61.0))
    monkeypatch.setattr(time_left.logger, "info", lines.append)
    monkeypatch.setattr(time_left.time, "monotonic", lambda: next(now))
    handler = TimeLeft(times, shown.append)
    stats = {"train": 2, "sample": 3, "paper": 1, "all": 1, "total": 7}
    handler.emit(SimpleNamespace(event=LogEvent.RUN_INFO, stats=stats))
    job = {"jobid": 3, "rule_name": "train"}
    handler.emit(SimpleNamespace(event=LogEvent.JOB_INFO, **job))
    handler.emit(SimpleNamespace(event=LogEvent.JOB_FINISHED, job_id=3))
    assert lines == ["4 jobs left, about 2 min"]
    assert shown == ["5 jobs left", *lines]
    handler.emit(SimpleNamespace(event=LogEvent.RUN_INFO, stats={"train": 1}))
    assert len(shown) == 2  # no page of a run that makes a part
