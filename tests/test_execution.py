import subprocess
import sys

import nbformat
import pytest
from papermill import PapermillExecutionError

from paperlib.execution import execute
from paperlib.paths import ROOT

NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
number: int = 1

# %%
print(10 / number)
"""


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(NOTEBOOK)
    return path


def printed(executed):
    cells = nbformat.read(executed, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))


def test_notebooks_can_run_side_by_side(notebook, tmp_path):
    """Kernels that share a socket would answer each other, or not at all."""
    script = ROOT / "paperlib/execution.py"
    executed = [tmp_path / f"{number}.ipynb" for number in (1, 2)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, notebook, path, f"number: {path.stem}"],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        for path in executed
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert [printed(path) for path in executed] == ["10.0\n", "5.0\n"]
    assert not list(tmp_path.glob("*ipc*"))


def test_a_failed_notebook_is_kept(notebook, tmp_path):
    executed = tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError, match="division by zero"):
        execute(str(notebook), str(executed), {"number": 0})
    assert "ZeroDivisionError" in executed.read_text()
