"""Which run is at work and how long the rest takes: a line in Snakemake's log."""

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent


@dataclass(frozen=True)
class Run:
    """A run at work, since ``began`` (s, of a monotonic clock)."""

    rule: str
    threads: int
    began: float

    def cost(self, now: float) -> float:
        """Return the core seconds spent so far."""
        return (now - self.began) * self.threads


class Workload:
    """What is done and what is left of an execution, in core seconds.

    Parameters
    ----------
    counts
        Number of runs of each rule.
    earlier
        Core seconds of each rule's runs in earlier executions; rules may be missing.
    """

    def __init__(self, counts: Mapping[str, int], earlier: Mapping[str, list[float]]):
        self.waiting = Counter(counts)
        self.n_runs = sum(counts.values())
        self.earlier = earlier
        self.finished: dict[str, list[float]] = defaultdict(list)
        self.running: dict[int, Run] = {}
        self.began: float | None = None

    @property
    def n_started(self) -> int:
        """Number of runs that have started."""
        return self.n_runs - self.waiting.total()

    @property
    def is_timed(self) -> bool:
        """Whether every rule with runs left has finished one, now or earlier."""
        left = {run.rule for run in self.running.values()} | set(+self.waiting)
        return all(self.finished[rule] or self.earlier.get(rule) for rule in left)

    def start(self, job: int, rule: str, *, threads: int, now: float) -> None:
        """Take a run from those that wait."""
        self.began = now if self.began is None else self.began
        self.waiting[rule] -= 1
        self.running[job] = Run(rule, threads, now)

    def finish(self, job: int, now: float) -> None:
        """Note what a run cost."""
        run = self.running.pop(job)
        self.finished[run.rule].append(run.cost(now))

    def fail(self, job: int) -> None:
        """Forget a run that stopped; what it cost says nothing of others."""
        del self.running[job]

    def seconds_left(self, now: float) -> float | None:
        """Estimate the time to the end; None if no run has ever finished.

        A run costs as much as its rule's finished runs on average, else as those of
        earlier executions, else as all. The work goes on at the pace it had so far.
        """
        costs = [cost for known in self._known() for cost in known]
        if not costs:
            return None
        left = sum(n * self._expect(rule, costs) for rule, n in self.waiting.items())
        for run in self.running.values():
            left += max(self._expect(run.rule, costs) - run.cost(now), 0)
        return left / self._pace(now)

    def _known(self) -> Iterable[list[float]]:
        return [*self.finished.values(), *self.earlier.values()]

    def _expect(self, rule: str, otherwise: list[float]) -> float:
        return fmean(self.finished[rule] or self.earlier.get(rule) or otherwise)

    def _pace(self, now: float) -> float:
        """Return how many cores were at work on average."""
        done = [cost for costs in self.finished.values() for cost in costs]
        if not done:
            return sum(run.threads for run in self.running.values())
        at_work = [run.cost(now) for run in self.running.values()]
        return (sum(done) + sum(at_work)) / (now - self.began)


class Listener(logging.Handler):
    """Hears what Snakemake logs; subclasses say in ``_follow`` what they make of it.

    Parameters
    ----------
    records
        Folder of the run records, relative to the repository.
    elsewhere
        What ``benchmarks/run_times.py`` wrote on another machine; it need not exist.
    """

    def __init__(self, records: str | Path, *, elsewhere: str | Path):
        super().__init__()
        self.records = Path(records)
        self.elsewhere = Path(elsewhere)

    def emit(self, record: logging.LogRecord) -> None:
        """Follow one of Snakemake's messages; never stop Snakemake."""
        try:
            self._follow(record)
        except Exception:
            self.handleError(record)

    def _jobs(self, record: logging.LogRecord) -> list[str]:
        """Name the notebook executions of a job, by the records that it will write."""
        written = (Path(file) for file in record.output)
        return [path.stem for path in written if path.parent == self.records]


class RunsLeft(Listener):
    """Logs number, name and time left whenever Snakemake starts a run.

    It stays silent in a dry run, where no job is started, in the processes of single
    jobs, which announce no statistics, and where Snakemake is to be quiet about
    progress.

    Parameters
    ----------
    records, elsewhere
        As for :class:`Listener`.
    """

    def __init__(self, records: str | Path, *, elsewhere: str | Path):
        super().__init__(records, elsewhere=elsewhere)
        self.workload: Workload | None = None
        self.started: set[int] = set()

    def _follow(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                rules = record.stats.keys() - {"all", "total"}
                counts = {rule: record.stats[rule] for rule in rules}
                earlier = read_costs(self.records, self.elsewhere, rules)
                self.workload = Workload(counts, earlier)
            case LogEvent.JOB_STARTED if self.workload:
                self.started.update(record.jobs)
            case LogEvent.JOB_INFO if record.jobid in self.started:
                self._start(record, now)
            case LogEvent.JOB_FINISHED if record.job_id in self._running():
                self.workload.finish(record.job_id, now)
            case LogEvent.JOB_ERROR if record.jobid in self._running():
                self.workload.fail(record.jobid)

    def _running(self) -> Iterable[int]:
        return self.workload.running if self.workload else ()

    def _start(self, record: logging.LogRecord, now: float) -> None:
        rule, threads = record.rule_name, record.threads
        if rule not in self.workload.waiting:  # all
            return
        self.workload.start(record.jobid, rule, threads=threads, now=now)
        name = next(iter(self._jobs(record)), rule)
        line = describe(self.workload, name, now)
        logger.info(line, extra={"quietness": Quietness.PROGRESS})


def read_costs(
    records: Path, elsewhere: Path, rules: Iterable[str]
) -> dict[str, list[float]]:
    """Read what the runs of each rule cost, here or else on another machine.

    Parameters
    ----------
    records
        Folder of the run records; it need not exist.
    elsewhere
        As for :class:`Listener`.
    rules
        A rule's records are named as its notebook, such as ``04_train``, and on.

    Returns
    -------
    dict
        Core seconds of every record, for each rule.
    """
    found = {}
    times = read_times(elsewhere)
    for rule in rules:
        paths = sorted(records.glob(f"[0-9][0-9]_{rule}*.json"))
        typical = [cost for name, cost in times.items() if rule.startswith(name[3:])]
        found[rule] = [_read_cost(path) for path in paths] or typical
    return found


def describe(workload: Workload, name: str, now: float) -> str:
    """Say which run has just started, and how long is left."""
    run = f"Run {workload.n_started} of {workload.n_runs} ({name})"
    seconds = workload.seconds_left(now)
    if seconds is None:
        return f"{run}: time left not known yet"
    guess = "" if workload.is_timed else ", a guess: not every step is timed yet"
    return f"{run}: {_in_words(seconds)} left{guess}"


def _read_cost(path: Path) -> float:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["seconds"] * content["environment"]["threads"]


def read_times(path: Path) -> dict[str, float]:
    """Return the mean core seconds of each notebook, such as ``04_train``.

    Parameters
    ----------
    path
        Of what ``benchmarks/run_times.py`` wrote; nothing if it is not there.
    """
    if not path.is_file():
        return {}
    notebooks = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
    return {name: entry["mean_core_seconds"] for name, entry in notebooks.items()}


def _in_words(seconds: float) -> str:
    """Round a time to the unit that suits it."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    if minutes < 120:
        return f"about {minutes:.0f} min"
    hours = minutes / 60
    return f"about {hours:.0f} h" if hours < 72 else f"about {hours / 24:.0f} days"
