"""The whole paper, small: every notebook through Snakemake and papermill.

Runs in a copy of the repository, so that no result of the real one is touched.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from paperlib.config import load_config
from paperlib.paths import (
    ABLATION_TABLES,
    CLIP_SCORE_FIGURES,
    CLIP_SCORE_TABLES,
    MAIN_TABLES,
    REGION_FIGURES,
    ROOT,
    SCHEMATICS,
    TOPOGRAPHIES,
)

pytestmark = pytest.mark.pipeline
CONFIG = "tests/small.yaml"
LEFT_OUT = (".git", ".venv", ".snakemake", "data", "results", "__pycache__", "*.ipynb")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Copy the repository and run everything once."""
    copy = tmp_path_factory.mktemp("pipeline") / "repository"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    done = snakemake(copy)
    assert done.returncode == 0, done.stdout[-6000:]
    return copy


def environment(copy):
    scripts = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
    }


def snakemake(copy, *arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    command += ["--show-failed-logs", "--config", f"config={CONFIG}", *arguments]
    return run(command, copy)


def run(command, copy):
    return subprocess.run(
        command,
        cwd=copy,
        env=environment(copy),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def by_hand(copy, notebook, *parameters):
    """Build the README's papermill line."""
    return [
        "bash",
        "-c",
        f"jupytext --to ipynb -o - notebooks/{notebook}.py | "
        f'papermill - results/by_hand.ipynb -p config {CONFIG} "$@"',
        "papermill",
        *parameters,
    ]


def checkpoint(copy, *, seed):
    folder = f"results/small/things-eeg2/runs/ours_v/sub-02_seed-{seed}"
    return copy / folder / "checkpoint/model.safetensors"


def rules_to_run(copy):
    """Name the rules that a dry run lists."""
    printed = snakemake(copy, "-n", "--quiet", "reason").stdout
    stats = printed.split("Job stats:\n")[1].split("\n\n")[0].splitlines()
    return {line.split()[0] for line in stats[2:]} - {"total"}


def test_every_table_and_figure_comes_out(repository):
    tables = {path.name for path in (repository / "tables/small").iterdir()}
    stems = [
        f"{stem}{ending}"
        for stem in ("tab01_things_eeg2", "tab02_things_meg")
        for ending in ("", "_supplement", "_across", "_paired", "_budgets")
    ]
    captioners = load_config(CONFIG)["clip_score"]["captioners"]
    stems += CLIP_SCORE_TABLES[: len(captioners)]
    for tables_of in ABLATION_TABLES.values():
        stems += [
            f"{stem}{end}" for stem in tables_of.values() for end in ("", "_paired")
        ]
    stems += [
        f"{stem}{end}" for stem in REGION_FIGURES.values() for end in ("", "_paired")
    ]
    assert tables == {f"{s}.{e}" for s in stems for e in ("csv", "md", "tex")}
    figures = {path.name for path in (repository / "figures/small").iterdir()}
    for stem in ("fig03_things_eeg2", "fig07_things_meg"):
        assert {f"{stem}.png", f"{stem}_all_subjects.pdf"} <= figures
    assert {f"{stem}.pdf" for stem in REGION_FIGURES.values()} <= figures
    assert {f"{stem}.pdf" for stem in CLIP_SCORE_FIGURES} <= figures
    assert {f"{stem}.pdf" for stem in SCHEMATICS} <= figures
    assert all(path.stat().st_size for path in (repository / "figures/small").iterdir())


def test_the_main_table_is_complete_and_says_what_it_is(repository):
    folder = repository / "tables/small"
    scores = pd.read_csv(folder / "tab01_things_eeg2.csv")
    measured = scores[~scores["method"].str.startswith("Published")]
    assert set(measured["metric"]) == {"mse", "pearson", "cosine", "sl"}
    assert (measured["low"] <= measured["high"]).sum() == measured["low"].count()
    ours = measured[measured["method"] == "Ours (v), mean of 2"]
    assert ours["mean"].notna().all() and (ours["n_subjects"] == 2).all()
    zero = measured[measured["method"] == "Zero"].set_index("metric")["mean"]
    assert zero.isna().to_dict() == {
        "mse": False,
        "pearson": True,
        "cosine": True,
        "sl": True,
    }
    published = scores[scores["method"] == "Published: Our work"]
    assert published.set_index("metric")["mean"]["mse"] == 0.109
    assert "simulated participants" in (folder / "tab01_things_eeg2.md").read_text()


def test_records_say_what_happened(repository):
    records = list((repository / "results/small/records").glob("*.json"))
    names = {path.name[:2] for path in records}
    assert names == {f"{number:02d}" for number in range(12)}
    for path in records:
        content = json.loads(path.read_text())
        assert content["seconds"] > 0 and content["settings"]["name"] == "small"


def test_nothing_is_left_to_do(repository):
    assert "Nothing to be done" in snakemake(repository).stdout


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "sampling",
            {"sample", "all", "schematics", "own_images"}
            | {
                f"{rule}_{d}" for rule in ("evaluate", "ablations") for d in MAIN_TABLES
            },
        ),
        (
            "topographies",
            {"all", "own_images", *(f"topographies_{name}" for name in TOPOGRAPHIES)},
        ),
    ],
)
def test_a_changed_value_reruns_what_depends_on_it(repository, override, expected):
    path = repository / CONFIG
    before = path.read_text()
    changes = {
        "sampling": ("steps: 4 #", "steps: 5 #"),
        "topographies": ("[0.0, 0.2]", "[0.0, 0.3]"),
    }
    assert changes[override][0] in before
    try:
        path.write_text(before.replace(*changes[override]))
        assert rules_to_run(repository) == expected
    finally:
        path.write_text(before)


def test_how_figures_look_reruns_no_data(repository):
    path = repository / "paperlib/reporting/figures.py"
    before, times = path.read_text(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    try:
        path.write_text(before + "\nANOTHER_COLOR = 'red'\n")
        drawn = rules_to_run(repository)
    finally:
        path.write_text(before)
        os.utime(path, ns=times)
    assert {"clip_score", "schematics", "evaluate_things-meg"} <= drawn
    made = {"minithings", "preprocess", "caption", "embed", "train", "sample"}
    assert not made & drawn


def test_a_value_of_speed_reruns_nothing(repository):
    path = repository / CONFIG
    before = path.read_text()
    assert "  workers: 0 #" in before
    try:
        path.write_text(before.replace("  workers: 0 #", "  workers: 1 #"))
        assert "Nothing to be done" in snakemake(repository, "-n").stdout
    finally:
        path.write_text(before)


def test_tables_come_out_the_same_again(repository):
    table = repository / "tables/small/tab01_things_eeg2.csv"
    figure = repository / "figures/small/fig03_things_eeg2.pdf"
    before = {path: path.read_bytes() for path in (table, figure)}
    rules = ["evaluate_things-eeg2", "topographies_things-eeg2"]
    done = snakemake(repository, "--forcerun", *rules)
    assert done.returncode == 0, done.stdout[-3000:]
    assert {path: path.read_bytes() for path in before} == before


def test_a_killed_training_ends_with_the_same_weights(repository):
    overrides = "training: {steps: 400, save_every: 20}"
    parameters = ["-p", "subject", "2", "-p", "overrides", overrides]
    line = by_hand(repository, "04_train", *parameters, "-p", "seed", "7")
    done = run(line, repository)
    assert done.returncode == 0, done.stdout[-3000:]
    weights = checkpoint(repository, seed=7)
    unbroken = weights.rename(repository / "unbroken.safetensors")
    shutil.rmtree(weights.parents[1])

    state = weights.parents[1] / "training/state.safetensors"
    process = psutil.Popen(
        line,
        cwd=repository,
        env=environment(repository),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    family = [process, *process.children(recursive=True)]  # papermill and its kernel
    for member in family:
        member.kill()  # SIGKILL
    psutil.wait_procs(family)
    assert state.exists() and not weights.exists()

    done = run(line, repository)
    assert "Continuing a stopped run after step" in (
        (repository / "results/by_hand.ipynb").read_text()
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert filecmp.cmp(weights, unbroken, shallow=False)
    assert not state.exists()


def test_a_misspelt_parameter_stops_with_an_error(repository):
    done = run(by_hand(repository, "05_sample", "-p", "subjct", "2"), repository)
    assert done.returncode != 0
    assert "no parameter 'subjct'" in done.stdout
    assert "Did you mean 'subject'" in done.stdout
