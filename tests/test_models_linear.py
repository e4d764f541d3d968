import tracemalloc

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
    FITS,
    encoder_from_tensors,
    fit_kernel_encoder,
    fit_kernel_pca,
    fit_layerwise_ridge,
    fit_pca,
    fit_pls_encoder,
    fit_ridge,
    fit_ridge_encoder,
)

ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0)
RIDGE = {"n_components": 8, "alphas": ALPHAS, "block": 7, "seed": 0}
OPTIONS = {
    "layerwise_ridge": RIDGE,
    "ridge": RIDGE,
    "pls": {"n_components": 4},
    "kernel_regression": {"n_components": 8, "seed": 0},
}


def simulate(n_images, n_features, n_targets, *, noise, seed=0):
    """Linear responses of unit variance, plus noise, to features far from zero."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, rng.uniform(0.5, 2, n_features), (n_images, n_features))
    weights = rng.standard_normal((n_features, n_targets))
    signal = features @ weights
    signal = (signal - signal.mean(0)) / signal.std(0) + rng.normal(size=n_targets)
    return features, signal + noise * rng.standard_normal(signal.shape)


def fit_method(method, features, targets):
    """Fit one of FITS; the layerwise one gets two layers."""
    return FITS[method](as_input(method, features), targets, **OPTIONS[method])


def as_input(method, features):
    if method == "layerwise_ridge":
        return {"early": features[:, ::2], "late": features[:, 1::2]}
    return features


def test_ridge_solves_the_normal_equations():
    x, y = simulate(40, 6, 3, noise=1.0)
    ridge = fit_ridge(x, y, alphas=[7.0], block=2)
    centered = x - x.mean(0)
    gram = centered.T @ centered + 7.0 * np.eye(6)
    expected = np.linalg.solve(gram, centered.T @ y)
    np.testing.assert_allclose(ridge.weights, expected, rtol=1e-10)
    np.testing.assert_allclose(x.mean(0) @ ridge.weights + ridge.intercept, y.mean(0))


@pytest.mark.parametrize("n_images", [50, 12])  # more and fewer than predictors
def test_ridge_is_that_of_scikit_learn(n_images):
    x, y = simulate(n_images, 20, 30, noise=2.0)
    ridge = fit_ridge(x, y, alphas=ALPHAS, block=8)
    expected = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(x, y)
    assert len(set(ridge.alpha)) > 1  # targets differ in their penalty
    np.testing.assert_array_equal(ridge.alpha, expected.alpha_)
    np.testing.assert_allclose(ridge.error, -expected.best_score_, rtol=1e-8)
    np.testing.assert_allclose(ridge.weights, expected.coef_.T, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(ridge.intercept, expected.intercept_, rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 50.0])
def test_leave_one_out_error_is_that_of_refits(alpha):
    x, y = simulate(15, 5, 4, noise=1.0)
    errors = []
    for left_out in range(15):
        rest = np.arange(15) != left_out
        ridge = fit_ridge(x[rest], y[rest], alphas=[alpha], block=4)
        errors.append(
            (y[left_out] - x[left_out] @ ridge.weights - ridge.intercept) ** 2
        )
    ridge = fit_ridge(x, y, alphas=[alpha], block=4)
    np.testing.assert_allclose(ridge.error, np.mean(errors, axis=0), rtol=1e-9)


def test_penalty_of_pure_noise_is_the_largest():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 50)), rng.standard_normal((60, 40))
    assert np.median(fit_ridge(x, y, alphas=ALPHAS, block=40).alpha) == 1000.0


@given(block=st.integers(1, 30))
@settings(deadline=None, max_examples=20)
def test_blocks_do_not_change_the_result(block):
    x, y = simulate(30, 6, 23, noise=1.0)
    whole = fit_ridge(x, y, alphas=ALPHAS, block=23)
    ridge = fit_ridge(x, y, alphas=ALPHAS, block=block)
    np.testing.assert_allclose(ridge.weights, whole.weights, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ridge.intercept, whole.intercept, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(ridge.alpha, whole.alpha)


def test_memory_is_bounded_by_the_block():
    x, y = simulate(500, 4, 4000, noise=1.0)
    peaks = {}
    for block in (50, 4000):
        tracemalloc.start()
        fit_ridge(x, y, alphas=ALPHAS, block=block)
        peaks[block] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[4000] > 2 * y.nbytes
    assert peaks[50] < y.nbytes / 4  # 1/8 of it is the check for NaN


def test_single_precision_stays_single():
    x, y = simulate(60, 10, 5, noise=1.0)
    encoder = fit_ridge_encoder(x.astype("f4"), y.astype("f4"), **RIDGE)
    assert {array.dtype for array in encoder.to_tensors().values()} == {np.dtype("f4")}
    expected = fit_ridge_encoder(x, y, **RIDGE).predict(x)
    predicted = encoder.predict(x.astype("f4"))
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=1e-4)


def test_ridge_encoder_is_the_pipeline_of_scikit_learn():
    x, y = simulate(50, 20, 6, noise=1.0)
    encoder = fit_ridge_encoder(x[:40], y[:40], **RIDGE)
    ridge = RidgeCV(alphas=ALPHAS, alpha_per_target=True)
    expected = make_pipeline(StandardScaler(), PCA(8), ridge).fit(x[:40], y[:40])
    np.testing.assert_allclose(encoder.predict(x[40:]), expected.predict(x[40:]))


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_ridge_reaches_the_ceiling_of_a_linear_response(noise):
    x, y = simulate(4000, 10, 20, noise=noise)
    options = {"n_components": 10, "alphas": ALPHAS, "block": 20, "seed": 0}
    predicted = fit_ridge_encoder(x[:3000], y[:3000], **options).predict(x[3000:])
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, y[3000:].T, strict=True)]
    ceiling = 1 / np.sqrt(1 + noise**2)  # signal variance is 1
    assert np.mean(r) == pytest.approx(ceiling, abs=0.01)


@pytest.mark.parametrize("n_components", [1, 4, 12, 25])
def test_pls_is_that_of_scikit_learn(n_components):
    x, y = simulate(60, 30, 50, noise=1.0)
    encoder = fit_pls_encoder(x[:40], y[:40], n_components=n_components)
    reference = PLSRegression(n_components, scale=False, tol=1e-20, max_iter=100_000)
    expected = reference.fit(x[:40], y[:40]).predict(x[40:])
    np.testing.assert_allclose(encoder.predict(x[40:]), expected, atol=1e-6)


def test_pls_of_all_components_is_least_squares():
    x, y = simulate(40, 6, 9, noise=1.0)
    encoder = fit_pls_encoder(x, y, n_components=25)
    assert len(encoder.weights) == 6  # no more than features
    expected = LinearRegression().fit(x, y).predict(x)
    np.testing.assert_allclose(encoder.predict(x), expected, rtol=1e-8)


def test_pls_stops_when_nothing_is_left_to_explain():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 5))
    x = np.linalg.qr(noise - noise.mean(0)).Q  # uncorrelated, of equal variance
    y = x @ np.outer(rng.standard_normal(5), [1.0, 2.0])
    encoder = fit_pls_encoder(x, y, n_components=4)
    assert encoder.weights.shape == (1, 2)
    np.testing.assert_allclose(encoder.predict(x), y, atol=1e-12)
    silent = fit_pls_encoder(x, np.zeros((40, 3)), n_components=4)
    np.testing.assert_array_equal(silent.predict(x), np.zeros((40, 3)))


def test_kernel_regression_is_a_direct_computation():
    x, y = simulate(50, 7, 5, noise=1.0)
    train, test = x[:40], x[40:]
    encoder = fit_kernel_encoder(train, y[:40], n_components=6, seed=0)

    def kernel(a, b):
        a, b = ((part - train.mean(0)) / train.std(0) for part in (a, b))
        return (a @ b.T / 7 + 1) ** 4

    flat = np.eye(40) - 1 / 40
    values, vectors = np.linalg.eigh(flat @ kernel(train, train) @ flat)
    directions = vectors[:, -6:] / np.sqrt(values[-6:])
    offset = kernel(test, train) - kernel(train, train).mean(0)
    design = np.column_stack([vectors[:, -6:] * np.sqrt(values[-6:]), np.ones(40)])
    weights = np.linalg.lstsq(design, y[:40])[0]
    expected = offset @ flat @ directions @ weights[:-1] + weights[-1]
    np.testing.assert_allclose(encoder.predict(test), expected, rtol=1e-8)


def test_kernel_components_are_those_of_scikit_learn():
    x, _ = simulate(40, 7, 1, noise=0.0)
    projection = fit_kernel_pca(x[:30], n_components=5, seed=0)
    reference = KernelPCA(5, kernel="poly", degree=4)
    expected = make_pipeline(StandardScaler(), reference).fit(x[:30]).transform(x[30:])
    np.testing.assert_allclose(
        np.abs(projection.transform(x[30:])), np.abs(expected), rtol=1e-7
    )


def test_no_more_components_than_images_allow():
    x, y = simulate(12, 40, 3, noise=1.0)
    assert len(fit_pca(x, n_components=1000, seed=0).components) == 11
    assert len(fit_kernel_pca(x, n_components=1000, seed=0).components) == 11
    assert len(fit_pls_encoder(x, y, n_components=1000).weights) <= 11


def test_constant_features_do_no_harm():
    x, y = simulate(40, 6, 3, noise=1.0)
    dead = np.column_stack([x, np.zeros(40)])  # a unit that never responds
    expected = fit_ridge_encoder(x, y, **RIDGE).predict(x)
    np.testing.assert_allclose(
        fit_ridge_encoder(dead, y, **RIDGE).predict(dead), expected
    )


def test_each_target_gets_the_layer_that_drives_it():
    rng = np.random.default_rng(0)
    layers = {
        name: rng.standard_normal((200, 10)) for name in ("early", "none", "late")
    }
    source = ["late", "early", "late", "early"]
    targets = np.column_stack(
        [layers[name] @ rng.standard_normal(10) for name in source]
    )
    targets += 0.5 * rng.standard_normal(targets.shape)
    encoder = fit_layerwise_ridge(
        layers, targets, n_components=10, alphas=ALPHAS, block=3, seed=0
    )
    chosen = {name: columns.tolist() for name, columns in encoder.targets.items()}
    assert chosen == {"early": [1, 3], "late": [0, 2]}
    single = {
        name: fit_ridge_encoder(
            layers[name], targets, n_components=10, alphas=ALPHAS, block=4, seed=0
        ).predict(layers[name])
        for name in layers
    }
    expected = np.column_stack([single[name][:, i] for i, name in enumerate(source)])
    np.testing.assert_allclose(encoder.predict(layers), expected)


def test_layer_is_chosen_by_leave_one_out_error_not_by_fit():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal((40, 2))
    wide = rng.standard_normal((40, 38))  # fits noise of 40 images almost perfectly
    targets = cause @ rng.standard_normal((2, 5)) + 0.3 * rng.standard_normal((40, 5))
    encoder = fit_layerwise_ridge(
        {"wide": wide, "narrow": cause},
        targets,
        n_components=38,
        alphas=[1e-3],
        block=5,
        seed=0,
    )
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
def test_prediction_of_an_image_depends_on_no_other_image(method):
    x, y = simulate(60, 12, 9, noise=1.0)
    encoder = fit_method(method, x[:40], y[:40])
    together = encoder.predict(as_input(method, x[40:]))
    alone = encoder.predict(as_input(method, x[50:51]))
    np.testing.assert_allclose(alone, together[10:11], rtol=1e-10)
    reverse = encoder.predict(as_input(method, x[:39:-1]))
    np.testing.assert_allclose(reverse, together[::-1], rtol=1e-10)


@pytest.mark.parametrize("method", FITS)
def test_order_of_training_images_is_irrelevant(method):
    x, y = simulate(50, 12, 9, noise=1.0)
    order = np.random.default_rng(1).permutation(40)
    encoder = fit_method(method, x[:40], y[:40])
    permuted = fit_method(method, x[:40][order], y[:40][order])
    test = as_input(method, x[40:])
    np.testing.assert_allclose(permuted.predict(test), encoder.predict(test), rtol=1e-6)


@pytest.mark.parametrize("method", FITS)
@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(deadline=None, max_examples=10)
def test_predictions_move_and_scale_with_the_targets(method, scale, shift):
    x, y = simulate(40, 12, 5, noise=1.0)
    test = as_input(method, x)
    expected = scale * fit_method(method, x, y).predict(test) + shift
    moved = fit_method(method, x, scale * y + shift).predict(test)
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", FITS)
def test_tensors_hold_the_whole_state(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    encoder = fit_method(method, x, y)
    tensors = load(save(encoder.to_tensors()))
    loaded = encoder_from_tensors(tensors)
    test = as_input(method, x)
    np.testing.assert_allclose(loaded.predict(test), encoder.predict(test), rtol=1e-12)


@pytest.mark.parametrize("method", FITS)
def test_same_seed_same_bytes(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    first, second = (save(fit_method(method, x, y).to_tensors()) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("method", FITS)
def test_bad_training_data(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    with pytest.raises(ValueError, match=r"targets must have shape \(40, any\)"):
        fit_method(method, x, y[:39])
    hole = x.copy()
    hole[3, :] = np.nan
    with pytest.raises(ValueError, match="features holds .* NaN or infinite"):
        fit_method(method, hole, y)
    broken = y.copy()
    broken[2, 1] = np.inf
    with pytest.raises(ValueError, match=r"targets holds 1 values .*index \(2, 1\)"):
        fit_method(method, x, broken)


@pytest.mark.parametrize("method", FITS)
def test_other_features_than_in_training(method):
    x, y = simulate(40, 12, 9, noise=1.0)
    encoder = fit_method(method, x, y)
    with pytest.raises(ValueError, match=r"features must have shape \(any, (6|12)\)"):
        encoder.predict(as_input(method, x[:, :8]))


def test_layer_that_is_missing():
    x, y = simulate(40, 12, 9, noise=1.0)
    encoder = fit_layerwise_ridge({"blocks.1": x}, y, **RIDGE)
    with pytest.raises(ValueError, match=r"layers blocks.1; .*Did you mean 'block.1'"):
        encoder.predict({"block.1": x})
    with pytest.raises(ValueError, match="one layer or more"):
        fit_layerwise_ridge({}, y, **RIDGE)


@pytest.mark.parametrize(
    ("option", "value"),
    [("alphas", []), ("alphas", [1.0, 0.0]), ("block", 0), ("n_components", 0)],
)
def test_options_out_of_range(option, value):
    x, y = simulate(40, 12, 9, noise=1.0)
    with pytest.raises(ValueError, match=f"{option} must be above 0"):
        fit_ridge_encoder(x, y, **{**RIDGE, option: value})
