import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import numpy as np
import pytest

from paperlib.atomic import atomic_path, write_text
from paperlib.paths import ROOT
from paperlib.torchvision_operators import prepare_for_torchvision
from paperlib.validation import check_finite, check_option, did_you_mean


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_write_keeps_the_ending(tmp_path):
    with atomic_path(tmp_path / "a.npy") as partial:
        np.save(partial, np.ones(2))
    assert np.load(tmp_path / "a.npy").tolist() == [1, 1]


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    code = (
        "import os, signal, sys; from paperlib.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "file.txt"
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert [p.name for p in tmp_path.iterdir()] == [".file.partial.txt"]
    write_text(path, "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_options():
    check_option("mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match="one of 'time', 'epochs'; got 'tme'"):
        check_option("mode", "tme", ("time", "epochs"))
    assert did_you_mean("tme", ["time"]) == " Did you mean 'time'?"
    assert did_you_mean("FP1", ["P1", "Fp1"]) == " Did you mean 'Fp1'?"
    assert did_you_mean("xyz", ["time"]) == ""


def test_finite():
    check_finite("x", np.ones(3))
    with pytest.raises(ValueError, match=r"x holds 2 values .* at index \(0, 1\)"):
        check_finite("x", np.array([[0, np.nan], [np.inf, 0]]))


def test_vision_libraries_import():
    """They do not beside a CPU build of torch, unless paperlib came first."""
    import open_clip
    import torchvision

    assert torchvision.__version__ and open_clip.__version__
    assert not prepare_for_torchvision()  # once is enough


def test_torch_is_not_imported_before_it_is_needed():
    """It takes seconds, and Snakemake and every notebook's parent need none of it."""
    code = (
        "import sys, paperlib.config, paperlib.notebook; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_imports_run_one_way_over_seven_floors():
    """Between files and folders of paperlib, which imports nothing else of ours."""
    needs = {}
    for path in (ROOT / "paperlib").rglob("*.py"):
        place = path.relative_to(ROOT / "paperlib").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                package, *parts = node.module.split(".")
                assert package not in ("minithings", "workflow"), path
                below = parts[:1] or [alias.name for alias in node.names]
                if package == "paperlib":
                    needs.setdefault(place, set()).update({*below} - {place})
    floors = {}
    for place in TopologicalSorter(needs).static_order():  # raises at a circle
        below = (floors[name] for name in needs.get(place, ()))
        floors[place] = 1 + max(below, default=0)
    assert max(floors.values()) <= 7
