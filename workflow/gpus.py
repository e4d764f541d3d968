"""GPUs of this machine, and one for each notebook."""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path


def visible_gpus() -> list[str]:
    """List the GPUs that CUDA_VISIBLE_DEVICES names; where it is not set, all."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            names = subprocess.check_output(command, text=True).replace("\n", ",")
        except (OSError, subprocess.CalledProcessError):
            return []
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def claim_gpu() -> str:
    """Wait for a GPU that no other notebook uses; it is ours until this process ends.

    Snakemake counts GPUs and does not say which, hence a locked file for each. Returns
    nothing where there is no GPU.
    """
    job = os.environ.get("SLURM_JOB_ID", "")  # Slurm may count the GPUs of each from 0
    folder = Path(tempfile.gettempdir(), f"gpus-{os.getuid()}-{job}")
    folder.mkdir(exist_ok=True)
    gpus = visible_gpus()
    while gpus:
        for gpu in gpus:
            file = os.open(folder / gpu, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return gpu
            except BlockingIOError:
                os.close(file)
        time.sleep(1)
    return ""
