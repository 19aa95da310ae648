import math

import pytest
import torch
from torchdiffeq import odeint

from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import FlowMatching
from bench.diffusion.paths import coefficients
from bench.diffusion.solvers import Dopri5, Euler, EulerMaruyama, Heun, diffusion_coefficient
from tests.helpers.closed_forms import PATHS, ExactModel, alpha_sigma

FLOWS = [FlowMatching(path=path, prediction=kind) for path in PATHS for kind in ("velocity", "noise", "x0")]
FORMS = ["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]


def sample(sampler, data, process, noise, generator=None, model=None):
    def step_noise():
        return torch.randn(noise.shape, dtype=noise.dtype, generator=generator)

    model = model or ExactModel(data, process.path, process.prediction)
    label = torch.arange(len(noise)) % 10
    return sampler.sample(model, noise, label, process=process, guidance=Guidance(), step_noise=step_noise)


def transported(gaussian, process, noise):
    """Where the probability-flow ODE takes `noise`, for one Gaussian: quantiles keep their places."""
    data_end, noise_end = (torch.tensor(t, dtype=torch.float64) for t in process.time_range(training=False))

    def mean_std(t):
        alpha, sigma = alpha_sigma(process.path, t)
        return alpha * gaussian.means, torch.sqrt(alpha**2 * gaussian.stds**2 + sigma**2)

    (mean, std), (start_mean, start_std) = mean_std(data_end), mean_std(noise_end)
    return mean + std * (noise - start_mean) / start_std


@pytest.fixture
def noise(generator):
    return torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (Heun, 2)])
@pytest.mark.parametrize("path", PATHS)
def test_ode_solvers_have_their_order_of_convergence(solver, order, path, gaussian, noise):
    process = FlowMatching(path=path)
    exact = transported(gaussian, process, noise)
    coarse, fine = ((sample(solver(steps=n), gaussian, process, noise) - exact).norm() for n in (100, 200))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.05)
    assert fine / exact.norm() < 0.005


@pytest.mark.parametrize(("solver", "method"), [(Euler(steps=9), "euler"), (Heun(steps=9), "heun2")])
def test_fixed_steps_are_torchdiffeqs_on_one_grid_point_more(solver, method, mixture, noise):
    def velocity(t, x):
        return mixture.velocity(x, "linear", t.expand(len(x)))

    grid = torch.linspace(1, 0, 10, dtype=torch.float64)
    expected = odeint(velocity, noise, grid, method=method)[-1]
    torch.testing.assert_close(sample(solver, mixture, FlowMatching(), noise), expected)


@pytest.mark.parametrize("process", FLOWS, ids=str)
def test_dopri5_finds_the_exact_transport_for_every_prediction(process, gaussian, noise):
    found = sample(Dopri5(atol=1e-10, rtol=1e-10), gaussian, process, noise)
    torch.testing.assert_close(found, transported(gaussian, process, noise), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", [Euler(steps=7), Heun(steps=7), Dopri5()])
@pytest.mark.parametrize("process", FLOWS, ids=str)
def test_ode_solvers_stay_within_the_process(solver, process, gaussian, noise):
    model = ExactModel(gaussian, process.path, process.prediction)
    sample(solver, gaussian, process, noise, model=model)
    low, high = process.time_range(training=False)
    assert model.times[0] == high and all(low - 1e-12 <= t <= high for t in model.times)


def assert_moments(samples, data, tolerance):
    """Mean and covariance within 4 standard errors plus a tolerance for the step size."""
    samples, means = samples.flatten(1), data.means.flatten(1)
    mean = (data.weights[:, None] * means).sum(0)
    spread = torch.diag_embed((data.stds**2)[:, None].expand_as(means))
    second = (data.weights[:, None, None] * (spread + means[:, :, None] * means[:, None, :])).sum(0)
    covariance = second - mean[:, None] * mean
    centred = samples - mean
    products = centred[:, :, None] * centred[:, None, :]
    for found, true in ((centred, torch.zeros_like(mean)), (products, covariance)):
        standard_error = found.std(0) / math.sqrt(len(samples))
        assert ((found.mean(0) - true).abs() < 4 * standard_error + tolerance).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_every_sde_has_the_mean_and_covariance_of_the_data(form, path, mixture, generator):
    noise = torch.randn(3000, 1, 2, 2, dtype=torch.float64, generator=generator)
    sampler = EulerMaruyama(steps=200, diffusion=form, last_step="tweedie", last_step_size=0.005)
    assert_moments(sample(sampler, mixture, FlowMatching(path=path), noise, generator), mixture, 0.03)


@pytest.mark.parametrize("path", PATHS)
def test_the_sde_is_one_for_every_prediction(path, mixture, noise):
    samples = [
        # sbdm makes velocity models start where the others do, clear of t = 1
        sample(
            EulerMaruyama(steps=20, diffusion="sbdm"),
            mixture,
            FlowMatching(path=path, prediction=kind),
            noise,
            torch.Generator().manual_seed(1),
        )
        for kind in ("velocity", "noise", "x0")
    ]
    torch.testing.assert_close(samples[0], samples[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(samples[0], samples[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last_step", [None, "mean", "euler", "tweedie"])
def test_the_sde_is_sits_in_its_own_notation(form, last_step, mixture, noise):
    """SiT integrates upwards in s = 1 - t: dx = (u + D score) ds + √(2D) dW with u = -v."""
    steps, h = 12, 0.04
    deltas = torch.Generator().manual_seed(3)
    start = 1e-3 if form == "sbdm" else 0.0
    grid = torch.linspace(start, 1.0 if last_step is None else 1 - h, steps, dtype=torch.float64)

    def drift_parts(x, s):
        t = torch.full((len(x),), 1 - float(s), dtype=torch.float64)
        return -mixture.velocity(x, "linear", t), mixture.score(x, "linear", t)

    def coefficient(s):
        return {
            "constant": 1.0,
            "sbdm": (1 - s) ** 2 / s + (1 - s) if s > 0 else math.inf,
            "sigma": 1 - s,
            "linear": 1 - s,
            "decreasing": 0.25 * (math.cos(math.pi * s) + 1) ** 2,
            "increasing-decreasing": math.sin(math.pi * s) ** 2,
        }[form]

    x = noise
    ds = float(grid[1] - grid[0])
    for s in grid[:-1].tolist():
        u, score = drift_parts(x, s)
        dw = torch.randn(x.shape, dtype=x.dtype, generator=deltas) * math.sqrt(ds)
        x = x + (u + coefficient(s) * score) * ds + math.sqrt(2 * coefficient(s)) * dw
    s = float(grid[-1])
    if last_step is not None:
        u, score = drift_parts(x, s)
        x = {
            "mean": x + h * (u + coefficient(s) * score),
            "euler": x + h * u,
            "tweedie": x / s + (1 - s) ** 2 / s * score,
        }[last_step]

    sampler = EulerMaruyama(steps=steps, diffusion=form, last_step=last_step, last_step_size=h)
    found = sample(sampler, mixture, FlowMatching(), noise, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_diffusion_norm_scales_as_in_sit():
    c = coefficients("gvp", torch.tensor(0.3, dtype=torch.float64))
    for form in ("constant", "sbdm", "sigma", "linear", "increasing-decreasing"):
        once, twice = (diffusion_coefficient(form, norm, 0.3, c) for norm in (1.0, 2.0))
        assert twice == pytest.approx(2 * once)
    assert diffusion_coefficient("decreasing", 0.5, 1.0, c) == pytest.approx(0.25 * 1.5**2)


@pytest.mark.parametrize(
    "options", [{"steps": 1}, {"last_step_size": 0.0}, {"diffusion_norm": 0.0}, {"last_step_size": 1.0}]
)
def test_impossible_sde_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        EulerMaruyama(**options)
