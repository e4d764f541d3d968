"""Memory and time of one participant of THINGS-EEG2 in full size, on a CPU.

Recordings of the public size and format (83 064 trials in four sessions) go through the
library as in notebooks 01, 03, 04, 05 and 06, with the run ``ours_plus`` of ``paper``.
Less than there: recordings are white noise; CLIP, of random weights, encodes 64 images
(random rows are written for the others); 2 training steps of 1 pair, 40 pairs for
validation; 1 sampling step for 8 test images, whose responses are repeated for all of
them. Each stage is a process of its own. ``peak_gb`` counts pages of mapped files,
which the system can take back; ``own_gb``, looked at five times a second, does not.

Run: ``python benchmarks/full_size_subject.py FOLDER`` (Linux; 26 GB in the folder);
``--tiny`` tries every stage, ``--only train`` runs single ones.
"""

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import processor
from PIL import Image

from paperlib.atomic import write_text
from paperlib.config import load_config
from paperlib.coordinates import fit_coordinates
from paperlib.evaluation import comparison
from paperlib.evaluation.synchronization import DelayEmbedding
from paperlib.methods import build_model
from paperlib.recordings import signals, things_eeg2
from paperlib.recordings.preprocessing import preprocess_recordings
from paperlib.stimuli.clip import Clip, image_tokens
from paperlib.stimuli.conditions import Condition, hold_out_concepts
from paperlib.stimuli.tokens import Tokens, write_tokens
from paperlib.training import Pairs

# isort: split
# paperlib first: it lets open_clip import where torchvision is of another build.
import open_clip

SEQUENCE, SOA, CYCLE = 20, 200, 6488  # images; samples; samples from one to the next
TINY = "--tiny" in sys.argv
CONCEPTS, TESTS = (24, 12) if TINY else (1654, 200)  # 10 images each; 1 image each
CLIP = "ViT-B-32" if TINY else "ViT-L-14-quickgelu"
NETWORK = "{width: 32, depth: 1, heads: 4}" if TINY else "{}"
OVERRIDES = f"""
methods: {{dit: {NETWORK}}}
training: {{repetitions: single, steps: 2, batch_size: 1, precision: "no"}}
sampling: {{steps: 1, samples: 1, precision: "no"}}
machine: {{device: cpu, workers: 0}}
"""
CFG = load_config("paper", OVERRIDES).of(dataset="things-eeg2", run="ours_plus")
IMAGE_IDS = [f"image_{n:05d}" for n in range(10 * CONCEPTS + TESTS)]


def record(folder: Path) -> None:
    """Write four sessions; each shows half of the training images."""
    half = 5 * CONCEPTS
    for session in (1, 2, 3, 4):
        rng = np.random.default_rng(session)
        shown = np.arange(1, half + 1) + half * (session % 2)
        training = [shown, shown, shown[:170]]
        test = [*[np.arange(1, TESTS + 1)] * 20, np.arange(1, 57) % TESTS + 1]
        for partition, codes, n in (("training", training, 90), ("test", test, 24)):
            n += -(sum(map(len, codes)) + n) % SEQUENCE  # catch trials fill a sequence
            codes = np.concatenate([*codes, [things_eeg2.TARGET_CODE] * n])
            places = np.arange(len(codes))
            onsets = 500 + CYCLE * (places // SEQUENCE) + SOA * (places % SEQUENCE)
            data = rng.standard_normal((64, CYCLE * (len(codes) // SEQUENCE)))
            data *= 1e-5  # V
            data[-1] = 0
            data[-1, onsets] = rng.permutation(codes)
            names, types = [*things_eeg2.RAW_CHANNELS, "stim"], ["eeg"] * 63 + ["stim"]
            content = {"raw_eeg_data": data, "ch_names": names, "ch_types": types}
            file = things_eeg2.raw_file(folder / f"raw/ses-0{session}", partition)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, content | {"sfreq": 1000})


def preprocess(folder: Path) -> None:
    """Do what notebook 01 does for all sessions."""
    preprocess_recordings(folder / "raw", folder / "signals", CFG.preprocessing)


def embed(folder: Path) -> None:
    """Do what notebook 03 does, for a few images; stream random rows for the others."""
    model, _, transform = open_clip.create_model_and_transforms(CLIP)
    clip = Clip(model.eval(), transform, open_clip.get_tokenizer(CLIP))
    shape = len(model.visual.positional_embedding), model.visual.proj.shape[1]  # L D
    rng = np.random.default_rng(0)

    def encode(numbers: list[int]) -> np.ndarray:
        if numbers[0] >= 64:
            return rng.standard_normal((len(numbers), *shape), np.float32)
        pixels = rng.integers(0, 256, (len(numbers), 500, 500, 3), np.uint8)
        return image_tokens(clip, map(Image.fromarray, pixels), normalize_by_cls=False)

    items = {name: number for number, name in enumerate(IMAGE_IDS)}
    path = folder / "tokens.npy"
    write_tokens(path, items, encode=encode, batch_size=16, made_with={})


def train(folder: Path) -> None:
    """Do what notebooks 04 and 05 do, with coordinates of every training response."""
    recorded = signals.load_signals(folder / "signals")
    responses = signals.training_targets(recorded, CFG.training.repetitions)  # N 4 C T
    concepts = np.repeat(np.arange(CONCEPTS), 10)
    rows = hold_out_concepts(concepts, n_held_out=1, seed=0)
    tokens = [Tokens(folder / "tokens.npy")]
    condition = Condition(tokens, IMAGE_IDS)
    options = CFG.coordinates.model_dump()
    coordinates = fit_coordinates(responses, range(len(responses)), **options)
    options = {"context": condition, "coordinates": coordinates}
    pairs = [Pairs(responses, part, **options) for part in rows]
    model = build_model(
        CFG.method,
        CFG.model,
        ch_names=recorded.ch_names,
        coordinates=coordinates,
        diffusion=CFG.diffusion,
        **{"n_tokens": condition.n_tokens, "context_width": condition.width},
    )
    options = {"machine": CFG.machine, "seed": 0}
    model.fit(*pairs, options=CFG.training, **options, folder=folder)
    tests = Condition(tokens, IMAGE_IDS[10 * CONCEPTS :][:8])
    model.sample(tests, sampling=CFG.sampling, **options)
    expected = model.posterior_mean(tests, sampling=CFG.sampling, **options)  # N C T
    np.save(folder / "posterior_mean.npy", expected)


def score(folder: Path) -> None:
    """Do what notebook 06 does for one method."""
    recorded = signals.load_signals(folder / "signals")
    common = signals.mean_response(recorded.training)  # C T
    target = signals.average_repetitions(recorded.test)  # N C T
    expected = np.resize(np.load(folder / "posterior_mean.npy"), target.shape)
    options = CFG.evaluation.model_dump(include={"dim", "delay", "neighbors"})
    embedding = DelayEmbedding.at(recorded.sfreq, **options)
    prepare = partial(comparison.Responses.prepare, common=common, embedding=embedding)
    both = prepare(expected, theiler=True), prepare(target, theiler=True)
    comparison.score(*both, sfreq=recorded.sfreq)


STAGES = {stage.__name__: stage for stage in (record, preprocess, embed, train, score)}


def memory(kind: str) -> float:
    """Return a number that Linux keeps on this process, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(kind)) * 1024 / 1e9


def measured(name: str, folder: Path) -> dict[str, float]:
    """Run a stage; return what it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    own, ended, began = [], threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(0.2):  # s
            own.append(memory("RssAnon"))

    threading.Thread(target=watch, daemon=True).start()
    STAGES[name](folder)
    ended.set()
    took = {"seconds": time.monotonic() - began, "core_seconds": time.process_time()}
    took |= {"peak_gb": memory("VmHWM"), "own_gb": max(own)}
    return {key: round(value, 2) for key, value in took.items()}


def main() -> None:
    """Run the stages one after the other, and report each as soon as it has ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    report = (
        arguments.folder / "tiny.json" if TINY else Path(__file__).with_suffix(".json")
    )
    for name in arguments.only:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result = pool.submit(measured, name, arguments.folder).result()
        print(name, result, flush=True)
        kept = json.loads(report.read_text())["results"] if report.is_file() else {}
        kept = {stage: kept[stage] for stage in kept if stage in STAGES}
        content = {"date": date.today().isoformat(), "what": __doc__}
        content["machine"] = f"{processor()}, 1 of {os.cpu_count()} cores"
        content["results"] = kept | {name: result}
        write_text(report, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
