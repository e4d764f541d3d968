import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA, KernelPCA
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paperlib.models.linear import (
    encoder_from_arrays,
    fit_kernel_regression,
    fit_layerwise_ridge,
    fit_pls,
    fit_ridge,
)

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0)
RIDGE = {"n_components": 8, "alphas": ALPHAS, "block": 7, "seed": 0}
FITS = {
    "layerwise_ridge": (fit_layerwise_ridge, RIDGE),
    "ridge": (fit_ridge, RIDGE),
    "pls": (fit_pls, {"n_components": 4}),
    "kernel_regression": (fit_kernel_regression, {"n_components": 8, "seed": 0}),
}


def simulate(n_images, n_features, n_targets, *, noise, seed=0):
    """Linear responses of unit variance, plus noise, to features far from zero."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, rng.uniform(0.5, 2, n_features), (n_images, n_features))
    weights = rng.standard_normal((n_features, n_targets))
    signal = features @ weights
    signal = (signal - signal.mean(0)) / signal.std(0) + rng.normal(size=n_targets)
    return features, signal + noise * rng.standard_normal(signal.shape)


def fit_method(method, features, responses):
    """Fit one of FITS; the layerwise one gets two layers."""
    fit, options = FITS[method]
    return fit(as_input(method, features), responses, **options)


def as_input(method, features):
    if method == "layerwise_ridge":
        return {"early": features[:, ::2], "late": features[:, 1::2]}
    return features


def test_ridge_is_the_pipeline_of_scikit_learn():
    x, y = simulate(50, 20, 30, noise=2.0)
    encoder = fit_ridge(x[:40], y[:40], **RIDGE)
    ridge = RidgeCV(alphas=ALPHAS, alpha_per_target=True)
    expected = make_pipeline(StandardScaler(), PCA(8), ridge).fit(x[:40], y[:40])
    assert len(set(ridge.alpha_)) > 1  # targets differ in their penalty
    np.testing.assert_allclose(encoder.predict(x[40:]), expected.predict(x[40:]))
    assert encoder.n_coefficients == 8 * 20 + 8 * 30 + 30


@pytest.mark.parametrize("n_components", [4, 25])  # fewer than, and as many as images
@pytest.mark.parametrize("alpha", [0.5, 50.0])
def test_leave_one_out_error_is_that_of_refits(n_components, alpha):
    x, y = simulate(15, 40, 4, noise=1.0)
    options = {"n_components": n_components, "alphas": [alpha], "block": 4, "seed": 0}
    encoder = fit_ridge(x, y, **options)
    scores = (x - encoder.mean) / encoder.scale @ encoder.components.T
    errors = []
    for image in range(15):
        rest = np.arange(15) != image
        mean, offset = scores[rest].mean(0), y[rest].mean(0)
        centered = scores[rest] - mean
        gram = centered.T @ centered + alpha * np.eye(scores.shape[1])
        weights = np.linalg.solve(gram, centered.T @ (y[rest] - offset))
        errors.append((y[image] - (scores[image] - mean) @ weights - offset) ** 2)
    np.testing.assert_allclose(encoder.loo_error, np.mean(errors, axis=0), rtol=1e-8)


@given(block=st.integers(1, 30))
@settings(deadline=None, max_examples=10)
def test_blocks_do_not_change_the_result(block):
    x, y = simulate(30, 6, 23, noise=1.0)
    whole = fit_ridge(x, y, **RIDGE | {"block": 23}).to_arrays()
    arrays = fit_ridge(x, y, **RIDGE | {"block": block}).to_arrays()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-9, atol=1e-12)


def test_randomized_components_predict_what_they_were_fitted_to():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 550))  # PCA's randomized solver
    y = x @ rng.standard_normal((550, 3))
    options = {"n_components": 20, "alphas": [1e-6], "block": 3, "seed": 0}
    encoder = fit_ridge(x, y, **options)
    scores = (x - encoder.mean) / encoder.scale @ encoder.components.T
    expected = LinearRegression().fit(scores, y).predict(scores)
    np.testing.assert_allclose(encoder.predict(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", FITS)
def test_single_precision_stays_single(method):
    x, y = simulate(60, 10, 5, noise=1.0)
    expected = fit_method(method, x, y).predict(as_input(method, x))
    x, y = x.astype("f4"), y.astype("f4")
    encoder = fit_method(method, x, y)
    kinds = {array.dtype for array in encoder.to_arrays().values()}
    assert kinds <= {np.dtype("f4"), np.dtype("i8")}
    predicted = encoder.predict(as_input(method, x))
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=1e-3)


@pytest.mark.parametrize("n_components", [1, 4, 12, 25])
def test_pls_is_that_of_scikit_learn(n_components):
    x, y = simulate(60, 30, 50, noise=1.0)
    encoder = fit_pls(x[:40], y[:40], n_components=n_components)
    reference = PLSRegression(n_components, scale=False, tol=1e-20, max_iter=100_000)
    expected = reference.fit(x[:40], y[:40]).predict(x[40:])
    np.testing.assert_allclose(encoder.predict(x[40:]), expected, atol=1e-6)


def test_pls_of_all_components_is_least_squares():
    x, y = simulate(40, 6, 9, noise=1.0)
    encoder = fit_pls(x, y, n_components=25)
    assert len(encoder.weights) == 6  # no more than features
    expected = LinearRegression().fit(x, y).predict(x)
    np.testing.assert_allclose(encoder.predict(x), expected, rtol=1e-8)


def test_pls_stops_when_nothing_is_left_to_explain():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 5))
    x = np.linalg.qr(noise - noise.mean(0)).Q  # uncorrelated, of equal variance
    y = x @ np.outer(rng.standard_normal(5), [1.0, 2.0])
    encoder = fit_pls(x, y, n_components=4)
    assert encoder.weights.shape == (1, 2)
    np.testing.assert_allclose(encoder.predict(x), y, atol=1e-12)
    silent = fit_pls(x, np.zeros((40, 3)), n_components=4)
    np.testing.assert_array_equal(silent.predict(x), np.zeros((40, 3)))


def test_kernel_regression_is_the_pipeline_of_scikit_learn():
    x, y = simulate(50, 7, 5, noise=1.0)
    encoder = fit_kernel_regression(x[:40], y[:40], n_components=6, seed=0)
    kernel = KernelPCA(6, kernel="poly", degree=4)
    expected = make_pipeline(StandardScaler(), kernel, LinearRegression())
    expected = expected.fit(x[:40], y[:40]).predict(x[40:])
    np.testing.assert_allclose(encoder.predict(x[40:]), expected, rtol=1e-7)


def test_no_more_components_than_images_allow():
    x, y = simulate(12, 40, 3, noise=1.0)
    assert len(fit_ridge(x, y, **RIDGE | {"n_components": 1000}).components) == 11
    assert len(fit_pls(x, y, n_components=1000).components) <= 11
    encoder = fit_kernel_regression(x, y, n_components=1000, seed=0)
    assert len(encoder.components) == 11
    np.testing.assert_allclose(encoder.predict(x), y)


def test_constant_features_do_no_harm():
    x, y = simulate(40, 6, 3, noise=1.0)
    dead = np.column_stack([x, np.zeros(40)])  # a unit that never responds
    expected = fit_ridge(x, y, **RIDGE).predict(x)
    np.testing.assert_allclose(fit_ridge(dead, y, **RIDGE).predict(dead), expected)


def test_each_target_gets_the_layer_that_drives_it():
    rng = np.random.default_rng(0)
    layers = {k: rng.standard_normal((200, 10)) for k in ("early", "none", "late")}
    source = ["late", "early", "late", "early"]
    weights = rng.standard_normal((4, 10))
    responses = np.column_stack(
        [layers[k] @ w for k, w in zip(source, weights, strict=True)]
    )
    responses += 0.5 * rng.standard_normal(responses.shape)
    options = RIDGE | {"n_components": 10, "block": 3}
    encoder = fit_layerwise_ridge(layers, responses, **options)
    chosen = {name: columns.tolist() for name, columns in encoder.targets.items()}
    assert chosen == {"early": [1, 3], "late": [0, 2]}
    single = {
        name: fit_ridge(features, responses, **options).predict(features)
        for name, features in layers.items()
    }
    expected = np.column_stack([single[name][:, i] for i, name in enumerate(source)])
    np.testing.assert_allclose(encoder.predict(layers), expected)


def test_layer_is_chosen_by_leave_one_out_error_not_by_fit():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal((40, 2))
    wide = rng.standard_normal((40, 38))  # fits noise of 40 images almost perfectly
    responses = cause @ rng.standard_normal((2, 5)) + 0.3 * rng.standard_normal((40, 5))
    options = {"n_components": 38, "alphas": [1e-3], "block": 5, "seed": 0}
    layers = {"wide": wide, "narrow": cause}
    encoder = fit_layerwise_ridge(layers, responses, **options)
    assert list(encoder.encoders) == ["narrow"]


class Layers(dict):
    """Layers that note what is read from them."""

    def __init__(self, layers):
        super().__init__(layers)
        self.read = []

    def __getitem__(self, layer):
        self.read.append(layer)
        return super().__getitem__(layer)


def test_layers_are_read_once_each_and_only_if_needed():
    x, y = simulate(60, 10, 5, noise=0.1)
    layers = Layers({"noise": np.random.default_rng(1).normal(size=(60, 4)), "good": x})
    encoder = fit_layerwise_ridge(layers, y, **RIDGE)
    assert layers.read == ["noise", "good"]
    encoder.predict(layers)
    assert layers.read == ["noise", "good", "good"]


@pytest.mark.parametrize("method", FITS)
def test_arrays_hold_the_whole_state(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    encoder = fit_method(method, x, y)
    stored = save(encoder.to_arrays())
    loaded = encoder_from_arrays(load(stored))
    test = as_input(method, x)
    np.testing.assert_array_equal(loaded.predict(test), encoder.predict(test))
    assert loaded.n_coefficients == encoder.n_coefficients
    assert save(fit_method(method, x, y).to_arrays()) == stored  # same seed, same bytes


@pytest.mark.parametrize("method", FITS)
def test_bad_training_data(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fit_method(method, x, y[:39])
    hole, broken = x.copy(), y.copy()
    hole[3, :] = np.nan
    broken[2, 1] = np.inf
    with pytest.raises(ValueError, match="contains NaN"):
        fit_method(method, hole, y)
    with pytest.raises(ValueError, match="contains infinity"):
        fit_method(method, x, broken)


@pytest.mark.parametrize("method", FITS)
def test_other_features_than_in_training(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    encoder = fit_method(method, x, y)
    with pytest.raises(ValueError, match=r"features must have shape \(N, (6|12)\)"):
        encoder.predict(as_input(method, x[:, :8]))
