"""Linear encoding models: from features of an image to its response.

All have two steps, both fitted on training images only. A projection turns features
into a few hundred scores: standardization and principal components (linear, or of a
polynomial kernel), or the latent variables of partial least squares. A readout, linear
with an intercept, turns scores into responses:

- Güçlü and van Gerven (J Neurosci 35, 2015): a ridge regression for every layer of a
  convolutional network, and for every target the layer that predicts it best.
- Yamins et al. (PNAS 111, 2014): partial least squares from the top layer.
- Ridge regression from CLIP tokens: a control that sees what the diffusion model sees.
- Gifford et al. (NeuroImage 264, 2022), the authors of THINGS-EEG2: ordinary least
  squares on components of a polynomial kernel of degree 4.

The paper says neither how many components nor which penalties its two baselines have.
Here each target (a channel at a time) has the penalty with the smallest leave-one-out
error over training images, and so it is for the layer.

Rows are images: a row for each repetition would leave copies of the image that is left
out. Targets are solved in blocks, in the floating-point type of the targets.

scikit-learn takes a second to import, and every trained or sampled network comes by
here: it is imported where it is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse.linalg import eigsh

from paperlib.progress import progress_bar
from paperlib.validation import check_finite, check_shape, did_you_mean

KERNEL_DEGREE = 4  # Gifford et al. 2022

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Projection:
    """Scores that are linear in the features, of PCA or partial least squares.

    Attributes
    ----------
    mean, scale : ndarray of shape (n_features,)
        Subtracted, then divided by.
    components : ndarray of shape (n_components, n_features)
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return the scores, ndarray of shape (n_images, n_components)."""
        check_shape("features", features, (None, len(self.mean)))
        return (features - self.mean) / self.scale @ self.components.T


@dataclass(frozen=True)
class KernelProjection:
    """Scores on the principal components of a polynomial kernel.

    Attributes
    ----------
    mean, scale : ndarray of shape (n_features,)
        Subtracted, then divided by.
    examples : ndarray of shape (n_training_images, n_features)
        Standardized features of the training images: the kernel needs all of them.
    kernel_mean : ndarray of shape (n_training_images,)
        Mean of the training kernel's rows.
    components : ndarray of shape (n_components, n_training_images)
    """

    mean: np.ndarray
    scale: np.ndarray
    examples: np.ndarray
    kernel_mean: np.ndarray
    components: np.ndarray

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return the scores, ndarray of shape (n_images, n_components)."""
        from sklearn.metrics.pairwise import polynomial_kernel

        check_shape("features", features, (None, len(self.mean)))
        standardized = (features - self.mean) / self.scale
        kernel = polynomial_kernel(standardized, self.examples, degree=KERNEL_DEGREE)
        kernel -= kernel.mean(axis=1, keepdims=True)
        return (kernel - self.kernel_mean + self.kernel_mean.mean()) @ self.components.T


_PROJECTIONS = {"linear": Projection, "kernel": KernelProjection}


@dataclass(frozen=True)
class LinearEncoder:
    """A projection and a linear readout.

    Attributes
    ----------
    projection : Projection or KernelProjection
    weights : ndarray of shape (n_components, n_targets)
    intercept : ndarray of shape (n_targets,)
    """

    projection: Projection | KernelProjection
    weights: np.ndarray
    intercept: np.ndarray

    @property
    def n_coefficients(self) -> int:
        """Entries of components, weights and intercept.

        Not among them: means and scales, which standardize features, and the examples
        of a kernel, which are the training images' features themselves.
        """
        learned = (self.projection.components, self.weights, self.intercept)
        return sum(array.size for array in learned)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the responses to images.

        Parameters
        ----------
        features : ndarray of shape (n_images, n_features)

        Returns
        -------
        ndarray of shape (n_images, n_targets)
            In the unit of the targets.

        Raises
        ------
        ValueError
            If there are not as many features as in training.
        """
        scores = self.projection.transform(features)
        return scores.astype(self.weights.dtype) @ self.weights + self.intercept

    def to_tensors(self) -> Tensors:
        """Return the fitted state as arrays, by name.

        They are contiguous: safetensors writes others in the wrong order.
        """
        kind = next(k for k, v in _PROJECTIONS.items() if type(self.projection) is v)
        tensors = {"weights": self.weights, "intercept": self.intercept}
        for field in fields(self.projection):
            tensors[f"{kind}/{field.name}"] = getattr(self.projection, field.name)
        return {name: np.ascontiguousarray(array) for name, array in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "LinearEncoder":
        """Return the encoder whose :meth:`to_tensors` these are."""
        readout = {name: tensors[name] for name in ("weights", "intercept")}
        arrays = {k: v for k, v in tensors.items() if k not in readout}
        kind = next(iter(arrays)).split("/")[0]
        state = {name.split("/")[1]: array for name, array in arrays.items()}
        return cls(_PROJECTIONS[kind](**state), **readout)


@dataclass(frozen=True)
class LayerwiseEncoder:
    """One encoder for each layer, for the targets that this layer predicts best.

    Attributes
    ----------
    encoders : dict of str to LinearEncoder
        By layer; layers that predict no target best are left out.
    targets : dict of str to ndarray of int
        Which targets each encoder predicts; together, every target once.
    """

    encoders: dict[str, LinearEncoder]
    targets: dict[str, np.ndarray]

    @property
    def n_coefficients(self) -> int:
        """Those of all layers together."""
        return sum(encoder.n_coefficients for encoder in self.encoders.values())

    def predict(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the responses to images.

        Parameters
        ----------
        features : mapping of str to ndarray of shape (n_images, n_features)
            Features of each layer.

        Returns
        -------
        ndarray of shape (n_images, n_targets)
            In the unit of the targets.

        Raises
        ------
        ValueError
            If a layer is missing or has not as many features as in training.
        """
        _check_layers(features, self.encoders)
        parts = [
            encoder.predict(features[name]) for name, encoder in self.encoders.items()
        ]
        order = np.argsort(np.concatenate(list(self.targets.values())))
        return np.concatenate(parts, axis=1)[:, order]

    def to_tensors(self) -> Tensors:
        """Return the fitted state as arrays, by name."""
        tensors = {f"{name}/targets": rows for name, rows in self.targets.items()}
        for layer, encoder in self.encoders.items():
            for name, array in encoder.to_tensors().items():
                tensors[f"{layer}/{name}"] = array
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "LayerwiseEncoder":
        """Return the encoder whose :meth:`to_tensors` these are."""
        layers: dict[str, Tensors] = {}
        for key, array in tensors.items():
            layer, name = key.split("/", maxsplit=1)
            layers.setdefault(layer, {})[name] = array
        targets = {layer: state.pop("targets") for layer, state in layers.items()}
        encoders = {k: LinearEncoder.from_tensors(v) for k, v in layers.items()}
        return cls(encoders, targets)


@dataclass(frozen=True)
class Ridge:
    """Ridge regressions of many targets on the same predictors.

    Attributes
    ----------
    weights : ndarray of shape (n_predictors, n_targets)
    intercept : ndarray of shape (n_targets,)
    alpha : ndarray of shape (n_targets,)
        The penalty chosen for each target.
    error : ndarray of shape (n_targets,)
        Mean squared leave-one-out error at this penalty.
    """

    weights: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray
    error: np.ndarray


def fit_layerwise_ridge(
    features: Mapping[str, np.ndarray],
    targets: np.ndarray,
    *,
    n_components: int,
    alphas: Sequence[float],
    block: int,
    seed: int,
) -> LayerwiseEncoder:
    """Fit a ridge encoder to each layer and keep the best layer of each target.

    Parameters
    ----------
    features : mapping of str to ndarray of shape (n_images, n_features)
        Features of each layer; read one layer at a time.
    targets : ndarray of shape (n_images, n_targets)
        Responses to the same images.
    n_components, alphas, block, seed
        See :func:`fit_ridge_encoder`.

    Returns
    -------
    LayerwiseEncoder
        Of layers that are equally good the first is taken.

    Raises
    ------
    ValueError
        As :func:`fit_ridge_encoder`, or if there is no layer.
    """
    fits = {}
    for layer in progress_bar(list(features), label="Layers", unit="layer"):
        fits[layer] = _reduce_and_regress(
            features[layer],
            targets,
            n_components=n_components,
            alphas=alphas,
            block=block,
            seed=seed,
        )
    if not fits:
        raise ValueError("features must hold one layer or more; got none.")
    best = np.argmin([ridge.error for _, ridge in fits.values()], axis=0)
    chosen = {layer: np.flatnonzero(best == i) for i, layer in enumerate(fits)}
    chosen = {layer: columns for layer, columns in chosen.items() if len(columns)}
    encoders = {layer: _readout(*fits[layer], chosen[layer]) for layer in chosen}
    return LayerwiseEncoder(encoders, chosen)


def fit_ridge_encoder(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    n_components: int,
    alphas: Sequence[float],
    block: int,
    seed: int,
) -> LinearEncoder:
    """Fit a ridge regression on principal components of standardized features.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features)
    targets : ndarray of shape (n_images, n_targets)
        Responses to the same images.
    n_components
        Principal components; see :func:`fit_pca`.
    alphas, block
        See :func:`fit_ridge`.
    seed
        See :func:`fit_pca`.

    Returns
    -------
    LinearEncoder

    Raises
    ------
    ValueError
        If features and targets differ in images, a value is NaN or infinite, or an
        option is out of range.
    """
    projection, ridge = _reduce_and_regress(
        features,
        targets,
        n_components=n_components,
        alphas=alphas,
        block=block,
        seed=seed,
    )
    return LinearEncoder(projection, ridge.weights, ridge.intercept)


def fit_pls_encoder(
    features: np.ndarray, targets: np.ndarray, *, n_components: int
) -> LinearEncoder:
    """Fit partial least squares to all targets together, without standardization.

    The latent variables depend on the targets only through their covariance with the
    features: a matrix that is deflated here, instead of the images' features and
    responses. The result is that of scikit-learn's PLSRegression with ``scale=False``,
    which iterates over copies of all targets.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features)
    targets : ndarray of shape (n_images, n_targets)
        Responses to the same images.
    n_components
        Latent variables, 25 in early Brain-Score; at most n_features and n_images - 1.
        There are fewer if these explain all that the features can.

    Returns
    -------
    LinearEncoder

    Raises
    ------
    ValueError
        As :func:`fit_ridge_encoder`.
    """
    _check_pairs(features, targets)
    mean = features.mean(axis=0)
    centered = (features - mean).astype(targets.dtype)
    covariance = centered.T @ targets  # n_features, n_targets
    rotations, powers = _latent_variables(
        (centered.T @ centered).astype(np.float64),
        (covariance @ covariance.T).astype(np.float64),
        n_components=_bounded(n_components, features),
    )
    weights = (rotations / powers).T.astype(targets.dtype) @ covariance
    projection = Projection(
        mean, np.ones_like(mean), rotations.T.astype(features.dtype)
    )
    return LinearEncoder(projection, weights, targets.mean(axis=0))


def fit_kernel_encoder(
    features: np.ndarray, targets: np.ndarray, *, n_components: int, seed: int
) -> LinearEncoder:
    """Fit least squares on components of a polynomial kernel (Gifford et al. 2022).

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features)
        In the publication, all layers of a network side by side.
    targets : ndarray of shape (n_images, n_targets)
        Responses to the same images.
    n_components
        1000 in the publication, with 16540 images. Nothing is penalized: the noise of
        the prediction grows as n_components / (n_images - n_components).
    seed
        See :func:`fit_kernel_pca`.

    Returns
    -------
    LinearEncoder

    Raises
    ------
    ValueError
        As :func:`fit_ridge_encoder`.
    """
    _check_pairs(features, targets)
    projection = fit_kernel_pca(features, n_components=n_components, seed=seed)
    scores = projection.transform(features).astype(np.float64)
    inverse = np.linalg.pinv(scores - scores.mean(axis=0)).astype(targets.dtype)
    weights = inverse @ targets
    offset = scores.mean(axis=0).astype(targets.dtype) @ weights
    return LinearEncoder(projection, weights, targets.mean(axis=0) - offset)


FITS = {  # by the method's name in a configuration
    "layerwise_ridge": fit_layerwise_ridge,
    "ridge": fit_ridge_encoder,
    "pls": fit_pls_encoder,
    "kernel_regression": fit_kernel_encoder,
}


def encoder_from_tensors(tensors: Tensors) -> LinearEncoder | LayerwiseEncoder:
    """Return the encoder, of either kind, whose ``to_tensors`` these are."""
    kind = LinearEncoder if "weights" in tensors else LayerwiseEncoder
    return kind.from_tensors(tensors)


def fit_pca(features: np.ndarray, *, n_components: int, seed: int) -> Projection:
    """Fit a standardization of each feature and the principal components.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features)
        Of the training images.
    n_components
        At most n_features and n_images - 1, all that centered features have; a larger
        number means that.
    seed
        Of scikit-learn's randomized solver, which it takes for large problems.

    Returns
    -------
    Projection
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    standardizer = StandardScaler().fit(features)
    pca = PCA(_bounded(n_components, features), random_state=seed)
    pca.fit(standardizer.transform(features))
    dtype = features.dtype
    return Projection(
        standardizer.mean_.astype(dtype),
        standardizer.scale_.astype(dtype),
        pca.components_,
    )


def fit_kernel_pca(
    features: np.ndarray, *, n_components: int, seed: int
) -> KernelProjection:
    """Fit a standardization and principal components of a polynomial kernel.

    The kernel is (x · y / n_features + 1)^4, scikit-learn's, as Gifford et al. (2022)
    used it.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features)
        Of the training images.
    n_components
        At most n_images - 1; a larger number means that.
    seed
        Of scikit-learn's iterative solver, which it takes for few components.

    Returns
    -------
    KernelProjection
    """
    from sklearn.decomposition import KernelPCA
    from sklearn.metrics.pairwise import polynomial_kernel
    from sklearn.preprocessing import StandardScaler

    _check_positive("n_components", [n_components])
    standardizer = StandardScaler().fit(features)
    examples = standardizer.transform(features)
    kernel = polynomial_kernel(examples, degree=KERNEL_DEGREE)
    n_components = min(n_components, len(features) - 1)
    pca = KernelPCA(n_components, kernel="precomputed", random_state=seed).fit(kernel)
    present = pca.eigenvalues_ > 0
    lengths = np.sqrt(pca.eigenvalues_[present])
    return KernelProjection(
        mean=standardizer.mean_.astype(features.dtype),
        scale=standardizer.scale_.astype(features.dtype),
        examples=examples,
        kernel_mean=kernel.mean(axis=0),
        components=(pca.eigenvectors_[:, present] / lengths).T,
    )


def fit_ridge(
    predictors: np.ndarray,
    targets: np.ndarray,
    *,
    alphas: Sequence[float],
    block: int,
) -> Ridge:
    """Fit ridge regressions, each with the penalty of least leave-one-out error.

    The residual of an image that is left out is its residual in the full fit divided
    by 1 - h, where h is the image's leverage, so one singular value decomposition
    serves all images, penalties and targets. scikit-learn's RidgeCV gives the same
    numbers, but decomposes again for each block of targets, and in double precision.

    Parameters
    ----------
    predictors : ndarray of shape (n_images, n_predictors)
    targets : ndarray of shape (n_images, n_targets)
        Their floating-point type is that of the computation.
    alphas
        Penalties on the squared norm of the weights, to choose from.
    block
        Targets solved at a time: memory beside the result is a few times
        n_images x block.

    Returns
    -------
    Ridge

    Raises
    ------
    ValueError
        As :func:`fit_ridge_encoder`.
    """
    _check_pairs(predictors, targets)
    _check_positive("alphas", alphas)
    _check_positive("block", [block])
    center = predictors.mean(axis=0, dtype=np.float64)
    spectrum = _Spectrum.of(predictors - center, alphas, targets.dtype)
    weights = np.empty((predictors.shape[1], targets.shape[1]), targets.dtype)
    alpha, error = np.empty((2, targets.shape[1]), targets.dtype)
    mean = targets.mean(axis=0)
    for start in range(0, targets.shape[1], block):
        columns = slice(start, start + block)
        weights[:, columns], best, error[columns] = spectrum.solve(
            targets[:, columns] - mean[columns]
        )
        alpha[columns] = np.asarray(alphas)[best]
    intercept = mean - center.astype(targets.dtype) @ weights
    return Ridge(weights, intercept, alpha, error)


@dataclass(frozen=True)
class _Spectrum:
    """Singular value decomposition of centered predictors, for A penalties."""

    basis: np.ndarray  # N P, left singular vectors
    axes: np.ndarray  # P P, right singular vectors
    gains: np.ndarray  # A P, from a projected target to its weight along an axis
    shrinkage: np.ndarray  # A P, from a projected target to its prediction
    remainder: np.ndarray  # A N, one minus the leverage of an image

    @classmethod
    def of(
        cls, centered: np.ndarray, alphas: Sequence[float], dtype: np.dtype
    ) -> "_Spectrum":
        basis, lengths, axes = np.linalg.svd(centered, full_matrices=False)
        gains = lengths / (lengths**2 + np.asarray(alphas)[:, None])
        remainder = 1 - 1 / len(centered) - gains * lengths @ (basis**2).T
        parts = (basis, axes, gains, gains * lengths, remainder)
        return cls(*(part.astype(dtype) for part in parts))

    def solve(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return weights, best penalty and its error; targets are centered."""
        projected = self.basis.T @ targets  # P block
        errors = []
        for shrinkage, remainder in zip(self.shrinkage, self.remainder, strict=True):
            residual = targets - self.basis @ (shrinkage[:, None] * projected)
            residual /= remainder[:, None]
            errors.append(np.einsum("nt,nt->t", residual, residual) / len(residual))
        best = np.argmin(errors, axis=0)
        return self.axes.T @ (self.gains[best].T * projected), best, np.min(errors, 0)


def _reduce_and_regress(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    n_components: int,
    alphas: Sequence[float],
    block: int,
    seed: int,
) -> tuple[Projection, Ridge]:
    _check_pairs(features, targets)
    projection = fit_pca(features, n_components=n_components, seed=seed)
    scores = projection.transform(features)
    return projection, fit_ridge(scores, targets, alphas=alphas, block=block)


def _latent_variables(
    gram: np.ndarray, cross: np.ndarray, *, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rotations from features to latent variables, and these' squared norms.

    With X the centered features and S = X'Y, ``gram`` is X'X and ``cross`` is SS'. The
    first left singular vector w of S weights the features of a latent variable. With
    its loadings p, to remove the variable from X turns S into (1 - pw')S.
    """
    n_features = len(gram)
    rotations, loadings = np.zeros((2, n_features, n_components))
    powers = np.zeros(n_components)
    nothing = np.finfo(float).eps * np.trace(cross)
    for k in range(n_components):
        if np.trace(cross) <= nothing:
            return rotations[:, :k], powers[:k]
        (value,), vectors = eigsh(cross, k=1, v0=np.diagonal(cross))
        weight = vectors[:, 0]
        rotations[:, k] = weight - rotations @ (loadings.T @ weight)
        image = gram @ rotations[:, k]
        powers[k] = rotations[:, k] @ image
        loadings[:, k] = image / powers[k]
        change = loadings[:, k] - weight
        cross = cross + value * (np.outer(change, change) - np.outer(weight, weight))
    return rotations, powers


def _readout(
    projection: Projection, ridge: Ridge, columns: np.ndarray
) -> LinearEncoder:
    """Return the encoder of some of the targets."""
    return LinearEncoder(
        projection, ridge.weights[:, columns], ridge.intercept[columns]
    )


def _bounded(n_components: int, features: np.ndarray) -> int:
    """Return the number of components, at most those that centered features have."""
    _check_positive("n_components", [n_components])
    return min(n_components, len(features) - 1, features.shape[1])


def _check_pairs(features: np.ndarray, targets: np.ndarray) -> None:
    check_shape("features", features, (None, None))
    check_shape("targets", targets, (len(features), None))
    check_finite("features", features)
    check_finite("targets", targets)


def _check_positive(name: str, values: Sequence[float]) -> None:
    if not len(values) or min(values) <= 0:
        raise ValueError(f"{name} must be above 0; got {list(values)}.")


def _check_layers(features: Mapping[str, np.ndarray], needed: Iterable[str]) -> None:
    missing = [layer for layer in needed if layer not in features]
    if missing:
        raise ValueError(
            f"features must hold the layers {', '.join(needed)}; {missing[0]!r} is not "
            f"among {list(features)}.{did_you_mean(missing[0], features)}"
        )
