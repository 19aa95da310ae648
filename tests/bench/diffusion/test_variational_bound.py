import math

import pytest
import torch

from bench.diffusion.objectives import DDPM
from bench.diffusion.paths import ddpm_schedule
from bench.diffusion.variational_bound import gaussian_kl, log_variance, pixel_nll

SCHEDULE = ddpm_schedule()


def bound_of(k: int, x0: float, x_k: float, noise: float, raw_variance: float) -> float:
    """DDPM's bound term for one pixel at timestep k, in nats."""
    pixel = [torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (noise, raw_variance, x0, x_k)]
    prediction, variance, x0_tensor, x_t = pixel
    t = torch.tensor([(k + 1) / 1000], dtype=torch.float64)
    losses = DDPM().losses(prediction, variance, x0_tensor, prediction, t, x_t)
    return float(losses["bound"]) * math.log(2)


def normal_density(x: torch.Tensor, mean: float, variance: float) -> torch.Tensor:
    return torch.exp(-0.5 * (x - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)


@pytest.mark.parametrize("k", [1, 30, 500, 999])
@pytest.mark.parametrize("raw_variance", [-1.0, 0.3, 1.0])
def test_bound_is_the_integrated_kl_of_true_and_modelled_posterior(k, raw_variance):
    x0, x_k, noise = 0.3, -0.5, 0.8
    alpha_bar, previous = float(SCHEDULE.alpha_bar[k]), float(SCHEDULE.alpha_bar[k - 1])
    beta = 1e-4 + (0.02 - 1e-4) * k / 999

    def mean_given(x0: float) -> float:  # of N(√ᾱ_{k-1} x0, 1 - ᾱ_{k-1}) after seeing x_k: precisions add
        precision = 1 / (1 - previous) + (1 - beta) / beta
        return (math.sqrt(previous) * x0 / (1 - previous) + math.sqrt(1 - beta) * x_k / beta) / precision

    true_variance = 1 / (1 / (1 - previous) + (1 - beta) / beta)
    modelled = beta ** ((1 + raw_variance) / 2) * true_variance ** ((1 - raw_variance) / 2)
    x0_hat = (x_k - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)

    spread = math.sqrt(true_variance)
    x = mean_given(x0) + spread * torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    q = normal_density(x, mean_given(x0), true_variance)
    log_q = -0.5 * (x - mean_given(x0)) ** 2 / true_variance - 0.5 * math.log(true_variance)
    log_p = -0.5 * (x - mean_given(x0_hat)) ** 2 / modelled - 0.5 * math.log(modelled)
    kl = float(torch.trapezoid(q * (log_q - log_p), x))
    assert bound_of(k, x0, x_k, noise, raw_variance) == pytest.approx(kl, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("x0", [-1.0, -0.2, 127 / 255, 1.0])
def test_first_term_is_the_mass_of_the_pixels_bin(x0):
    x_0, noise, raw_variance = x0 + 0.004, 0.5, 0.7
    # k = 0: the posterior mean is x0_hat itself; the posterior variance is that of k = 1.
    alpha_bar = float(SCHEDULE.alpha_bar[0])
    mean = (x_0 - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)
    variance = 1e-4**0.85 * float(SCHEDULE.posterior_variance[1]) ** 0.15
    low = -math.inf if x0 == -1.0 else x0 - 1 / 255
    high = math.inf if x0 == 1.0 else x0 + 1 / 255
    normal = torch.distributions.Normal(torch.tensor(mean).double(), math.sqrt(variance))
    mass = float(normal.cdf(torch.tensor(high).double()) - normal.cdf(torch.tensor(low).double()))
    found = bound_of(0, x0, x_0, noise, raw_variance)
    assert found == pytest.approx(-math.log(mass), abs=2e-3)  # DiT's tanh approximation of the cdf


def test_bins_share_all_the_mass_between_them():
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, std in [(0.1, 0.3), (0.9, 0.2), (-1.5, 0.5)]:
        log_var = torch.full_like(levels, 2 * math.log(std))
        total = torch.exp(-pixel_nll(levels, torch.full_like(levels, mean), log_var)).sum()
        assert float(total) == pytest.approx(1, abs=1e-6)


def test_learned_variance_spans_posterior_to_beta():
    at = SCHEDULE.at(torch.tensor([500]), ndim=1)
    ends = log_variance(torch.tensor([-1.0, 1.0]).double(), at)
    expected = torch.stack([SCHEDULE.posterior_variance[500].log(), SCHEDULE.beta[500].log()])
    torch.testing.assert_close(ends, expected)


def test_kl_of_equal_gaussians_is_zero_and_grows_with_distance():
    zero, one = torch.zeros(()), torch.ones(())
    assert gaussian_kl(zero, one, zero, one) == 0
    assert gaussian_kl(one, zero, zero, zero) == pytest.approx(0.5)


def test_bound_trains_the_variance_and_leaves_the_mean_to_the_square_error(generator):
    x0, noise, prediction, raw = torch.randn(4, 8, 1, 2, 2, generator=generator)
    t = DDPM().draw_t(torch.linspace(0, 0.99, 8))
    prediction, raw = prediction.requires_grad_(), raw.requires_grad_()
    losses = DDPM().losses(prediction, raw, x0, noise, t, DDPM().corrupt(x0, noise, t))
    (to_raw,) = torch.autograd.grad(losses["bound"].sum(), raw, retain_graph=True)
    assert to_raw.abs().flatten(1).sum(1).gt(0).all()
    assert torch.autograd.grad(losses["bound"].sum(), prediction, allow_unused=True)[0] is None
    torch.testing.assert_close(losses["denoise"], (prediction - noise).square().mean((1, 2, 3)))
