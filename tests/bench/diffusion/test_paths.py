import math

import pytest
import torch

from bench.diffusion.paths import (
    coefficients,
    ddpm_schedule,
    respaced_schedule,
    respaced_timesteps,
    time_of_ratio,
)
from tests.helpers.closed_forms import PATHS, alpha_sigma, derivative

T = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
def test_coefficients_are_the_definitions_and_their_autograd_derivatives(path):
    c = coefficients(path, T)
    torch.testing.assert_close((c.alpha, c.sigma), alpha_sigma(path, T), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        (c.alpha_dot, c.sigma_dot),
        (derivative(lambda t: alpha_sigma(path, t)[0], T), derivative(lambda t: alpha_sigma(path, t)[1], T)),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("path", PATHS)
def test_data_is_at_0_and_noise_at_1(path):
    alpha, sigma = coefficients(path, torch.tensor([0.0, 1.0], dtype=torch.float64))[:2]
    torch.testing.assert_close(alpha, torch.tensor([1.0, 0.0]).double(), atol=7e-3, rtol=0)  # vp: e^-5.025
    torch.testing.assert_close(sigma, torch.tensor([0.0, 1.0]).double(), atol=7e-3, rtol=0)


def test_vp_keeps_its_precision_in_float32_near_the_data():
    t = torch.tensor([1e-5])
    torch.testing.assert_close(
        coefficients("vp", t).sigma.double(), coefficients("vp", t.double()).sigma, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("path", PATHS)
def test_time_of_ratio_inverts_sigma_over_alpha(path):
    c = coefficients(path, T)
    torch.testing.assert_close(time_of_ratio(path, c.sigma / c.alpha), T, rtol=1e-10, atol=1e-12)


def test_ddpm_schedule_is_ho_et_als_table():
    schedule, alpha_bar = ddpm_schedule(), 1.0
    for k in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * k / 999
        previous, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        assert float(schedule.beta[k]) == pytest.approx(beta, rel=1e-9)
        assert float(schedule.alpha_bar[k]) == pytest.approx(alpha_bar, rel=1e-9)
        variance = beta * (1 - previous) / (1 - alpha_bar)
        assert float(schedule.posterior_variance[k]) == pytest.approx(variance, rel=1e-9, abs=1e-15)
        if k > 0:
            assert float(schedule.posterior_log_variance[k]) == pytest.approx(math.log(variance), rel=1e-9)
    assert float(schedule.posterior_log_variance[0]) == float(schedule.posterior_log_variance[1])
    assert alpha_bar == pytest.approx(4.036e-5, rel=1e-3)  # the signal left in pure noise


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (2, [0, 999]),
        (3, [0, 500, 999]),  # 499.5 rounds to the even 500
        (4, [0, 333, 666, 999]),
        (5, [0, 250, 500, 749, 999]),  # 249.75, 499.5, 749.25
        (7, [0, 166, 333, 500, 666, 832, 999]),  # 166.5 and 832.5 round to the even neighbour
        (10, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]),
        (1000, list(range(1000))),
    ],
)
def test_respacing_is_dits_even_stride_rule(steps, timesteps):
    assert respaced_timesteps(steps) == timesteps


def test_respacing_adds_its_stride_up_as_dits_code_does():
    assert respaced_timesteps(21)[10] == 499  # ten times 49.95 in floating point stay below 499.5


def test_respacing_to_250_starts_and_ends_as_in_dit():
    kept = respaced_timesteps(250)  # stride 999/249 = 4.012...: the first rounding up is the 42nd, 168.506
    assert kept[:42] == [4 * i for i in range(42)] and kept[42:45] == [169, 173, 177]
    assert kept[-3:] == [991, 995, 999] and len(set(kept)) == 250


@pytest.mark.parametrize("steps", [1, 1001])
def test_respacing_refuses_other_counts(steps):
    with pytest.raises(ValueError, match=f"steps={steps}"):
        respaced_timesteps(steps)


@pytest.mark.parametrize("steps", [5, 250, 1000])
def test_posterior_is_bayes_rule_integrated_on_a_grid(steps):
    schedule, x0, x_k = respaced_schedule(steps), 0.7, -0.4
    grid = torch.linspace(-6, 6, 400_001, dtype=torch.float64)
    for i in {1, steps // 2, steps - 1}:
        at = schedule.at(i)
        # q(x_{k-1} | x0) q(x_k | x_{k-1}), not normalised
        prior = (grid - at.alpha_bar_previous.sqrt() * x0) ** 2 / (1 - at.alpha_bar_previous)
        likelihood = (x_k - (1 - at.beta).sqrt() * grid) ** 2 / at.beta
        weight = (-0.5 * (prior + likelihood)).softmax(0)
        mean = (weight * grid).sum()
        variance = (weight * (grid - mean) ** 2).sum()
        torch.testing.assert_close(at.posterior_x0 * x0 + at.posterior_x_t * x_k, mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(at.posterior_variance, variance, rtol=1e-6, atol=1e-12)


def test_respaced_chain_keeps_the_marginals():
    schedule = respaced_schedule(10)
    torch.testing.assert_close((1 - schedule.beta).cumprod(0), ddpm_schedule().alpha_bar[schedule.timestep])
