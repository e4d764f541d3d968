import numpy as np
import pytest
import torch

from paperlib.stimuli.features import layer_maps
from paperlib.stimuli.map_tokens import fit_map_tokens
from paperlib.stimuli.tokens import Tokens, write_tokens

N, PLACES = 60, 4
SETTINGS = {
    "layers": {"one": 3 * PLACES, "two": 5 * PLACES, "top": 7},
    "channels": {"one": 3, "two": 5, "top": 7},
}
IDS = [str(i) for i in range(N)]


@pytest.fixture
def tokens(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((N, 1, sum(SETTINGS["layers"].values())))
    values = values * rng.uniform(0.5, 3, values.shape[-1]) + 1
    write_tokens(
        tmp_path / "cnn.npy",
        {i: int(i) for i in IDS},
        encode=lambda rows: torch.from_numpy(values[rows]),
        batch_size=16,
        settings=SETTINGS,
    )
    return Tokens(tmp_path / "cnn.npy")


def test_components_are_those_of_standardized_channels(tokens):
    """Independent reference: singular values of the standardized maps."""
    maps = fit_map_tokens(tokens, ["one", "two"], IDS, n_components=6)
    assert maps.shape == (N, PLACES, 6)
    ours = maps[IDS].reshape(-1, 6)
    raw = layer_maps(tokens, IDS, ["one", "two"]).reshape(-1, 8)
    standard = (raw - raw.mean(0)) / raw.std(0)
    variances = np.linalg.svd(standard, compute_uv=False)[:6] ** 2 / len(raw)
    np.testing.assert_allclose(ours.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(
        np.cov(ours.T, bias=True), np.diag(variances / variances.mean()), atol=1e-3
    )


def test_nothing_is_fitted_on_other_images(tokens):
    first = fit_map_tokens(tokens, ["one"], IDS[:30], n_components=2)
    array = np.lib.format.open_memmap(tokens.path, mode="r+")
    array[30:] = 100
    array.flush()
    again = fit_map_tokens(Tokens(tokens.path), ["one"], IDS[:30], n_components=2)
    np.testing.assert_array_equal(first.components, again.components)
    np.testing.assert_array_equal(first.mean, again.mean)


def test_a_constant_channel_does_not_divide_by_zero(tokens):
    array = np.lib.format.open_memmap(tokens.path, mode="r+")
    array[:, :, :PLACES] = 2
    array.flush()
    maps = fit_map_tokens(Tokens(tokens.path), ["one"], IDS, n_components=2)
    assert np.isfinite(maps[IDS]).all()


def test_unknown_layers_and_grids_that_differ(tokens):
    with pytest.raises(ValueError, match="Did you mean 'one'"):
        fit_map_tokens(tokens, ["onn"], IDS)
    with pytest.raises(ValueError, match="same number of places"):
        fit_map_tokens(tokens, ["one", "top"], IDS)
