"""Execute one notebook with papermill: ``python paperlib/execution.py IN OUT YAML``.

With ``--gpu 1`` the notebook has a GPU of its own, with ``--gpu 0`` it sees none.

Papermill's own command lets kernels meet at TCP ports that are chosen before they are
bound, so that two notebooks started together now and then choose the same one. This
script asks for sockets in the file system instead; all else is papermill's.
"""

import argparse
import logging
import sys
from contextlib import nullcontext
from tempfile import TemporaryDirectory

import yaml
from traitlets.config import Config

# Both of the following import jsonschema, which compiles a grammar of IRIs where it
# finds this package: nearly 2 s at each start, for a format that no notebook has.
sys.modules.setdefault("rfc3987_syntax", None)

import jupytext  # noqa: E402
import papermill  # noqa: E402

from paperlib.gpus import visible_to_children  # noqa: E402


def execute(notebook: str, executed: str, parameters: dict) -> None:
    """Run a notebook and keep the executed copy, also when a cell fails.

    Parameters
    ----------
    notebook
        Path of a ``.py`` notebook.
    executed
        Path of the ``.ipynb`` to write.
    parameters
        Values for names of the parameters cell.

    Raises
    ------
    papermill.PapermillExecutionError
        If a cell fails.
    """
    with TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        papermill.execute_notebook(
            jupytext.read(notebook),
            executed,
            parameters,
            config=Config(KernelManager=sockets),
            progress_bar=False,
            log_output=True,
        )


def main() -> None:
    """Read the command line; what the notebook prints goes to standard error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("executed")
    parser.add_argument("parameters", type=yaml.safe_load, help="YAML mapping")
    parser.add_argument(
        "--gpu", type=int, choices=(0, 1), help="default: all there are"
    )
    options = vars(parser.parse_args())
    gpu = options.pop("gpu")
    with nullcontext() if gpu is None else visible_to_children(needed=bool(gpu)):
        execute(**options)


if __name__ == "__main__":
    main()
