"""The run record: what was run, on what, with what, and what it took."""

import ast
import hashlib
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

from paperlib.atomic import write_text
from paperlib.config import without_speed
from paperlib.paths import ROOT
from paperlib.validation import did_you_mean

_PACKAGES = ("torch", "accelerate", "transformers", "open_clip_torch", "mne", "numpy")
_WHOLE = 256 * 2**20  # larger files are hashed by size, head and tail only
_EDGE = 2**20


@dataclass(frozen=True)
class Record:
    """A notebook execution in progress; made by :func:`start_record`."""

    parameters: dict
    settings: dict
    started: float

    def finish(
        self, path: Path, *, inputs: Iterable[Path], outputs: Iterable[Path]
    ) -> None:
        """Write the record as JSON and print one line.

        Parameters
        ----------
        path
            Where the record goes.
        inputs
            Files or folders that were read; each is hashed.
        outputs
            Files or folders that were written.
        """
        seconds = time.time() - self.started
        began = datetime.fromtimestamp(self.started, UTC)
        content = {
            "parameters": self.parameters,
            "settings": self.settings,
            "started": began.isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "peak_memory_bytes": peak_memory(),
            "inputs": {_relative(p): fingerprint(p) for p in inputs},
            "outputs": [_relative(p) for p in outputs],
            "environment": environment(),
        }
        write_text(path, json.dumps(content, indent=2) + "\n")
        print(
            f"{self.settings['notebook']} took {seconds:.0f} s and at most "
            f"{content['peak_memory_bytes'] / 2**30:.1f} GiB of memory."
        )


def start_record(settings: dict, **parameters: str | int) -> Record:
    """Check the parameters that were injected and start the clock.

    Parameters
    ----------
    settings
        As returned by :func:`paperlib.config.load_settings`.
    **parameters
        The notebook's parameters.

    Raises
    ------
    ValueError
        If papermill injected a name that the parameters cell does not declare
        (papermill itself accepts it), or a value of another type.
    """
    cells = _executed_cells()
    for before, injected in zip(cells, cells[1:], strict=False):
        if injected.startswith("# Parameters\n"):
            _check_injected(declared=before, injected=injected)
    return Record(parameters, settings, time.time())


def check_configured(
    records: Path, overrides: str, **keys: Iterable[str | int]
) -> None:
    """Refuse results of earlier steps whose values were replaced by hand.

    Tables are made of what the configuration says, and of nothing else.

    Parameters
    ----------
    records
        Folder of the run records.
    overrides
        Of this execution; those of earlier steps may be the same.
    **keys
        Values of identity keys, such as ``subject=[1, 2]``, of what is read; records
        of others do not matter.

    Raises
    ------
    ValueError
        If an execution of notebooks 01 to 05 had others, and not only such as say
        where and how fast it runs.
    """
    read = {key: set(values) for key, values in keys.items()}
    for path in sorted(records.glob("0[1-5]_*.json")):
        parameters = json.loads(path.read_text(encoding="utf-8"))["parameters"]
        own = parameters.keys() & read
        if not all(parameters[key] in read[key] for key in own):
            continue
        replaced = parameters["overrides"]
        if replaced != overrides and without_speed(yaml.safe_load(replaced) or {}):
            raise ValueError(
                f"{path.stem} was run by hand with {replaced!r}, and "
                "its results stand where those of the configuration belong. Make these "
                f"again: ./run_all.sh --config {parameters['config']} --force "
                f"{_relative(path)}"
            )


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment() -> dict:
    """Describe commit, machine and package versions."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len((_git("status", "--porcelain") or "").splitlines()),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def fingerprint(path: Path) -> dict:
    """Return size in bytes and SHA-256 of a file, or of every file of a folder.

    Files over 256 MiB are hashed by their first and last MiB (``"edges"``). Hidden
    files of a folder, such as those that are not whole yet, do not count.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("[!.]*") if p.is_file())
        return {str(p.relative_to(path)): fingerprint(p) for p in files}
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= _WHOLE:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return {"bytes": size, "sha256": digest}
        edges = stream.read(_EDGE)
        stream.seek(-_EDGE, 2)
        edges += stream.read()
    return {"bytes": size, "sha256_edges": hashlib.sha256(edges).hexdigest()}


def library_modules(notebook: Path) -> list[str]:
    """List the files of ``paperlib`` that a notebook imports, directly or not.

    Parameters
    ----------
    notebook
        A ``.py`` notebook or module.

    Returns
    -------
    list of str
        Paths relative to the repository, sorted.
    """
    found: set[Path] = set()
    waiting = [Path(notebook)]
    while waiting:
        for module in _imported_files(waiting.pop()) - found:
            found.add(module)
            waiting.append(module)
    return sorted(str(path.relative_to(ROOT)) for path in found)


@cache
def _imported_files(source: Path) -> set[Path]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    ours = (name.split(".") for name in names if name.split(".")[0] == "paperlib")
    places = {ROOT.joinpath(*parts[:i]) for parts in ours for i in range(1, 4)}
    candidates = {p.with_suffix(".py") for p in places}
    candidates |= {p / "__init__.py" for p in places}
    return {path for path in candidates if path.is_file()}


def _executed_cells() -> list[str]:
    """Return the source of the cells run so far; none outside Jupyter."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return [cell for cell in shell.user_ns["In"] if cell] if shell else []


def _check_injected(*, declared: str, injected: str) -> None:
    types = {
        node.target.id: node.annotation.id
        for node in ast.parse(declared).body
        if isinstance(node, ast.AnnAssign)
    }
    for node in ast.parse(injected).body:
        name, value = node.targets[0].id, ast.literal_eval(node.value)
        if name not in types:
            raise ValueError(
                f"This notebook has no parameter {name!r}; it has {list(types)}."
                f"{did_you_mean(name, types)}"
            )
        if type(value).__name__ != types[name]:
            raise ValueError(
                f"The parameter {name!r} must be of type {types[name]}; got "
                f"{value!r} ({type(value).__name__})."
            )


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _relative(path: Path) -> str:
    path = Path(path)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
