"""Tell after every job how many are left, and how long they may take."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent


class TimeLeft(logging.Handler):
    """Logs the time left, from what jobs took in a whole run before.

    ``times`` is a file of ``benchmarks/run_times.py``. Only its ratios matter: the pace
    is that of the jobs that have finished. ``show`` is told, too, and at the start.
    """

    def __init__(self, times: Path, show: Callable[[str], None]):
        super().__init__()
        notebooks = json.loads(times.read_text(encoding="utf-8"))["notebooks"]
        self.costs = {name[3:]: n["mean_core_seconds"] for name, n in notebooks.items()}
        self.left, self.rules, self.done = Counter(), {}, 0.0
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Follow Snakemake's events."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            jobs = {rule: n for rule, n in record.stats.items() if self._cost(rule)}
            self.left, self.began = Counter(jobs), time.monotonic()
            if "paper" not in record.stats:  # nobody would end the page
                self.show = lambda left: None
            self.show(f"{self.left.total()} jobs left")
        elif event == LogEvent.JOB_INFO:
            self.rules[record.jobid] = record.rule_name
        elif event == LogEvent.JOB_FINISHED and self.left[self.rules[record.job_id]]:
            rule = self.rules[record.job_id]
            self.left[rule] -= 1
            self.done += self._cost(rule)
            costs = sum(n * self._cost(rule) for rule, n in self.left.items())
            minutes = (time.monotonic() - self.began) * costs / self.done / 60
            left = f"{self.left.total()} jobs left, about {minutes:.0f} min"
            logger.info(left)
            self.show(left)

    def _cost(self, rule: str) -> float:
        return next((c for name, c in self.costs.items() if rule.startswith(name)), 0)
