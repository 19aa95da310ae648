import math

import pytest
import torch

from bench.diffusion.objectives import DDPM, FlowMatching
from tests.helpers.closed_forms import PATHS, alpha_sigma, derivative

FLOWS = [FlowMatching(path=path, prediction=kind) for path in PATHS for kind in ("velocity", "noise", "x0")]
PROCESSES = [*FLOWS, DDPM()]


@pytest.fixture
def batch(generator):
    """x0, noise [64, 1, 2, 2] and t [64], kept off the ends."""

    def draw(process):
        x0, noise = torch.randn(2, 64, 1, 2, 2, dtype=torch.float64, generator=generator)
        t = process.draw_t(torch.linspace(0.02, 0.98, 64, dtype=torch.float64))
        return x0, noise, t

    return draw


@pytest.mark.parametrize("process", FLOWS, ids=str)
def test_velocity_target_is_the_time_derivative_of_x_t(process, batch):
    x0, noise, t = batch(process)
    if process.prediction != "velocity":
        assert process.target(x0, noise, t) is (noise if process.prediction == "noise" else x0)
        return
    t_of_pixel = t.view(-1, 1, 1, 1).expand_as(x0).contiguous()

    def x_of(t):
        alpha, sigma = alpha_sigma(process.path, t)
        return alpha * x0 + sigma * noise

    torch.testing.assert_close(process.corrupt(x0, noise, t), x_of(t_of_pixel), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        process.target(x0, noise, t), derivative(x_of, t_of_pixel), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_the_target_implies_the_data_and_has_no_denoising_loss(process, batch):
    x0, noise, t = batch(process)
    x_t, target = process.corrupt(x0, noise, t), process.target(x0, noise, t)
    torch.testing.assert_close(process.x0_hat(target, x_t, t), x0, rtol=1e-8, atol=1e-8)
    loss = process.losses(target, None, x0, noise, t, x_t)["denoise"]
    assert loss.shape == (64,) and loss.dtype == torch.float64 and not loss.any()


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_x0_hat_scale_is_the_derivative_by_the_prediction(process, batch):
    x0, noise, t = batch(process)
    x_t = process.corrupt(x0, noise, t)
    slope = derivative(lambda prediction: process.x0_hat(prediction, x_t, t), noise)
    torch.testing.assert_close(process.x0_hat_scale(t), slope.abs()[:, 0, 0, 0], rtol=1e-8, atol=1e-10)


def test_linear_velocity_has_the_textbook_forms(batch):
    process = FlowMatching()
    x0, noise, t = batch(process)
    wide = t.view(-1, 1, 1, 1)
    assert torch.equal(process.draw_t(t), t)
    torch.testing.assert_close(process.corrupt(x0, noise, t), (1 - wide) * x0 + wide * noise)
    torch.testing.assert_close(process.target(x0, noise, t), noise - x0)
    torch.testing.assert_close(process.x0_hat_scale(t), t)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_losses_of_bfloat16_networks_are_float32(process, batch):
    x0, noise, t = (tensor.float() for tensor in batch(process))
    x_t = process.corrupt(x0, noise, t)
    zeros = torch.zeros_like(x_t, dtype=torch.bfloat16)
    for loss in process.losses(zeros, zeros, x0, noise, t, x_t).values():
        assert loss.dtype == torch.float32 and loss.shape == (64,) and loss.isfinite().all()


def test_drawn_times_have_their_named_distribution():
    uniform = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    normal_cdf = torch.distributions.Normal(-0.5, 1.3).cdf
    t = FlowMatching(weighting="logit-normal", mean=-0.5, std=1.3).draw_t(uniform)
    torch.testing.assert_close(normal_cdf(t.logit()), uniform, rtol=0, atol=1e-6)
    for path in PATHS:
        t = FlowMatching(path=path, weighting="lognormal", mean=-0.5, std=1.3).draw_t(uniform)
        alpha, sigma = alpha_sigma(path, t)
        inside = t > 1e-5  # where vp's range begins
        torch.testing.assert_close(
            normal_cdf((sigma / alpha).log())[inside], uniform[inside], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("weighting", ["uniform", "lognormal", "logit-normal"])
@pytest.mark.parametrize("path", PATHS)
def test_drawn_times_are_finite_and_in_order_at_both_ends(path, weighting):
    uniform = torch.tensor([0.0, 1e-6, 0.5, 1 - 2**-24])
    t = FlowMatching(path=path, weighting=weighting, std=3.0).draw_t(uniform)
    assert t.isfinite().all() and (t.diff() >= 0).all() and t[0] >= 0 and t[-1] <= 1


def test_ddpm_times_are_thousandths_each_equally_likely():
    t = DDPM().draw_t((torch.arange(100_000) + 0.5) / 100_000)
    k = (1000 * t).round().long() - 1
    assert torch.equal(k.bincount(), torch.full((1000,), 100))
    assert DDPM().draw_t(torch.tensor([1 - 2**-24])) == 1.0


@pytest.mark.parametrize("kind", ["noise", "x0"])
@pytest.mark.parametrize("path", PATHS)
def test_sit_weightings_are_those_of_velocity_and_of_likelihood(path, kind, batch, generator):
    """The square error of the implied velocity; ½ g² |score error|² (Song et al. 2021)."""
    process = FlowMatching(path=path, prediction=kind, weighting="velocity")
    x0, noise, t = batch(process)
    x_t = process.corrupt(x0, noise, t)
    prediction = torch.randn(x0.shape, dtype=torch.float64, generator=generator)
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in alpha_sigma(path, t))

    implied_x0 = prediction if kind == "x0" else (x_t - sigma * prediction) / alpha
    implied_noise = prediction if kind == "noise" else (x_t - alpha * prediction) / sigma
    as_velocity = FlowMatching(path=path).losses(
        FlowMatching(path=path).target(implied_x0, implied_noise, t), None, x0, noise, t, x_t
    )
    found = process.losses(prediction, None, x0, noise, t, x_t)
    torch.testing.assert_close(found["denoise"], as_velocity["denoise"], rtol=1e-8, atol=0)

    # The forward SDE of the path has g² = α² d(σ²/α²)/dt.
    ratio_dot = derivative(lambda t: alpha_sigma(path, t)[1] ** 2 / alpha_sigma(path, t)[0] ** 2, t)
    g_squared = alpha.flatten() ** 2 * ratio_dot
    score_error = ((implied_noise - noise) / sigma).square().flatten(1).mean(1)
    likelihood = FlowMatching(path=path, prediction=kind, weighting="likelihood")
    found = likelihood.losses(prediction, None, x0, noise, t, x_t)
    torch.testing.assert_close(found["denoise"], 0.5 * g_squared * score_error, rtol=1e-8, atol=0)


@pytest.mark.parametrize("process", FLOWS, ids=str)
def test_the_conditional_mean_minimises_the_loss(process, mixture, generator):
    """The gradient of the mean loss by a constant added to the perfect prediction vanishes."""
    x0 = mixture.draw(20_000, generator)
    noise = torch.randn(x0.shape, dtype=torch.float64, generator=generator)
    t = process.draw_t(torch.rand(20_000, dtype=torch.float64, generator=generator).clamp(0.01, 0.99))
    x_t = process.corrupt(x0, noise, t)
    error = mixture.quantity(process.prediction, x_t, process.path, t) - process.target(x0, noise, t)
    standard_error = error.std(0) / math.sqrt(20_000)
    assert (error.mean(0).abs() < 4 * standard_error).all()


def test_velocity_prediction_refuses_weightings_made_for_noise():
    with pytest.raises(ValueError, match="weighting=likelihood"):
        FlowMatching(weighting="likelihood")
    with pytest.raises(ValueError, match="std=0"):
        FlowMatching(weighting="lognormal", std=0.0)


def test_the_discrete_process_keeps_its_digits_at_the_first_timesteps():
    """In float32, 1 - ᾱ has lost most of them: the roots are taken before."""
    zeros, ones = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    kept = 1.0
    for k in range(4):
        kept *= 1 - (1e-4 + k * (0.02 - 1e-4) / 999)
        t = torch.tensor([(k + 1) / 1000])
        signal, spread = math.sqrt(kept), math.sqrt(1 - kept)
        assert float(DDPM().corrupt(zeros, ones, t)) == pytest.approx(spread, rel=2e-7)
        assert float(DDPM().x0_hat_scale(t)) == pytest.approx(spread / signal, rel=3e-7)
        assert float(DDPM().x0_hat(ones, zeros, t)) == pytest.approx(-spread / signal, rel=3e-7)
