"""What run_all.sh does before Snakemake starts.

``python -m workflow.preflight CONFIG KIND [WORD ...]`` checks the options, the data and
the disk, takes the lock and prints the options that describe this machine. KIND is
``run``, ``part`` (of which Snakemake knows what it needs), or ``dry`` for a dry run.
"""

import fcntl
import sys
from contextlib import redirect_stdout

import psutil
from snakemake.cli import get_argument_parser

from minithings.world import World
from paperlib.config import load_config
from paperlib.paths import ROOT
from paperlib.validation import did_you_mean
from workflow import data
from workflow.downloads import check_space
from workflow.gpus import visible_gpus

DISK = {"mini": 10.7e9}  # bytes of data and results
LOCK = 9  # file that run_all.sh has opened: locked until it and Snakemake have ended


def check_options(words: list[str]) -> None:
    """Refuse an option that neither run_all.sh nor Snakemake has."""
    known = [s for a in get_argument_parser()._actions for s in a.option_strings]
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(k.startswith(name) for k in known):
            raise ValueError(f"There is no option {name}.{did_you_mean(name, known)}")


def check_disk(name: str, data_root: str) -> None:
    """Refuse to begin what will not fit on the disk."""
    folders = [ROOT / data_root, ROOT / "results" / name]
    files = [file for folder in folders for file in folder.rglob("*")]
    there = sum(file.stat().st_size for file in files if file.is_file())
    check_space(ROOT, DISK.get(name, 0) - there, "Make room and run this again.")


def prepare(config: str, kind: str, *words: str) -> str:
    """Check what can be checked, take the lock, and return options of Snakemake."""
    check_options(words)
    cfg = load_config(config)
    cfg.check_runs()
    if cfg.simulated:
        World.of(cfg)
    memory, n_gpus = psutil.virtual_memory().total // 10**6, len(visible_gpus())
    options = f"--resources mem_mb={memory}" + f" gpu={n_gpus}" * bool(n_gpus)
    if kind == "dry":
        return options
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reason = (
            "Another ./run_all.sh is at work in this folder. Wait for it, or stop it."
        )
        raise OSError(reason) from None
    check_disk(cfg.name, cfg.data_root)
    with redirect_stdout(sys.stderr):
        lacking = not cfg.simulated and data.main(["check", "--config", config])
    if lacking and kind == "run":
        raise ValueError("The run needs what is missing above.")
    if kind == "run":  # its first table as early as can be
        options += f" --prioritize evaluate_{next(iter(cfg.datasets))}"
    return options


if __name__ == "__main__":
    try:
        print(prepare(*sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(f"run_all.sh: {error}")
