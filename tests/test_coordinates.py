"""Response coordinates: invertible, as stated, fitted on training rows only."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlib import coordinates
from paperlib.coordinates import Coordinates, fit_coordinates

RECIPE = {"mean": True, "whitening": 0.25, "components": 8, "color": True}


def make_responses(n=200, n_channels=5, n_times=24, repetitions=2, seed=0):
    """Drift with a spatial pattern of its own, faster activity, and a mean response."""
    rng = np.random.default_rng(seed)
    shape = (n, repetitions, n_channels, n_times)
    drift = np.cumsum(rng.standard_normal(shape), axis=-1)
    mixing = rng.standard_normal((n_channels, n_channels))
    fast = np.einsum("cd,nrdt->nrct", mixing, rng.standard_normal(shape))
    evoked = 3 * np.sin(np.linspace(0, 6, n_times)) + np.arange(n_channels)[:, None]
    return (drift + fast + evoked).astype(np.float32)


def in_coordinates(fitted, responses, rows):
    y = torch.from_numpy(responses[rows]).flatten(0, 1)
    return fitted.forward(y).numpy()


@settings(max_examples=20, deadline=None)
@given(
    mean=st.booleans(),
    whitening=st.floats(0, 0.5),
    spatial_whitening=st.floats(0, 0.5),
    components=st.integers(1, 40),
    color=st.booleans(),
)
def test_coordinates_are_undone(**options):
    responses = make_responses(n=30)
    fitted = fit_coordinates(responses, range(30), **options)
    y = torch.from_numpy(responses[:, 0])
    scale = np.abs(responses).max()
    back = fitted.back(fitted.forward(y))
    np.testing.assert_allclose(back, y, atol=2e-4 * scale)


def test_as_published_responses_are_divided_by_one_standard_deviation():
    responses = make_responses()
    fitted = fit_coordinates(responses, range(150))
    expected = responses[:150] / responses[:150].std()
    x = in_coordinates(fitted, responses, range(150))
    np.testing.assert_allclose(x, expected.reshape(x.shape), rtol=1e-4, atol=1e-4)
    z = torch.randn(2, 5, 24)
    assert torch.equal(fitted.color(z), z)


def test_mean_and_variance_of_the_coordinates():
    responses = make_responses()
    x = in_coordinates(
        fit_coordinates(responses, range(200), **RECIPE), responses, range(200)
    )
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    assert np.square(x).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("whitening", [0.25, 0.5])
def test_whitening_is_a_power_of_the_variance_of_each_component(whitening):
    """Independent reference: eigenvalues of the covariance before and after."""
    responses = make_responses()
    options = RECIPE | {"whitening": whitening, "components": 24}
    fitted = fit_coordinates(responses, range(200), **options)
    residuals = responses - responses.mean((0, 1))
    before = np.linalg.svd(residuals.reshape(-1, 24), compute_uv=False) ** 2
    x = in_coordinates(fitted, responses, range(200))
    after = np.linalg.svd(x.reshape(-1, 24), compute_uv=False) ** 2
    expected = (before / before[0]) ** (1 - 2 * whitening)
    np.testing.assert_allclose(after / after[0], expected, rtol=2e-2)


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_spatial_whitening_is_a_power_of_the_variance_over_channels(power):
    """Independent reference: singular values of channels by everything else."""
    responses = make_responses()
    fitted = fit_coordinates(responses, range(200), mean=True, spatial_whitening=power)
    residuals = responses - responses.mean((0, 1))
    x = in_coordinates(fitted, responses, range(200))
    before, after = (
        np.linalg.svd(np.moveaxis(a, -2, 0).reshape(5, -1), compute_uv=False) ** 2
        for a in (residuals, x)
    )
    expected = (before / before[0]) ** (1 - 2 * power)
    np.testing.assert_allclose(after / after[0], expected, rtol=1e-3)


def test_later_components_have_one_smaller_gain():
    fitted = fit_coordinates(make_responses(), range(200), **RECIPE, floor=0.5)
    gains = fitted.gains
    assert (gains[1:8] > gains[:7]).all()  # weaker components are lifted
    assert len(set(gains[8:].tolist())) == 1
    assert gains[8] < gains[7]


@pytest.mark.parametrize("power", [0, 0.3])
def test_noise_has_the_covariance_of_the_coordinates(power):
    """Per component for the first ones; of all others together, and their variance."""
    responses = make_responses(n=400)
    options = RECIPE | {"spatial_whitening": power}
    fitted = fit_coordinates(responses, range(400), **options)
    torch.manual_seed(0)
    n = 20_000
    noise = fitted.color(torch.randn(n, 5, 24)).numpy()
    x = in_coordinates(fitted, responses, range(400))
    axes = fitted.axes.numpy()
    ours, theirs = (np.einsum("nct,tk->knc", a, axes) for a in (noise, x))
    for k in range(8):
        want = np.cov(theirs[k].T)
        np.testing.assert_allclose(
            np.cov(ours[k].T), want, atol=0.06 * np.trace(want) / 5
        )
    np.testing.assert_allclose(
        np.square(ours).mean((1, 2)), np.square(theirs).mean((1, 2)), rtol=0.06
    )
    rest = [sum(np.cov(k.T) / k.var() for k in a[8:]) for a in (ours, theirs)]
    np.testing.assert_allclose(*rest, atol=0.06 * 16)


def test_nothing_is_fitted_on_other_rows():
    responses = make_responses()
    rows = np.arange(0, 200, 2)
    changed = responses.copy()
    changed[1::2] = np.nan
    options = RECIPE | {"spatial_whitening": 0.25}
    for one, other in zip(
        fit_coordinates(responses, rows, **options).tensors().values(),
        fit_coordinates(changed, rows, **options).tensors().values(),
        strict=True,
    ):
        assert torch.equal(one, other) and one.isfinite().all()


def test_blocks_of_a_memory_map_change_nothing(monkeypatch, tmp_path):
    responses = make_responses()
    np.save(tmp_path / "responses.npy", responses)
    mapped = np.load(tmp_path / "responses.npy", mmap_mode="r")
    whole = fit_coordinates(responses, range(200), **RECIPE)
    monkeypatch.setattr(coordinates, "_BLOCK", 7 * mapped[0].size)
    parts = fit_coordinates(mapped, range(200), **RECIPE)
    y = torch.from_numpy(responses[:5, 0])
    torch.testing.assert_close(whole.forward(y), parts.forward(y), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        whole.factors @ whole.factors.mT,
        parts.factors @ parts.factors.mT,
        rtol=1e-3,
        atol=1e-3,
    )


def test_channels_of_a_common_reference_have_a_color():
    """Their covariance is singular; a little shrinkage keeps it positive."""
    responses = make_responses()
    responses -= responses.mean(axis=2, keepdims=True)
    fitted = fit_coordinates(responses, range(200), **RECIPE)
    assert fitted.factors.isfinite().all()


def test_tensors_make_the_same_coordinates_again():
    fitted = fit_coordinates(make_responses(), range(200), **RECIPE)
    again = Coordinates(**fitted.tensors())
    y = torch.randn(3, 5, 24)
    assert torch.equal(fitted.forward(y), again.forward(y))
    assert torch.equal(fitted.color(y), again.color(y))


def test_full_size_meg_takes_at_most_ten_megabytes():
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((40, 1, 271, 200)).astype(np.float32)
    fitted = fit_coordinates(responses, range(40), **RECIPE | {"components": 32})
    sizes = [t.numel() * t.element_size() for t in fitted.tensors().values()]
    assert sum(sizes) < 10 * 2**20
