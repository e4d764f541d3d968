"""One GPU for each execution, so that two that run side by side do not share one.

Snakemake counts GPUs and does not say which. An execution therefore holds a lock file
for the one that it uses; the system releases it when the process ends, in any way.
``python -m paperlib.gpus`` prints how many there are for Snakemake to count.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PAUSE = 1.0  # s, between looks at GPUs that are all held


def visible_gpus() -> list[str]:
    """List the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    That variable decides where somebody has set it: the reader, or Slurm; -1 stands for
    none. Elsewhere they are all that the driver knows, none if there is no driver.
    """
    assigned = os.environ.get("CUDA_VISIBLE_DEVICES")
    if assigned is not None:
        names = [name.strip() for name in assigned.split(",")]
        return [name for name in names if name not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return done.stdout.split()


def lock_folder() -> Path:
    """Return where this user's executions on this machine meet.

    Slurm may count the GPUs of every job from 0, so each of its jobs has a folder.
    """
    job = os.environ.get("SLURM_JOB_ID", "local")
    return Path(tempfile.gettempdir(), f"gpus-of-{os.getuid()}-{job}")


@contextmanager
def claim_gpu(gpus: Sequence[str], *, locks: Path) -> Iterator[str]:
    """Hold the first GPU that no other execution holds; wait while all are held.

    Parameters
    ----------
    gpus
        From :func:`visible_gpus`, at least one.
    locks
        Folder of the lock files, made if it is missing.

    Yields
    ------
    str
        The GPU.
    """
    locks.mkdir(parents=True, exist_ok=True)
    files = {gpu: FileLock(locks / f"{gpu}.lock") for gpu in gpus}
    if (free := _acquire_first(files)) is None:
        print(f"Waiting for a GPU: others hold {', '.join(gpus)} ({locks}).")
    while free is None:
        time.sleep(_PAUSE)
        free = _acquire_first(files)
    try:
        yield free
    finally:
        files[free].release()


@contextmanager
def visible_to_children(needed: bool) -> Iterator[None]:
    """Show one GPU, or none, to the processes that are started meanwhile.

    Parameters
    ----------
    needed
        Whether they use a GPU. Where there is none, they are left to find that out.
    """
    gpus = visible_gpus()
    if not needed:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        yield
    elif not gpus:
        yield
    else:
        with claim_gpu(gpus, locks=lock_folder()) as gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            yield


def _acquire_first(files: dict[str, FileLock]) -> str | None:
    """Take the first lock that is free; return None if all are held."""
    for gpu, lock in files.items():
        with suppress(Timeout):
            lock.acquire(blocking=False)
            return gpu
    return None


if __name__ == "__main__":
    print(len(visible_gpus()))
