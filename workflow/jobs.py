"""Names, inputs and values of the jobs that the Snakefile connects.

A job is one execution of a notebook. What is named here is relative to the repository,
which is the working directory.
"""

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path

import yaml
from pydantic_core import to_jsonable_python

from paperlib.config import GROUPS, Config, load_config
from paperlib.paths import IDENTITY, job_name, template


class Jobs:
    """The jobs of a configuration.

    While ``dry_run()``, missing public files are left out, so that every job is listed
    without any data.
    """

    def __init__(self, config: str, *, dry_run: Callable[[], bool]):
        self.config, self.cfg = config, load_config(config)
        self.datasets = {d: self.cfg.of(dataset=d) for d in self.cfg.datasets}
        self.may_lack_data = lambda: dry_run() and not self.cfg.simulated
        self._chosen = cache(self.cfg.of)

    def path(self, alias: str, **keys: str | int) -> str:
        """Fill the configuration into a path template; other keys stay wildcards."""
        known = {"config": self.cfg.name, "data_root": self.cfg.data_root}
        return template(alias, **known, **keys)

    def file(self, alias: str, notebook: str, **fixed: str | int) -> str:
        """Name the record, log or copy of a job, with wildcards for keys not fixed."""
        keys = {key: f"{{{key}}}" for key in IDENTITY[notebook]} | {"images": ""}
        return self.path(alias, job=job_name(notebook, **(keys | fixed)))

    def logs(self, notebook: str, **fixed: str | int) -> dict[str, str]:
        """Name the executed notebook and what it printed."""
        aliases = {"notebook": "notebook", "text": "log"}
        return {k: self.file(a, notebook, **fixed) for k, a in aliases.items()}

    def tables(self, *names: str) -> list[str]:
        """Name the three files of every table."""
        ends = ("csv", "md", "tex")
        return [self.path("table", name=f"{n}.{end}") for n in names for end in ends]

    def figures(self, *names: str) -> list[str]:
        """Name the two files of every figure."""
        ends = ("png", "pdf")
        return [self.path("figure", name=f"{n}.{end}") for n in names for end in ends]

    def image_list(self, dataset: str) -> list[str]:
        """Name the list of a data set's images."""
        return self._public(self.path("image_list", dataset=dataset))

    def recordings(self, dataset: str, *subjects: int) -> list[str]:
        """Name the recordings of participants, as they are published."""
        source, files = self.datasets[dataset].preprocessing.source, []
        for subject in subjects:
            alias = "raw" if source.startswith("raw") else "published"
            folder = self.path(alias, dataset=dataset, subject=subject)
            files += recording_files(source, folder, subject)
        return self._public(*files)

    def caption_files(self, captioner: str) -> list[str]:
        """Name captions that were written elsewhere, or weights that are a file."""
        entry = self.cfg.captioning.captioners[captioner]
        keys = [key for key in ("file", "projection") if hasattr(entry, key)]
        return self._public(*[getattr(entry, key) for key in keys])

    def embedded(self, dataset: str, tokens: str) -> list[str]:
        """Name what is turned into tokens: images, or images with captions."""
        captions = self.path("captions", dataset=dataset, captioner=tokens)
        is_text = tokens in self.cfg.captioning.captioners
        return self.image_list(dataset) + [captions] * is_text

    def tokens(self, dataset: str, run: str) -> list[str]:
        """Name the token files that condition a run."""
        sources = self._chosen(dataset=dataset, run=run).token_sources
        return [self.path("tokens", dataset=dataset, tokens=name) for name in sources]

    def captions(self, dataset: str, run: str) -> list[str]:
        """Name the captions that condition a run, if any do."""
        name = self._chosen(dataset=dataset, run=run).conditioning.captioner
        return [self.path("captions", dataset=dataset, captioner=name)] if name else []

    def signals(self, dataset: str) -> list[str]:
        """Name the preprocessed signals of every participant of a data set."""
        subjects = self.datasets[dataset].subjects
        folders = [self.path("signals", dataset=dataset, subject=s) for s in subjects]
        return [f"{folder}/info.json" for folder in folders]

    def sampled(self, dataset: str, runs: list[str], subjects: list[int]) -> list[str]:
        """Name what notebook 05 leaves of every run and participant."""
        keys = [
            {"dataset": dataset, "run": r, "subject": s} for r in runs for s in subjects
        ]
        marks = [self.path("run", **k) + "/.sampled" for k in keys]
        return marks + [self.file("record", "05_sample", **k) for k in keys]

    def parameters(self, **fixed: str | int) -> Callable:
        """Return a params function: what papermill injects, as YAML."""

        def of_job(wildcards):
            keys = {k: int(v) if k == "subject" else v for k, v in wildcards.items()}
            return yaml.safe_dump({"config": self.config} | keys | fixed)

        return of_job

    def values(self, *sections: str, **fixed: str) -> Callable:
        """Return a params function: sections of the configuration as plain values."""

        def of_job(wildcards):
            cfg = self._of(dict(wildcards.items()) | fixed)
            return {name: to_jsonable_python(getattr(cfg, name)) for name in sections}

        return of_job

    def captioning(self, wildcards) -> dict:
        """Return the options of one captioner as plain values."""
        values = self.cfg.captioning.model_dump(mode="json")
        return values | {"captioners": values["captioners"][wildcards.captioner]}

    def embedding(self, wildcards) -> dict:
        """Return the options of one network, or of CLIP, as plain values."""
        clip = self.cfg.embedding.model_dump(mode="json")
        return clip.pop("networks").get(wildcards.tokens, clip)

    def options(self, runs: list[str]) -> dict:
        """Return what distinguishes runs as plain values."""
        speed = {"machine", "resources"}
        entries = {run: self.cfg.runs[run] for run in runs}
        return {r: e.model_dump(mode="json", exclude=speed) for r, e in entries.items()}

    def granted(self, name: str, unit: int = 1) -> Callable:
        """Return a function: how much of a resource a job may use.

        A job that failed gets more memory when it is tried again.
        """

        def of_job(wildcards, input, rulename, attempt):
            ends = [d for d in self.datasets if rulename.endswith(d)]
            keys = dict.fromkeys(["dataset"], *ends) | dict(wildcards.items())
            resources = self._of(keys).resources[Path(input.notebook).stem]
            tries = attempt if name == "memory" else 1
            return round(getattr(resources, name) * unit * tries)

        return of_job

    def _of(self, keys: dict) -> Config:
        return self._chosen(dataset=keys.get("dataset"), run=keys.get("run"))

    def _public(self, *files: str) -> list[str]:
        return [f for f in files if Path(f).exists() or not self.may_lack_data()]


def compared_runs(cfg: Config) -> list[str]:
    """List the runs of a data set's main table."""
    runs = [r for row in cfg.comparison for r in (row.run, row.average_with) if r]
    return list(dict.fromkeys(runs))


def ablated_runs(cfg: Config) -> list[str]:
    """List the runs of a data set's ablations."""
    runs = [run for group in GROUPS for run in getattr(cfg.ablations, group)]
    return list(dict.fromkeys(runs))


def recording_files(source: str, folder: str | Path, subject: int) -> list[str]:
    """Name a participant's recordings in the layout that is there, or the official one.

    Runs are named by their folders, files in several parts by the first.
    """
    parts, sessions = ("training", "test"), [f"ses-{n:02d}" for n in (1, 2, 3, 4)]
    layouts = {
        "raw": [
            [f"{session}/raw_eeg_{part}.npy" for session in sessions for part in parts],
            [f"{session}/eeg" for session in sessions],  # BIDS
        ],
        "published": [
            [f"preprocessed_eeg_{part}.npy" for part in parts],
            ["train.pt", "test.pt"],  # of UBP
            ["info.json", "training.npy", "test.npy"],  # of save_signals
        ],
        "epochs": [[f"preprocessed_P{subject}-epo.fif"]],
        "raw_ctf": [[f"sub-BIGMEG{subject}"]],
    }[source]
    there = (n for n in layouts if all(Path(folder, name).exists() for name in n))
    return [f"{folder}/{name}" for name in next(there, layouts[0])]


def code(notebook: str) -> dict:
    """Name a notebook and the modules that decide what it makes.

    The configuration stands in params instead, and how figures are drawn does not
    matter to notebooks 00 to 05, which make data.
    """
    without = ("paperlib/config.py", "paperlib/notebook.py")
    without += ("paperlib/reporting/",) if notebook < "06" else ()
    modules, waiting = set(), [f"notebooks/{notebook}.py"]
    while waiting:
        new = {f for f in _imported(waiting.pop()) if not f.startswith(without)}
        waiting += new - modules
        modules |= new
    return {"notebook": f"notebooks/{notebook}.py", "modules": sorted(modules)}


@cache
def _imported(file: str) -> set[str]:
    """Return the files of this repository that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    stems = [name.replace(".", "/") for name in names]
    files = [stem + end for stem in stems for end in (".py", "/__init__.py")]
    ours = ("paperlib/", "minithings/")
    return {file for file in files if file.startswith(ours) and Path(file).is_file()}
