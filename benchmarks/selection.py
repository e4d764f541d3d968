"""What values of ``mini`` were chosen by: scores on held-out training concepts.

Each candidate changes some values of a run. It is fitted as in notebook 04, to five
sixths of the training concepts, and predicts the responses to the others; the test
images are not read. It takes signals and tokens of a finished ``./run_all.sh``:

    python benchmarks/selection.py things-eeg2                # every candidate
    python benchmarks/selection.py things-eeg2 first_version  # those of some runs

Writes ``benchmarks/selection_mini.json``, a candidate at a time. A change is empty
where the run is as it is configured. Scores are those of the posterior mean, averaged
over the folds (disjoint sets of held-out concepts).
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from paperlib.atomic import write_text
from paperlib.config import Config, load_config
from paperlib.coordinates import fit_coordinates
from paperlib.evaluation.identification import response_correlations, top_hits
from paperlib.evaluation.metrics import pearson, pearson_flattened
from paperlib.methods import build_model
from paperlib.paths import ROOT, template
from paperlib.recordings.signals import load_signals, select_concepts, training_targets
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.images import read_images
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens
from paperlib.training import Pairs

RESULTS = ROOT / "benchmarks/selection_mini.json"
SUBJECT, FOLDS, PARTS = 1, (0, 1), 6

RATES = {  # method -> learning rates that are tried
    "dit": ("1.0e-3", "1.5e-3", "2.0e-3"),
    "unet": ("5.0e-4", "1.0e-3", "2.0e-3"),
    "synbrain": ("2.0e-3", "4.0e-3", "8.0e-3"),
}
RUNS = (
    *("image_ridge", "clip_ridge", "cnn_ridge"),
    *("ours_v", "ours_plus", "ours_plus_cnn", "ours_skip", "first_version", "synbrain"),
)
CONFIGURED = load_config("mini").runs
CANDIDATES = {  # run -> changes of its values on each data set, one candidate each
    run: [
        f"training: {{learning_rate: {rate}}}"
        for rate in RATES.get(CONFIGURED[run].method, ())
    ]
    or [""]
    for run in RUNS
}
CANDIDATES["ours_plus"] += [  # EEG is whitened over channels by its preprocessing
    f"coordinates: {{spatial_whitening: {power}}}" for power in (0, 0.25)
]


def validate(cfg: Config, dataset: str, fold: int, seed: int) -> dict[str, float]:
    """Fit a candidate and score it on concepts that it has not seen."""
    known = {"config": "mini", "data_root": cfg.data_root, "dataset": dataset}
    known |= {"subject": SUBJECT}
    recorded = load_signals(ROOT / template("signals", **known))
    images = read_images(ROOT / template("images", **known))
    images = select_concepts(images, recorded.concepts)
    images = images[images["partition"] == "training"].reset_index(drop=True)
    names = np.random.default_rng(1).permutation(images["concept"].unique())
    is_held_out = images["concept"].isin(np.array_split(names, PARTS)[fold])
    rows, unseen = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    began = time.process_time()
    responses = training_targets(recorded, cfg.training.repetitions)  # N R C T
    files = [template("tokens", tokens=name, **known) for name in cfg.token_sources]
    sources = [Tokens(ROOT / file) for file in files]
    if layers := cfg.conditioning.layers:
        chosen = images["image_id"][rows].tolist()
        sources[-1] = fit_map_tokens(sources[-1], layers, chosen)
    condition = Condition(sources, images["image_id"])
    coordinates = fit_coordinates(responses, rows, **cfg.coordinates.model_dump())
    torch.manual_seed(seed)
    model = build_model(
        cfg.method,
        cfg.model,
        ch_names=recorded.ch_names,
        n_tokens=condition.n_tokens,
        context_width=condition.width,
        coordinates=coordinates,
        diffusion=cfg.diffusion,
    )
    pairs = [
        Pairs(responses, part, context=condition, coordinates=coordinates)
        for part in (rows, unseen)
    ]
    options = {"options": cfg.training, "machine": cfg.machine, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        curve = model.fit(*pairs, folder=Path(folder), **options)
    seconds = time.process_time() - began

    asked = Condition(sources, images["image_id"][unseen])
    options = {"sampling": cfg.sampling, "machine": cfg.machine, "seed": 0}
    expected, truth = model.posterior_mean(asked, **options), responses[unseen].mean(1)
    common = responses[rows].mean((0, 1))
    specific = pearson_flattened(expected - common, truth - common)
    hits = top_hits(response_correlations(truth, expected), k=5)
    return {
        "specific": float(specific.mean()),
        "pearson": float(pearson(expected, truth).mean()),
        "mse": float(np.square(expected - truth).mean()),
        "top5": float(np.mean(hits)),
        "validation_loss": float(curve["validation_loss"].iloc[-1]),
        "core_seconds": seconds,
    }


def main() -> None:
    """Score every candidate that was asked for, keeping what others scored."""
    dataset, *runs = sys.argv[1:]
    runs = runs or list(CANDIDATES)
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    rows = [r for r in kept if r["dataset"] != dataset or r["run"] not in runs]
    for run in runs:
        for change in CANDIDATES[run]:
            overrides = f"datasets: {{{dataset}: {{runs: {{{run}: {{{change}}}}}}}}}"
            cfg = load_config("mini", overrides).of(dataset=dataset, run=run)
            scores = [validate(cfg, dataset, fold, seed=0) for fold in FOLDS]
            row = {"dataset": dataset, "run": run, "change": change}
            row |= {k: round(np.mean([s[k] for s in scores]), 4) for k in scores[0]}
            row["folds"] = [round(score["specific"], 4) for score in scores]
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_text(RESULTS, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
