"""The whole paper, small: every notebook through Snakemake and papermill.

Runs in a copy of the repository, so that no result of the real one is touched.
"""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

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
RUN_ALL = ["./run_all.sh", "--config", CONFIG, "--cores", "2"]
RUN = "results/small/things-eeg2/runs/ours_v/sub-02"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Copy the repository and run everything once, killed once on its way."""
    copy = tmp_path_factory.mktemp("pipeline") / "repository"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    signals = copy / "results/small/things-eeg2/signals"
    kill(RUN_ALL, copy, once=signals.exists, with_children=False)
    assert "Not finished" in (copy / "results/small/paper.html").read_text()
    done = run_all(copy)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "tables/small/tab01_things_eeg2.csv" in done.stdout.splitlines()
    return copy


def environment(copy):
    bin_folder = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(bin_folder.parent),
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
    }


def run_all(copy, *arguments):
    return run([*RUN_ALL, *arguments], copy)


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


def kill(command, copy, *, once, with_children):
    """Start a command and end it by SIGKILL when it has come so far."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = psutil.Popen(command, cwd=copy, env=environment(copy), **quiet)
    deadline = time.monotonic() + 600
    while not once():
        assert process.is_running() and time.monotonic() < deadline
        time.sleep(0.05)
    family = [process, *process.children(recursive=True)]
    for member in family if with_children else family[:1]:
        member.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive  # kernels too


def by_hand(notebook, *parameters):
    """Build the README's papermill line."""
    return [
        "bash",
        "-c",
        f"jupytext --to ipynb -o - notebooks/{notebook}.py | "
        f'papermill - results/by_hand.ipynb -p config {CONFIG} "$@"',
        "papermill",
        *parameters,
    ]


def rules_to_run(copy, *arguments):
    """Name the rules that a dry run lists."""
    printed = run_all(copy, "-n", "--quiet", "reason", *arguments).stdout
    if "Nothing to be done" in printed:
        return set()
    stats = printed.split("Job stats:\n")[1].split("\n\n")[0].splitlines()
    return {line.split()[0] for line in stats[2:]} - {"total"}


def changed(repository, **sections):
    """Replace values of the configuration, and return the rules that would run."""
    path = repository / CONFIG
    before = path.read_text()
    values = yaml.safe_load(before)
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes
    try:
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return rules_to_run(repository)
    finally:
        path.write_text(before)


def of_datasets(*rules):
    return {f"{rule}_{dataset}" for rule in rules for dataset in MAIN_TABLES}


def test_every_table_and_figure_comes_out(repository):
    tables = {path.name for path in (repository / "tables/small").iterdir()}
    endings = ("", "_supplement", "_across", "_field", "_distribution", "_paired")
    stems = [m + end for m in MAIN_TABLES.values() for end in (*endings, "_budgets")]
    stems += CLIP_SCORE_TABLES[: len(load_config(CONFIG).clip_score.captioners)]
    ablations = [n for names in ABLATION_TABLES.values() for n in names.values()]
    ablations += REGION_FIGURES.values()
    stems += [f"{stem}{end}" for stem in ablations for end in ("", "_paired")]
    assert tables == {f"{s}.{e}" for s in stems for e in ("csv", "md", "tex")}
    figures = {path.name for path in (repository / "figures/small").iterdir()}
    drawn = [*SCHEMATICS, *CLIP_SCORE_FIGURES, *REGION_FIGURES.values(), "hero"]
    drawn += [m + end for m in TOPOGRAPHIES.values() for end in ("", "_all_subjects")]
    drawn += [
        m + end for m in MAIN_TABLES.values() for end in ("_scores", "_distribution")
    ]
    assert figures == {f"{name}.{end}" for name in drawn for end in ("png", "pdf")}
    assert all(path.stat().st_size for path in (repository / "figures/small").iterdir())


def test_the_main_table_is_complete_and_says_what_it_is(repository):
    folder = repository / "tables/small"
    scores = pd.read_csv(folder / "tab01_things_eeg2.csv")
    measured = scores[~scores["method"].str.startswith("Published")]
    assert (measured["low"] <= measured["high"]).sum() == measured["low"].count()
    ours = measured[measured["method"] == "Ours (v)"]
    assert ours["mean"].notna().all() and (ours["n_subjects"] == 2).all()
    published = scores[scores["method"] == "Published: Our work"]
    assert published.set_index("metric")["mean"]["mse"] == 0.109
    assert "simulated participants" in (folder / "tab01_things_eeg2.md").read_text()


def test_the_page_holds_everything_and_links_executed_notebooks(repository):
    page = repository / "results/small/paper.html"
    text = page.read_text()
    assert len(text) < 5e6 and "Simulated participants" in text
    tables = [file.stem for file in (repository / "tables/small").glob("*.md")]
    assert all(f'<figure id="{name}">' in text for name in tables)
    links = re.findall('href="(notebooks/[^"]+)"', text)
    assert {Path(link).name[:2] for link in links} == {f"{n:02d}" for n in range(12)}
    assert all((page.parent / link).is_file() for link in links)


def test_an_own_image_has_an_answer(repository):
    photo = next((repository / "data/small").rglob("*.jpg"))
    command = ["./run_all.sh", "generate", "--config", CONFIG, "--subject", "2"]
    done = run([*command, str(photo)], repository)
    assert done.returncode == 0, done.stdout[-3000:]
    fif, page = done.stdout.splitlines()[-2:]
    assert fif.endswith("-epo.fif") and Path(fif).is_file() and Path(page).is_file()
    done = run([*command, "nothing.jpg"], repository)
    assert done.returncode == 1 and "There is no image nothing.jpg" in done.stdout


def test_records_say_what_happened(repository):
    records = list((repository / "results/small/records").glob("*.json"))
    assert {path.name[:2] for path in records} == {f"{n:02d}" for n in range(13)}
    for path in records:
        content = json.loads(path.read_text())
        assert content["seconds"] > 0 and content["parameters"]["config"] == CONFIG


def test_nothing_is_left_to_do(repository):
    done = run_all(repository)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout


def test_a_changed_value_reruns_what_depends_on_it(repository):
    assert changed(repository, sampling={"precision": "bf16"}) == {
        *("sample", "own_images", "schematics", "topographies_things-eeg2"),
        *("paper", "all"),
        *of_datasets("evaluate", "ablations"),
    }
    windows = [[0.0, 0.3], [0.3, 1.0]]
    assert changed(repository, topographies={"windows": windows}) == {
        *{"all", "own_images", "paper"},
        *of_datasets("topographies"),
    }
    assert changed(repository, machine={"workers": 1}) == set()


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
    assert not {"minithings", "preprocess", "caption", "embed", "train"} & drawn


def test_tables_come_out_the_same_again(repository):
    table = repository / "tables/small/tab01_things_eeg2.csv"
    figure = repository / "figures/small/fig03_things_eeg2.pdf"
    before = {path: path.read_bytes() for path in (table, figure)}
    rules = ["evaluate_things-eeg2", "topographies_things-eeg2"]
    done = run_all(repository, "--forcerun", *rules)
    assert done.returncode == 0, done.stdout[-3000:]
    assert {path: path.read_bytes() for path in before} == before


def test_a_killed_training_ends_with_the_same_weights(repository):
    overrides = "training: {steps: 400, seeds: [7]}"
    parameters = ["-p", "subject", "2", "-p", "overrides", overrides]
    line = by_hand("04_train", *parameters)
    done = run(line, repository)
    assert done.returncode == 0, done.stdout[-3000:]
    (folder,) = (repository / "results").glob("small+*/things-eeg2/runs/ours_v/sub-02")
    weights = folder / "seed-7/checkpoint/model.safetensors"
    unbroken = weights.rename(repository / "unbroken.safetensors")
    shutil.rmtree(folder)

    state = folder / "seed-7/training"
    kill(line, repository, once=lambda: [*state.glob("state*")], with_children=True)
    assert list(state.glob("state*")) and not weights.exists()

    done = run(line, repository)
    assert done.returncode == 0, done.stdout[-3000:]
    assert filecmp.cmp(weights, unbroken, shallow=False)
    assert not list(state.glob("state*"))


def test_results_made_by_hand_have_a_folder_of_their_own(repository):
    def times():
        results = (repository / "results/small").rglob("*")
        return {path: path.stat().st_mtime_ns for path in results}

    before = times()
    overrides = "sampling: {eta: 1.0, solver: ddim}"
    command = by_hand("05_sample", "-p", "overrides", overrides)
    done = run(command, repository)
    assert done.returncode == 0, done.stdout[-3000:]
    made = list((repository / "results").glob("small+*/**/samples.npy"))
    assert {path.parents[1].name for path in made} == {"sub-01"}
    assert times() == before and rules_to_run(repository) == set()


def test_a_misspelt_parameter_stops_with_an_error(repository):
    done = run(by_hand("05_sample", "-p", "subjct", "2"), repository)
    assert done.returncode != 0
    assert "no parameter 'subjct'" in done.stdout
    assert "Did you mean 'subject'" in done.stdout


def test_a_deleted_run_is_made_again(repository):
    shutil.rmtree(repository / RUN)
    table = "evaluate_things-eeg2"
    assert {"train", "sample"} <= rules_to_run(repository, "--forcerun", table)
