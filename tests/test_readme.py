"""The numbers in the README's tables of results, against the tables, as committed."""

import io
import re
import subprocess

import pandas as pd
import pytest

from paperlib.paths import ROOT

COLUMNS = {
    "MSE": "mse",
    "Pearson": "pearson",
    "SL": "sl",
    "Pearson, flattened, training mean removed": "pearson_specific",
    "the same for other images": "specific_chance",
    "identified, top 5": "top5",
}


def committed(path):
    """Return a file as it was committed last: tables that were made here may differ."""
    show = ["git", "-C", str(ROOT), "show", f"HEAD:{path}"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout


def split(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("kind", "name"), [("EEG", "tab01_things_eeg2"), ("MEG", "tab02_things_meg")]
)
def test_the_tables_of_results_are_those_that_came_out(kind, name):
    tables = [f"tables/mini/{name}{ending}.csv" for ending in ("", "_supplement")]
    scores = pd.concat(pd.read_csv(io.StringIO(committed(path))) for path in tables)
    scores = scores.set_index(["method", "metric"])[["mean", "low", "high"]]
    lines = iter(committed("README.md").splitlines())
    header = next(line for line in lines if line.startswith(f"| {kind} (Table"))
    assert split(header)[1:] == list(COLUMNS)
    next(lines)
    n_shown = 0
    for line in lines:
        if not line.startswith("|"):
            break
        method, *cells = split(line)
        for metric, cell in zip(COLUMNS.values(), cells, strict=True):
            shown = re.findall(r"-?[\d,]+\.?\d*", cell.replace(",", ""))
            true = scores.loc[(method, metric)].to_list()[: len(shown)]
            for text, value in zip(shown, true, strict=True):
                assert text == f"{value:.{len(text.partition('.')[2])}f}"
            n_shown += len(shown)
    assert n_shown > 100
