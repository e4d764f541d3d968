"""Noise schedule, training target and samplers (paper, section 3.2.1 and Appendix A).

=============  ==========================================================
Paper          Here
=============  ==========================================================
t, T           ``t`` from 1 to ``timesteps``; ``t`` = 0 is the clean signal
alpha bar      ``alpha_bar``, indexed by t, with ``alpha_bar[0]`` = 1
y_t, y_0       ``y``, ``y0``
epsilon        ``noise``
tau_i          first elements of :func:`timestep_pairs`
sigma_t, eta   ``sigma``, ``eta``
=============  ==========================================================

What a network predicts is one of :data:`PREDICTIONS`:

``"epsilon"``
    The noise, as in section 3.3.
``"v"``
    The velocity sqrt(alpha bar) noise - sqrt(1 - alpha bar) y0 (Salimans and Ho, 2022).
    Its loss also weighs the high noise levels, where the image decides.
``"epsilon_skip"``
    The noise, as sqrt(1 - alpha bar) y_t + sqrt(alpha bar) F with the network's output
    F: the loss of the paper, with the skip connection that a v-network has. The
    estimate of y_0 then stays finite where alpha bar is near 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from paperlib.coordinates import Coordinates
from paperlib.validation import check_option

PREDICTIONS = ("epsilon", "epsilon_skip", "v")
SPACINGS = ("trailing", "angle")
SOLVERS = ("ddim", "euler")


def linear_alpha_bar(timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return the cumulative product of 1 - beta for linearly rising beta.

    Parameters
    ----------
    timesteps
        T, the number of diffusion steps.
    beta_start, beta_end
        Noise variance added at t = 1 and t = T.

    Returns
    -------
    Tensor of shape (timesteps + 1,)
        Entry t is alpha bar of timestep t; entry 0 is 1.

    Raises
    ------
    ValueError
        If alpha bar falls below what float32 holds: samplers divide by it.
    """
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    kept = torch.cat([torch.ones(1, dtype=torch.float64), 1 - betas])
    alpha_bar = kept.cumprod(0)
    if alpha_bar[-1] < torch.finfo(torch.float32).tiny:
        raise ValueError(
            f"beta from {beta_start:g} to {beta_end:g} over {timesteps} timesteps "
            f"leaves alpha bar = {alpha_bar[-1]:.1e} at the last one, less than what "
            "float32 holds. Choose a smaller beta_end."
        )
    return alpha_bar.float()


def diffuse(y0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Add noise to a clean signal (equation 2).

    Parameters
    ----------
    y0, noise : Tensor of shape (B, C, T)
    alpha_bar : Tensor of shape (B,)
        Alpha bar at the timestep of each signal.

    Returns
    -------
    Tensor of shape (B, C, T)
    """
    signal, spread = _amplitudes(alpha_bar)
    return torch.addcmul(signal * y0, spread, noise)  # a sum in one pass over memory


def target(y0: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: str) -> Tensor:
    """Return what the output of a perfect network would be.

    Parameters
    ----------
    y0, noise : Tensor of shape (B, C, T)
    alpha_bar : Tensor of shape (B,)
    prediction
        One of :data:`PREDICTIONS`.

    Returns
    -------
    Tensor of shape (B, C, T)
    """
    check_option("prediction", prediction, PREDICTIONS)
    if prediction == "epsilon":
        return noise
    signal, spread = _amplitudes(alpha_bar)
    return torch.addcmul(signal * noise, spread, y0, value=-1)


def clean_and_noise(
    output: Tensor, y: Tensor, alpha_bar: Tensor, prediction: str
) -> tuple[Tensor, Tensor]:
    """Turn the network's output into estimates of clean signal (equation 3) and noise.

    Parameters
    ----------
    output, y : Tensor of shape (B, C, T)
        The network's output, and the noisy signal.
    alpha_bar : Tensor of shape (B,)
    prediction
        One of :data:`PREDICTIONS`.

    Returns
    -------
    y0, noise : Tensor of shape (B, C, T)
    """
    check_option("prediction", prediction, PREDICTIONS)
    signal, spread = _amplitudes(alpha_bar)
    if prediction == "epsilon":
        return (y - spread * output) / signal, output
    return signal * y - spread * output, spread * y + signal * output


@dataclass(frozen=True)
class DenoisingLoss:
    """The loss of a diffusion model (paper, section 3.3, Algorithm 1).

    Attributes
    ----------
    alpha_bar : Tensor of shape (timesteps + 1,)
    prediction : str
        One of :data:`PREDICTIONS`.
    scale_input : bool
        Show the network sqrt(alpha bar) y_t instead of y_t: nothing at t = T, where
        the image alone decides, and everything at t = 0.
    coordinates : Coordinates
        Give the noise its color.
    """

    alpha_bar: Tensor
    prediction: str
    scale_input: bool
    coordinates: Coordinates

    def __call__(
        self,
        model: nn.Module,
        y0: Tensor,
        context: Tensor,
        generator: torch.Generator,
        t: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of a prediction.

        Parameters
        ----------
        model
            Network ``model(y, t, context)``.
        y0 : Tensor of shape (B, C, T)
            Responses, in their coordinates.
        context : Tensor of shape (B, L, D)
            Condition tokens.
        generator
            Draws the noise, used with both signs for two signals of the batch, and
            timesteps where none are given.
        t : Tensor of shape (B,)
            Timesteps, 1 ... T.
        """
        draw = {"generator": generator, "device": y0.device}
        if t is None:
            t = torch.randint(1, len(self.alpha_bar), y0.shape[:1], **draw)  # B
        half = torch.randn(-(-len(y0) // 2), *y0.shape[1:], **draw)
        half = self.coordinates.color(half)
        noise = torch.cat([half, -half])[: len(y0)]
        alpha_bar = self.alpha_bar[t]
        y = diffuse(y0, noise, alpha_bar)
        output = model(shown(y, alpha_bar, self.scale_input), t, context).float()
        if self.prediction == "v":
            wanted = target(y0, noise, alpha_bar, "v")
        else:
            wanted = noise
            output = clean_and_noise(output, y, alpha_bar, self.prediction)[1]
        return F.mse_loss(output, wanted)

    def to(self, device: torch.device) -> Self:
        """Copy to a device."""
        moved = self.coordinates.to(device)
        return replace(self, alpha_bar=self.alpha_bar.to(device), coordinates=moved)


def shown(y: Tensor, alpha_bar: Tensor, scale_input: bool) -> Tensor:
    """Return what the network sees of noisy signals ``y`` (B, C, T)."""
    return _amplitudes(alpha_bar)[0] * y if scale_input else y


def timestep_pairs(
    alpha_bar: Tensor, steps: int, spacing: str = "trailing"
) -> list[tuple[int, int]]:
    """Return the sampler's path from noise to signal.

    Sampling starts from pure noise at the last timestep; the path ends at t = 0
    (Algorithm 2).

    Parameters
    ----------
    alpha_bar : Tensor of shape (timesteps + 1,)
    steps
        S, the number of network evaluations.
    spacing
        ``"trailing"`` spaces the timesteps evenly, ``"angle"`` the noise levels
        arccos sqrt(alpha bar), as closely as the schedule allows.

    Returns
    -------
    list of (t, t_prev)
        Each ``t_prev`` is the next ``t``; the last is 0.

    Raises
    ------
    ValueError
        If there are more steps than timesteps, or the spacing is unknown.
    """
    check_option("spacing", spacing, SPACINGS)
    timesteps = len(alpha_bar) - 1
    if not 1 <= steps <= timesteps:
        raise ValueError(
            f"steps must lie between 1 and the schedule's {timesteps} timesteps; "
            f"got {steps}."
        )
    if spacing == "trailing":
        path = np.linspace(timesteps, 0, steps + 1).round().astype(int)
    else:
        angles = _angle(alpha_bar).numpy()
        wanted = np.linspace(angles[-1], 0, steps + 1)
        path = np.abs(angles - wanted[:, None]).argmin(axis=1)
        path[0] = timesteps
        spare = np.arange(steps, -1, -1)  # timesteps that must be left for later steps
        path = np.maximum(path, spare)
        path = np.minimum.accumulate(path + np.arange(steps + 1)) - np.arange(steps + 1)
    path = path.tolist()
    return list(zip(path[:-1], path[1:], strict=True))


def ddim(
    predict: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    *,
    pairs: Sequence[tuple[int, int]],
    alpha_bar: Tensor,
    prediction: str,
    scale_input: bool = False,
    solver: str = "ddim",
    eta: float = 0.0,
    bound: float | None = None,
    draw_noise: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Sample with denoising diffusion implicit models (equations 3 to 6).

    Parameters
    ----------
    predict
        The network: noisy signals (B, C, T) and timesteps (B,) to outputs (B, C, T).
    y : Tensor of shape (B, C, T)
        Gaussian noise, of the color that the network was trained with.
    pairs
        From :func:`timestep_pairs`.
    alpha_bar : Tensor of shape (timesteps + 1,)
    prediction, scale_input
        As in training; see :class:`DenoisingLoss`.
    solver
        ``"ddim"``, or ``"euler"``: steps of the angle theta = arccos sqrt(alpha bar)
        along dy / dtheta = v. They keep the variance where v does not depend on y,
        while DDIM in S steps loses a factor prod cos(dtheta) of the spread.
    eta
        0 is deterministic. 1 is ancestral DDPM sampling (Ho et al., 2020) with the
        variance of the posterior q(y_t_prev | y_t, y_0), not the larger beta: the
        first version's sampler, on all T timesteps or on fewer. For ``"ddim"``.
    bound
        Limit of the estimated clean signal, in units of the training signal's
        standard deviation; None leaves it free.
    draw_noise
        Gives Gaussian noise shaped and colored like ``y``; needed for ``eta`` > 0.

    Returns
    -------
    Tensor of shape (B, C, T)
        Generated signals.
    """
    check_option("solver", solver, SOLVERS)
    if eta > 0 and (draw_noise is None or solver == "euler"):
        raise ValueError(
            "eta above 0 adds noise at every step: it needs draw_noise, and the solver "
            "'ddim'."
        )
    for t, t_prev in pairs:
        now, then = alpha_bar[t], alpha_bar[t_prev]
        each = now.expand(len(y))
        times = torch.full((len(y),), t, device=y.device)
        output = predict(shown(y, each, scale_input), times)
        y0, noise = clean_and_noise(output, y, each, prediction)
        if bound is not None:
            y0 = y0.clamp(-bound, bound)
            noise = (y - now.sqrt() * y0) / (1 - now).sqrt()
        if solver == "euler":
            velocity = now.sqrt() * noise - (1 - now).sqrt() * y0
            y = y - (_angle(now) - _angle(then)) * velocity
            continue
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()  # equation 5
        y = then.sqrt() * y0 + (1 - then - sigma**2).clamp(min=0).sqrt() * noise
        if eta > 0 and t_prev > 0:
            y = y + sigma * draw_noise()
    return y


@torch.inference_mode()
def sample(
    model: nn.Module,
    context: Callable[[np.ndarray], np.ndarray],
    n_images: int,
    *,
    coordinates: Coordinates,
    alpha_bar: Tensor,
    prediction: str,
    scale_input: bool,
    steps: int,
    spacing: str = "trailing",
    solver: str = "ddim",
    eta: float = 0.0,
    bound: float | None = None,
    samples: int = 1,
    antithetic: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    precision: str = "no",
) -> np.ndarray:
    """Draw several signals for each image (section 3.4, Algorithm 2).

    The noise of a sample depends on ``seed``, image and sample number only, so neither
    the batch size nor the other images change it.

    Parameters
    ----------
    model
        In evaluation mode. Keys and values of a condition are computed once for all
        steps and samples where the network can do so (``encode_context``).
    context
        Rows of images -> tokens, ndarray of shape (B, L, D).
    n_images
        N; the rows are 0 ... N - 1.
    coordinates
        Of the signals that the model was trained on; they are undone.
    alpha_bar, prediction, scale_input, solver, eta, bound
        See :func:`ddim`.
    steps, spacing
        See :func:`timestep_pairs`.
    samples
        K, signals per image.
    antithetic
        Every second sample starts from the negative noise of the one before it: the
        noise of both cancels in their mean to first order.
    seed
        Of the noise.
    batch_size
        Signals denoised at a time.
    precision
        Of the network: ``"no"`` (float32), ``"fp16"`` or ``"bf16"``; noise and signals
        are float32.

    Returns
    -------
    ndarray of shape (N, K, C, T), float32
        In the unit of the training signals.
    """
    device = next(model.parameters()).device
    coordinates, alpha_bar = coordinates.to(device), alpha_bar.to(device)
    pairs = timestep_pairs(alpha_bar.cpu(), steps, spacing)
    lower = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    autocast = torch.autocast(device.type, lower, enabled=lower is not None)
    generated = np.empty((n_images, samples, *coordinates.mean.shape), np.float32)
    at_once = max(1, batch_size // samples)
    for start in tqdm(range(0, n_images, at_once), desc="Sampling", unit="batch"):
        rows = np.arange(start, min(start + at_once, n_images))
        white = noise_source(
            seed, rows, samples, shape=coordinates.mean.shape, antithetic=antithetic
        )

        def draw_noise(white=white) -> Tensor:
            return coordinates.color(white().to(device))

        tokens = torch.from_numpy(context(rows)).to(device)  # B L D
        with autocast:
            if hasattr(model, "encode_context"):
                tokens = model.encode_context(tokens)  # shared by an image's samples
            else:
                tokens = tokens.repeat_interleave(samples, dim=0)  # B*K L D

        def predict(y: Tensor, t: Tensor, tokens=tokens) -> Tensor:
            with autocast:
                return model(y, t, tokens).float()

        y = ddim(
            predict,
            draw_noise(),
            pairs=pairs,
            alpha_bar=alpha_bar,
            prediction=prediction,
            scale_input=scale_input,
            solver=solver,
            eta=eta,
            bound=bound,
            draw_noise=draw_noise,
        )  # B*K C T
        y = coordinates.back(y).unflatten(0, (len(rows), samples))
        generated[rows] = y.cpu().numpy()
    return generated


def posterior_mean(
    model: nn.Module,
    context: Callable[[np.ndarray], np.ndarray],
    n_images: int,
    **options,
) -> np.ndarray:
    """Return the clean signal that the network expects from pure noise at t = T.

    At t = T the noisy signal says nothing about the clean one, and what the network
    estimates is the mean of all signals that the image allows: the mean of infinitely
    many samples, from one evaluation. Noise of either sign is shown, and the two
    answers are averaged.

    The options are those of :func:`sample` but for the path and the number of samples;
    the result, of shape (N, C, T), is in the unit of the training signals.
    """
    both = {"steps": 1, "samples": 2, "antithetic": True}
    return sample(model, context, n_images, **options, **both).mean(axis=1)


def noise_source(
    seed: int,
    rows: np.ndarray,
    samples: int,
    *,
    shape: tuple[int, int],
    antithetic: bool = False,
) -> Callable[[], Tensor]:
    """Return a function that draws white noise (B * K, C, T) for K samples of B rows.

    Seed, row and number of the sample decide a stream; ``shape`` is (C, T). If
    ``antithetic``, every second sample has the negative noise of the one before it.
    """
    if antithetic and samples % 2:
        raise ValueError(f"Antithetic samples come in pairs; got {samples} an image.")
    streams = [
        torch.Generator().manual_seed(
            int(np.random.SeedSequence((seed, row, k)).generate_state(1, np.uint64)[0])
        )
        for row in np.asarray(rows).tolist()
        for k in range(0, samples, 2 if antithetic else 1)
    ]

    def draw_noise() -> Tensor:
        noise = torch.stack([torch.randn(shape, generator=s) for s in streams])
        if antithetic:
            noise = torch.stack([noise, -noise], dim=1).flatten(0, 1)
        return noise

    return draw_noise


def _angle(alpha_bar: Tensor) -> Tensor:
    """Return arccos sqrt(alpha bar): 0 without noise, pi / 2 for noise alone."""
    return alpha_bar.sqrt().clamp(max=1).acos()


def _amplitudes(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(alpha bar) and sqrt(1 - alpha bar), shaped to multiply signals."""
    alpha_bar = alpha_bar[:, None, None]  # B 1 1
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
