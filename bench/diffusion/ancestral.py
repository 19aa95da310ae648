"""Samplers of the discrete process: ancestral (DDPM) and implicit (DDIM), respaced to fewer steps.

With ε the predicted noise, x0_hat = (x_k - √(1 - ᾱ_k) ε) / √ᾱ_k, and i -> i - 1 the kept timesteps:

    DDPM   x <- c_i x0_hat + d_i x + σ_i n,  σ_i² learned between β̃_i and β_i              (Ho et al. 2020)
    DDIM   x <- √ᾱ_{i-1} x0_hat + √(1 - ᾱ_{i-1} - σ_i²) ε + σ_i n,  σ_i = η √β̃_i           (Song et al. 2021)

n is fresh noise, none in the last step. x0_hat is not clipped, as latents have no bounds (DiT).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import DDPM, Process
from bench.diffusion.paths import TIMESTEPS, Schedule, respaced_schedule, respaced_timesteps
from bench.diffusion.solvers import Model, StepNoise
from bench.diffusion.variational_bound import log_variance, posterior_mean


def _descending(steps: int, process: Process) -> Iterator[tuple[float, Schedule]]:
    """(t handed to the model, entry of the respaced schedule) from noise to data."""
    if not isinstance(process, DDPM):
        raise UserError("this sampler is for process ddpm; for flow take heun, euler or euler-maruyama.")
    schedule = respaced_schedule(steps)
    for i in reversed(range(steps)):
        entry = schedule.at(i)
        yield (int(entry.timestep) + 1) / TIMESTEPS, entry


def _x0_hat(x: Tensor, noise: Tensor, at: Schedule) -> Tensor:
    return (x - (1 - at.alpha_bar).sqrt() * noise) / at.alpha_bar.sqrt()


@dataclass(frozen=True)
class Ancestral:
    """DDPM sampling with the learned variance (log β without one); one model evaluation a step."""

    steps: int = 250
    float64: bool = False

    def __post_init__(self) -> None:
        respaced_timesteps(self.steps)

    @property
    def evaluations(self) -> int:
        """Model evaluations a sample (guided ones count once)."""
        return self.steps

    @torch.no_grad()
    def sample(
        self,
        model: Model,
        noise: Tensor,
        label: Tensor,
        *,
        process: Process,
        guidance: Guidance,
        step_noise: StepNoise,
    ) -> Tensor:
        """x0 [B, C, H, W] from noise [B, C, H, W] and label [B]; `step_noise` is called `steps` - 1 times."""
        predict = guidance.predictor(model, label, noise)
        x = noise.double() if self.float64 else noise
        for t, at in _descending(self.steps, process):
            prediction, variance = predict(x, t)
            x = posterior_mean(_x0_hat(x, prediction, at), x, at)
            if at.alpha_bar_previous < 1:
                log_var = at.beta.log() if variance is None else log_variance(variance, at)
                x = x + torch.exp(0.5 * log_var) * step_noise().to(x)
        return x.to(noise.dtype)


@dataclass(frozen=True)
class DDIM:
    """Implicit sampling; eta 0 is deterministic, eta 1 has the ancestral sampler's posterior variance."""

    steps: int = 50
    eta: float = 0.0
    float64: bool = False

    def __post_init__(self) -> None:
        respaced_timesteps(self.steps)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie in 0..1.")

    @property
    def evaluations(self) -> int:
        """Model evaluations a sample (guided ones count once)."""
        return self.steps

    @torch.no_grad()
    def sample(
        self,
        model: Model,
        noise: Tensor,
        label: Tensor,
        *,
        process: Process,
        guidance: Guidance,
        step_noise: StepNoise,
    ) -> Tensor:
        """x0 [B, C, H, W] from noise [B, C, H, W] and label [B]; `step_noise` is called where eta > 0."""
        predict = guidance.predictor(model, label, noise)
        x = noise.double() if self.float64 else noise
        for t, at in _descending(self.steps, process):
            prediction, _ = predict(x, t)
            sigma = self.eta * at.posterior_variance.sqrt()
            direction = (1 - at.alpha_bar_previous - sigma**2).clamp(min=0).sqrt() * prediction
            x = at.alpha_bar_previous.sqrt() * _x0_hat(x, prediction, at) + direction
            if sigma > 0:
                x = x + sigma * step_noise().to(x)
        return x.to(noise.dtype)
