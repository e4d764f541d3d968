"""What every notebook opens with: parameters, configuration, paths and run record."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from paperlib.atomic import write_text
from paperlib.config import Config, load_config
from paperlib.paths import IDENTITY, ROOT, TEMPLATES, job_name, template
from paperlib.validation import did_you_mean

_PACKAGES = (
    *("torch", "accelerate", "transformers", "open_clip_torch"),
    *("mne", "numpy", "numba"),
)
_PLAIN = (str, int, float, bool, list, dict, type(None))


class Notebook:
    """An execution of a notebook; made by :func:`open_notebook`.

    ``cfg`` is the configuration as it holds for the notebook's data set and run.
    """

    def __init__(self, name: str, parameters: dict, cfg: Config):
        self.name, self.parameters, self.cfg = name, parameters, cfg
        self._keys = {key: parameters[key] for key in IDENTITY[name]}
        self._base = cfg.name.partition("+")[0]  # without overrides
        self._started = time.time()

    def input(self, alias: str, **keys: str | int) -> Path:
        """Return the path of a file or folder that the notebook reads.

        ``alias`` is a key of :data:`paperlib.paths.TEMPLATES`; ``dataset``, ``run`` …
        are those of the notebook unless given. With ``overrides``, what the
        configuration itself made is read where nothing was made with them.
        """
        path = self.output(alias, **keys)
        original = self._path(alias, self._base, keys)
        return path if path.exists() else original

    def output(self, alias: str, **keys: str | int) -> Path:
        """Return the path of a file or folder that the notebook writes."""
        return self._path(alias, self.cfg.name, keys)

    def finish(self) -> None:
        """Write the run record and print what the execution took."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        seconds = time.time() - self._started
        began = datetime.fromtimestamp(self._started, UTC)
        record = {
            "parameters": self.parameters,
            "started": began.isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "core_seconds": round(sum(os.times()[:4]), 1),  # with child processes
            "peak_memory_bytes": peak,
            "commit": _git("rev-parse", "HEAD"),
            "changed_files": len((_git("status", "--porcelain") or "").splitlines()),
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "machine": f"{platform.system()} {platform.machine()}",
        }
        write_text(self.output("record"), json.dumps(record, indent=2) + "\n")
        print(
            f"{self.name} took {seconds:.0f} s and at most {peak / 2**30:.1f} GiB of "
            "memory."
        )

    def _path(self, alias: str, config: str, keys: dict) -> Path:
        job = job_name(self.name, **self._keys)
        data_root = f"{self.cfg.data_root}{config.removeprefix(self._base)}"
        known = {"config": config, "data_root": data_root, "job": job}
        path = template(alias, **(known | self._keys | keys))
        if "{" in path:
            raise ValueError(
                f"The path {alias!r} ({TEMPLATES[alias]}) needs a key that was not "
                f"given; what is left is {path}"
            )
        return ROOT / path


def open_notebook(name: str, variables: dict) -> Notebook:
    """Check a notebook's parameters and read its configuration.

    ``variables`` are the notebook's ``globals()`` right after its cells of parameters
    and imports. Parameters are those declared with a type, as in ``subject: int = 1``;
    papermill itself would accept a name that is none of them.
    """
    types = variables["__annotations__"]
    if "nb" not in variables:  # not again, when more than parameters is defined
        _check_parameters(variables, types)
    parameters = {key: variables[key] for key in types}
    cfg = load_config(parameters["config"], parameters["overrides"])
    chosen = {key: parameters[key] for key in ("dataset", "run") if key in types}
    return Notebook(name, parameters, cfg.of(**chosen))


def _check_parameters(variables: dict, types: dict) -> None:
    for key, value in variables.items():
        hidden = key.startswith("_") or key in ("In", "Out")
        if hidden or not isinstance(value, _PLAIN):
            continue
        if key not in types:
            raise ValueError(
                f"This notebook has no parameter {key!r}; it has {', '.join(types)}."
                f"{did_you_mean(key, types)}"
            )
        if type(value) is not types[key]:
            raise ValueError(
                f"The parameter {key!r} must be of type {types[key].__name__}; got "
                f"{value!r} ({type(value).__name__})."
            )


def _git(*arguments: str) -> str | None:
    """Return what git says of the repository, None without git or a repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
