import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperlib.diffusion import (
    clean_and_noise,
    ddim,
    diffuse,
    linear_alpha_bar,
    target,
    timestep_pairs,
)

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)


def test_schedule_is_the_product_of_one_minus_beta():
    betas = np.linspace(1e-4, 2e-2, 1000)
    np.testing.assert_allclose(ALPHA_BAR[1:], np.cumprod(1 - betas), rtol=1e-6)
    assert ALPHA_BAR[0] == 1
    assert ALPHA_BAR[-1].sqrt().item() == pytest.approx(0.00635, abs=1e-5)


@given(timesteps=st.integers(1, 1200), data=st.data())
def test_pairs_are_a_chain_from_the_last_timestep_to_zero(timesteps, data):
    steps = data.draw(st.integers(1, timesteps))
    pairs = timestep_pairs(timesteps, steps)
    assert len(pairs) == steps
    assert pairs[0][0] == timesteps and pairs[-1][1] == 0
    assert all(t > t_prev for t, t_prev in pairs)
    assert [t_prev for _, t_prev in pairs[:-1]] == [t for t, _ in pairs[1:]]


def test_fifty_of_a_thousand_steps():
    assert timestep_pairs(1000, 50)[:2] == [(1000, 980), (980, 960)]
    assert timestep_pairs(1000, 50)[-1] == (20, 0)


@pytest.mark.parametrize("steps", [0, 11])
def test_impossible_number_of_steps(steps):
    with pytest.raises(ValueError, match="between 1 and the schedule's 10"):
        timestep_pairs(10, steps)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_target_and_estimates_are_inverse(prediction):
    y0, noise = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    alpha_bar = ALPHA_BAR[[1, 300, 700, 950]].double()
    y = diffuse(y0, noise, alpha_bar)
    wanted = target(y0, noise, alpha_bar, prediction)
    estimates = clean_and_noise(wanted, y, alpha_bar, prediction)
    torch.testing.assert_close(estimates, (y0, noise))


def perfect_network(y0, prediction):
    """Know the clean signal, and answer with what that implies for the noise."""

    def predict(y, t):
        alpha_bar = ALPHA_BAR.double()[t]
        noise = (y - alpha_bar.sqrt()[:, None, None] * y0) / (1 - alpha_bar).sqrt()[
            :, None, None
        ]
        return target(y0, noise, alpha_bar, prediction)

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_perfect_network_is_led_to_the_clean_signal(prediction, steps, eta):
    torch.manual_seed(0)
    y0, start = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    y = ddim(
        perfect_network(y0, prediction),
        start,
        pairs=timestep_pairs(1000, steps),
        alpha_bar=ALPHA_BAR.double(),
        prediction=prediction,
        eta=eta,
        draw_noise=lambda: torch.randn_like(start),
    )
    torch.testing.assert_close(y, y0)


def gaussian_network(mean, deviation):
    """Return the best possible noise estimate for independent Gaussian signals."""

    def predict(y, t):
        a = ALPHA_BAR[t][:, None, None]
        gain = a.sqrt() * deviation**2 / (a * deviation**2 + 1 - a)
        y0 = mean + gain * (y - a.sqrt() * mean)
        return (y - a.sqrt() * y0) / (1 - a).sqrt()

    return predict


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_follow_the_distribution_of_the_signals(eta):
    """Deterministic DDIM and ancestral DDPM sampling, against a known distribution."""
    torch.manual_seed(0)
    start = torch.randn(1, 100, 200)
    y = ddim(
        gaussian_network(mean=0.7, deviation=0.5),
        start,
        pairs=timestep_pairs(1000, 1000),
        alpha_bar=ALPHA_BAR,
        prediction="epsilon",
        eta=eta,
        draw_noise=lambda: torch.randn_like(start),
    )
    # Standard errors over 20 000 values: 0.0035 of the mean, 0.0025 of the deviation.
    assert y.mean().item() == pytest.approx(0.7, abs=0.015)
    assert y.std().item() == pytest.approx(0.5, abs=0.012)


@pytest.mark.parametrize(("t", "t_prev"), [(1000, 999), (300, 299), (1000, 750)])
def test_eta_one_draws_from_the_posterior_of_ddpm(t, t_prev):
    """Mean and variance are equations 6 and 7 of Ho et al. (2020), for any stride."""
    y0, y, draw = torch.randn(3, 2, 3, 4, dtype=torch.float64)
    alpha_bar = ALPHA_BAR.double()
    now, then = alpha_bar[t], alpha_bar[t_prev]
    alpha = now / then
    mean = then.sqrt() * (1 - alpha) / (1 - now) * y0
    mean = mean + alpha.sqrt() * (1 - then) / (1 - now) * y
    variance = (1 - then) / (1 - now) * (1 - alpha)
    step = ddim(
        perfect_network(y0, "epsilon"),
        y,
        pairs=[(t, t_prev)],
        alpha_bar=alpha_bar,
        prediction="epsilon",
        eta=1.0,
        draw_noise=lambda: draw,
    )
    torch.testing.assert_close(step, mean + variance.sqrt() * draw)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 100])
def test_moments_of_samples_follow_the_recursion_of_a_gaussian(steps, eta):
    """The best network is affine: gain and offset of each step give both moments."""
    alpha_bar, mean, deviation = ALPHA_BAR.double(), 0.7, 0.5
    expected_mean, expected_variance = 0.0, 1.0
    for t, t_prev in timestep_pairs(1000, steps):
        now, then = alpha_bar[t].item(), alpha_bar[t_prev].item()
        total = now * deviation**2 + 1 - now  # variance of y_t
        sigma = eta * np.sqrt((1 - then) / (1 - now) * (1 - now / then))
        covariance = then**0.5 * now**0.5 * deviation**2
        covariance += np.sqrt(1 - then - sigma**2) * np.sqrt(1 - now)
        gain = covariance / total
        offset = mean * (then**0.5 - gain * now**0.5)
        expected_mean = gain * expected_mean + offset
        expected_variance = gain**2 * expected_variance + sigma**2
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(1, 100, 200, generator=generator)
    y = ddim(
        gaussian_network(mean, deviation),
        start,
        pairs=timestep_pairs(1000, steps),
        alpha_bar=ALPHA_BAR,
        prediction="epsilon",
        eta=eta,
        draw_noise=lambda: torch.randn(start.shape, generator=generator),
    )
    # Four standard errors over 20 000 values.
    assert y.mean().item() == pytest.approx(expected_mean, abs=0.014)
    assert y.std().item() == pytest.approx(expected_variance**0.5, abs=0.01)


def test_without_eta_sampling_is_deterministic():
    start = torch.randn(2, 3, 4)
    options = dict(pairs=timestep_pairs(1000, 20), alpha_bar=ALPHA_BAR)
    runs = [
        ddim(lambda y, t: 0.1 * y, start, prediction="epsilon", **options)
        for _ in range(2)
    ]
    assert torch.equal(*runs)


def test_bound_limits_the_estimate():
    y = ddim(
        lambda y, t: torch.zeros_like(y),
        torch.full((1, 1, 1), 5.0),
        pairs=[(1000, 0)],
        alpha_bar=ALPHA_BAR,
        prediction="epsilon",
        bound=3.0,
    )
    assert y.item() == pytest.approx(3.0)


def test_eta_needs_noise():
    with pytest.raises(ValueError, match="draw_noise is needed"):
        ddim(
            lambda y, t: y,
            torch.zeros(1, 1, 1),
            pairs=[(1, 0)],
            alpha_bar=ALPHA_BAR,
            prediction="epsilon",
            eta=1.0,
        )


def test_unknown_prediction():
    with pytest.raises(ValueError, match="prediction must be one of 'epsilon', 'v'"):
        target(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1), "eps")


def test_a_schedule_that_underflows_is_refused():
    assert linear_alpha_bar(1000, 1e-4, 0.15)[-1] > 0
    with pytest.raises(ValueError, match="Choose a smaller beta_end"):
        linear_alpha_bar(1000, 1e-4, 0.5)
