import math

import pytest
import torch

from bench.diffusion.ancestral import DDIM, Ancestral
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import DDPM
from bench.diffusion.paths import respaced_timesteps
from tests.helpers.closed_forms import Output

MEAN, STD = 0.5, 0.6
BETAS = [1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]
ALPHA_BAR = [math.prod(1 - beta for beta in BETAS[: k + 1]) for k in range(1000)]


class PerfectNetwork:
    """E[ε | x_k] for pixels of N(MEAN, STD²), and the variance that makes each respaced step exact."""

    num_classes = 10

    def __init__(self, steps: int, mean: float = MEAN, std: float = STD, raw_variance: float | None = None):
        self.mean, self.std, self.raw_variance = mean, std, raw_variance
        self.timesteps = respaced_timesteps(steps)
        self.times: list[float] = []

    def __call__(self, x_t, t, label):
        self.times.append(float(t[0]))
        k = round(1000 * float(t[0])) - 1
        alpha_bar = ALPHA_BAR[k]
        marginal = alpha_bar * self.std**2 + 1 - alpha_bar
        noise = math.sqrt(1 - alpha_bar) / marginal * (x_t - math.sqrt(alpha_bar) * self.mean)
        raw = self.exact_raw_variance(k) if self.raw_variance is None else self.raw_variance
        return Output(noise, torch.full_like(x_t, raw))

    def exact_raw_variance(self, k: int) -> float:
        """v for which p(x_{k-1} | x_k) has the true variance: the posterior's plus that of x0 given x_k."""
        position = self.timesteps.index(k)
        if position == 0:
            return 0.0  # the last step takes no noise
        alpha_bar, previous = ALPHA_BAR[k], ALPHA_BAR[self.timesteps[position - 1]]
        beta = 1 - alpha_bar / previous
        posterior = beta * (1 - previous) / (1 - alpha_bar)
        x0_given_x = 1 / (1 / self.std**2 + alpha_bar / (1 - alpha_bar))
        true = posterior + (beta * math.sqrt(previous) / (1 - alpha_bar)) ** 2 * x0_given_x
        return 2 * math.log(true / posterior) / math.log(beta / posterior) - 1


def sample(sampler, network, noise, generator=None):
    def step_noise():
        return torch.randn(noise.shape, dtype=noise.dtype, generator=generator)

    label = torch.zeros(len(noise), dtype=torch.long)
    return sampler.sample(network, noise, label, process=DDPM(), guidance=Guidance(), step_noise=step_noise)


@pytest.fixture
def noise(generator):
    return torch.randn(5000, 1, 2, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddpm_with_the_true_variance_samples_a_gaussian_exactly(steps, noise, generator):
    found = sample(Ancestral(steps=steps), PerfectNetwork(steps), noise, generator)
    standard_error = STD / math.sqrt(found.numel())
    assert float(found.mean()) == pytest.approx(MEAN, abs=4 * standard_error)
    assert float(found.std()) == pytest.approx(STD, abs=4 * standard_error)


@pytest.mark.parametrize("steps", [100, 1000])
def test_ddim_transports_a_gaussian_along_the_ode(steps, noise):
    noise = noise[:20]
    found = sample(DDIM(steps=steps), PerfectNetwork(steps), noise)
    alpha_bar = ALPHA_BAR[-1]
    start_std = math.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
    exact = MEAN + STD * (noise - math.sqrt(alpha_bar) * MEAN) / start_std
    torch.testing.assert_close(found, exact, rtol=0, atol=8 / steps)


@pytest.mark.parametrize(
    "sampler", [DDIM(steps=2), DDIM(steps=7), DDIM(steps=7, eta=1.0), Ancestral(steps=7)]
)
def test_a_single_data_point_is_found_from_any_noise(sampler, noise, generator):
    network = PerfectNetwork(sampler.steps, mean=0.3, std=0.0, raw_variance=0.0)
    found = sample(sampler, network, noise[:20], generator)
    torch.testing.assert_close(found, torch.full_like(found, 0.3), rtol=0, atol=1e-10)


def test_ddim_with_eta_1_is_ddpm_with_the_posterior_variance(noise):
    network, noise = PerfectNetwork(20, raw_variance=-1.0), noise[:20]
    ddpm = sample(Ancestral(steps=20), network, noise, torch.Generator().manual_seed(2))
    ddim = sample(DDIM(steps=20, eta=1.0), network, noise, torch.Generator().manual_seed(2))
    torch.testing.assert_close(ddpm, ddim, rtol=1e-9, atol=1e-9)


def test_a_network_without_variance_samples_with_beta(noise):
    class NoVariance(PerfectNetwork):
        def __call__(self, x_t, t, label):
            return Output(super().__call__(x_t, t, label).prediction)

    noise = noise[:20]
    found = sample(Ancestral(steps=20), NoVariance(20), noise, torch.Generator().manual_seed(2))
    widest = PerfectNetwork(20, raw_variance=1.0)
    expected = sample(Ancestral(steps=20), widest, noise, torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [Ancestral(steps=5), DDIM(steps=5)])
def test_networks_see_the_kept_timesteps_from_noise_to_data(sampler, noise, generator):
    network = PerfectNetwork(5)
    sample(sampler, network, noise[:2], generator)
    assert network.times == [1.0, 0.75, 0.501, 0.251, 0.001]  # k = 999, 749, 500, 250, 0


def test_impossible_options_are_refused_by_name():
    with pytest.raises(ValueError, match="steps=1001"):
        Ancestral(steps=1001)
    with pytest.raises(ValueError, match="eta=2"):
        DDIM(eta=2.0)
