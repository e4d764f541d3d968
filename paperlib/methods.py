"""The methods of the comparison behind one interface: fit, sample, posterior mean.

A diffusion model (DiT, U-Net), SynBrain and a linear encoder are fitted to the same
pairs and asked about the same images, so notebooks 04 and 05 need not distinguish them.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from paperlib.config import Diffusion, Machine, Sampling, Section, Training
from paperlib.coordinates import Coordinates
from paperlib.diffusion import (
    DenoisingLoss,
    linear_alpha_bar,
    posterior_mean,
    sample,
)
from paperlib.models.dit import DiT
from paperlib.models.linear import (
    LayerwiseEncoder,
    LinearEncoder,
    encoder_from_arrays,
    fit_kernel_regression,
    fit_layerwise_ridge,
    fit_pls,
    fit_ridge,
)
from paperlib.models.synbrain import BrainVAELoss, MapperLoss, SynBrain
from paperlib.models.unet import UNet
from paperlib.recordings.regions import channel_regions
from paperlib.stimuli.conditions import Condition
from paperlib.stimuli.features import LayerFeatures, token_features
from paperlib.training import Pairs, train

_BLOCK = 512  # images whose features or predictions are in memory at a time


class DiffusionModel:
    """A network that denoises responses.

    Parameters
    ----------
    network
        ``network(y, t, context)``.
    coordinates
        Of the responses.
    options
        Schedule and target.

    Attributes
    ----------
    loss : DenoisingLoss
    """

    def __init__(
        self, network: nn.Module, coordinates: Coordinates, options: Diffusion
    ):
        self.network, self.coordinates = network, coordinates
        schedule = (options.timesteps, options.beta_start, options.beta_end)
        self.loss = DenoisingLoss(
            linear_alpha_bar(*schedule),
            options.prediction,
            options.scale_input,
            coordinates,
        )

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def fit(
        self,
        training: Pairs,
        validation: Pairs,
        *,
        options: Training,
        machine: Machine,
        seed: int,
        folder: Path,
    ) -> pd.DataFrame:
        """Fit the model.

        Parameters
        ----------
        training, validation
            Pairs of responses and tokens.
        options, machine, seed
            See :func:`paperlib.training.train`.
        folder
            Where states for a restart are kept: ``*.pt`` files, for the caller to
            remove once the model is stored.

        Returns
        -------
        DataFrame
            step, training_loss, validation_loss, seconds.
        """
        self.network, curve = train(
            self.network,
            training,
            validation,
            loss=self.loss,
            options=options,
            machine=machine,
            seed=seed,
            state_file=folder / "state.pt",
        )
        return curve

    def sample(
        self, condition: Condition, *, sampling: Sampling, seed: int, machine: Machine
    ) -> np.ndarray:
        """Draw signals for every image of a condition.

        Parameters
        ----------
        condition
            Tokens of the images.
        sampling
            How to sample; deterministic methods have one signal an image.
        seed
            Of the noise.
        machine
            Batch size.

        Returns
        -------
        ndarray of shape (N, K, C, T), float32
            In the unit of the responses.
        """
        path = sampling.model_dump(exclude={"precision", "bound"})
        options = self._options(sampling, seed, machine)
        return sample(
            self.network, condition, len(condition.image_ids), **path, **options
        )

    def posterior_mean(
        self, condition: Condition, *, sampling: Sampling, seed: int, machine: Machine
    ) -> np.ndarray:
        """Return the expected signal of every image, ndarray of shape (N, C, T).

        The parameters are those of :meth:`sample`.
        """
        options = self._options(sampling, seed, machine)
        return posterior_mean(
            self.network, condition, len(condition.image_ids), **options
        )

    def tensors(self) -> dict[str, Tensor]:
        """Name the weights."""
        return self.network.state_dict()

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take weights over from :meth:`tensors`."""
        self.network.load_state_dict(tensors)
        self.network.to(device).eval()

    def _options(self, sampling: Sampling, seed: int, machine: Machine) -> dict:
        return {
            "coordinates": self.coordinates,
            "alpha_bar": self.loss.alpha_bar,
            "prediction": self.loss.prediction,
            "scale_input": self.loss.scale_input,
            "bound": sampling.bound,
            "precision": sampling.precision,
            "seed": seed,
            "batch_size": machine.sampling_batch,
        }


class SynBrainModel:
    """SynBrain, in its two stages; see :class:`DiffusionModel` for the interface."""

    def __init__(self, network: SynBrain, coordinates: Coordinates, options: Section):
        self.network, self.coordinates = network, coordinates
        self.options = options.autoencoder

    n_parameters = DiffusionModel.n_parameters
    tensors = DiffusionModel.tensors
    load = DiffusionModel.load

    def fit(
        self,
        training: Pairs,
        validation: Pairs,
        *,
        options: Training,
        machine: Machine,
        seed: int,
        folder: Path,
    ) -> pd.DataFrame:
        """Fit the autoencoder of responses, then the mapper from tokens to latents."""
        pairs = {"training": training, "validation": validation}
        common = pairs | {"machine": machine, "seed": seed}
        weights = self.options.model_dump(exclude={"steps"})
        self.network.vae, first = train(
            self.network.vae,
            loss=BrainVAELoss(**weights),
            options=options.model_copy(update={"steps": self.options.steps}),
            state_file=folder / "autoencoder.pt",
            **common,
        )
        self.network.mapper, curve = train(
            self.network.mapper,
            loss=MapperLoss(self.network.vae, trained_with=str(self.options)),
            options=options,
            state_file=folder / "mapper.pt",
            **common,
        )
        self.network.eval()
        for column in ("step", "seconds"):  # count the first stage in
            curve[column] += first[column].iloc[-1]
        return curve

    def sample(self, condition: Condition, **options) -> np.ndarray:
        """Return the predictions, ndarray of shape (N, 1, C, T)."""
        return self.posterior_mean(condition, **options)[:, None]

    @torch.inference_mode()
    def posterior_mean(
        self, condition: Condition, *, machine: Machine, **_
    ) -> np.ndarray:
        """Return the predictions, ndarray of shape (N, C, T)."""
        device = next(self.network.parameters()).device
        coordinates = self.coordinates.to(device)
        predicted = []
        for rows in _parts(len(condition.image_ids), machine.sampling_batch):
            tokens = torch.from_numpy(condition(rows)).to(device)
            predicted.append(coordinates.back(self.network(tokens)).cpu().numpy())
        return np.concatenate(predicted)


class LinearModel:
    """A linear encoder; see :class:`DiffusionModel` for the interface."""

    def __init__(self, method: str, coordinates: Coordinates, options: Section):
        self.method, self.coordinates, self.options = method, coordinates, options
        self.encoder: LinearEncoder | LayerwiseEncoder | None = None

    @property
    def n_parameters(self) -> int:
        """Number of coefficients."""
        return self.encoder.n_coefficients

    def fit(
        self,
        training: Pairs,
        validation: Pairs,
        *,
        machine: Machine,
        seed: int,
        **_,
    ) -> pd.DataFrame:
        """Fit the encoder to the mean response to each image; the curve has one row."""
        began = time.monotonic()
        features = self._features(training.context, training.rows)
        responses, held_out = _mean_responses(training), _mean_responses(validation)
        options = self.options.model_dump(exclude={"layer", "pooling"})
        if self.method == "pls":
            self.encoder = fit_pls(features, responses, **options)
        elif self.method == "kernel_regression":
            self.encoder = fit_kernel_regression(
                features, responses, seed=seed, **options
            )
        else:
            fits = {"ridge": fit_ridge, "layerwise_ridge": fit_layerwise_ridge}
            options |= {"seed": seed, "block": machine.ridge_block}
            self.encoder = fits[self.method](features, responses, **options)
        row = {
            "step": 1,
            "training_loss": self._error(training, responses),
            "validation_loss": self._error(validation, held_out),
            "seconds": time.monotonic() - began,
        }
        return pd.DataFrame([row])

    def sample(self, condition: Condition, **options) -> np.ndarray:
        """Return the predictions, ndarray of shape (N, 1, C, T)."""
        return self.posterior_mean(condition, **options)[:, None]

    def posterior_mean(self, condition: Condition, **_) -> np.ndarray:
        """Return the predictions, ndarray of shape (N, C, T)."""
        answers = [
            self.encoder.predict(self._features(condition, rows)).astype(np.float32)
            for rows in _parts(len(condition.image_ids), _BLOCK)
        ]
        x = torch.from_numpy(np.concatenate(answers))  # N C*T
        x = x.unflatten(1, self.coordinates.mean.shape)  # N C T
        return self.coordinates.back(x).numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Name what was fitted."""
        return {k: torch.from_numpy(v) for k, v in self.encoder.to_arrays().items()}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take coefficients over from :meth:`tensors`; they stay on the CPU."""
        self.encoder = encoder_from_arrays({k: v.numpy() for k, v in tensors.items()})

    def _features(
        self, condition: Condition, rows: np.ndarray
    ) -> np.ndarray | Mapping[str, np.ndarray]:
        image_ids = condition.image_ids[rows]
        if self.method == "ridge":
            return token_features(
                condition.sources,
                image_ids,
                pooling=self.options.pooling,
                batch_size=_BLOCK,
            )
        layers = LayerFeatures(condition.sources[0], image_ids)
        if self.method == "layerwise_ridge":
            return layers
        if self.method == "pls":
            return layers[self.options.layer]
        return np.hstack(list(layers.values()))

    def _error(self, pairs: Pairs, responses: np.ndarray) -> float:
        """Return the mean squared error, a block of images at a time."""
        total = 0.0
        for part in _parts(len(pairs.rows), _BLOCK):
            features = self._features(pairs.context, pairs.rows[part])
            errors = np.square(self.encoder.predict(features) - responses[part])
            total += errors.mean(axis=1).sum(dtype=float)
        return float(total / len(pairs.rows))


def _mean_responses(pairs: Pairs) -> np.ndarray:
    """Return the mean response to each image, in coordinates, (N, C*T)."""
    n = pairs.responses.shape[1]  # repetitions
    parts = (pairs.coordinates_of(rows) for rows in _parts(len(pairs), n * _BLOCK))
    means = [part.unflatten(0, (-1, n)).mean(1).flatten(1) for part in parts]
    return torch.cat(means).numpy()


def _parts(n: int, size: int) -> list[np.ndarray]:
    """Split the rows 0 ... n - 1 into parts of a size."""
    return np.split(np.arange(n), range(size, n, size))


Model = DiffusionModel | SynBrainModel | LinearModel


def build_model(
    method: str,
    options: Section,
    *,
    ch_names: Sequence[str],
    n_tokens: int,
    context_width: int,
    coordinates: Coordinates,
    diffusion: Diffusion,
) -> Model:
    """Return a method that is not fitted yet.

    Parameters
    ----------
    method
        ``"dit"``, ``"unet"``, ``"synbrain"``, ``"layerwise_ridge"``, ``"pls"``,
        ``"kernel_regression"`` or ``"ridge"``.
    options
        Of the method: an attribute of :class:`paperlib.config.Methods`.
    ch_names
        Channels of the responses.
    n_tokens, context_width
        Condition tokens of an image, and their width.
    coordinates
        Of the responses.
    diffusion
        Schedule and target, of the DiT and the U-Net.
    """
    n_channels, n_times = coordinates.mean.shape
    if method in ("dit", "unet"):
        network = {"dit": DiT, "unet": UNet}[method](
            channel_regions(ch_names),
            n_times,
            context_width=context_width,
            **options.model_dump(),
        )
        return DiffusionModel(network, coordinates, diffusion)
    if method == "synbrain":
        network = SynBrain(
            n_channels,
            n_times,
            n_tokens=n_tokens,
            context_width=context_width,
            **options.model_dump(exclude={"autoencoder"}),
        )
        return SynBrainModel(network, coordinates, options)
    return LinearModel(method, coordinates, options)
