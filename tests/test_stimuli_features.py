import numpy as np
import pytest
import torch

from paperlib.stimuli.features import LayerFeatures, token_features
from paperlib.stimuli.tokens import Tokens, write_tokens


@pytest.fixture
def sources(tmp_path):
    """Image and caption tokens of three images, small whole numbers."""
    rng = np.random.default_rng(0)
    opened = []
    for name, shape in {"image": (5, 4), "text": (7, 4)}.items():
        array = torch.tensor(rng.integers(-8, 8, (3, *shape)))
        path = tmp_path / f"{name}.npy"
        write_tokens(
            path,
            {"a": 0, "b": 1, "c": 2},
            encode=lambda rows, array=array: array[rows],
            batch_size=2,
            settings={},
        )
        opened.append(Tokens(path))
    return opened


def test_pooled_tokens(sources):
    ids = ["c", "a", "b"]
    image, text = (tokens[ids] for tokens in sources)
    expected = {
        "mean": np.hstack([image.mean(1), text.mean(1)]),
        "first": np.hstack([image[:, 0], text[:, 0]]),
        "flatten": np.hstack([image.reshape(3, 20), text.reshape(3, 28)]),
    }
    for pooling, features_ in expected.items():
        for batch_size in (1, 2, 8):
            pooled = token_features(
                sources, ids, pooling=pooling, batch_size=batch_size
            )
            np.testing.assert_array_equal(pooled, features_)
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        token_features(sources, ids, pooling="means", batch_size=2)


def test_tokens_are_not_layers(sources):
    with pytest.raises(ValueError, match="image.npy holds no layers of a network"):
        LayerFeatures(sources[0], ["a"])
