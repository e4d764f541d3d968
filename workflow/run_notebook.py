"""Execute one notebook with papermill: ``run_notebook.py IN.py OUT.ipynb YAML``.

Snakemake calls this for every rule. It differs from papermill's own command in five
points: kernels meet at sockets in the file system (TCP ports are chosen before they are
bound, so that two notebooks started together now and then choose the same one); they
run in this Python, whatever kernels Jupyter knows; an unknown parameter is an error; a
GPU belongs to one notebook at a time; and all ends with the process that started it.
"""

import argparse
import difflib
import fcntl
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

# Both of the following import jsonschema, which compiles a grammar of IRIs where it
# finds this package: nearly 2 s at each start, for a format that no notebook has.
sys.modules.setdefault("rfc3987_syntax", None)

import jupytext  # noqa: E402
import papermill  # noqa: E402
from jupyter_client import AsyncKernelManager  # noqa: E402
from jupyter_client.kernelspec import KernelSpec  # noqa: E402
from traitlets.config import Config  # noqa: E402


LOCKS = Path(  # Slurm may count the GPUs of each of its jobs from 0
    tempfile.gettempdir(), f"gpus-{os.getuid()}-{os.environ.get('SLURM_JOB_ID', '')}"
)


class ThisPython(AsyncKernelManager):
    """Starts kernels with the interpreter of this process."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """Return a description that stands in no file."""
        preloaded = str(Path(__file__).with_name("preloaded.py"))
        command = [sys.executable, "-S", preloaded, "run", "ipykernel_launcher", "-f"]
        return KernelSpec(argv=[*command, "{connection_file}"], language="python")


def execute(notebook: str, executed: str, parameters: dict) -> None:
    """Execute a notebook; the copy is kept when a cell fails, too.

    Parameters
    ----------
    notebook
        Path of a ``.py`` notebook in percent format.
    executed
        Path of the ``.ipynb`` to write.
    parameters
        Values for names of the parameters cell.

    Raises
    ------
    ValueError
        If the parameters cell lacks one of the names.
    papermill.PapermillExecutionError
        If a cell fails.
    """
    content = jupytext.read(notebook)
    content.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    known = papermill.inspect_notebook(content)
    for name in parameters.keys() - known.keys():
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"{notebook} has no parameter {name!r}; it has {', '.join(known)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    with tempfile.TemporaryDirectory() as folder:
        papermill.execute_notebook(
            content,
            executed,
            parameters,
            kernel_manager_class=ThisPython,
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}),
            progress_bar=False,
            log_output=True,
        )


def claim_gpu(gpus: list[str], locks: Path) -> str | None:
    """Wait for a GPU that no other notebook uses; it stays claimed until this ends.

    Snakemake counts GPUs and does not say which, hence a locked file for each.
    """
    locks.mkdir(parents=True, exist_ok=True)
    while gpus:
        for gpu in gpus:
            file = os.open(locks / gpu, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return gpu
            except BlockingIOError:
                os.close(file)
        time.sleep(1)
    return None


def visible_gpus() -> list[str]:
    """List the GPUs that CUDA_VISIBLE_DEVICES names; where it is not set, all."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            names = subprocess.check_output(command, text=True).replace("\n", ",")
        except (FileNotFoundError, subprocess.CalledProcessError):
            return []
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def end_with_parent() -> None:
    """End this process within a second after its parent; kernels do so by themselves."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Read the command line and execute; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("executed")
    parser.add_argument("parameters", type=yaml.safe_load, help="YAML mapping")
    parser.add_argument("--gpus", type=int, choices=(0, 1), default=1)
    parser.add_argument("--log", default=os.devnull, help="file for what is printed")
    options = parser.parse_args()
    end_with_parent()
    claimed = claim_gpu(visible_gpus(), LOCKS) if options.gpus else None
    os.environ["CUDA_VISIBLE_DEVICES"] = claimed or ""
    console = os.fdopen(os.dup(2), "w")
    with open(options.log, "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        execute(options.notebook, options.executed, options.parameters)
    except Exception as error:
        if "No space left on device" in str(error):
            print(
                "The disk is full: make room and run the same command again.",
                file=console,
            )
        else:
            print(str(error)[-2000:], file=console)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
