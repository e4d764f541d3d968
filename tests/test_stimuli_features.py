import numpy as np
import pytest

from paperlib.stimuli.features import LayerFeatures, token_features
from paperlib.stimuli.tokens import Tokens, write_tokens

IDS = ["c", "a", "b"]


def make_tokens(path, array, settings):
    items = {"a": 0, "b": 1, "c": 2}
    write_tokens(
        path, items, encode=lambda rows: array[rows], batch_size=2, settings=settings
    )
    return Tokens(path)


@pytest.fixture
def sources(tmp_path):
    """Image and caption tokens of three images, small whole numbers."""
    rng = np.random.default_rng(0)
    shapes = {"image": (3, 5, 4), "text": (3, 7, 4)}
    return [
        make_tokens(tmp_path / f"{name}.npy", rng.integers(-8, 8, shape), {})
        for name, shape in shapes.items()
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_pooled_tokens(sources, batch_size):
    image, text = (tokens[IDS] for tokens in sources)
    expected = {
        "mean": np.hstack([image.mean(1), text.mean(1)]),
        "first": np.hstack([image[:, 0], text[:, 0]]),
        "flatten": np.hstack([image.reshape(3, 20), text.reshape(3, 28)]),
    }
    for pooling, features in expected.items():
        pooled = token_features(sources, IDS, pooling=pooling, batch_size=batch_size)
        np.testing.assert_array_equal(pooled, features)
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        token_features(sources, IDS, pooling="means", batch_size=batch_size)


def test_layers_are_columns(tmp_path):
    array = np.arange(18.0).reshape(3, 1, 6)
    settings = {"layers": {"conv": 4, "pool": 2}}
    tokens = make_tokens(tmp_path / "layers.npy", array, settings)
    layers = LayerFeatures(tokens, IDS)
    assert list(layers) == ["conv", "pool"] and len(layers) == 2
    rows = array[[2, 0, 1], 0]
    np.testing.assert_array_equal(layers["conv"], rows[:, :4])
    np.testing.assert_array_equal(np.hstack(list(layers.values())), rows)
    with pytest.raises(ValueError, match="Did you mean 'pool'"):
        layers["pol"]


def test_tokens_are_not_layers(sources):
    with pytest.raises(ValueError, match="image.npy holds no layers of a network"):
        LayerFeatures(sources[0], ["a"])
