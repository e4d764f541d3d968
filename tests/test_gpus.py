import os
import subprocess
import sys
import time

import pytest

from paperlib.gpus import claim_gpu, lock_folder, visible_gpus, visible_to_children
from paperlib.paths import ROOT

HOLD = """
import sys
from pathlib import Path
from paperlib.gpus import claim_gpu

with claim_gpu(["0", "1"], locks=Path(sys.argv[1])) as gpu:
    print(gpu, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make a machine with two GPUs that nobody has assigned."""
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # is put back at the end
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def hold(locks):
    """Start a process that holds a GPU; return it and the GPU."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(locks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return process, process.stdout.readline().strip()


def test_processes_side_by_side_hold_different_gpus(tmp_path):
    held = [hold(tmp_path) for _ in range(2)]
    assert {gpu for _, gpu in held} == {"0", "1"}
    for process, _ in held:
        process.communicate()


def test_a_third_waits_for_the_first_that_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr("paperlib.gpus._PAUSE", 0.05)
    with claim_gpu(["0"], locks=tmp_path):
        process, gpu = hold(tmp_path)
        assert gpu == "1"
        process.kill()  # the system releases its lock
        began = time.monotonic()
        with claim_gpu(["0", "1"], locks=tmp_path) as free:
            assert free == "1" and time.monotonic() - began < 10
    process.communicate()


def test_gpus_are_those_of_the_driver(machine):
    assert visible_gpus() == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize(
    ("assigned", "gpus"),
    [("3", ["3"]), ("0,GPU-b", ["0", "GPU-b"]), ("", []), ("-1", [])],
)
def test_an_assignment_decides(machine, monkeypatch, assigned, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", assigned)
    assert visible_gpus() == gpus


def test_without_a_driver_there_is_no_gpu(machine, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []
    with visible_to_children(needed=True):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_each_execution_sees_one_gpu(machine, monkeypatch):
    seen = []
    with visible_to_children(needed=True):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # as another process would have it
        with visible_to_children(needed=True):
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["GPU-a", "GPU-b"]


def test_an_execution_without_need_sees_no_gpu(machine):
    with visible_to_children(needed=False):
        assert visible_gpus() == []


def test_jobs_of_slurm_do_not_wait_for_each_other(machine, monkeypatch):
    """Slurm may call the GPU of every job on a node 0."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "11")
    with claim_gpu(visible_gpus(), locks=lock_folder()):
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        with visible_to_children(needed=True):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
