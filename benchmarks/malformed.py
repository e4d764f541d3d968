"""Give damaged, wrong and hostile files to every reader, and class what happens.

    python benchmarks/malformed.py [READER ...]  # Linux; all: 10 minutes of a core

Each case is read by a forked process, with 1 GiB of address space beyond what this
program has after its imports, within 20 s. It should be refused, by an error of this
repository that names the file and what to do, or accepted with the same values.
``benchmarks/malformed.json`` names the cases that are neither.
"""

import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL

import numpy as np
import torch
from damage import BLIND, damaged
from readers import READERS

from paperlib.atomic import write_text
from paperlib.paths import ROOT

RESULTS = ROOT / "benchmarks/malformed.json"
MEMORY, SECONDS = 2**30, 20  # of one case
CLASSES = (
    *("refused clearly", "accepted rightly", "legal, other values"),
    *("refused unclearly", "accepted wrongly", "hung", "crashed", "dangerous"),
)
CURE = (
    *("must", "expected", "should", "lacks", " again", "Download", "Delete", "Check"),
    *("Use ", "Set ", "Unpack", "Extract", "Keep", "Correct", "Run ", "Did you mean"),
    *("Save it", "save it", "writes it", "download", "required"),
    *("correct it", "Expected", "It comes with", "of their own", "Write it"),
)
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")  # events
REASONS = {  # why a changed value is accepted, by pattern of the case
    r"info.json: (ch_names.0|sfreq|tmin|unit) = ": "no other file says otherwise",
    r"raw_eeg_data: narrower": "a recording may end one sample earlier",
    r"run_events.tsv: cut to": "cut at the end of a line; the number of trials is "
    "compared with the triggers of the recording, which is not read here",
    r"pictures, .*: flip in": "pictures hold no checksum",
    r"captions.jsonl: caption = 'text'": "a caption may be any text",
    r"t.json: .*settings": "notes on how tokens were made; not needed to read them",
    r"t.npy: narrower": "no other file says how wide tokens are",
    r"small.yaml: without ": "what is left out is inherited, or has its default",
    r"small.yaml: .* = (None|\{\})": "an empty entry removes what is inherited",
    r"small.yaml: .*labels\.": "a label may be any text",
    r"(small.yaml|config.json): .*(model|pretrained|revision) = 'text'": "a name, "
    "looked up when the model is loaded",
    r"config.json: .*(embedding.networks|captioning.captioners)": "entries that this "
    "run does not use",
    r"config.json: (dataset|run) = 'text'": "a name that nothing else holds",
    r"config.json: (without )?training\.": "a note on how the model was trained",
    r"without model_cfg.vision_cfg.image_size": "open_clip has a default, and fits "
    "position codes to it",
    r"weight: (whole|8 bits)": "weights may have any type; no file says which",
    r"images.zip: (absolute|device)": "zipfile drops the root and what follows NUL; "
    "the file stays within its folder",
}


def describe(values: dict) -> dict:
    """Return tensors as arrays, and what is no array as text."""
    numbers = {k: v.float().numpy() for k, v in values.items() if torch.is_tensor(v)}
    mixed = (values | numbers).items()
    return {k: v if isinstance(v, np.ndarray) else repr(v) for k, v in mixed}


def class_values(values: dict, original: dict) -> str:
    """Class what was accepted."""
    kinds = [{k: type(v) for k, v in read.items()} for read in (values, original)]
    if kinds[0] != kinds[1]:
        return "accepted wrongly"
    arrays = [k for k, v in values.items() if isinstance(v, np.ndarray)]
    if all(np.array_equal(values[k], original[k]) for k in values):
        return "accepted rightly"
    sound = all(values[k].shape == original[k].shape for k in arrays)
    sound &= all(np.isfinite(values[k]).all() for k in arrays)
    return "legal, other values" if sound else "accepted wrongly"


def class_error(error: Exception, folder: Path) -> str:
    """Class a refusal by its type, by whose it is and by what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(frames[-1].filename).is_relative_to(ROOT)
    ours &= isinstance(error, OSError) or type(error) is ValueError
    paths = [folder, *folder.rglob("*")]
    names = [name for path in paths for name in (path.name, path.stem)]
    named = any(name in str(error) for name in names)
    cured = any(word in str(error) for word in CURE)
    return "refused clearly" if ours and named and cured else "refused unclearly"


def attempt(read: Callable, folder: Path, original: dict, answer: Connection) -> None:
    """Read in this forked process; answer with class and message."""
    started = []
    sys.addaudithook(lambda event, _: event in PROGRAMS and started.append(event))
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings and progress bars
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        answered = class_values(describe(read(folder)), original), ""
    except MemoryError:
        answered = "hung", "out of memory"
    except Exception as error:
        message = f"{type(error).__name__}: {error}".replace(str(folder), "FOLDER")
        answered = class_error(error, folder), message[:200]
    answer.send(("dangerous", f"starts {started}") if started else answered)


def try_case(read: Callable, folder: Path, original: dict) -> tuple[str, str]:
    """Return class and message of one case."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(
        target=attempt, args=(read, folder, original, there)
    )
    process.start()
    there.close()
    result = "hung", ""
    if here.poll(SECONDS):
        with suppress(EOFError):
            result = here.recv()
    process.kill()
    process.join()
    return result if process.exitcode in (0, -SIGKILL) else ("crashed", "")


def try_reader(write: Callable, work: Path) -> dict[str, dict[str, str]]:
    """Give a reader all cases; return names and messages by class."""
    valid, folder = work / "valid", work / "case"
    valid.mkdir()
    read = write(valid)
    shutil.copytree(valid, folder)
    original = describe(read(folder))
    classes = {name: {} for name in CLASSES}
    for path in sorted(path for path in valid.rglob("*") if path.is_file()):
        if path.match("*_images/*/*"):  # is listed, not read
            continue
        name = path.relative_to(valid)
        for version, content in damaged(path):
            shutil.rmtree(folder)
            shutil.copytree(valid, folder)
            (folder / name).unlink()
            if content is None:
                (folder / name).mkdir()
            elif isinstance(content, str):
                (folder / name).symlink_to(content)
            else:
                (folder / name).write_bytes(content)
            kind, message = try_case(read, folder, original)
            outside = [p for p in work.rglob("evil") if folder / "out" not in p.parents]
            if (folder / "ran").exists() or outside:
                kind = "dangerous"
            case = f"{name}: {version}"
            place = f"{write.__name__}, {case}"
            reason = next((r for p, r in REASONS.items() if re.search(p, place)), "")
            if kind == "legal, other values" and not (
                reason or version.startswith(BLIND)
            ):
                kind = "accepted wrongly"
            classes[kind][case] = message or reason
    return classes


def main(*wanted: str) -> None:
    """Try all readers, or those that are wanted."""
    multiprocessing.set_start_method("fork")
    torch.set_num_threads(1)
    begin, readers = time.time(), {}
    commit = ["git", "-C", ROOT, "rev-parse", "HEAD"]
    commit = subprocess.check_output(commit, text=True).strip()
    for write in READERS:
        name = write.__name__
        if not wanted or name in wanted:
            with tempfile.TemporaryDirectory() as work:
                readers[name] = try_reader(write, Path(work).resolve())
            print(name, *(len(cases) for cases in readers[name].values()), flush=True)
    old = json.loads(RESULTS.read_text()) if wanted else {"by_reader": {}, "cases": {}}
    counts = {r: {k: len(v) for k, v in c.items()} for r, c in readers.items()}
    counts = old["by_reader"] | counts
    named = {
        kind: {
            case: why
            for case, why in old["cases"].get(kind, {}).items()
            if case.partition(", ")[0] not in readers
        }
        | {
            f"{r}, {case}": why
            for r, c in readers.items()
            for case, why in c[kind].items()
        }
        for kind in CLASSES[2:]
    }
    report = {
        "commits": old.get("commits", {}) | dict.fromkeys(readers, commit),
        "minutes": round((time.time() - begin) / 60, 1),
        "total": dict(sum(map(Counter, counts.values()), Counter())),
        "by_reader": counts,
        "cases": named,
    }
    write_text(RESULTS, json.dumps(report, indent=1) + "\n")
    print(report["total"])


if __name__ == "__main__":
    main(*sys.argv[1:])
