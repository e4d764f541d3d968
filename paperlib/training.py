"""Train a network: one readable loop on accelerate (paper, Algorithm 1).

Batches, timesteps and noise are functions of seed and step. A run that was killed
therefore ends, after its restart, with the weights of an unbroken one; on several
processes, whose noise differs, with equal ones in expectation.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DataLoaderConfiguration, notebook_launcher
from accelerate.utils import is_tensorboard_available
from accelerate.utils.other import get_free_port
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from paperlib.atomic import atomic_path
from paperlib.config import Machine, Training
from paperlib.coordinates import Coordinates


class Loss(Protocol):
    """A dataclass that is called; its values are part of what a restart compares."""

    def __call__(
        self, model: nn.Module, y: Tensor, context: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of responses (B, C, T) and tokens (B, L, D)."""

    def to(self, device: torch.device) -> "Loss":
        """Return the loss on a device."""


_READY = 2**28  # values of responses (1 GiB) that are kept in their coordinates
_BLOCK = 128  # responses that are turned into coordinates at a time


class Pairs(Dataset):
    """Responses, in their coordinates, with the condition tokens of their images.

    The coordinates of few responses are computed once, those of many in each batch.

    Parameters
    ----------
    responses : ndarray of shape (N, R, C, T)
        Responses to each image, R repetitions; may be a memory map.
    rows : sequence of int
        Images to use.
    context : callable
        Rows of images -> tokens, ndarray of shape (B, L, D).
    coordinates : Coordinates
        Fitted on training rows only.
    """

    def __init__(
        self,
        responses: np.ndarray,
        rows: Sequence[int],
        *,
        context: Callable[[np.ndarray], np.ndarray],
        coordinates: Coordinates,
    ):
        self.responses = responses
        self.rows = np.asarray(rows)
        self.context = context
        self.coordinates = coordinates
        self._ready = None
        if len(self) * responses[0, 0].size <= _READY:
            parts = np.array_split(np.arange(len(self)), -(-len(self) // _BLOCK))
            self._ready = torch.cat([self.coordinates_of(part) for part in parts])

    def __len__(self) -> int:
        """Count pairs: an image has as many as it has repetitions."""
        return len(self.rows) * self.responses.shape[1]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read a batch: coordinates (B, C, T) and tokens (B, L, D)."""
        indices = np.asarray(indices)
        images = self.rows[indices // self.responses.shape[1]]
        return self.coordinates_of(indices), torch.from_numpy(self.context(images))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in order, as :meth:`__getitems__` reads them."""
        for start in range(0, len(self), batch_size):
            yield self.__getitems__(range(start, min(start + batch_size, len(self))))

    def coordinates_of(self, indices: np.ndarray) -> Tensor:
        """Return the coordinates of some pairs (B, C, T)."""
        if self._ready is not None:
            return self._ready[indices]
        images, repetitions = np.divmod(indices, self.responses.shape[1])
        responses = self.responses[self.rows[images], repetitions]
        return self.coordinates.forward(torch.from_numpy(responses))


@dataclass(frozen=True)
class Batches:
    """Indices of each batch, a function of seed and step; an epoch is a permutation."""

    size: int
    batch_size: int
    steps: range
    seed: int
    drop_last: bool = True  # accelerate asks

    def __len__(self) -> int:
        """Count the batches that are left."""
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batch of each step."""
        for step in self.steps:
            first = step * self.batch_size
            places = np.arange(first, first + self.batch_size)
            epochs, offsets = np.divmod(places, self.size)
            yield [
                int(_permutation(self.size, self.seed, epoch)[offset])
                for epoch, offset in zip(epochs.tolist(), offsets, strict=True)
            ]


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def train(
    model: nn.Module,
    training: Pairs,
    validation: Pairs,
    *,
    loss: Loss,
    options: Training,
    machine: Machine,
    seed: int,
    state_file: Path,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train a network to minimize a loss on pairs of responses and tokens.

    With ``machine.processes`` above 1 as many processes are forked, one for each GPU:
    nothing may have touched a GPU before. Processes that ``accelerate launch`` started
    take part as they are. The first one prints and writes.

    Parameters
    ----------
    model
        With its initial weights.
    training, validation
        The concepts of the validation pairs are never trained on.
    loss
        Such as :class:`paperlib.diffusion.DenoisingLoss`.
    options, machine
        How to optimize; what changes speed only.
    seed
        Decides batches and noise.
    state_file
        Where the state for a restart is kept. Once the training is finished the file
        holds its result, and another call returns it; it is for the caller to remove.

    Returns
    -------
    model : Module
        With the moving average of the weights, in evaluation mode.
    curve : DataFrame
        step, training_loss (mean since the last row), validation_loss, seconds.

    Raises
    ------
    FloatingPointError
        If a loss is not finite; the last state that was saved stays.
    ValueError
        If processes and micro-batches cannot share the batch evenly, or there are
        fewer GPUs than processes.
    """
    if machine.processes > 1 and "RANK" not in os.environ:
        same = {"loss": loss, "options": options, "machine": machine, "seed": seed}
        _fork(
            lambda: train(model, training, validation, **same, state_file=state_file),
            machine,
        )  # what follows reads the finished state
    accelerator = _accelerator(options, machine, state_file)
    identity = _identity(model, training, loss, options, seed)
    loss = loss.to(accelerator.device)
    model.to(accelerator.device).train()
    average = deepcopy(model).eval().requires_grad_(False)
    rates = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **rates, fused=True)
    kept = {"model": model, "average": average, "optimizer": optimizer}
    if accelerator.scaler:
        kept["scaler"] = accelerator.scaler
    state = _read_state(state_file, identity, accelerator)
    for name in kept if state else ():
        kept[name].load_state_dict(state[name])
    step, curve = state.get("step", 0), state.get("curve", [])
    losses = list(state.get("losses", torch.empty(0)).to(accelerator.device))
    began = time.monotonic() - state.get("seconds", 0.0)
    model.checkpointing = machine.checkpointing
    if machine.compile:
        model.compile()
    loader = _loader(training, options, machine, first=step, seed=seed)
    wrapped, wrapped_optimizer, loader = accelerator.prepare(model, optimizer, loader)
    generator = torch.Generator(accelerator.device)
    shown = {} if accelerator.is_main_process else {"disable": True}
    bar = tqdm(total=options.steps, initial=step, desc="Training", unit="step", **shown)

    for index, (y0, context) in enumerate(loader, start=step * machine.accumulate):
        generator.manual_seed(_stream(seed, index, accelerator.process_index))
        rise = min(1.0, (step + 1) / max(1, options.warmup))
        optimizer.param_groups[0]["lr"] = options.learning_rate * rise
        with accelerator.accumulate(wrapped):
            with accelerator.autocast():
                error = loss(wrapped, y0, context, generator)
            accelerator.backward(error)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), options.clip_norm)
            wrapped_optimizer.step()
            wrapped_optimizer.zero_grad()
        losses.append(error.detach())
        if not accelerator.sync_gradients:
            continue
        step += 1
        bar.update()
        move = get_ema_multi_avg_fn(min(options.ema_decay, step / (9 + step)))
        move(list(average.parameters()), list(model.parameters()), step)

        if _is_due(step, options.evaluate_every, options.steps):
            mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
            losses.clear()
            with accelerator.autocast():
                error = validation_loss(average, validation, loss, options.batch_size)
            _check_finite(step, mean, error)
            report = {"training_loss": mean, "validation_loss": error}
            curve.append({"step": step, **report, "seconds": time.monotonic() - began})
            accelerator.log(report, step=step)
            bar.set_postfix(training=f"{mean:.4f}", validation=f"{error:.4f}")
        if _is_due(step, machine.save_every, options.steps):
            _check_finite(step, *(value.item() for value in losses))
            state = {name: part.state_dict() for name, part in kept.items()}
            state |= {"identity": identity, "step": step, "curve": curve}
            state["seconds"] = time.monotonic() - began
            state["losses"] = torch.stack(losses) if losses else torch.empty(0)
            if accelerator.is_main_process:
                with atomic_path(state_file) as partial:
                    torch.save(state, partial)
    bar.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return average, pd.DataFrame(curve)


@torch.inference_mode()
def validation_loss(
    model: nn.Module, pairs: Pairs, loss: Loss, batch_size: int
) -> float:
    """Return the mean loss over all pairs, with the same random numbers each time.

    A low value at one evaluation and a higher one at the next is then a change of the
    model, not of the draw.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    total = 0.0
    for y0, context in pairs.batches(batch_size):
        error = loss(model, y0.to(device), context.to(device), generator)
        total += error.item() * len(y0)
    return total / len(pairs)


def _fork(share: Callable[[], object], machine: Machine) -> None:
    """Do a training in several processes, one for each GPU."""
    n_gpus = torch.cuda.device_count()  # does not touch them
    if machine.device != "cpu" and 0 < n_gpus < machine.processes:
        raise ValueError(
            f"machine.processes is {machine.processes}, but this process sees {n_gpus} "
            "GPUs. Executions by Snakemake see one: train by hand, or set it to 1."
        )
    port = str(get_free_port())
    notebook_launcher(share, (), machine.processes, use_port=port)


def _loader(
    pairs: Pairs, options: Training, machine: Machine, *, first: int, seed: int
) -> DataLoader:
    """Read the micro-batches of the steps from ``first`` on."""
    accumulate = machine.accumulate
    steps = range(first * accumulate, options.steps * accumulate)
    return DataLoader(
        pairs,
        batch_sampler=Batches(
            len(pairs), options.batch_size // accumulate, steps, seed
        ),
        collate_fn=tuple,  # batches come whole
        num_workers=machine.workers,
        # a fork shares arrays and memory maps; anything else would copy them
        multiprocessing_context="fork" if machine.workers else None,
        pin_memory=machine.device != "cpu" and torch.cuda.is_available(),
    )


def _accelerator(options: Training, machine: Machine, state_file: Path) -> Accelerator:
    """Set up processes, precision and trackers."""
    if machine.tensorboard and not is_tensorboard_available():
        raise ModuleNotFoundError(
            "machine.tensorboard is true, but TensorBoard is not installed: "
            "pip install tensorboard, or set it to false (curve.csv is always written)."
        )
    accelerator = Accelerator(
        mixed_precision=options.precision,
        cpu=machine.device == "cpu",
        gradient_accumulation_steps=machine.accumulate,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with="tensorboard" if machine.tensorboard else None,
        project_dir=state_file.parent / "tensorboard",
    )
    if machine.tensorboard:
        accelerator.init_trackers(state_file.stem)
    parts = accelerator.num_processes * machine.accumulate
    if options.batch_size % parts:
        raise ValueError(
            f"batch_size {options.batch_size} must be a multiple of {parts}: "
            f"{accelerator.num_processes} processes x {machine.accumulate} "
            "micro-batches (machine.accumulate)."
        )
    return accelerator


def _identity(
    model: nn.Module, pairs: Pairs, loss: Loss, options: Training, seed: int
) -> str:
    """Return a digest of all that decides a training, data by its first batch."""
    values = options.model_dump(exclude={"seeds"})
    digest = hashlib.sha256(f"{model}{loss}{values}{seed}{len(pairs)}".encode())
    for tensor in pairs.__getitems__(range(min(options.batch_size, len(pairs)))):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _read_state(file: Path, identity: str, accelerator: Accelerator) -> dict:
    """Return the state of a stopped training, or nothing."""
    if not file.is_file():
        return {}
    state = torch.load(file, map_location=accelerator.device, weights_only=True)
    if state["identity"] != identity:
        accelerator.print(
            "Options or data have changed since the run was stopped: starting anew."
        )
        return {}
    accelerator.print(f"Resuming after step {state['step']}.")
    return state


def _check_finite(step: int, *losses: float) -> None:
    if not all(map(math.isfinite, losses)):
        raise FloatingPointError(
            f"Step {step}: a loss is not finite ({losses}). The last state that was "
            "saved stays. Look for signals or tokens that are not finite, lower "
            "training.learning_rate, or train in another precision."
        )


def _is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _stream(*numbers: int) -> int:
    """Return the seed of a stream of random numbers of its own."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
