"""One participant of THINGS-EEG2 in full size through notebooks 01, 03, 04, 05 and 06.

Makes a participant of the public size in the public format below a folder (noise with
a response to each image), then runs the notebooks on it with the configuration
``paper``: seconds, processor seconds and peak memory of each go into the .json beside
this file. What is smaller than in the paper is listed there under ``reduced``.

Run: ``python benchmarks/full_size_subject.py FOLDER``. The folder gets 23 GB and stays;
``--only NAME ...`` repeats single stages.
"""

import argparse
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import mne
import numpy as np
import psutil
import torch
import yaml
from machine import processor
from paperlib.provenance import environment
from paperlib.stimuli.embeddings import load_clip, write_text_tokens
from PIL import Image
from safetensors.torch import save_file
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler

from paperlib.atomic import write_text
from paperlib.config import load_settings
from paperlib.paths import ROOT, locate
from paperlib.recordings.mvnn import noise_covariance, whiten, whitening_matrix
from paperlib.recordings.preprocessing import cut_trials
from paperlib.recordings.things_eeg2 import (
    NICE_CHANNELS,
    RAW_CHANNELS,
    TARGET_CODE,
    load_raw_session,
    raw_file,
)
from paperlib.recordings.trials import TrialWindow
from paperlib.recordings.unpickling import load_dict
from paperlib.stimuli.captions import read_captions, save_imported_captions
from paperlib.stimuli.images import read_images
from paperlib.stimuli.tokens import Tokens, write_tokens

NAME = "full-size"
REPORT = Path(__file__).with_suffix(".json")

# The public files: subjects see 16 710 + 90 and 4056 + 24 images a session.
N_CONCEPTS, N_IMAGES, N_TEST = 1654, 10, 200
SFREQ = 1000.0
SEQUENCE, SOA, CYCLE = 20, 200, 6488  # images; samples; samples from one to the next
KERNEL = 300  # samples of the response to an image
N_RENDERINGS = 256  # distinct pictures; all other files are links to them
N_ENCODED = 256  # images whose tokens notebook 03 computes
MODEL, WIDTH, N_IMAGE_TOKENS, N_TEXT_TOKENS = "ViT-L-14-quickgelu", 768, 257, 77
CAPTIONER = "qwen2-vl"
BATCH = 44  # random rows written at once
N_READ = 1600  # rows of tokens read
N_SAMPLED = 8  # test images for which notebook 05 generates responses
N_COMPARED = 2000  # trials that are cut out in two ways
POLL = 0.5  # s between looks at the memory of a notebook

NOTE = (
    "one thread; other programs ran on the same cores: compare processor seconds. "
    "peak_gb counts pages of mapped files, which the system can take back; own_gb, "
    "looked at twice a second, does not"
)
COMPARED = (
    f"loaded: one training session is read. at_once: then its first {N_COMPARED} "
    "trials are cut out, resampled, whitened as whole arrays, step by step as "
    "documented, with MNE and scikit-learn. in_blocks: the same by notebook 01's "
    "functions. Differences from loaded are the cost of the trials; a participant has "
    "83 064 in four sessions"
)
REDUCED = {
    "recordings": "noise; sessions 3 and 4 are links to the files of 1 and 2",
    "images": f"{N_RENDERINGS} renderings under {N_CONCEPTS * N_IMAGES + N_TEST} names",
    "weights": "CLIP and the transformer start from random weights",
    "tokens": f"notebook 03 encodes the last {N_ENCODED} images; random rows before",
    "training": "2 steps of 1 pair in fp32; 1 concept (10 pairs) for validation",
    "sampling": f"1 step, 1 sample for each of {N_SAMPLED} of the 200 test images",
    "evaluation": "1 participant, 1 run (its samples repeated for all test images), "
    "2 halvings",
}


class Payload:
    """Stands for an array in a pickle whose bytes are written later."""

    MARK = b"the bytes of the array come here"

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape

    def __reduce__(self):
        """Reduce as an ndarray does, with a mark instead of its bytes."""
        make, arguments, _ = np.empty(0).__reduce__()
        state = (1, self.shape, np.dtype(np.float64), False, self.MARK)
        return make, arguments, state


def write_recording(path: Path, codes: np.ndarray, rng: np.random.Generator) -> None:
    """Write one recording as ``np.save`` of numpy 1 does, one channel at a time."""
    onsets = 500 + CYCLE * (np.arange(len(codes)) // SEQUENCE)
    onsets += SOA * (np.arange(len(codes)) % SEQUENCE)
    n_times = CYCLE * (len(codes) // SEQUENCE)
    n_rows = len(RAW_CHANNELS) + 1
    content = {
        "raw_eeg_data": Payload((n_rows, n_times)),
        "ch_names": [*RAW_CHANNELS, "stim"],
        "ch_types": ["eeg"] * len(RAW_CHANNELS) + ["stim"],
        "sfreq": int(SFREQ),
        "highpass": 0.01,
        "lowpass": 100,
    }
    text = pickle.dumps(np.array(content, object), protocol=3)
    mark = pickle.SHORT_BINBYTES + bytes([len(Payload.MARK)]) + Payload.MARK
    before, after = text.split(mark)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        size = 8 * n_rows * n_times
        file.write(before + pickle.BINBYTES + size.to_bytes(4, "little"))
        for row in channels(codes, onsets, n_times, rng):
            file.write(row.tobytes())
        file.write(after)


def channels(
    codes: np.ndarray, onsets: np.ndarray, n_times: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield 63 channels in volts and the trigger row."""
    sources = np.random.default_rng(2).standard_normal((TARGET_CODE + 1, 4))
    kernel = np.hanning(KERNEL)
    for _ in RAW_CHANNELS:
        row = rng.standard_normal(n_times, dtype=np.float32)
        amplitude = 0.3 + sources[codes] @ rng.standard_normal(4) / 4
        for lag in range(KERNEL):
            row[onsets + lag] += amplitude * kernel[lag]
        yield 1e-5 * row.astype(np.float64)
    triggers = np.zeros(n_times)
    triggers[onsets] = codes
    yield triggers


def write_participant(raw: Path) -> None:
    """Write two sessions that show half of the training images each; link two more."""
    rng = np.random.default_rng(0)
    half = N_CONCEPTS * N_IMAGES // 2
    for session in (1, 2):
        shown = np.arange(1, half + 1) + half * (session - 1)
        training = np.concatenate([shown, shown, shown[:170], [TARGET_CODE] * 90])
        tested = np.tile(np.arange(1, N_TEST + 1), 20)
        test = np.concatenate([tested, np.arange(1, 57), [TARGET_CODE] * 24])
        folder = raw / f"ses-{session:02d}"
        write_recording(raw_file(folder, "training"), rng.permutation(training), rng)
        write_recording(raw_file(folder, "test"), rng.permutation(test), rng)
        (raw / f"ses-{session + 2:02d}").symlink_to(folder)


def write_images(folder: Path) -> None:
    """Write the image list and the files on it."""
    rng = np.random.default_rng(1)
    renderings = []
    for number in range(N_RENDERINGS):
        small = rng.integers(0, 256, (8, 8, 3), np.uint8)
        renderings.append(folder / "renderings" / f"{number}.jpg")
        renderings[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((500, 500), Image.BICUBIC).save(renderings[-1])
    metadata = {}
    for prefix, n_concepts, n_images in (
        ("train", N_CONCEPTS, 10),
        ("test", N_TEST, 1),
    ):
        names = [f"{prefix}ed_thing_{i:04d}" for i in range(1, n_concepts + 1)]
        folders = np.repeat([f"{i:05d}_{n}" for i, n in enumerate(names, 1)], n_images)
        files = [f"{n}_{k:02d}s.jpg" for n in names for k in range(1, n_images + 1)]
        metadata[f"{prefix}_img_concepts"] = folders.tolist()
        metadata[f"{prefix}_img_files"] = files
        partition = folder / ("training_images" if prefix == "train" else "test_images")
        for i, (concept, file) in enumerate(zip(folders, files, strict=True)):
            (partition / concept).mkdir(parents=True, exist_ok=True)
            os.link(renderings[i % N_RENDERINGS], partition / concept / file)
    np.save(folder / "image_metadata.npy", np.array(metadata, object))


def write_clip(folder: Path) -> None:
    """Write a CLIP of the paper's size with random weights."""
    from open_clip import create_model, get_model_config  # after paperlib: torchvision

    torch.manual_seed(0)
    model = create_model(MODEL, pretrained=None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": get_model_config(MODEL), "preprocess_cfg": {}}
    write_text(folder / "open_clip_config.json", json.dumps(config))


def options(folder: Path) -> dict:
    """Return what replaces values of the configuration ``paper``."""
    return {
        "name": NAME,
        "simulated": True,
        "data_root": str(folder / "data"),
        "device": "cpu",
        "datasets": {"things-eeg2": {"subjects": [1], "ablations": {"subjects": [1]}}},
        "embedding": {**clip_source(folder), "batch_size": 16},
        "training": {
            "validation_concepts": 1,
            "steps": 2,
            "batch_size": 1,
            "warmup": 1,
            "precision": "no",
            "workers": 0,
            "evaluate_every": 2,
            "save_every": 1000,
        },
        "sampling": {"steps": 1, "samples": 1, "batch_size": 8},
        "comparison": [{"run": "ours", "samples": "one"}],
        "evaluation": {"reference": "ours", "halvings": 2},
    }


def make_participant(folder: Path) -> None:
    """Write images and recordings, and the CLIP that sees the images."""
    where = places(folder)
    (folder / "results").mkdir(parents=True)
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / NAME).symlink_to(folder / "results")
    write_images(where("images"))
    write_participant(where("raw"))
    write_clip(folder / "clip")


def places(folder: Path) -> Callable[..., Path]:
    """Return the function from alias to path of this participant."""
    overrides = yaml.dump(options(folder))
    settings = load_settings("01_preprocess", "paper", overrides, dataset="things-eeg2")
    return locate(settings, dataset="things-eeg2", subject=1)


def make_image_tokens(folder: Path) -> None:
    """Stream random tokens of all but the last images; notebook 03 goes on there."""
    where, images = places(folder), read_images(places(folder)("images"))
    write_random(
        where("tokens", tokens="image"),
        dict(zip(images["image_id"], images["path"], strict=True)),
        n_tokens=N_IMAGE_TOKENS,
        settings=clip_source(folder) | {"normalize_by_cls": False},
    )


def make_text_tokens(folder: Path) -> None:
    """Write captions; stream random tokens of most and CLIP's of the last."""
    where = places(folder)
    image_ids = read_images(where("images"))["image_id"]
    about = {name: f"A photo of something called {name}." for name in image_ids}
    save_imported_captions(
        where("captions", captioner=CAPTIONER), about, source="benchmark"
    )
    path = where("tokens", tokens=CAPTIONER)
    settings = clip_source(folder) | {"project": False}
    write_random(path, about, n_tokens=N_TEXT_TOKENS, settings=settings)
    captions = read_captions(where("captions", captioner=CAPTIONER), image_ids)
    clip = load_clip(**clip_source(folder), device="cpu")
    write_text_tokens(path, captions, clip=clip, project=False, batch_size=16)


def clip_source(folder: Path) -> dict:
    """Return the arguments of `load_clip`."""
    model = f"local-dir:{folder / 'clip'}"
    return {"model": model, "pretrained": None, "revision": None}


class EnoughError(Exception):
    """The last images are left to CLIP."""


def write_random(path: Path, items: dict, *, n_tokens: int, settings: dict) -> None:
    """Write random tokens of all items but the last, as if the run had been stopped."""
    generator = torch.Generator().manual_seed(0)
    batches = iter(range((len(items) - N_ENCODED) // BATCH))

    def encode(batch: list) -> torch.Tensor:
        if next(batches, None) is None:
            raise EnoughError
        return torch.randn(len(batch), n_tokens, WIDTH, generator=generator)

    with suppress(EnoughError):
        write_tokens(path, items, encode=encode, batch_size=BATCH, settings=settings)


def read_token_rows(folder: Path) -> None:
    """Read batches of random rows, as training does."""
    where, rng = places(folder), np.random.default_rng(0)
    tokens = [Tokens(where("tokens", tokens=t)) for t in ("image", CAPTIONER)]
    for _ in range(N_READ // 16):
        chosen = rng.choice(tokens[0].image_ids, 16, replace=False)
        for source in tokens:
            source[chosen]


def list_few_tests(folder: Path) -> None:
    """Shorten the list of test images, for notebook 05."""
    path = places(folder)("image_list")
    path.rename(folder / path.name)
    metadata = load_dict(folder / path.name, "the list of images")
    for name in ("test_img_concepts", "test_img_files"):
        metadata[name] = metadata[name][:N_SAMPLED]
    np.save(path, np.array(metadata, object))


def list_all_tests(folder: Path) -> None:
    """Restore the list of images; repeat the samples for all of them."""
    where = places(folder)
    (folder / where("image_list").name).replace(where("image_list"))
    path = where("samples", run="ours", seed=0)
    samples = np.load(path)
    np.save(path, np.tile(samples, (N_TEST // len(samples), 1, 1, 1)))


def cut_trials_at_once(folder: Path) -> np.ndarray:
    """Cut, resample and whiten whole arrays, as the documented steps say."""
    raw, events, names = first_trials(folder)
    epochs = mne.Epochs(
        raw,
        events,
        tmin=-0.2,
        tmax=1.0,
        baseline=(None, 0),
        picks=names,
        preload=True,
        verbose="error",
    )
    data = epochs.resample(250, verbose="error").get_data(picks=names)[..., 50:]
    covariances = []
    for trial in data:
        scaler = StandardScaler().fit(trial.T)
        shrunk = ledoit_wolf(scaler.transform(trial.T))[0]
        covariances.append(shrunk * np.outer(scaler.scale_, scaler.scale_))
    whitener = fractional_matrix_power(np.mean(covariances, axis=0), -0.5)
    return np.swapaxes(np.swapaxes(data, 1, 2) @ whitener, 1, 2)


def cut_trials_in_blocks(folder: Path) -> np.ndarray:
    """Do the same with the functions of notebook 01."""
    raw, events, names = first_trials(folder)
    window = TrialWindow(-0.2, 1.0, keep_from=0.0, sfreq=250)
    onsets = events[:, :1]
    trials = cut_trials(raw, onsets, channels=names, window=window)
    whiten(trials, whitening_matrix(noise_covariance(trials, "epochs")))
    return trials[:, 0]


def first_trials(folder: Path) -> tuple[mne.io.RawArray, np.ndarray, list[str]]:
    """Load a training session; return it, its first events and the channels."""
    raw = load_raw_session(raw_file(places(folder)("raw") / "ses-01", "training"))
    events = mne.find_events(raw, stim_channel="stim", verbose="error")
    events = events[events[:, 2] != TARGET_CODE][:N_COMPARED]
    return raw, events, list(NICE_CHANNELS)


RUN = {"run": "ours", "subject": 1}
STAGES = {  # in order; of notebooks, their parameters
    "participant": make_participant,
    "loaded": first_trials,
    "at_once": cut_trials_at_once,
    "in_blocks": cut_trials_in_blocks,
    "01_preprocess": {"subject": 1},
    "image_tokens": make_image_tokens,
    "03_embed": {"tokens": "image"},
    "text_tokens": make_text_tokens,
    "token_rows": read_token_rows,
    "04_train": RUN,
    "list_few_tests": list_few_tests,
    "05_sample": RUN,
    "list_all_tests": list_all_tests,
    "06_evaluate": {},
}


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; return its seconds and peak memory, and that of what it started.

    Pages of files that are mapped count as memory of a process, though the system can
    take them back; ``own_gb`` is the peak of the rest.
    """
    began, own = time.monotonic(), 0
    process = subprocess.Popen(command)
    while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for child in (parent, *parent.children(recursive=True)):
                memory = child.memory_info()
                own = max(own, memory.rss - memory.shared)
        time.sleep(POLL)
    _, status, usage = waited
    if status:
        raise SystemExit(f"{command} failed.")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "own_gb": round(own / 1e9, 2),
    }


def command(stage: str, folder: Path) -> list[str]:
    """Return the command line of a stage, a process of its own."""
    if callable(STAGES[stage]):
        return [sys.executable, __file__, str(folder), "--stage", stage]
    parameters = {"config": "paper", "dataset": "things-eeg2", **STAGES[stage]}
    parameters["overrides"] = yaml.dump(options(folder), allow_unicode=True)
    notebook = ROOT / "notebooks" / f"{stage}.py"
    executed = folder / f"{stage}.ipynb"
    script = ROOT / "paperlib/execution.py"
    return [sys.executable, script, notebook, executed, yaml.dump(parameters)]


def write_report(folder: Path, stage: str, result: dict) -> None:
    """Add a stage to the JSON; results of other stages stay."""
    before = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
    large = [path for path in folder.rglob("*.npy") if path.stat().st_size > 1e8]
    sizes = {path.name: path.stat().st_size for path in large}
    content = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "environment": environment(),
        "note": NOTE,
        "reduced": REDUCED,
        "compared": COMPARED,
        "bytes": before.get("bytes", {}) | sizes,
        "results": before.get("results", {}) | {stage: result},
    }
    write_text(REPORT, json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--stage", choices=STAGES, help="run it in this process")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.stage:
        STAGES[arguments.stage](folder)
        return
    for stage in arguments.only:
        result = measured(command(stage, folder))
        print(stage, result, flush=True)
        write_report(folder, stage, result)
    for kind in ("tables", "figures"):  # of noise
        shutil.rmtree(ROOT / kind / NAME, ignore_errors=True)


if __name__ == "__main__":
    main()
