"""Samplers of the discrete process: ancestral (DDPM) and implicit (DDIM), respaced to fewer steps.

With ε the predicted noise, x0_hat = (x_k - √(1 - ᾱ_k) ε) / √ᾱ_k, and i -> i - 1 the kept timesteps:

    DDPM   x <- c_i x0_hat + d_i x + σ_i n,  σ_i² learned between β̃_i and β_i              (Ho et al. 2020)
    DDIM   x <- √ᾱ_{i-1} x0_hat + √(1 - ᾱ_{i-1} - σ_i²) ε + σ_i n,  σ_i = η √β̃_i           (Song et al. 2021)

n is fresh noise, none in the last step. x0_hat is not clipped, as latents have no bounds (DiT).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from bench.core.errors import UserError
from bench.diffusion.objectives import DDPM, Process
from bench.diffusion.paths import TIMESTEPS, Schedule, respaced_schedule, respaced_timesteps
from bench.diffusion.sampler_base import Predict, Sampler, StepNoise
from bench.diffusion.variational_bound import log_variance, posterior_mean


@dataclass(frozen=True)
class ChainSampler(Sampler):
    """Iterates over `steps` kept timesteps from noise to data, one model evaluation per step."""

    steps: int = 250

    def __post_init__(self) -> None:
        respaced_timesteps(self.steps)

    @property
    def evaluations(self) -> int:
        """Model evaluations per sample (guided ones count once)."""
        return self.steps

    def solve(self, predict: Predict, process: Process, x: Tensor, step_noise: StepNoise) -> Tensor:
        """Iterate over the respaced schedule. Raises UserError unless the process is DDPM."""
        if not isinstance(process, DDPM):
            raise UserError("this sampler is for process ddpm; for flow take heun, euler or euler-maruyama.")
        schedule = respaced_schedule(self.steps)
        for i in reversed(range(self.steps)):
            at = schedule.at(i)
            prediction, variance = predict(x, (int(at.timestep) + 1) / TIMESTEPS)
            x = self.step(x, prediction, variance, at, step_noise)
        return x

    @abstractmethod
    def step(
        self, x: Tensor, noise: Tensor, variance: Tensor | None, at: Schedule, step_noise: StepNoise
    ) -> Tensor:
        """x at the previous kept timestep, from predicted noise and raw variance at the entry `at`."""


def _x0_hat(x: Tensor, noise: Tensor, at: Schedule) -> Tensor:
    return (x - at.sqrt_one_minus_alpha_bar * noise) / at.sqrt_alpha_bar


@dataclass(frozen=True)
class Ancestral(ChainSampler):
    """DDPM sampling with the learned variance (log β without one); no noise in the last step."""

    def step(
        self, x: Tensor, noise: Tensor, variance: Tensor | None, at: Schedule, step_noise: StepNoise
    ) -> Tensor:
        """A sample of the Gaussian transition."""
        x = posterior_mean(_x0_hat(x, noise, at), x, at)
        if at.alpha_bar_previous == 1:
            return x
        log_var = at.beta.log() if variance is None else log_variance(variance, at)
        return x + (0.5 * log_var).exp() * step_noise().to(x)


@dataclass(frozen=True)
class DDIM(ChainSampler):
    """Implicit sampling: deterministic for eta = 0, with the variance of ancestral sampling for eta = 1."""

    steps: int = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie in 0..1.")

    def step(
        self, x: Tensor, noise: Tensor, variance: Tensor | None, at: Schedule, step_noise: StepNoise
    ) -> Tensor:
        """Recombine the implied x0 and noise at the previous timestep, with fresh noise if eta > 0."""
        sigma = self.eta * at.posterior_variance.sqrt()
        direction = (1 - at.alpha_bar_previous - sigma**2).clamp(min=0).sqrt() * noise
        x = at.alpha_bar_previous.sqrt() * _x0_hat(x, noise, at) + direction
        return x + sigma * step_noise().to(x) if sigma > 0 else x
