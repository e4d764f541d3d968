import subprocess
import sys

import yaml

from paperlib.environment import read_pins, unsatisfied
from paperlib.paths import ROOT

PINS = read_pins(ROOT / "requirements.txt")


def test_every_requirement_is_an_exact_pin():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert len(pins) == len(PINS)


def test_the_packages_of_the_paper_are_pinned():
    wanted = "torch accelerate transformers open_clip_torch mne numpy scipy seaborn"
    assert {*wanted.split(), "jupytext", "papermill", "pytest"} <= set(PINS)


def test_conda_users_get_the_same_pins():
    """environment.yml takes the list itself, so that there is one."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = content["dependencies"]
    assert packages == ["python=3.11", "pip"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}


def test_this_environment_satisfies_the_pins():
    assert unsatisfied(PINS) == {}


def test_differences_are_named():
    wrong = {"numpy": "0.1", "no-such-package": "1.0"}
    found = unsatisfied(wrong)
    assert found["no-such-package"] is None
    assert found["numpy"].split(".")[0] == "2"


def test_the_script_answers_by_its_exit_status(tmp_path):
    script = ROOT / "paperlib/environment.py"
    pins = tmp_path / "pins.txt"
    for version, status in (("0.1", 1), (PINS["numpy"], 0)):
        pins.write_text(f"# a comment\nnumpy=={version}\n")
        command = [sys.executable, str(script), str(pins)]
        assert subprocess.run(command, check=False).returncode == status
