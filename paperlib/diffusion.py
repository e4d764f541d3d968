"""Noise schedule, training target and sampler (paper, section 3.2.1 and Appendix A).

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
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from paperlib.validation import check_option

PREDICTIONS = ("epsilon", "v")


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
    return signal * y0 + spread * noise


def target(y0: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: str) -> Tensor:
    """Return what the network should predict.

    Parameters
    ----------
    y0, noise : Tensor of shape (B, C, T)
    alpha_bar : Tensor of shape (B,)
    prediction
        ``"epsilon"`` as in section 3.3, or ``"v"``, the velocity
        sqrt(alpha bar) noise - sqrt(1 - alpha bar) y0 (Salimans and Ho, 2022),
        whose loss also weighs the high noise levels.

    Returns
    -------
    Tensor of shape (B, C, T)
    """
    check_option("prediction", prediction, PREDICTIONS)
    if prediction == "epsilon":
        return noise
    signal, spread = _amplitudes(alpha_bar)
    return signal * noise - spread * y0


def clean_and_noise(
    output: Tensor, y: Tensor, alpha_bar: Tensor, prediction: str
) -> tuple[Tensor, Tensor]:
    """Turn the network's output into estimates of clean signal (equation 3) and noise.

    Parameters
    ----------
    output, y : Tensor of shape (B, C, T)
        What the network predicted, and the noisy signal that it saw.
    alpha_bar : Tensor of shape (B,)
    prediction
        As for :func:`target`.

    Returns
    -------
    y0, noise : Tensor of shape (B, C, T)
    """
    check_option("prediction", prediction, PREDICTIONS)
    signal, spread = _amplitudes(alpha_bar)
    if prediction == "epsilon":
        return (y - spread * output) / signal, output
    return signal * y - spread * output, spread * y + signal * output


def timestep_pairs(timesteps: int, steps: int) -> list[tuple[int, int]]:
    """Return the sampler's path from noise to signal.

    Timesteps are spaced evenly and end at the last one ("trailing"), so that sampling
    starts from pure noise; the path ends at t = 0 (Algorithm 2).

    Parameters
    ----------
    timesteps
        T of the schedule.
    steps
        S, the number of network evaluations.

    Returns
    -------
    list of (t, t_prev)
        Each ``t_prev`` is the next ``t``; the last is 0.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(
            f"steps must lie between 1 and the schedule's {timesteps} timesteps; "
            f"got {steps}."
        )
    path = np.linspace(timesteps, 0, steps + 1).round().astype(int).tolist()
    return list(zip(path[:-1], path[1:], strict=True))


def ddim(
    predict: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    *,
    pairs: Sequence[tuple[int, int]],
    alpha_bar: Tensor,
    prediction: str,
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
        Gaussian noise.
    pairs
        From :func:`timestep_pairs`.
    alpha_bar : Tensor of shape (timesteps + 1,)
    prediction
        What the network was trained to predict.
    eta
        0 is deterministic. 1 is ancestral DDPM sampling (Ho et al., 2020) with the
        variance of the posterior q(y_t_prev | y_t, y_0), not the larger beta: the
        first version's sampler, on all T timesteps or on fewer.
    bound
        Limit of the estimated clean signal, in units of the training signal's
        standard deviation; None leaves it free.
    draw_noise
        Gives Gaussian noise shaped like ``y``; needed for ``eta`` > 0.

    Returns
    -------
    Tensor of shape (B, C, T)
        Generated signals.
    """
    if eta > 0 and draw_noise is None:
        raise ValueError("eta above 0 adds noise at every step: draw_noise is needed.")
    for t, t_prev in pairs:
        now, then = alpha_bar[t], alpha_bar[t_prev]
        times = torch.full((len(y),), t, device=y.device)
        output = predict(y, times)
        y0, noise = clean_and_noise(output, y, now.expand(len(y)), prediction)
        if bound is not None:
            y0 = y0.clamp(-bound, bound)
            noise = (y - now.sqrt() * y0) / (1 - now).sqrt()
        sigma = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()  # equation 5
        y = then.sqrt() * y0 + (1 - then - sigma**2).clamp(min=0).sqrt() * noise
        if eta > 0 and t_prev > 0:
            y = y + sigma * draw_noise()
    return y


def _amplitudes(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(alpha bar) and sqrt(1 - alpha bar), shaped to multiply signals."""
    alpha_bar = alpha_bar[:, None, None]  # B 1 1
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
