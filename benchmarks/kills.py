"""Interrupt a whole small run again and again, and compare it with an unbroken one.

    python benchmarks/kills.py FOLDER --kills 50 --disk 5  # new; for clones of HEAD

After a random number of finished jobs and a random time, everything that works in the
clone is ended by SIGKILL, and the same command is given again. Another clone is on a
disk in memory (root may mount one) that has no more room at some point. In the end, all
results must be those of the unbroken run, byte by byte, but for two files: the page,
which shows times, and the epochs of own images, which name the folder of the clone.
"""

import argparse
import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from paperlib.atomic import write_text
from paperlib.paths import ROOT

COMMAND = ["./run_all.sh", "--config", "tests/small.yaml", "--cores", "1"]
RESULTS = ROOT / "benchmarks/kills.json"
TOPS = ("data/small", "results/small", "tables/small", "figures/small")
TIMED = ("/records/", "/notebooks/", "/logs/", "/training/", "sampling.json", "_budget")
LONGEST_WAIT = 15  # s between a finished job and SIGKILL
FULL = "The disk is full: make room and run the same command again."


def start(clone: Path) -> subprocess.Popen:
    """Start the run, appending what it prints to a file beside the folder."""
    with clone.parent.with_suffix(".log").open("ab") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
        return subprocess.Popen(COMMAND, cwd=clone, env=environment, **streams)


def kill(clone: Path, run: subprocess.Popen) -> list[str]:
    """End everything that works in the clone; return the jobs that were at work."""
    jobs, alive = set(), True
    while alive:
        alive = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(clone):
                    alive += [process, *process.children(recursive=True)]
        for process in alive:
            with suppress(psutil.Error):
                words = process.cmdline()
                jobs |= {Path(w).stem for w in words if w.endswith(".ipynb")}
                process.kill()
        run.poll()
        time.sleep(0.1)
    return sorted(jobs)


def n_finished(clone: Path) -> int:
    """Count the jobs that have left a record."""
    return len(list(clone.glob("results/small/records/*.json")))


def interrupt(clone: Path, thresholds: list[int], rng: random.Random, last: float):
    """Yield what each SIGKILL met; begin no new round after ``last``."""
    for threshold in thresholds:
        run, wait = start(clone), rng.uniform(0, LONGEST_WAIT)
        while n_finished(clone) < threshold and run.poll() is None:
            time.sleep(0.2)
        with suppress(subprocess.TimeoutExpired):
            run.wait(wait)
        status = run.poll()  # None unless it has ended by itself
        finished, at_work = n_finished(clone), kill(clone, run)
        yield {"finished": finished, "at_work": at_work, "status": status}
        if status == 0 or time.time() > last:
            return


def fill_disk(clone: Path, sizes: list[int]):
    """Yield what a run says, and whether it stops, on disks of these sizes (bytes)."""
    for size in sizes:
        resize(clone, str(size))
        log = clone.parent.with_suffix(".log")
        before = log.stat().st_size if log.exists() else 0
        status = start(clone).wait()
        said = log.read_bytes()[before:].decode()
        yield {
            "MiB": size // 2**20,
            "status": status,
            "ends_with_the_sentence": said.rstrip().endswith(FULL),
            "tracebacks": said.count("Traceback"),
            "lines": said.count("\n"),
        }


def resize(clone: Path, size: str) -> None:
    """Change the size of the file system in memory that holds a clone."""
    subprocess.run(["mount", "-o", f"remount,size={size}", clone.parent], check=True)


def new_clone(parent: Path) -> Path:
    """Clone HEAD into a folder."""
    parent.mkdir(parents=True, exist_ok=True)
    clone = parent / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    return clone


def results(clone: Path) -> set[str]:
    """List the files that must not differ: all but those that hold times."""
    files = [path for top in TOPS for path in (clone / top).rglob("*")]
    names = {str(path.relative_to(clone)) for path in files if path.is_file()}
    return {name for name in names if not any(part in name for part in TIMED)}


def finish(whole: Path, broken: Path, rounds: list[dict]) -> dict:
    """Run the command a last time and compare the results of both clones."""
    status = start(broken).wait()
    commit = ["git", "-C", whole, "rev-parse", "HEAD"]
    files, others = results(whole), results(broken)
    common = sorted(files & others)
    differ = [
        name
        for name in common
        if not filecmp.cmp(whole / name, broken / name, shallow=False)
    ]
    return {
        "commit": subprocess.check_output(commit, text=True).strip(),
        "interruptions": sum(round_["status"] != 0 for round_ in rounds),
        "files_compared": len(common),
        "files_that_differ": differ,
        "files_lost": sorted(files - others),
        "files_left_over": sorted(others - files),
        "exit_status_at_the_end": status,  # 0: no hand was needed
        "rounds": rounds,
    }


def main() -> None:
    """Run all, compare and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--disk", type=int, default=0, help="how many times it is full")
    parser.add_argument("--minutes", type=float, default=1e6, help="then kill no more")
    options = parser.parse_args()
    folder, rng, begin = options.folder.absolute(), random.Random(0), time.time()
    whole = new_clone(folder / "whole")
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"minutes": {}}
    report["command"] = " ".join(COMMAND)
    report["exit_status_of_the_unbroken_run"] = start(whole).wait()
    report["minutes"]["unbroken"] = round((time.time() - begin) / 60, 1)
    if options.kills:
        killed, begin = new_clone(folder / "killed"), time.time()
        n_jobs, last = n_finished(whole), begin + 60 * options.minutes
        thresholds = sorted(rng.randrange(n_jobs) for _ in range(options.kills))
        rounds = list(interrupt(killed, thresholds, rng, last))
        report["kills"] = finish(whole, killed, rounds)
        report["minutes"]["killed"] = round((time.time() - begin) / 60, 1)
    if options.disk:
        parent, begin = folder / "full", time.time()
        parent.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", parent], check=True)
        full = new_clone(parent)
        empty = shutil.disk_usage(full).used
        files = [path for top in TOPS for path in (whole / top).rglob("*")]
        used = empty + sum(path.stat().st_blocks * 512 for path in files)
        sizes = sorted(rng.randint(empty, used) for _ in range(options.disk))
        rounds = list(fill_disk(full, sizes))
        resize(full, "50%")
        report["full_disk"] = finish(whole, full, rounds)
        report["minutes"]["full"] = round((time.time() - begin) / 60, 1)
    write_text(RESULTS, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
