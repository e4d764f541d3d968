"""Time and memory of sorting the released THINGS-MEG epochs of one participant.

Writes a participant of the released size in the released format (noise in four files,
8 GB) into a temporary folder and sorts it by image. Writing and sorting have a process
of their own, so that the peak memory is that of sorting.

Run: ``python benchmarks/preprocess_meg.py`` (writes the .json beside it);
``--epochs 6762`` for a quarter of it.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import tempfile
import time
from datetime import date
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from machine import processor

from paperlib.atomic import write_text
from paperlib.recordings.regions import channel_regions
from paperlib.recordings.sensors import without_serial
from paperlib.recordings.things_meg import (
    CATCH_NUMBER,
    REGION_SIZES,
    TRIAL_TABLE,
    import_epochs,
)

N_EPOCHS, N_TEST, N_REPETITIONS = 27_048, 200, 12
SFREQ, N_TIMES, SPACING = 200.0, 281, 5  # Hz; samples; samples between epochs written
MISSING = ("MLF25", "MRF43", "MRO13", "MRO11")  # sensors of the helmet
EPOCHS_FILE = "derivatives/preprocessed/preprocessed_P1-epo.fif"
MARGIN = 5e9  # bytes left free on the disk


def sensors() -> list[str]:
    layout = mne.channels.read_layout("CTF-275")
    bare = [without_serial(name) for name in layout.names]
    names = [f"{name}-1609" for name in bare if name not in MISSING]
    assert pd.Series(channel_regions(names)).value_counts().to_dict() == REGION_SIZES
    return names


def trial_numbers(n_epochs: int) -> np.ndarray:
    """Image numbers in random order; test and catch images in the released share."""
    n_test = round(N_TEST * n_epochs / N_EPOCHS)
    n_training = n_epochs - 2 * n_test * N_REPETITIONS
    numbers = np.concatenate(
        [
            np.arange(1, n_training + 1),
            np.repeat(np.arange(n_training + 1, n_training + n_test + 1), 12),
            np.full(n_test * N_REPETITIONS, CATCH_NUMBER),
        ]
    )
    return np.random.default_rng(0).permutation(numbers)


def write_participant(folder: Path, n_epochs: int) -> None:
    """Write trial table and epochs; neighboring epochs overlap in one long recording.

    MNE holds one of the four files in double precision meanwhile, 4 GB.
    """
    numbers = trial_numbers(n_epochs)
    shown = pd.Series(numbers).value_counts().reindex(numbers)
    kinds = np.where(shown > N_REPETITIONS, "catch", np.where(shown > 1, "test", "exp"))
    table = pd.DataFrame({"trial_type": kinds, "things_image_nr": numbers})
    table["image_path"] = [f"images_meg/a/a_{number:05d}.jpg" for number in numbers]
    for file in (TRIAL_TABLE, EPOCHS_FILE):
        (folder / file).parent.mkdir(parents=True)
    table.to_csv(folder / TRIAL_TABLE, index=False)
    names = sensors()
    noise = np.random.default_rng(1).standard_normal(
        (len(names), SPACING * n_epochs + N_TIMES)
    )
    raw = mne.io.RawArray(noise, mne.create_info(names, SFREQ, "mag"), verbose="error")
    onsets = 20 + SPACING * np.arange(n_epochs)
    epochs = mne.Epochs(
        raw,
        np.column_stack([onsets, np.zeros_like(onsets), numbers]),
        event_id={str(number): int(number) for number in np.unique(numbers)},
        tmin=-0.1,
        tmax=1.3,
        baseline=None,
        verbose="error",
    )
    epochs.save(folder / EPOCHS_FILE, fmt="single", split_size="2GB", verbose="error")


def measured(folder: Path) -> dict[str, float]:
    """Return seconds and MB of sorting; runs in its own process."""
    before = _peak_megabytes()
    wall, processor = time.perf_counter(), time.process_time()
    counts = import_epochs(
        folder, folder / "signals", subject=1, concepts="all_concepts"
    )
    return {
        "kept_epochs": int(counts["kept"].sum()),
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "megabytes_before": round(before),
        "peak_megabytes": round(_peak_megabytes()),
    }


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _check_space(folder: Path, n_epochs: int) -> None:
    """Stop unless the participant and the signals fit on the disk."""
    needed = n_epochs * 271 * (N_TIMES + 200) * 4 + MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder} has {free / 1e9:.0f} GB free; {needed / 1e9:.0f} GB are needed. "
            f"Set TMPDIR to a larger disk or ask for fewer --epochs."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=N_EPOCHS)
    n_epochs = parser.parse_args().epochs
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder, load = Path(temporary), os.getloadavg()[0]
        _check_space(folder, n_epochs)
        with spawn.Pool(1) as pool:
            pool.apply(write_participant, (folder, n_epochs))
        parts = sorted((folder / EPOCHS_FILE).parent.glob("*.fif"))
        size = {"files": len(parts), "bytes": sum(p.stat().st_size for p in parts)}
        with spawn.Pool(1) as pool:
            results = pool.apply(measured, (folder,))
    report = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "mne": mne.__version__,
        },
        "epochs": n_epochs,
        "released_epochs": N_EPOCHS,
        **size,
        "note": "other programs ran on the same cores: compare processor seconds",
        "load_average_before": round(load, 2),
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    write_text(Path(__file__).with_suffix(".json"), text + "\n")


if __name__ == "__main__":
    main()
