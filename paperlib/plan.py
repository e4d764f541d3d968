"""The run matrix: what a dry run of Snakemake would execute, and what it would take."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent
from tabulate import tabulate

from paperlib.paths import IDENTITY
from paperlib.runs_left import Listener, read_times

HEADERS = (
    *("notebook", "data set", "of", "participants", "seeds", "executions"),
    *("GPU hours", "core hours", "known from"),
)


@dataclass(frozen=True)
class Execution:
    """One execution of a notebook.

    Attributes
    ----------
    job : str
        Its name, see :func:`paperlib.paths.job_name`.
    notebook : str
        Such as ``"04_train"``.
    keys : dict
        Identity: data set, run, subject and so on, as text.
    """

    job: str
    notebook: str
    keys: Mapping[str, str]

    @property
    def row(self) -> tuple[str, str, str]:
        """Notebook, data set and run (or captioner, or tokens): a row of the matrix."""
        named = (self.keys.get(key, "") for key in ("run", "captioner", "tokens"))
        return self.notebook, self.keys.get("dataset", ""), "".join(named)


@dataclass(frozen=True)
class Hours:
    """What an execution takes, and how that is known."""

    gpu: float
    core: float
    source: str


class Plan(Listener):
    """Prints the run matrix at the end of a dry run of Snakemake.

    It says nothing in any other execution.

    Parameters
    ----------
    settings
        A whole configuration.
    records, elsewhere
        As for :class:`paperlib.runs_left.Listener`.
    """

    def __init__(self, settings: dict, *, records: Path, elsewhere: Path):
        super().__init__(records, elsewhere=elsewhere)
        self.settings = settings
        self.executions: list[Execution] = []

    def _follow(self, record: logging.LogRecord) -> None:
        match getattr(record, "event", None):
            case LogEvent.JOB_INFO:
                self.executions += [
                    name_execution(job, record.wildcards) for job in self._jobs(record)
                ]
            case LogEvent.JOB_STARTED:  # not a dry run
                logger.removeHandler(self)
            case LogEvent.RUN_INFO if self.executions:  # said again at its end
                print(self.describe())

    def describe(self) -> str:
        """Return the matrix, its sum, and what estimates rest on."""
        hours = know_hours(
            self.executions,
            self.settings,
            records=self.records,
            elsewhere=self.elsewhere,
        )
        rows = tabulate_plan(self.executions, hours)
        table = tabulate(rows, HEADERS, floatfmt=".2f", missingval="?")
        lines = [f"\nRun matrix of {self.settings['name']}\n", table]
        if any(known and known.source == "estimate" for known in hours.values()):
            from paperlib.compute import list_assumptions  # imports torch: seconds

            lines += ["\nEstimates:", *(f"- {line}" for line in list_assumptions())]
        return "\n".join(lines) + "\n"


def name_execution(job: str, wildcards: Mapping[str, str]) -> Execution:
    """Return an execution from its name and the wildcards of its rule."""
    notebook = next(name for name in IDENTITY if job.startswith(name))
    rest = job.removeprefix(notebook).removeprefix("_")
    fixed = {"dataset": rest} if IDENTITY[notebook] == ("dataset",) else {}
    return Execution(job, notebook, {**fixed, **wildcards})


def know_hours(
    executions: list[Execution], settings: dict, *, records: Path, elsewhere: Path
) -> dict[str, Hours | None]:
    """Return what each execution takes: measured before estimated.

    Its own record counts first, then those of the same row, then what the notebook
    took elsewhere, then the estimate for full-size models. Simulated configurations
    have no such models: what was never measured is None.

    Parameters
    ----------
    executions, settings
        What to know it of, and of which configuration.
    records, elsewhere
        As for :class:`Plan`.
    """
    measured = {e.job: _read_hours(records / f"{e.job}.json") for e in executions}
    of_row = defaultdict(list)
    for execution in executions:
        if known := measured[execution.job]:
            of_row[execution.row].append(known)
    typical = {
        notebook: Hours(0.0, seconds / 3600, elsewhere.name)
        for notebook, seconds in read_times(elsewhere).items()
    }
    return {
        e.job: measured[e.job]
        or _mean(of_row[e.row])
        or typical.get(e.notebook)
        or _estimate(e, settings)
        for e in executions
    }


def tabulate_plan(
    executions: list[Execution], hours: Mapping[str, Hours | None]
) -> list[list]:
    """Return the rows of the matrix, in the order of the notebooks, and their sum.

    Parameters
    ----------
    executions
        At least one.
    hours
        From :func:`know_hours`; a row with one that is None has None.
    """
    of_row = defaultdict(list)
    for execution in executions:
        of_row[execution.row].append(execution)
    rows = [[*row, *_summarize(of_row[row], hours)] for row in sorted(of_row)]
    return [*rows, ["sum", "", "", "", "", *_sum(executions, hours), ""]]


def _summarize(executions: list[Execution], hours: Mapping[str, Hours | None]) -> list:
    """Return a row's participants, seeds, executions, hours and their source."""
    subjects, seeds = (
        len({e.keys[key] for e in executions if key in e.keys}) or ""
        for key in ("subject", "seed")
    )
    sources = {known.source for e in executions if (known := hours[e.job])}
    return [subjects, seeds, *_sum(executions, hours), ", ".join(sorted(sources))]


def _sum(
    executions: list[Execution], hours: Mapping[str, Hours | None]
) -> tuple[int, float | None, float | None]:
    """Return number, GPU hours and core hours, None where any is unknown."""
    known = [hours[e.job] for e in executions]
    if None in known:
        return len(known), None, None
    return len(known), sum(k.gpu for k in known), sum(k.core for k in known)


def _read_hours(path: Path) -> Hours | None:
    """Return what an execution took, from its record, if there is one."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    hours, environment = content["seconds"] / 3600, content["environment"]
    if environment["gpu"]:
        return Hours(hours, 0.0, "records")
    return Hours(0.0, hours * environment["threads"], "records")


def _mean(known: list[Hours]) -> Hours | None:
    if not known:
        return None
    return Hours(fmean(k.gpu for k in known), fmean(k.core for k in known), "records")


def _estimate(execution: Execution, settings: dict) -> Hours | None:
    if settings["simulated"]:
        return None
    from paperlib.compute import estimate_cost  # imports torch: seconds

    cost = estimate_cost(execution.notebook, settings, dict(execution.keys))
    return Hours(cost.gpu_hours, cost.core_hours, "estimate")
