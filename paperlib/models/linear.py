"""Linear encoding models: from features of an image to the response that it evokes.

A projection, fitted on the training images, reduces features to a few hundred scores;
a readout, linear with an intercept, turns scores into responses.

- Güçlü and van Gerven (J Neurosci 35, 2015): ridge regression on every layer of a
  convolutional network, and for every target the layer that predicts it best.
- Yamins et al. (PNAS 111, 2014): partial least squares on the top layer.
- Gifford et al. (NeuroImage 264, 2022), the authors of THINGS-EEG2: least squares on
  principal components of a polynomial kernel.
- Ridge regression on the tokens that a diffusion model attends to, as a control.

The paper states neither the number of components nor the penalties of its baselines.
Here each target (a channel at a time point) takes the penalty with the smallest
leave-one-out error over the training images, and likewise the layer. Rows are images,
with responses averaged over repetitions: with a row for each repetition, copies of an
image would remain when it is left out.

Fitting is scikit-learn's, but for partial least squares: PLSRegression iterates over
copies of all targets in double precision, of 2 GB each for THINGS-EEG2. Time and memory
at this size: benchmarks/linear.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA, KernelPCA
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_X_y

_DEGREE = 4  # of the kernel (x · y / n_features + 1)^4 of Gifford et al.


@dataclass(frozen=True)
class LinearEncoder:
    """Standardization of D features, projection on P components, readout of T targets.

    ``weights`` and ``intercept`` are in the unit of the training responses.
    """

    mean: np.ndarray  # D
    scale: np.ndarray  # D
    components: np.ndarray  # P D, or P N of a kernel
    weights: np.ndarray  # P T
    intercept: np.ndarray  # T
    examples: np.ndarray | None = None  # N D, standardized training images of a kernel
    loo_error: np.ndarray | None = None  # T, mean squared leave-one-out error of ridge

    @property
    def n_coefficients(self) -> int:
        """Number of entries of components, weights and intercept."""
        return self.components.size + self.weights.size + self.intercept.size

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Map features (N, D) to responses (N, T)."""
        if features.shape[1:] != self.mean.shape:
            raise ValueError(
                f"features must have shape (N, {len(self.mean)}), as in training; got "
                f"{features.shape}."
            )
        inputs = (features - self.mean) / self.scale
        if self.examples is not None:
            inputs = polynomial_kernel(inputs, self.examples, degree=_DEGREE)
        return inputs @ self.components.T @ self.weights + self.intercept

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays by name; :func:`encoder_from_arrays` inverts it."""
        arrays = {k: v for k, v in vars(self).items() if v is not None}
        # safetensors writes arrays that are not contiguous in the wrong order
        return {k: np.ascontiguousarray(v) for k, v in arrays.items()}


@dataclass(frozen=True)
class LayerwiseEncoder:
    """One encoder per layer, each for the targets that this layer predicts best."""

    encoders: dict[str, LinearEncoder]
    targets: dict[str, np.ndarray]  # indices of the targets of each encoder

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients of all layers together."""
        return sum(encoder.n_coefficients for encoder in self.encoders.values())

    def predict(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Map each layer's features (N, D) to responses (N, T)."""
        parts = [self.encoders[k].predict(features[k]) for k in self.targets]
        order = np.argsort(np.concatenate(list(self.targets.values())))
        return np.concatenate(parts, axis=1)[:, order]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays by ``layer/name``."""
        arrays = {f"{layer}/targets": chosen for layer, chosen in self.targets.items()}
        for layer, encoder in self.encoders.items():
            arrays |= {f"{layer}/{k}": v for k, v in encoder.to_arrays().items()}
        return arrays


def encoder_from_arrays(
    arrays: Mapping[str, np.ndarray],
) -> LinearEncoder | LayerwiseEncoder:
    """Rebuild the encoder whose ``to_arrays`` returned these arrays."""
    if "weights" in arrays:
        return LinearEncoder(**arrays)
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, name = key.split("/")
        layers.setdefault(layer, {})[name] = array
    targets = {layer: state.pop("targets") for layer, state in layers.items()}
    return LayerwiseEncoder({k: LinearEncoder(**v) for k, v in layers.items()}, targets)


def fit_ridge(
    features: np.ndarray,
    responses: np.ndarray,
    *,
    n_components: int,
    alphas: Sequence[float],
    block: int,
    seed: int,
) -> LinearEncoder:
    """Fit ridge regressions on principal components of standardized features.

    Parameters
    ----------
    features : ndarray of shape (N, D)
    responses : ndarray of shape (N, T)
        Mean response to each image; T is channels x time points.
    n_components
        Upper limit of P; N - 1 and D limit it too.
    alphas
        Penalties on the squared norm of the weights, for each target to choose from.
    block
        Targets fitted at a time: memory is about 50 bytes x N x block.
    seed
        For the randomized solver that PCA uses for large problems.
    """
    moments, inputs = _standardize(features)
    pca = PCA(_limit(n_components, features), random_state=seed)
    scores = pca.fit(inputs).transform(inputs)  # N P; fit_transform only approximates
    ridges = [
        RidgeCV(alphas, alpha_per_target=True).fit(scores, responses[:, i : i + block])
        for i in range(0, responses.shape[1], block)
    ]
    readout = {
        "weights": np.vstack([ridge.coef_ for ridge in ridges]).T,  # P T
        "intercept": np.hstack([ridge.intercept_ for ridge in ridges]),
        "loo_error": np.hstack([-ridge.best_score_ for ridge in ridges]),
    }
    readout = {name: array.astype(responses.dtype) for name, array in readout.items()}
    return LinearEncoder(**moments, components=pca.components_, **readout)


def fit_layerwise_ridge(
    features: Mapping[str, np.ndarray],
    responses: np.ndarray,
    *,
    n_components: int,
    alphas: Sequence[float],
    block: int,
    seed: int,
) -> LayerwiseEncoder:
    """Fit :func:`fit_ridge` to each layer and keep the best layer of each target.

    Layers are read one at a time; the options are those of :func:`fit_ridge`.
    """
    options = {"n_components": n_components, "alphas": alphas, "block": block}
    encoders = {
        layer: fit_ridge(features[layer], responses, **options, seed=seed)
        for layer in features
    }
    best = np.argmin([encoder.loo_error for encoder in encoders.values()], axis=0)
    targets = {layer: np.flatnonzero(best == i) for i, layer in enumerate(encoders)}
    targets = {layer: chosen for layer, chosen in targets.items() if len(chosen)}
    per_target = ("weights", "intercept", "loo_error")
    for layer, chosen in targets.items():
        parts = {name: getattr(encoders[layer], name) for name in per_target}
        parts = {name: array[..., chosen] for name, array in parts.items()}
        encoders[layer] = replace(encoders[layer], **parts)
    return LayerwiseEncoder({layer: encoders[layer] for layer in targets}, targets)


def fit_pls(
    features: np.ndarray, responses: np.ndarray, *, n_components: int
) -> LinearEncoder:
    """Fit partial least squares to all targets together, without standardization.

    There are at most ``n_components`` latent variables (25 in early Brain-Score), and
    fewer if nothing is left to explain.

    Equals scikit-learn's ``PLSRegression(scale=False)``. With X the centered features
    and S = X'Y, the latent variables depend on the targets Y only through SS', a D x D
    matrix, which is deflated instead of X and Y: without a latent variable of weights w
    and loadings p, S is (1 - pw')S.
    """
    check_X_y(features, responses, multi_output=True)
    mean = features.mean(axis=0)
    gram = ((features - mean).T @ (features - mean)).astype(np.float64)  # X'X, D D
    covariance = (features - mean).T @ responses  # S, D T
    cross = (covariance @ covariance.T).astype(np.float64)  # SS', D D
    nothing = np.finfo(np.float64).eps * np.trace(cross)
    rotations, loadings = np.zeros((2, _limit(n_components, features), len(mean)))
    powers = np.ones((len(rotations), 1))  # squared norms of the latent variables
    k = 0
    while k < len(rotations) and np.trace(cross) > nothing:
        (value,), vectors = eigsh(cross, k=1, v0=np.diagonal(cross))
        weight = vectors[:, 0]  # D, the first left singular vector of S
        rotations[k] = weight - loadings @ weight @ rotations
        powers[k] = rotations[k] @ gram @ rotations[k]
        loadings[k] = gram @ rotations[k] / powers[k]
        change = loadings[k] - weight
        cross += value * (np.outer(change, change) - np.outer(weight, weight))
        k += 1
    return LinearEncoder(
        mean=mean,
        scale=np.ones_like(mean),
        components=rotations[:k].astype(features.dtype),
        weights=(rotations[:k] / powers[:k]).astype(responses.dtype) @ covariance,
        intercept=responses.mean(axis=0),
    )


def fit_kernel_regression(
    features: np.ndarray, responses: np.ndarray, *, n_components: int, seed: int
) -> LinearEncoder:
    """Fit least squares on principal components of a polynomial kernel.

    The features are in the publication all layers of a network side by side, and P is
    1000 with N = 16540. Nothing is penalized: the noise of predictions grows as
    P / (N - P). The seed is for the iterative solver that KernelPCA uses for small P.
    """
    moments, examples = _standardize(features)
    kernel = polynomial_kernel(examples, degree=_DEGREE)  # N N
    n_components = min(n_components, len(features) - 1)
    pca = KernelPCA(
        n_components, kernel="precomputed", remove_zero_eig=True, random_state=seed
    )
    scores = pca.fit_transform(kernel)  # N P, of the centered kernel
    regression = LinearRegression().fit(scores, responses)
    components = (pca.eigenvectors_ / np.sqrt(pca.eigenvalues_)).T
    # rows of components sum to 0, so only the kernel's mean row needs to be subtracted
    shift = kernel.mean(axis=0) @ components.T @ regression.coef_.T
    return LinearEncoder(
        **moments,
        components=components,
        weights=regression.coef_.T,
        intercept=regression.intercept_ - shift,
        examples=examples,
    )


def _standardize(
    features: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return mean and scale of the features, and the standardized features."""
    scaler = StandardScaler().fit(features)
    moments = {"mean": scaler.mean_, "scale": scaler.scale_}
    moments = {name: array.astype(features.dtype) for name, array in moments.items()}
    return moments, scaler.transform(features)


def _limit(n_components: int, features: np.ndarray) -> int:
    """Return the number of components, at most as many as centered features have."""
    return min(n_components, len(features) - 1, features.shape[1])
