"""The profiles say what Snakemake understands, and the command passes them on."""

import os
import re
import subprocess
import sys

import psutil
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from snakemake.cli import get_argument_parser

from paperlib.config import load_config
from paperlib.environment import read_pins
from paperlib.paths import ROOT

SLURM = {
    "snakemake-executor-plugin-slurm": "2.8.0",
    "snakemake-executor-plugin-slurm-jobstep": "0.6.1",
}
REQUIRED_BY_SLURM = (  # say the metadata of these versions
    "numpy>=2.4.5,<3",
    "pandas>=2.3.3,<4",
    "pyyaml>=6.0.3,<7",
    "snakemake-executor-plugin-slurm-jobstep>=0.6.0,<1",
    "snakemake-interface-common>=1.23.0,<2",
    "snakemake-interface-executor-plugins>=9.4.0,<10",
    "throttler>=1.2.2,<2",
)
PROFILES = sorted((ROOT / "config/profiles").glob("*/config.yaml"))


def test_there_are_profiles_for_gpus_and_slurm():
    assert [path.parent.name for path in PROFILES] == ["gpus", "slurm"]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_options_exist(path):
    known = {
        name.removeprefix("--")
        for action in get_argument_parser()._actions
        for name in action.option_strings
    }
    of_plugins = {f"{path.parent.name}-logdir"}
    assert set(yaml.safe_load(path.read_text())) - of_plugins <= known


def test_the_plugin_of_slurm_is_pinned_and_fits():
    beside = read_pins(ROOT / "config/profiles/slurm/requirements.txt")
    assert beside == SLURM  # of other versions, look up what they require
    pins = read_pins(ROOT / "requirements.txt")
    assert not set(beside) & set(pins)
    pinned = {canonicalize_name(name): pin for name, pin in (beside | pins).items()}
    for requirement in map(Requirement, REQUIRED_BY_SLURM):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


@pytest.fixture
def machine(tmp_path):
    """Make an environment whose Python measures, or prints what it is given."""
    real = f'exec {sys.executable} "$@"'
    measure = f'case "$1 $2" in -c*|"-m paperlib.gpus") {real} ;; esac'
    programs = {
        "python": f'{measure}\necho "$@"',
        "nvidia-smi": "echo GPU-a; echo GPU-b",
    }
    (tmp_path / "bin").mkdir()
    for name, line in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def unassigned(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def run_all(machine, *arguments):
    done = subprocess.run(
        ["./run_all.sh", *arguments],
        cwd=ROOT,
        env=os.environ | {"VIRTUAL_ENV": machine},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(
        line
        for line in done.stdout.splitlines()
        if line.startswith(("-m snakemake", "-m pytest", "-m paperlib fetch"))
    )


def test_one_machine_uses_its_cores_and_gpus(machine):
    passed = run_all(machine)
    memory = psutil.virtual_memory().total // 10**6
    assert "--cores all" in passed and f"--resources mem_mb={memory} gpu=2 " in passed


@pytest.mark.parametrize(("assigned", "passed"), [("1", "gpu=1"), ("", None)])
def test_gpus_that_the_reader_withholds_do_not_count(
    machine, monkeypatch, assigned, passed
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", assigned)
    found = re.search(r"gpu=\d", run_all(machine))
    assert (found and found[0]) == passed


def test_resources_of_the_command_line_go_before_those_of_the_machine(machine):
    words = run_all(machine, "--resources", "gpu=1").split()
    assert words.index("gpu=2") < words.index("gpu=1")  # the last one decides


@pytest.mark.parametrize("form", ["--profile {}", "--profile={}"])
def test_a_profile_decides_about_cores_and_gpus(machine, form):
    words = form.format("config/profiles/slurm").split()
    passed = run_all(machine, "--config", "paper", *words)
    assert " ".join(words) in passed and "config=paper" in passed
    assert "--cores" not in passed and "--resources" not in passed


def test_the_plan_is_a_dry_run_of_everything(machine):
    passed = run_all(machine, "plan", "--config", "paper", "--only", "tab01")
    assert "-n --forceall" in passed and "config=paper only=tab01" in passed


@pytest.mark.parametrize("arguments", [("-k", "plan"), ("--config", "a"), ("-h",)])
def test_the_tests_are_given_every_word(machine, arguments):
    assert run_all(machine, "test", *arguments).endswith(" ".join(("", *arguments)))


def test_fetch_is_given_its_configuration_and_options(machine):
    passed = run_all(machine, "fetch", "--weights", "--config", "paper")
    assert passed == "-m paperlib fetch --config paper --weights"


@pytest.mark.parametrize("word", ["test", "check", "fetch", "plan"])
def test_only_the_first_word_is_a_command(machine, word):
    passed = run_all(machine, "--only", "fig03", "--forcerun", word)
    assert passed.startswith("-m snakemake")
    assert passed.endswith(f"--forcerun {word} --quiet reason")


@pytest.mark.parametrize("config", ["mini", "paper", "tests/small.yaml"])
def test_every_run_without_a_network_leaves_gpus_to_others(config):
    for run in load_config(config)["runs"].values():
        is_network = run["method"] in ("dit", "unet", "synbrain")
        granted = run.get("resources", {})
        assert all(
            granted.get(notebook, {}).get("gpu", 1) == is_network
            for notebook in ("04_train", "05_sample")
        )
