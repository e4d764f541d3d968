import json
import os
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from paperlib.paths import ROOT
from workflow import run_notebook
from workflow.gpus import claim_gpu, visible_gpus
from workflow.run_notebook import execute

NOTEBOOK = """# %% tags=["parameters"]
number: int = 1
seconds: float = 0.0

# %%
import os
import sys
import time

time.sleep(seconds)
print(10 / number, sys.executable, os.environ.get("CUDA_VISIBLE_DEVICES"))
"""


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(NOTEBOOK)
    return path


def printed(executed):
    cells = nbformat.read(executed, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))


def start(notebook, executed, parameters, *options, **variables):
    command = [sys.executable, "-m", "workflow.run_notebook", notebook, executed]
    return subprocess.Popen(
        [*command, parameters, *options],
        cwd=ROOT,
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Wait for the end; return the exit status and what came on the console."""
    return process.wait(timeout=120), process.stderr.read()


def test_notebooks_can_run_side_by_side(notebook, tmp_path):
    """Kernels that share a socket would answer each other, or not at all."""
    executed = [tmp_path / f"{number}.ipynb" for number in (1, 2)]
    started = [start(notebook, path, f"number: {path.stem}") for path in executed]
    assert [finish(process)[0] for process in started] == [0, 0]
    assert [printed(path).split()[0] for path in executed] == ["10.0", "5.0"]


def test_the_kernel_is_the_python_that_executes_and_sees_no_gpu(notebook, tmp_path):
    kernel, executed = tmp_path / "jupyter/kernels/python3", tmp_path / "out.ipynb"
    kernel.mkdir(parents=True)
    long = tmp_path / (100 * "x")  # for the name of a socket
    long.mkdir()
    foreign = {"argv": ["/bin/false"], "display_name": "Other", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(foreign))
    place = {"JUPYTER_PATH": str(tmp_path / "jupyter"), "CUDA_VISIBLE_DEVICES": "3"}
    place["TMPDIR"] = str(long)
    assert finish(start(notebook, executed, "{}", "--gpus", "0", **place))[0] == 0
    assert printed(executed).split() == ["10.0", sys.executable]


def test_a_failed_notebook_is_kept_and_its_end_is_shown(notebook, tmp_path):
    executed, log = tmp_path / "out.ipynb", tmp_path / "log.txt"
    status, shown = finish(start(notebook, executed, "number: 0", "--log", log))
    assert status == 1 and "division by zero" in shown
    for file in (executed, log):
        assert "ZeroDivisionError" in file.read_text()


def test_a_full_disk_is_one_sentence(notebook, tmp_path):
    notebook.write_text(NOTEBOOK + "\nraise OSError(28, 'No space left on device')\n")
    process = start(notebook, tmp_path / "out.ipynb", "{}", "--log", os.devnull)
    sentence = "The disk is full: make room and run the same command again.\n"
    assert finish(process) == (1, sentence)


def test_an_error_of_the_disk_is_not_hidden(notebook, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_notebook.papermill, "execute_notebook", fail)
    with pytest.raises(OSError, match="No space left"):
        execute(str(notebook), str(tmp_path / "out.ipynb"), {})


def test_kernels_end_with_the_process_that_started_the_execution(notebook, tmp_path):
    command = [sys.executable, "workflow/preloaded.py", "run", "workflow.run_notebook"]
    command += [str(notebook), str(tmp_path / "out.ipynb"), "seconds: 60.0"]
    script = f"import subprocess; subprocess.call({command})"
    parent = psutil.Popen([sys.executable, "-c", script], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(family := parent.children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert not psutil.wait_procs(family, timeout=30)[1]


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Put two GPUs into this machine."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("assigned", "expected"),
    [(None, ["GPU-a", "GPU-b"]), ("1, 3", ["1", "3"]), ("", []), ("-1", [])],
)
def test_the_gpus_that_may_be_used(gpus, monkeypatch, assigned, expected):
    if assigned is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", assigned)
    assert visible_gpus() == expected


def test_two_notebooks_have_two_gpus_and_a_third_one_waits(gpus, notebook, tmp_path):
    assert claim_gpu() == "GPU-a"
    executed = [tmp_path / f"{n}.ipynb" for n in (1, 2)]
    started = [start(notebook, path, "{}") for path in executed]
    assert [finish(process)[0] for process in started] == [0, 0]
    assert {printed(path).split()[2] for path in executed} == {"GPU-b"}
