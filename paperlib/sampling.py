"""From a trained model and condition tokens to signals (section 3.4, Algorithm 2)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from paperlib.diffusion import ddim, linear_alpha_bar, timestep_pairs
from paperlib.progress import progress_bar


@torch.inference_mode()
def sample_signals(
    model: nn.Module,
    recipe: dict,
    context: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    *,
    steps: int,
    eta: float,
    bound: float | None,
    samples: int,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """Draw several signals for each image.

    The noise of a sample depends on ``seed``, image and sample number only, so neither
    the batch size nor the other images change it.

    Parameters
    ----------
    model, recipe
        From :func:`paperlib.checkpoints.load_checkpoint`.
    context
        Rows of images -> tokens, ndarray of shape (B, L, D).
    rows : ndarray of shape (N,)
        Images to generate for.
    steps, eta, bound
        Of the sampler, see :func:`paperlib.diffusion.ddim`.
    samples
        K, signals per image.
    seed
        Of the noise.
    batch_size
        Signals denoised at a time.

    Returns
    -------
    ndarray of shape (N, K, C, T), float32
        In the unit of the training signals.
    """
    device = next(model.parameters()).device
    diffusion = dict(recipe["diffusion"])
    prediction = diffusion.pop("prediction")
    alpha_bar = linear_alpha_bar(**diffusion).to(device)
    pairs = timestep_pairs(diffusion["timesteps"], steps)
    shape = (len(recipe["ch_names"]), len(recipe["times"]))
    generated = np.empty((len(rows), samples, *shape), np.float32)  # N K C T
    at_once = max(1, batch_size // samples)
    starts = range(0, len(rows), at_once)
    for start in progress_bar(starts, label="Sampling", unit="batch"):
        chosen = rows[start : start + at_once]
        draw_noise = noise_source(seed, chosen, samples, shape=shape, device=device)
        tokens = torch.from_numpy(context(chosen)).to(device)  # B L D
        y = ddim(
            _conditioned(model, tokens, samples),
            draw_noise(),
            pairs=pairs,
            alpha_bar=alpha_bar,
            prediction=prediction,
            eta=eta,
            bound=bound,
            draw_noise=draw_noise,
        )  # B*K C T
        y = y.unflatten(0, (len(chosen), samples)) * recipe["scale"]
        generated[start : start + at_once] = y.cpu().numpy()
    return generated


@torch.inference_mode()
def predict(
    model: nn.Module,
    recipe: dict,
    context: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    *,
    batch_size: int,
) -> np.ndarray:
    """Return the one signal that a deterministic network gives for each image.

    Parameters
    ----------
    model, recipe, context, rows
        As for :func:`sample_signals`; the network takes tokens and nothing else.
    batch_size
        Images at a time.

    Returns
    -------
    ndarray of shape (N, 1, C, T), float32
        In the unit of the training signals.
    """
    device = next(model.parameters()).device
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    predicted = [
        model(torch.from_numpy(context(batch)).to(device)).cpu().numpy()
        for batch in progress_bar(batches, label="Predicting", unit="batch")
    ]  # B C T each
    return np.concatenate(predicted)[:, None] * np.float32(recipe["scale"])


def noise_source(
    seed: int,
    rows: np.ndarray,
    samples: int,
    *,
    shape: tuple[int, int],
    device: torch.device,
) -> Callable[[], Tensor]:
    """Return a function that draws noise (B * K, C, T), one stream for each sample."""
    streams = [
        torch.Generator().manual_seed(
            int(np.random.SeedSequence((seed, row, k)).generate_state(1, np.uint64)[0])
        )
        for row in np.asarray(rows).tolist()
        for k in range(samples)
    ]

    def draw_noise() -> Tensor:
        noise = [torch.randn(shape, generator=stream) for stream in streams]
        return torch.stack(noise).to(device)

    return draw_noise


def _conditioned(
    model: nn.Module, tokens: Tensor, samples: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Bind the condition, encoded once if the network can do so beforehand."""
    if hasattr(model, "encode_context"):
        context = model.encode_context(tokens)  # shared by the samples of an image
    else:
        context = tokens.repeat_interleave(samples, dim=0)
    return lambda y, t: model(y, t, context)
