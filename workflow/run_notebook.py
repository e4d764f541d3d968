"""Execute a notebook: ``python -m workflow.run_notebook IN.py OUT.ipynb YAML``.

Snakemake calls this for every rule. Papermill does the work; what differs from its own
command: kernels meet at sockets in the file system (TCP ports are chosen before they
are bound, so that two notebooks started together now and then choose the same one);
they run in this Python, whatever kernels Jupyter knows; and a GPU belongs to one
notebook at a time.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

import yaml

# Papermill imports jsonschema, which compiles a grammar of IRIs where it finds this
# package: nearly 2 s at each start, for a format that no notebook has.
sys.modules.setdefault("rfc3987_syntax", None)

import jupytext
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from traitlets.config import Config

from paperlib.atomic import write_text
from paperlib.reporting.notebook_page import notebook_page
from workflow.gpus import claim_gpu

FULL = "No space left on device"


class ThisPython(AsyncKernelManager):
    """Starts kernels with the interpreter of this process."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start one, instead of what Jupyter's folders say."""
        preloaded = str(Path(__file__).with_name("preloaded.py"))
        command = [sys.executable, "-S", preloaded, "run", "ipykernel_launcher", "-f"]
        return KernelSpec(argv=[*command, "{connection_file}"], language="python")


def execute(notebook: str, executed: str, parameters: dict) -> None:
    """Execute a notebook (``.py``, percent format) with values of its parameters cell.

    The copy, and a page of it beside it, are kept if a cell fails.
    """
    content = jupytext.read(notebook)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content.metadata["kernelspec"] = kernel
    Path(executed).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # sockets need short names
        address = {"transport": "ipc", "ip": f"{folder}/kernel"}
        try:
            papermill.execute_notebook(
                content,
                executed,
                parameters,
                kernel_manager_class=ThisPython,
                config=Config(KernelManager=address),
                progress_bar=False,
                log_output=True,
            )
        except papermill.PapermillExecutionError:  # of a cell: the copy is whole
            _write_page(Path(executed))
            raise
    _write_page(Path(executed))


def _write_page(executed: Path) -> None:
    write_text(executed.with_suffix(".html"), notebook_page(executed))


def main() -> int:
    """Read the command line and execute; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("executed")
    parser.add_argument("parameters", type=yaml.safe_load, help="YAML mapping")
    parser.add_argument("--log", help="file for what the notebook prints")
    parser.add_argument("--gpus", type=int, default=1, help="0: the notebook sees none")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = claim_gpu() if options.gpus else ""
    console = os.fdopen(os.dup(2), "w")
    if options.log:
        with open(options.log, "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        execute(options.notebook, options.executed, options.parameters)
    except Exception as error:
        logging.error(error)
        end = "\n".join(str(error).splitlines()[-20:])
        full = "The disk is full: make room and run the same command again."
        print(full if FULL in str(error) else end, file=console)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
