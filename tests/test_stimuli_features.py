import numpy as np
import pytest

from paperlib.stimuli.features import LayerFeatures, layer_maps, token_features
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens, write_tokens

N, PLACES = 60, 4
IDS = [str(i) for i in range(N)]
SOME = ["12", "0", "7"]
ROWS = [12, 0, 7]


def make_tokens(path, array, **made_with):
    items = {name: row for row, name in enumerate(IDS)}
    write_tokens(
        path, items, encode=lambda rows: array[rows], batch_size=16, made_with=made_with
    )
    return Tokens(path)


@pytest.fixture
def sources(tmp_path):
    """Image and caption tokens, small whole numbers."""
    rng = np.random.default_rng(0)
    arrays = {"image": (N, 5, 4), "text": (N, 7, 4)}
    return [
        make_tokens(tmp_path / f"{name}.npy", rng.integers(-8, 8, shape))
        for name, shape in arrays.items()
    ]


@pytest.fixture
def layers(tmp_path):
    """Two layers of 2 x 2 places and one without a map."""
    channels = {"one": 3, "two": 5, "top": 7}
    widths = {"one": 3 * PLACES, "two": 5 * PLACES, "top": 7}
    rng = np.random.default_rng(0)
    values = rng.standard_normal((N, 1, sum(widths.values())))
    values = values * rng.uniform(0.5, 3, values.shape[-1]) + 1
    path = tmp_path / "layers.npy"
    return make_tokens(path, values, layers=widths, channels=channels)


def changed(tokens, place, value):
    """Open tokens again after a part of their file has changed."""
    array = np.load(tokens.path)
    array[place] = value
    np.save(tokens.path, array)
    return Tokens(tokens.path)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_pooled_tokens(sources, batch_size):
    image, text = (tokens[SOME] for tokens in sources)
    expected = {
        "mean": np.hstack([image.mean(1), text.mean(1)]),
        "first": np.hstack([image[:, 0], text[:, 0]]),
        "flatten": np.hstack([image.reshape(3, 20), text.reshape(3, 28)]),
    }
    for pooling, features in expected.items():
        pooled = token_features(sources, SOME, pooling=pooling, batch_size=batch_size)
        np.testing.assert_array_equal(pooled, features)
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        token_features(sources, SOME, pooling="means", batch_size=batch_size)


def test_layers_are_columns_or_maps(layers):
    features, rows = LayerFeatures(layers, SOME), np.load(layers.path)[ROWS, 0]
    assert list(features) == ["one", "two", "top"] and len(features) == 3
    np.testing.assert_array_equal(features["two"], rows[:, 12:32])
    np.testing.assert_array_equal(np.hstack(list(features.values())), rows)
    maps = layer_maps(layers, SOME, ["two", "one"])
    assert maps.shape == (3, PLACES, 5 + 3)
    np.testing.assert_array_equal(maps[:, 2, 4], rows[:, 12 + 4 * PLACES + 2])
    np.testing.assert_array_equal(maps[:, 3, 5], rows[:, 3])


def test_layers_that_cannot_be_read(layers, sources):
    message = "A layer in layers.npy must be one of.*Did you mean 'one'"
    with pytest.raises(ValueError, match=message):
        LayerFeatures(layers, SOME)["onn"]
    with pytest.raises(ValueError, match=message):
        fit_map_tokens(layers, ["onn"], IDS)
    with pytest.raises(ValueError, match="same number of places.*'one': 4, 'top': 1"):
        fit_map_tokens(layers, ["one", "top"], IDS)
    with pytest.raises(ValueError, match="image.npy holds no layers of a network"):
        LayerFeatures(sources[0], SOME)


def test_components_are_those_of_standardized_channels(layers):
    """Independent reference: singular values of the standardized maps."""
    maps = fit_map_tokens(layers, ["one", "two"], IDS, n_components=6)
    assert maps.shape == (N, PLACES, 6)
    ours = maps[IDS].reshape(-1, 6)
    raw = layer_maps(layers, IDS, ["one", "two"]).reshape(-1, 8)
    standard = (raw - raw.mean(0)) / raw.std(0)
    variances = np.linalg.svd(standard, compute_uv=False)[:6] ** 2 / len(raw)
    np.testing.assert_allclose(ours.mean(0), 0, atol=1e-4)
    covariance = np.diag(variances / variances.mean())
    np.testing.assert_allclose(np.cov(ours.T, bias=True), covariance, atol=1e-3)


def test_nothing_is_fitted_on_other_images(layers):
    first = fit_map_tokens(layers, ["one"], IDS[:30], n_components=2)
    layers = changed(layers, slice(30, None), 100)
    again = fit_map_tokens(layers, ["one"], IDS[:30], n_components=2)
    np.testing.assert_array_equal(first.components, again.components)
    np.testing.assert_array_equal(first.mean, again.mean)


def test_a_constant_channel_does_not_divide_by_zero(layers):
    layers = changed(layers, np.s_[:, :, :PLACES], 2)
    maps = fit_map_tokens(layers, ["one"], IDS, n_components=2)
    assert np.isfinite(maps[IDS]).all()
