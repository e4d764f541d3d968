"""What values of ``mini`` were chosen by: scores on held-out training concepts.

Each candidate changes some values of a run. It is trained as notebook 04 trains it, and
then answers for the training concepts that it was not trained on; the test images are
not read. It takes signals and tokens of a finished ``./run_all.sh``:

    python benchmarks/selection.py things-eeg2                # every candidate
    python benchmarks/selection.py things-eeg2 first_version  # those of some runs

Writes ``benchmarks/selection_mini.json``, a candidate at a time. A change is empty
where the run is as it is configured; other seeds show what luck does.
"""

import json
import sys
import tempfile
import time
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
from machine import processor

from paperlib.atomic import write_text
from paperlib.config import load_settings
from paperlib.evaluation.identification import response_correlations, top_hits
from paperlib.evaluation.metrics import pearson_flattened
from paperlib.methods import respond
from paperlib.paths import ROOT, locate
from paperlib.recordings.signals import average_repetitions, mean_response
from paperlib.runs import fit_data, make_recipe, open_training_data
from paperlib.stimuli.conditions import open_condition

RESULTS = ROOT / "benchmarks/selection_mini.json"
SUBJECT = 1

CANDIDATES = {  # run -> changes of its values, one candidate each
    "ours_plus": [
        "",
        "training: {learning_rate: 2.0e-3}",
        "training: {learning_rate: 8.0e-3}",
        "training: {batch_size: 8, steps: 1500}",
    ],
    "ours_v": [
        "",
        "diffusion: {beta_end: 0.02}",
        "diffusion: {beta_end: 0.05}",
    ],
    "ours": [
        "",
        "training: {learning_rate: 1.0e-4}",
        "training: {learning_rate: 5.0e-4}",
        "training: {learning_rate: 2.0e-3}",
    ],
    "first_version": [
        "",
        "training: {learning_rate: 2.5e-4}",
        "training: {learning_rate: 5.0e-4}",
        "training: {learning_rate: 2.0e-3}",
        "training: {learning_rate: 4.0e-3}",
        "training: {batch_size: 16, steps: 400, learning_rate: 5.0e-4}",
        "sampling: {eta: 0.0}",
    ],
    "synbrain": [
        "",
        "training: {learning_rate: 2.0e-3}",
        "training: {learning_rate: 4.0e-3}",
        "training: {learning_rate: 1.6e-2}",
    ],
}
SEEDS = {"ours_plus": (0, 1, 2)}  # of other runs: 0


def validate(dataset: str, run: str, change: str, seed: int) -> dict:
    """Train a candidate and score it on concepts that it has not seen."""
    entries = {"dataset": dataset, "run": run}
    overrides = f"runs: {{{run}: {{{change}}}}}" if change else ""
    settings = load_settings("04_train", "mini", overrides, **entries)
    sampling = load_settings("05_sample", "mini", overrides, **entries)["sampling"]
    keys = {**entries, "subject": SUBJECT, "seed": seed}
    where = locate(settings, **keys)
    data = open_training_data(settings, where, seed=seed)
    recipe = make_recipe(settings, data, keys)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        states = {"folder": Path(folder), "inputs": []}
        model, curve = fit_data(recipe, data, settings=settings, **states)
    seconds = time.process_time() - began
    unseen = data.validation.rows
    common = mean_response(data.signals.training[data.training.rows])  # C T
    asked = data.images["image_id"].iloc[unseen]
    condition = open_condition(settings["conditioning"], where, asked)
    generated = respond(model, recipe, condition, sampling=sampling, seed=0).mean(1)
    recorded = average_repetitions(data.signals.training[unseen])  # N C T
    specific = pearson_flattened(generated - common, recorded - common)
    hits = top_hits(response_correlations(recorded, generated), k=5)
    return {
        **keys,
        "change": change,
        "core_seconds": round(seconds, 1),
        "validation_loss": round(curve[-1]["validation_loss"], 4),
        "pearson_specific": round(float(specific.mean()), 4),
        "top5": round(float(np.mean(hits)), 3),
        "n_images": len(unseen),
    }


def main() -> None:
    """Score every candidate that was asked for, keeping what others scored."""
    dataset, *runs = sys.argv[1:]
    runs = runs or list(CANDIDATES)
    kept = json.loads(RESULTS.read_text())["candidates"] if RESULTS.is_file() else []
    rows = [r for r in kept if r["dataset"] != dataset or r["run"] not in runs]
    about = {"date": str(date.today()), "machine": processor()}
    for run in runs:
        for change, seed in product(CANDIDATES[run], SEEDS.get(run, (0,))):
            rows.append(validate(dataset, run, change, seed))
            print(json.dumps(rows[-1]), flush=True)
            written = about | {"candidates": rows}
            write_text(RESULTS, json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
