import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paperlib.coordinates import Coordinates, fit_coordinates
from paperlib.diffusion import (
    PREDICTIONS,
    DenoisingLoss,
    clean_and_noise,
    ddim,
    diffuse,
    linear_alpha_bar,
    noise_source,
    posterior_mean,
    sample,
    target,
    timestep_pairs,
)

ALPHA_BAR = linear_alpha_bar(1000, 1e-4, 2e-2)


def white(n_channels, n_times):
    """Coordinates that change nothing."""
    return Coordinates(
        torch.zeros(n_channels, n_times),
        torch.eye(n_channels),
        torch.eye(n_times),
        torch.ones(n_times),
        torch.ones(n_times),
        torch.empty(0, n_channels, n_channels),
    )


def colored(n_channels=3, n_times=10):
    """Coordinates of drifting responses, fitted with the recipe of Ours+."""
    rng = np.random.default_rng(0)
    responses = np.cumsum(rng.standard_normal((300, 1, n_channels, n_times)), axis=-1)
    responses[:, :, 1] += responses[:, :, 0]
    options = {"mean": True, "whitening": 0.25, "components": 4, "color": True}
    return fit_coordinates(responses.astype(np.float32), range(300), **options)


def test_schedule_is_the_product_of_one_minus_beta():
    betas = np.linspace(1e-4, 2e-2, 1000)
    np.testing.assert_allclose(ALPHA_BAR[1:], np.cumprod(1 - betas), rtol=1e-6)
    assert ALPHA_BAR[0] == 1
    assert ALPHA_BAR[-1].sqrt().item() == pytest.approx(0.00635, abs=1e-5)


@given(
    timesteps=st.integers(1, 1200),
    beta_end=st.floats(1e-4, 0.05),
    spacing=st.sampled_from(["trailing", "angle"]),
    data=st.data(),
)
def test_pairs_are_a_chain_from_the_last_timestep_to_zero(
    timesteps, beta_end, spacing, data
):
    steps = data.draw(st.integers(1, timesteps))
    alpha_bar = linear_alpha_bar(timesteps, 1e-4, beta_end)
    pairs = timestep_pairs(alpha_bar, steps, spacing)
    assert len(pairs) == steps
    assert pairs[0][0] == timesteps and pairs[-1][1] == 0
    assert all(t > t_prev for t, t_prev in pairs)
    assert [t_prev for _, t_prev in pairs[:-1]] == [t for t, _ in pairs[1:]]


def test_fifty_of_a_thousand_steps():
    assert timestep_pairs(ALPHA_BAR, 50)[:2] == [(1000, 980), (980, 960)]
    assert timestep_pairs(ALPHA_BAR, 50)[-1] == (20, 0)


def test_steps_of_equal_angle():
    pairs = timestep_pairs(ALPHA_BAR, 10, "angle")
    angles = np.arccos(ALPHA_BAR[[t for t, _ in pairs] + [0]].sqrt().numpy())
    np.testing.assert_allclose(-np.diff(angles), angles[0] / 10, rtol=0.05)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_number_of_steps(steps):
    with pytest.raises(ValueError, match="between 1 and the schedule's 1000"):
        timestep_pairs(ALPHA_BAR, steps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
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


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_perfect_network_is_led_to_the_clean_signal(prediction, steps, eta):
    torch.manual_seed(0)
    y0, start = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    y = ddim(
        perfect_network(y0, prediction),
        start,
        pairs=timestep_pairs(ALPHA_BAR, steps),
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
        pairs=timestep_pairs(ALPHA_BAR, 1000),
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


def moments(pairs, mean, variance, eta):
    """Mean and variance of the samples of a Gaussian, step by step."""
    alpha_bar, sampled_mean, sampled_variance = ALPHA_BAR.double(), 0.0, 1.0
    for t, t_prev in pairs:
        now, then = alpha_bar[t].item(), alpha_bar[t_prev].item()
        total = now * variance + 1 - now  # variance of y_t
        sigma = eta * np.sqrt((1 - then) / (1 - now) * (1 - now / then))
        covariance = then**0.5 * now**0.5 * variance
        covariance += np.sqrt(1 - then - sigma**2) * np.sqrt(1 - now)
        gain = covariance / total
        sampled_mean = gain * sampled_mean + mean * (then**0.5 - gain * now**0.5)
        sampled_variance = gain**2 * sampled_variance + sigma**2
    return sampled_mean, sampled_variance


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 100])
def test_moments_of_samples_follow_the_recursion_of_a_gaussian(steps, eta):
    """The best network is affine: gain and offset of each step give both moments."""
    mean, deviation = 0.7, 0.5
    pairs = timestep_pairs(ALPHA_BAR, steps)
    expected_mean, expected_variance = moments(pairs, mean, deviation**2, eta)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(1, 100, 200, generator=generator)
    y = ddim(
        gaussian_network(mean, deviation),
        start,
        pairs=timestep_pairs(ALPHA_BAR, steps),
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
    options = dict(pairs=timestep_pairs(ALPHA_BAR, 20), alpha_bar=ALPHA_BAR)
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
    with pytest.raises(ValueError, match="needs draw_noise"):
        ddim(
            lambda y, t: y,
            torch.zeros(1, 1, 1),
            pairs=[(1, 0)],
            alpha_bar=ALPHA_BAR,
            prediction="epsilon",
            eta=1.0,
        )


def test_unknown_prediction():
    with pytest.raises(
        ValueError, match="prediction must be one of 'epsilon', 'epsilon_skip', 'v'"
    ):
        target(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1), "eps")


def test_a_schedule_that_underflows_is_refused():
    assert linear_alpha_bar(1000, 1e-4, 0.15)[-1] > 0
    with pytest.raises(ValueError, match="Choose a smaller beta_end"):
        linear_alpha_bar(1000, 1e-4, 0.5)


def best_velocity(mean, variance, scale_input):
    """Return the best network for Gaussian signals whose noise has their color.

    In the noise's eigenvectors everything is diagonal with a ratio of variances, here
    the same for all: signal covariance = variance x noise covariance.
    """

    def predict(seen, t):
        a = ALPHA_BAR[t][:, None, None]
        y = seen / a.sqrt() if scale_input else seen
        y0 = mean + a.sqrt() * variance / (a * variance + 1 - a) * (y - a.sqrt() * mean)
        noise = (y - a.sqrt() * y0) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * y0

    return predict


@pytest.mark.parametrize("prediction", ["v", "epsilon_skip"])
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "ddim"},
        {"solver": "ddim", "eta": 1.0},
        {"solver": "euler", "spacing": "angle"},
    ],
)
@pytest.mark.parametrize("variance", [1.0, 0.4])
def test_colored_samples_have_mean_and_covariance_of_the_signals(
    prediction, options, variance
):
    options = dict(options)
    spacing = options.pop("spacing", "trailing")
    coordinates, mean = colored(), torch.linspace(-1, 1, 30).view(3, 10)
    generator = torch.Generator().manual_seed(0)
    n = 3000

    def draw_noise():
        return coordinates.color(torch.randn(n, 3, 10, generator=generator))

    pairs = timestep_pairs(ALPHA_BAR, 60, spacing)
    y = ddim(
        best_velocity(mean, variance, scale_input=True),
        draw_noise(),
        pairs=pairs,
        alpha_bar=ALPHA_BAR,
        prediction=prediction,
        scale_input=True,
        draw_noise=draw_noise,
        **options,
    )
    matrix = coordinates.color(torch.eye(30).view(30, 3, 10)).flatten(1)
    if options["solver"] == "ddim":  # of which few steps lose some of the variance
        variance = moments(pairs, 0.0, variance, options.get("eta", 0.0))[1]
    want = variance * matrix.T @ matrix
    size = want.diagonal().mean()
    torch.testing.assert_close(y.mean(0), mean, atol=0.08 * size.item() ** 0.5, rtol=0)
    torch.testing.assert_close(
        torch.cov(y.flatten(1).T), want, atol=0.12 * size.item(), rtol=0.04
    )


def test_euler_keeps_the_spread_that_ddim_loses_in_few_steps():
    """The closed form: DDIM's factor is the product of the cosines of its steps."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2000, 3, 10, generator=generator)
    pairs = timestep_pairs(ALPHA_BAR, 10, "angle")
    common = {"pairs": pairs, "alpha_bar": ALPHA_BAR, "prediction": "v"}
    network = best_velocity(torch.zeros(3, 10), 1.0, scale_input=False)
    euler, implicit = (
        ddim(network, start, solver=solver, **common) for solver in ("euler", "ddim")
    )
    angles = np.arccos(ALPHA_BAR[[t for t, _ in pairs] + [0]].sqrt().numpy())
    torch.testing.assert_close(euler, start, atol=1e-3, rtol=1e-3)
    factor = np.prod(np.cos(np.diff(angles)))
    torch.testing.assert_close(implicit, start * factor, atol=2e-3, rtol=2e-3)


class Answers(torch.nn.Module):
    """A network whose best velocity belongs to the mean that its tokens name."""

    def __init__(self, slope=0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.slope = slope

    def forward(self, y, t, context):
        means = context.mean(1)[:, :, None] * self.scale  # B C 1
        a = ALPHA_BAR[t][:, None, None]
        return self.slope * y - (1 - a).sqrt() * means.expand_as(y)


def options(coordinates, **changes):
    fixed = {"alpha_bar": ALPHA_BAR, "prediction": "v", "scale_input": True}
    return {"coordinates": coordinates, **fixed, "steps": 10, **changes}


TOKENS = np.random.default_rng(0).standard_normal((7, 4, 3)).astype(np.float32)


def test_samples_are_in_the_unit_of_the_responses():
    coordinates = colored()
    path = {"spacing": "angle", "solver": "euler", "samples": 500}
    samples = sample(Answers(), TOKENS.__getitem__, 7, **options(coordinates, **path))
    assert samples.shape == (7, 500, 3, 10) and samples.dtype == np.float32
    means = torch.from_numpy(TOKENS.mean(1)[:, :, None]).expand(-1, -1, 10)
    want = coordinates.back(means).numpy()
    spread = samples.std(axis=1).mean()
    np.testing.assert_allclose(samples.mean(1), want, atol=5 * spread / 500**0.5)


@pytest.mark.parametrize("batch_size", [1, 6, 1000])
def test_noise_depends_on_seed_image_and_sample_only(batch_size):
    common = options(colored(), eta=0.5, samples=3)
    arguments = Answers(slope=0.1), TOKENS.__getitem__
    whole = sample(*arguments, 7, batch_size=32, seed=4, **common)
    parts = sample(*arguments, 5, batch_size=batch_size, seed=4, **common)
    np.testing.assert_allclose(parts, whole[:5], atol=1e-5)
    other = sample(*arguments, 7, batch_size=32, seed=5, **common)
    assert not np.allclose(whole, other)
    assert len(np.unique(whole[:, :, 0, 0])) == 21  # no two samples share their noise


def test_antithetic_samples_are_reflected_at_their_mean():
    """Exactly so where the network is affine in the noisy signal."""
    path = options(colored(), samples=4, antithetic=True)
    samples = sample(Answers(slope=0.1), TOKENS.__getitem__, 7, **path)
    means = samples.reshape(7, 2, 2, 3, 10).mean(axis=2)
    np.testing.assert_allclose(means[:, 0], means[:, 1], atol=1e-4)
    with pytest.raises(ValueError, match="come in pairs; got 3"):
        sample(Answers(), TOKENS.__getitem__, 7, **path | {"samples": 3})


def test_posterior_mean_is_the_mean_of_the_signals():
    coordinates = colored()
    common = {k: v for k, v in options(coordinates).items() if k != "steps"}
    expected = posterior_mean(Answers(), TOKENS.__getitem__, 7, **common)
    means = torch.from_numpy(TOKENS.mean(1)[:, :, None]).expand(-1, -1, 10)
    want = coordinates.back(means).numpy()
    np.testing.assert_allclose(expected, want, atol=1e-3)


def test_white_noise_of_a_stream_is_standard_gaussian():
    noise = noise_source(0, np.arange(40), 25, shape=(3, 10))().numpy()
    assert noise.shape == (1000, 3, 10)
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_is_the_error_of_the_prediction(prediction):
    """With the skip the error of the noise is that of the velocity times alpha bar."""
    y0 = torch.randn(64, 3, 10)
    t = torch.full((64,), 300)
    tokens = torch.zeros(64, 4, 3)
    parts = (ALPHA_BAR, prediction, False, white(3, 10))
    error = DenoisingLoss(*parts)(
        lambda y, t, context: torch.zeros_like(y),
        y0,
        tokens,
        torch.Generator().manual_seed(0),
        t,
    )
    half = torch.randn(32, 3, 10, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([half, -half])
    a = ALPHA_BAR[300]
    wanted = (
        noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * y0
    )
    factor = a if prediction == "epsilon_skip" else 1.0
    torch.testing.assert_close(error, factor * wanted.square().mean())


def test_scaled_input_shows_nothing_at_the_end_and_all_at_the_beginning():
    seen = []
    loss = DenoisingLoss(linear_alpha_bar(1000, 1e-4, 0.15), "v", True, white(3, 10))
    for step in (1, 1000):
        loss(
            lambda y, t, context: seen.append(y) or y,
            torch.ones(5, 3, 10),
            torch.zeros(5, 4, 3),
            torch.Generator().manual_seed(0),
            torch.full((5,), step),
        )
    torch.testing.assert_close(seen[0], torch.ones(5, 3, 10), atol=0.06, rtol=0)
    assert seen[1].abs().max() < 1e-6
