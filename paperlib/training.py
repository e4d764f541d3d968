"""Train a network: one readable loop on accelerate (paper, Algorithm 1).

Every random number is a function of seed and step: batches, timesteps and noise are
drawn for the whole effective batch and each process takes its share. A run that was
killed therefore ends, after its restart, with the weights of an unbroken one, and two
processes take the same steps as one.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from paperlib.atomic import atomic_path
from paperlib.diffusion import diffuse, target
from paperlib.progress import progress_bar


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
        Largest decay of the weights' moving average, which rises as
        (1 + step) / (10 + step).
    precision : str
        ``"no"``, ``"fp16"`` or ``"bf16"``.
    workers : int
        Processes that read batches; 0 reads in this one.
    evaluate_every, save_every : int
        Steps between validations, and between states saved for a restart.
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


class Pairs(Dataset):
    """Signals with the condition tokens of their images.

    Parameters
    ----------
    signals : ndarray of shape (N, R, C, T)
        Signals of each image; may be a memory map.
    rows : ndarray of int
        Images to use.
    context : callable
        Rows of images -> tokens, ndarray of shape (B, L, D).
    scale : float
        Signals are divided by it.
    """

    def __init__(
        self,
        signals: np.ndarray,
        rows: Sequence[int],
        *,
        context: Callable[[np.ndarray], np.ndarray],
        scale: float,
    ):
        self.signals = signals
        self.rows = np.asarray(rows)
        self.context = context
        self.scale = np.float32(scale)

    def __len__(self) -> int:
        """Count pairs: an image has as many as it has repetitions."""
        return len(self.rows) * self.signals.shape[1]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read a batch: signals (B, C, T) and tokens (B, L, D)."""
        images, repetitions = np.divmod(indices, self.signals.shape[1])
        images = self.rows[images]
        signals = self.signals[images, repetitions] / self.scale
        return torch.from_numpy(signals), torch.from_numpy(self.context(images))

    def batches(
        self, batch_size: int, device: str | torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in order, as :meth:`__getitems__` reads them."""
        for start in range(0, len(self), batch_size):
            signals, tokens = self.__getitems__(
                range(start, min(start + batch_size, len(self)))
            )
            yield signals.to(device), tokens.to(device)


@dataclass(frozen=True)
class Batches:
    """Indices of this process's share of each batch; an epoch is a permutation."""

    size: int
    batch_size: int
    steps: range
    seed: int
    share: slice

    def __len__(self) -> int:
        """Count the batches that are left."""
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batch of each step."""
        for step in self.steps:
            first = step * self.batch_size
            epochs, offsets = np.divmod(
                np.arange(first, first + self.batch_size), self.size
            )
            orders = {e: self._permutation(e) for e in set(epochs.tolist())}
            pairs = zip(epochs.tolist(), offsets, strict=True)
            yield [int(orders[epoch][offset]) for epoch, offset in pairs][self.share]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)


class Loss(Protocol):
    """What :func:`train` asks of an objective; see :class:`Objective`."""

    @property
    def seed(self) -> int:
        """Decides the batches."""

    def loss(
        self, model: nn.Module, y0: Tensor, context: Tensor, step: int, share: slice
    ) -> Tensor:
        """Return the loss of a training step."""

    def validation_loss(self, model: nn.Module, pairs: Pairs, device) -> float:
        """Return the loss over all pairs."""


@dataclass(frozen=True)
class Objective:
    """The denoising loss (paper, section 3.3).

    Attributes
    ----------
    alpha_bar : Tensor of shape (timesteps + 1,)
        Noise schedule.
    prediction : str
        ``"epsilon"`` or ``"v"``.
    seed : int
        Decides timesteps and noise, with the step.
    batch_size : int
        Pairs per step over all processes.
    """

    alpha_bar: Tensor
    prediction: str
    seed: int
    batch_size: int

    def loss(
        self, model: nn.Module, y0: Tensor, context: Tensor, step: int, share: slice
    ) -> Tensor:
        """Return the mean squared error of a training step's prediction.

        Parameters
        ----------
        model
            Network ``model(y, t, context)``.
        y0 : Tensor of shape (B, C, T)
        context : Tensor of shape (B, L, D)
        step
            From 1; decides timesteps and noise.
        share
            This process's part of the effective batch.
        """
        generator = torch.Generator(y0.device).manual_seed(self.seed * 2**32 + step)
        shape = (self.batch_size, *y0.shape[1:])
        timesteps = len(self.alpha_bar) - 1
        t = torch.randint(
            1, timesteps + 1, shape[:1], generator=generator, device=y0.device
        )
        noise = torch.randn(shape, generator=generator, device=y0.device)
        return self._error(model, y0, context, t[share], noise[share]).mean()

    @torch.inference_mode()
    def validation_loss(self, model: nn.Module, pairs: Pairs, device) -> float:
        """Return the loss over all pairs, at fixed noise and evenly spread timesteps.

        A low value at one evaluation and a higher one at the next is then a change of
        the model, not of the draw.
        """
        generator = torch.Generator(device).manual_seed(self.seed)
        timesteps = len(self.alpha_bar) - 1
        spread = torch.linspace(1, timesteps, len(pairs)).round().long().to(device)
        parts = spread.split(self.batch_size)
        total = 0.0
        batches = pairs.batches(self.batch_size, device)
        for t, (y0, context) in zip(parts, batches, strict=True):
            noise = torch.randn(y0.shape, generator=generator, device=device)
            total += self._error(model, y0, context, t, noise).sum().item()
        return total / len(pairs)

    def _error(
        self, model: nn.Module, y0: Tensor, context: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the error of each signal (B,)."""
        alpha_bar = self.alpha_bar.to(y0.device)[t]
        output = model(diffuse(y0, noise, alpha_bar), t, context)
        wanted = target(y0, noise, alpha_bar, self.prediction)
        return (output.float() - wanted).square().mean(dim=(1, 2))


@dataclass
class State:
    """What a restart needs: weights, their average, optimizer moments, the curve."""

    model: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    curve: list[dict] = field(default_factory=list)

    def save(self, path: Path, identity: dict) -> None:
        """Write everything to one safetensors file, atomically."""
        progress = {"step": self.step, "seconds": self.seconds, "curve": self.curve}
        metadata = {"identity": json.dumps(identity), "progress": json.dumps(progress)}
        with atomic_path(path) as partial:
            save_file(self._tensors(), partial, metadata=metadata)

    def load(self, path: Path, identity: dict) -> None:
        """Continue from ``path`` if it was written under the same identity."""
        if not path.is_file():
            return
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            if json.loads(metadata["identity"]) != json.loads(json.dumps(identity)):
                print(
                    "Settings or data changed since the run was stopped: starting anew."
                )
                return
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        self._make_moments()
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])
        progress = json.loads(metadata["progress"])
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.curve = progress["curve"]
        print(f"Continuing a stopped run after step {self.step}.")

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
        Where the state for a restart is kept while training; removed at the end.
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
    """
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=device == "cpu")
    state = _start(model, accelerator, settings)
    state.load(state_file, identity)
    wrapped, optimizer = accelerator.prepare(model, state.optimizer)
    share = _share(accelerator, settings.batch_size)
    losses: list[Tensor] = []
    began = time.monotonic() - state.seconds
    for y0, context in _batches(training, objective.seed, settings, state, share):
        state.step += 1
        rise = min(1.0, state.step / max(1, settings.warmup))
        state.optimizer.param_groups[0]["lr"] = settings.learning_rate * rise
        y0, context = y0.to(accelerator.device), context.to(accelerator.device)
        with accelerator.autocast():
            loss = objective.loss(wrapped, y0, context, state.step, share)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.average.update_parameters(model)
        losses.append(loss.detach())
        state.seconds = time.monotonic() - began
        if _due(state.step, settings.evaluate_every, settings.steps):
            mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
            losses.clear()
            _report(state, mean, objective, validation, accelerator)
        if state.step % settings.save_every == 0 and accelerator.is_main_process:
            state.save(state_file, identity)
    state_file.unlink(missing_ok=True)
    return state.average.module.eval(), state.curve


def _start(
    model: nn.Module, accelerator: Accelerator, settings: TrainingSettings
) -> State:
    """Move the model to its device and set up average and optimizer."""
    model.to(accelerator.device).train()

    def warmed(averages, weights, step):
        decay = min(settings.ema_decay, float((1 + step) / (10 + step)))
        for mean, weight in zip(averages, weights, strict=True):
            mean.lerp_(weight, 1 - decay)

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    return State(model, AveragedModel(model, multi_avg_fn=warmed), optimizer)


def _batches(
    pairs: Pairs, seed: int, settings: TrainingSettings, state: State, share: slice
):
    """Read the batches that are left, behind a progress bar."""
    order = Batches(
        size=len(pairs),
        batch_size=settings.batch_size,
        steps=range(state.step, settings.steps),
        seed=seed,
        share=share,
    )
    loader = DataLoader(
        pairs,
        batch_sampler=order,
        collate_fn=_unchanged,
        num_workers=settings.workers,
        pin_memory=torch.cuda.is_available(),
    )
    return progress_bar(
        loader, total=settings.steps, done=state.step, label="Training", unit="step"
    )


def _report(
    state: State,
    training_loss: float,
    objective: Loss,
    validation: Pairs,
    accelerator: Accelerator,
) -> None:
    """Add a row to the curve and print it."""
    state.average.eval()
    error = objective.validation_loss(
        state.average.module, validation, accelerator.device
    )
    row = {
        "step": state.step,
        "training_loss": training_loss,
        "validation_loss": error,
        "seconds": state.seconds,
    }
    state.curve.append(row)
    accelerator.print(
        f"Step {state.step}: training loss {training_loss:.4f}, validation loss "
        f"{error:.4f}, {state.seconds:.0f} s."
    )


def _share(accelerator: Accelerator, batch_size: int) -> slice:
    """Return this process's part of the effective batch."""
    each, rest = divmod(batch_size, accelerator.num_processes)
    if rest:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the "
            f"{accelerator.num_processes} processes."
        )
    first = accelerator.process_index * each
    return slice(first, first + each)


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _unchanged(batch):
    """Pass a batch on as it was read; a function, so that workers can import it."""
    return batch
