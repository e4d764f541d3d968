"""One training run, from the files of a participant to a checkpoint.

Notebook 04 tells these steps one after the other; ``python -m paperlib.training`` takes
the same ones. Networks may be trained in several processes: forked from here
(``training.processes``), or started from outside with ``accelerate launch``.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState, notebook_launcher
from accelerate.utils.other import get_free_port
from filelock import FileLock, Timeout

from paperlib.atomic import atomic_path, write_text
from paperlib.checkpoints import ARCHITECTURES, Model, save_checkpoint
from paperlib.config import without_speed
from paperlib.methods import architecture, count_parameters, fit
from paperlib.provenance import fingerprint
from paperlib.recordings.regions import channels_outside
from paperlib.recordings.signals import (
    Signals,
    check_counts,
    load_signals,
    select_concepts,
    standard_deviation,
    training_targets,
)
from paperlib.stimuli.conditions import Condition, hold_out_concepts, open_condition
from paperlib.stimuli.images import read_images
from paperlib.training import Pairs

# Keys of the section training that are not about a process's optimization.
_NOT_OF_A_PROCESS = ("repetitions", "validation_concepts", "processes")


@dataclass(frozen=True)
class TrainingData:
    """Responses of a participant, paired with the tokens of their images.

    Attributes
    ----------
    signals : Signals
    images : DataFrame
        Training images, in the order of the responses.
    ch_names : list of str
        Channels that are learned.
    condition : Condition
        Tokens of the training images.
    scale : float
        Standard deviation of the training responses, by which they are divided.
    training, validation : Pairs
        No concept is in both.
    inputs : list of Path
        Files and folders that were read.
    """

    signals: Signals
    images: pd.DataFrame
    ch_names: list[str]
    condition: Condition
    scale: float
    training: Pairs
    validation: Pairs
    inputs: list[Path]


def open_training_data(
    settings: dict, where: Callable[..., Path], *, seed: int
) -> TrainingData:
    """Pair the training responses of a participant with the tokens of their images.

    Parameters
    ----------
    settings
        Of notebook 04, from :func:`paperlib.config.load_settings`.
    where
        From :func:`paperlib.paths.locate`.
    seed
        Decides which concepts are held out for validation.
    """
    signals = load_signals(where("signals"))
    images = select_concepts(read_images(where("images")), signals.concepts)
    check_counts(signals, images)
    images = images[images["partition"] == "training"]
    condition = open_condition(settings["conditioning"], where, images["image_id"])
    kept = channels_outside(signals.ch_names, settings["channels"]["without"])
    targets = training_targets(signals, settings["training"]["repetitions"])  # N R C T
    if len(kept) < len(signals.ch_names):
        targets = targets[:, :, kept]
    n_held_out = settings["training"]["validation_concepts"]
    rows = hold_out_concepts(images["concept"], n_held_out=n_held_out, seed=seed)
    scale = standard_deviation(targets, rows[0])
    return TrainingData(
        signals,
        images,
        [signals.ch_names[channel] for channel in kept],
        condition,
        scale,
        *(Pairs(targets, part, context=condition, scale=scale) for part in rows),
        inputs=[where("signals"), *(tokens.path for tokens in condition.sources)],
    )


def make_recipe(settings: dict, data: TrainingData, keys: dict[str, str | int]) -> dict:
    """Return all that is needed to build a method again, and to use it.

    Parameters
    ----------
    settings
        Of notebook 04.
    data
        From :func:`open_training_data`.
    keys
        Data set, participant, run and seed.
    """
    options = dict(settings["model"])
    method = options.pop("method")
    sizes = {"ch_names": data.ch_names, "n_times": len(data.signals.times)}
    return {
        "method": method,
        "options": options,
        "architecture": architecture(
            method, options, condition=data.condition, **sizes
        ),
        **{
            key: settings[key]
            for key in ("simulated", "conditioning", "tokens", "diffusion")
        },
        "training": without_speed(settings["training"]),
        "scale": data.scale,
        "unit": data.signals.unit,
        "ch_names": data.ch_names,
        "sfreq": data.signals.sfreq,
        "times": data.signals.times.tolist(),
        **keys,
    }


def train_run(
    recipe: dict, data: TrainingData, *, settings: dict, where: Callable[..., Path]
) -> pd.DataFrame:
    """Fit the method of a recipe; write its checkpoint, curve and budget.

    Parameters
    ----------
    recipe
        From :func:`make_recipe`.
    data
        From :func:`open_training_data`.
    settings
        Of notebook 04. With ``training.processes`` above 1 as many processes are
        forked, one for each GPU: nothing may have touched a GPU before. Processes
        that ``accelerate launch`` started take part as they are.
    where
        From :func:`paperlib.paths.locate`.

    Returns
    -------
    DataFrame
        The curve: step, training_loss, validation_loss, seconds.

    Raises
    ------
    RuntimeError
        If the run is being trained already.
    ValueError
        If there are fewer GPUs than processes.
    """
    inputs = [fingerprint(path) for path in data.inputs]
    work = (recipe, data, settings, where, inputs)
    processes = settings["training"]["processes"]
    with _lock(where("training")):
        if processes == 1 or _is_launched() or recipe["method"] not in ARCHITECTURES:
            _fit_and_keep(*work)
        else:
            _check_gpus(processes, settings["device"])
            notebook_launcher(
                _fit_and_keep,
                work,
                num_processes=processes,
                mixed_precision=settings["training"]["precision"],
                use_port=str(get_free_port()),
            )
    return pd.read_csv(where("training") / "curve.csv")


def fit_data(
    recipe: dict,
    data: TrainingData,
    *,
    settings: dict,
    folder: Path,
    inputs: Sequence[dict],
) -> tuple[Model, list[dict]]:
    """Fit the method of a recipe, and write nothing but states for a restart.

    Parameters
    ----------
    recipe, data
        As for :func:`train_run`.
    settings
        Of notebook 04.
    folder
        Where the states are kept.
    inputs
        Fingerprints of the data: a state made from others is not continued.

    Returns
    -------
    model
        In evaluation mode.
    curve : list of dict
        step, training_loss, validation_loss, seconds.
    """
    training = settings["training"].items()
    options = {k: v for k, v in training if k not in _NOT_OF_A_PROCESS}
    return fit(
        recipe,
        data.training,
        data.validation,
        settings={"training": options, "device": settings["device"]},
        folder=folder,
        inputs=inputs,
    )


def discard_states(folder: Path) -> None:
    """Remove what a restart would need, when the checkpoint is there and recorded."""
    for state in folder.glob("*.safetensors"):
        state.unlink()


def is_first_process() -> bool:
    """Tell whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def _fit_and_keep(
    recipe: dict,
    data: TrainingData,
    settings: dict,
    where: Callable[..., Path],
    inputs: Sequence[dict],
) -> None:
    """Do one process's part of a run; the first one writes."""
    model, curve = fit_data(
        recipe, data, settings=settings, folder=where("training"), inputs=inputs
    )
    if is_first_process():
        save_checkpoint(where("checkpoint"), model, recipe)
        _save_curve(where("training"), curve, n_parameters=count_parameters(model))
    if _is_launched():
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep others from training the same run, whose states they would overwrite."""
    if not is_first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / "run.lock").acquire(blocking=False)
    except Timeout as error:
        raise RuntimeError(f"This run is being trained already: {folder}") from error
    with held:
        yield


def _check_gpus(processes: int, device: str) -> None:
    n_gpus = torch.cuda.device_count()  # does not touch them
    if device != "cpu" and 0 < n_gpus < processes:
        raise ValueError(
            f"training.processes is {processes}, but this process sees {n_gpus} GPUs. "
            "Executions by Snakemake see one: train by hand, or set it to 1."
        )


def _save_curve(folder: Path, curve: list[dict], *, n_parameters: int) -> None:
    """Write ``curve.csv``, and in ``budget.json`` what the training took."""
    with atomic_path(folder / "curve.csv") as partial:
        pd.DataFrame(curve).to_csv(partial, index=False)
    budget = {
        "parameters": n_parameters,
        "steps": curve[-1]["step"],
        "seconds": round(curve[-1]["seconds"], 1),
    }
    write_text(folder / "budget.json", json.dumps(budget) + "\n")


def _is_launched() -> bool:
    """Tell whether this is one of several processes, as torch.distributed has them."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
