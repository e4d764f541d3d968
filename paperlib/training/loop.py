"""Train a network: one readable loop on accelerate (paper, Algorithm 1).

Every random number is a function of seed and step: batches, timesteps and noise are
drawn for the whole effective batch; each process, and each micro-batch of a process,
takes its share. A run that was killed therefore ends, after its restart, with the
weights of an unbroken one, and two processes take the same steps as one.
"""

import json
import math
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from paperlib.atomic import atomic_path
from paperlib.checkpoints import pick_device
from paperlib.progress import progress_bar
from paperlib.training.objective import Loss
from paperlib.training.pairs import Batches, Pairs


@dataclass(frozen=True)
class TrainingSettings:
    """How to optimize; the section ``training`` of a configuration.

    Attributes
    ----------
    steps, batch_size : int
        Optimizer steps, and pairs per step over all processes.
    learning_rate, weight_decay : float
        Of AdamW.
    warmup : int
        Steps over which the learning rate rises linearly.
    clip_norm : float
        Largest norm of the gradient.
    ema_decay : float
        Largest decay of the weights' moving average; after ``n`` steps it is at most
        n / (9 + n).
    precision : str
        ``"no"``, ``"fp16"`` or ``"bf16"``.
    workers : int
        Processes that read batches; 0 reads in this one.
    evaluate_every, save_every : int
        Steps between validations, and between states saved for a restart.
    accumulate : int
        Micro-batches whose gradients are summed to those of a batch.
    checkpointing : bool
        Compute the DiT's activations again for the gradient instead of keeping them.
    compile : bool
        Compile the network with ``torch.compile``.
    tensorboard : bool
        Write the curve for TensorBoard, too.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: int
    clip_norm: float
    ema_decay: float
    precision: str
    workers: int
    evaluate_every: int
    save_every: int
    accumulate: int = 1
    checkpointing: bool = False
    compile: bool = False
    tensorboard: bool = False


@dataclass
class State:
    """What a restart needs: weights, their average, optimizer moments, the curve.

    Attributes
    ----------
    model, average : Module
        The network, and a copy of it with the moving average of its weights.
    optimizer : Optimizer
    scaler : GradScaler or None
        Of the gradients of fp16.
    step : int
        Optimizer steps that were taken.
    seconds : float
        Time that they took.
    losses : list of Tensor
        Of the steps since the last row of the curve.
    curve : list of dict
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    seconds: float = 0.0
    losses: list[Tensor] = field(default_factory=list)
    curve: list[dict] = field(default_factory=list)

    def save(self, path: Path, identity: dict) -> None:
        """Write everything to one safetensors file, atomically."""
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "losses": [loss.item() for loss in self.losses],
            "curve": self.curve,
            "scaler": self.scaler and self.scaler.state_dict(),
        }
        metadata = {"identity": json.dumps(identity), "progress": json.dumps(progress)}
        with atomic_path(path) as partial:
            save_file(self._tensors(), partial, metadata=metadata)

    def load(self, path: Path, identity: dict) -> str:
        """Continue from ``path`` if it was written under the same identity.

        Returns
        -------
        str
            What was done; empty if there is no file.
        """
        if not path.is_file():
            return ""
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            if json.loads(metadata["identity"]) != json.loads(json.dumps(identity)):
                return (
                    "Settings or data changed since the run was stopped: starting anew."
                )
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        self._make_moments()
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])
        progress = json.loads(metadata["progress"])
        self.step, self.seconds = progress["step"], progress["seconds"]
        device = next(self.model.parameters()).device
        self.losses = list(torch.tensor(progress["losses"], device=device))
        self.curve = progress["curve"]
        if self.scaler:
            self.scaler.load_state_dict(progress["scaler"])
        return f"Continuing a stopped run after step {self.step}."

    def _tensors(self) -> dict[str, Tensor]:
        """Name every tensor of the state; they share memory with it."""
        named = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        named |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        return {name: tensor.contiguous() for name, tensor in named.items()}

    def _make_moments(self) -> None:
        """Let the optimizer create its moments, without moving a weight."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def train(
    model: nn.Module,
    training: Pairs,
    validation: Pairs,
    *,
    objective: Loss,
    settings: TrainingSettings,
    state_file: Path,
    identity: dict,
    device: str = "auto",
) -> tuple[nn.Module, list[dict]]:
    """Train a network to minimize an objective on pairs of signals and tokens.

    In several processes, all of them call this; the first one prints and writes.

    Parameters
    ----------
    model
        Network that the objective calls: ``model(y, t, context)`` for
        :class:`Objective`.
    training, validation
        Pairs of signals and tokens; the validation concepts are never trained on.
    objective
        The loss: :class:`Objective` for diffusion models, one of
        :mod:`paperlib.models.synbrain` for a stage of SynBrain.
    settings
        How to optimize.
    state_file
        Where the state for a restart is kept; after the end it holds the finished
        training, for the caller to remove.
    identity
        Settings and fingerprints of the data: a state that was written under another
        identity is not continued.
    device
        ``"auto"`` takes a GPU if there is one, ``"cpu"`` never does.

    Returns
    -------
    model : Module
        With the moving average of the weights, in evaluation mode.
    curve : list of dict
        step, training_loss (mean since the last entry), validation_loss, seconds.

    Raises
    ------
    ValueError
        If the batch cannot be shared evenly.
    FloatingPointError
        If a loss is not finite when it is reported; no state is saved then.
    ModuleNotFoundError
        If TensorBoard is wanted and not installed.
    """
    accelerator = _accelerator(settings, state_file, device)
    parts = _micro_batches(accelerator, settings)
    state = _start(model, accelerator, settings)
    if message := state.load(state_file, identity):
        accelerator.print(message)
    wrapped, optimizer = accelerator.prepare(model, state.optimizer)
    weights = [list(network.parameters()) for network in (state.average, model)]
    began = time.monotonic() - state.seconds
    for batch in _batches(training, objective.seed, settings, state, accelerator):
        state.step += 1
        rise = min(1.0, state.step / max(1, settings.warmup))
        state.optimizer.param_groups[0]["lr"] = settings.learning_rate * rise
        state.losses.append(
            _add_gradients(wrapped, batch, objective, state.step, parts, accelerator)
        )
        accelerator.clip_grad_norm_(weights[1], settings.clip_norm)
        optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        decay = min(settings.ema_decay, state.step / (9 + state.step))
        get_ema_multi_avg_fn(decay)(*weights, state.step)
        state.seconds = time.monotonic() - began
        if _due(state.step, settings.evaluate_every, settings.steps):
            _report(state, objective, validation, accelerator)
        if _due(state.step, settings.save_every, settings.steps):
            _save(state, state_file, identity, accelerator)
    for tracker in accelerator.trackers:
        tracker.finish()
    return state.average, state.curve


def _accelerator(
    settings: TrainingSettings, state_file: Path, device: str
) -> Accelerator:
    """Set up processes, precision and trackers."""
    if settings.tensorboard and not is_tensorboard_available():
        raise ModuleNotFoundError(
            "training.tensorboard is true, but TensorBoard is not installed: "
            "pip install tensorboard, or set it to false (curve.csv is always written)."
        )
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        cpu=pick_device(device).type == "cpu",
        gradient_accumulation_steps=settings.accumulate,
        log_with="tensorboard" if settings.tensorboard else None,
        project_dir=state_file.parent / "tensorboard",
    )
    if settings.tensorboard:
        accelerator.init_trackers(state_file.stem)
    return accelerator


def _start(
    model: nn.Module, accelerator: Accelerator, settings: TrainingSettings
) -> State:
    """Move the model to its device and set up average and optimizer."""
    model.to(accelerator.device).train()
    average = deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if settings.compile:
        model.compile()
    return State(model, average, optimizer, accelerator.scaler)


def _batches(
    pairs: Pairs,
    seed: int,
    settings: TrainingSettings,
    state: State,
    accelerator: Accelerator,
) -> Iterable[tuple[Tensor, Tensor]]:
    """Read the batches that are left; the first process shows a progress bar."""
    each = settings.batch_size // accelerator.num_processes
    first = accelerator.process_index * each
    order = Batches(
        size=len(pairs),
        batch_size=settings.batch_size,
        steps=range(state.step, settings.steps),
        seed=seed,
        share=slice(first, first + each),
    )
    loader = DataLoader(
        pairs,
        batch_sampler=order,
        collate_fn=_unchanged,
        num_workers=settings.workers,
        # a fork shares arrays and memory maps; anything else would copy them
        multiprocessing_context="fork" if settings.workers else None,
        pin_memory=accelerator.device.type == "cuda",
    )
    if not accelerator.is_main_process:
        return loader
    return progress_bar(
        loader, total=settings.steps, done=state.step, label="Training", unit="step"
    )


def _micro_batches(accelerator: Accelerator, settings: TrainingSettings) -> list[slice]:
    """Return this process's parts of the effective batch."""
    count = accelerator.num_processes * settings.accumulate
    each, rest = divmod(settings.batch_size, count)
    if rest:
        raise ValueError(
            f"batch_size {settings.batch_size} must be a multiple of {count}: "
            f"{accelerator.num_processes} processes x {settings.accumulate} "
            "micro-batches (training.accumulate)."
        )
    first = accelerator.process_index * settings.accumulate
    starts = range(first * each, (first + settings.accumulate) * each, each)
    return [slice(start, start + each) for start in starts]


def _add_gradients(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    objective: Loss,
    step: int,
    parts: list[slice],
    accelerator: Accelerator,
) -> Tensor:
    """Sum the gradients of the micro-batches; return the mean of their losses."""
    device = accelerator.device
    losses = []
    for part in parts:
        own = slice(part.start - parts[0].start, part.stop - parts[0].start)
        y0, context = (x[own].to(device, non_blocking=True) for x in batch)
        with accelerator.accumulate(model):
            with accelerator.autocast():
                loss = objective.loss(model, y0, context, step, part)
            accelerator.backward(loss)
        losses.append(loss.detach())
    return torch.stack(losses).mean()


def _report(
    state: State, objective: Loss, validation: Pairs, accelerator: Accelerator
) -> None:
    """Add a row to the curve and print it."""
    training_loss = _mean(state.losses, accelerator).mean().item()
    state.losses.clear()
    with accelerator.autocast():
        error = objective.validation_loss(state.average, validation, accelerator.device)
    losses = {"training_loss": training_loss, "validation_loss": error}
    if not all(map(math.isfinite, losses.values())):
        raise FloatingPointError(
            f"Step {state.step}: the training loss is {training_loss}, the validation "
            f"loss {error}. The last state that was saved stays; look for signals or "
            "tokens that are not finite, lower training.learning_rate, or train in "
            "another precision."
        )
    state.curve.append({"step": state.step, **losses, "seconds": state.seconds})
    accelerator.log(losses, step=state.step)
    accelerator.print(
        f"Step {state.step}: training loss {training_loss:.4f}, validation loss "
        f"{error:.4f}, {state.seconds:.0f} s."
    )


def _save(
    state: State, state_file: Path, identity: dict, accelerator: Accelerator
) -> None:
    """Keep the state; only the first process writes."""
    if state.losses:
        state.losses = list(_mean(state.losses, accelerator))
    if accelerator.is_main_process:
        state.save(state_file, identity)


def _mean(losses: list[Tensor], accelerator: Accelerator) -> Tensor:
    """Return the mean over processes of the loss of each step (steps,)."""
    return accelerator.reduce(torch.stack(losses), "mean")


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _unchanged(batch):
    """Pass a batch on as it was read; a function, so that workers can import it."""
    return batch
