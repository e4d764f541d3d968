import json
import re
import subprocess
import sys

import pytest

from paperlib.atomic import atomic_path
from paperlib.paths import ROOT
from paperlib.provenance import (
    check_configured,
    fingerprint,
    library_modules,
    start_record,
)

SETTINGS = {"notebook": "04_train", "name": "mini"}


def test_record_holds_what_a_reader_needs(tmp_path):
    source = tmp_path / "input.txt"
    source.write_text("abc")
    record = start_record(SETTINGS, subject=2)
    record.finish(tmp_path / "record.json", inputs=[source], outputs=[])
    content = json.loads((tmp_path / "record.json").read_text())
    assert content["parameters"] == {"subject": 2}
    assert content["settings"] == SETTINGS
    assert content["peak_memory_bytes"] > 10**7
    assert content["environment"]["packages"]["torch"].startswith("2.")
    # SHA-256 of "abc", from FIPS 180-2
    assert content["inputs"][str(source)]["sha256"].startswith("ba7816bf8f01cfea4141")


def test_folders_are_hashed_file_by_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("1")
    before = fingerprint(tmp_path)
    assert list(before) == ["a/b.txt"]
    (tmp_path / "a" / "b.txt").write_text("2")
    assert fingerprint(tmp_path) != before


def test_hidden_files_of_a_folder_do_not_count(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("1")
    before = fingerprint(tmp_path)
    with atomic_path(tmp_path / "a" / "c.txt") as partial:
        partial.write_text("half")
        assert fingerprint(tmp_path) == before
    assert list(fingerprint(tmp_path)) == ["a/b.txt", "a/c.txt"]


def test_large_files_are_hashed_by_their_edges(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(300 * 2**20)  # sparse
    before = fingerprint(path)
    assert set(before) == {"bytes", "sha256_edges"}
    with path.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert fingerprint(path) != before


def test_library_modules_are_found_through_other_modules():
    modules = library_modules(ROOT / "notebooks/04_train.py")
    assert "paperlib/models/layout.py" in modules  # imported by dit, by checkpoints
    assert "paperlib/evaluation/metrics.py" not in modules
    assert not any("minithings" in module for module in modules)


SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {cells!r}:
    result = shell.run_cell(cell, store_history=True)
    if result.error_in_exec:
        sys.exit(str(result.error_in_exec))
"""
DECLARED = 'subject: int = 1\nrun: str = "ours"'
START = (
    "from paperlib.provenance import start_record\n"
    "start_record({'notebook': '04_train'}, subject=subject)"
)


def run_cells(*cells):
    """Execute cells as Jupyter does; return the error message, if any."""
    code = SHELL.format(cells=cells)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stderr


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("# Parameters\nsubject = 2\n", ""),
        ("# Parameters\nsubjct = 2\n", "no parameter 'subjct'.*Did you mean 'subject'"),
        ('# Parameters\nsubject = "two"\n', "'subject' must be of type int; got 'two'"),
        ("# Parameters\nsubject = -2\n", ""),
    ],
)
def test_injected_parameters_are_checked(injected, message):
    error = run_cells(DECLARED, injected, START)
    assert re.search(message, error) if message else not error


def test_without_injection_nothing_is_checked():
    assert not run_cells(DECLARED, START, "other = 1", START)


def test_tables_are_made_of_what_is_configured(tmp_path):
    def write(job, overrides, **keys):
        content = {"parameters": {"config": "mini", "overrides": overrides, **keys}}
        (tmp_path / f"{job}.json").write_text(json.dumps(content))

    write("03_embed_a", "", dataset="a", tokens="image")
    write("04_train_b_1", "training: {steps: 5}", dataset="b", seed=1)
    faster = "device: cpu\ntraining: {workers: 4, processes: 2}"
    write("04_train_a_0", faster, dataset="a", seed=0)
    write("06_evaluate_a", "evaluation: {dim: 5}", dataset="a")
    check_configured(tmp_path, "", dataset=["a"], seed=[0, 1])
    check_configured(tmp_path, "", dataset=["a", "b"], seed=[0])
    check_configured(tmp_path, "training: {steps: 5}", dataset=["b"], seed=[1])
    remedy = r"04_train_b_1 .* --config mini --force .*b_1\.json"
    with pytest.raises(ValueError, match=remedy):
        check_configured(tmp_path, "", dataset=["b"], seed=[0, 1])
    write("05_sample_a", "training: {workers: 4}\nsampling: {steps: 2}", dataset="a")
    with pytest.raises(ValueError, match="05_sample_a was run by hand"):
        check_configured(tmp_path, "", dataset=["a"], seed=[0])
