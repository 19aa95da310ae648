"""Training objectives: the distribution of t, the noised x_t, the target of the network and its loss.

    FlowMatching   x_t = α(t) x0 + σ(t) ε on a continuous path; predicts v, ε or x0    (SiT, REPA)
    DDPM           1000 discrete steps; predicts ε and a variance                      (DiT)

t = 0 is data and t = 1 is noise; DDPM timestep k = 0..999 is t = (k + 1) / 1000. Losses are per sample, in
float32 (float64 for float64 inputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.diffusion import conversions, paths
from bench.diffusion.paths import TIMESTEPS, Coefficients, PathName, Schedule, ddpm_schedule
from bench.diffusion.variational_bound import bound_bits

Weighting = Literal["uniform", "lognormal", "logit-normal", "velocity", "likelihood"]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class FlowMatching:
    """Regression of the velocity, noise or clean data of x_t = α(t) x0 + σ(t) ε.

    `weighting` of times:
        uniform        t uniform, mean squared error                                      (SiT, REPA)
        lognormal      log σ(t)/α(t) ~ N(mean, std²)                    (EDM, an option of REPA's code)
        logit-normal   log t/(1 - t) ~ N(mean, std²); the same on the linear path         (SD3)
        velocity       t uniform, loss scaled to the squared error of the velocity                (SiT)
        likelihood     t uniform, loss scaled by the maximum-likelihood factor Δ/(ασ) on the noise (SiT)

    Raises:
        ValueError: for the last two with velocity prediction, for which SiT does not define them.
    """

    path: PathName = "linear"
    prediction: Literal["velocity", "noise", "x0"] = "velocity"
    weighting: Weighting = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction == "velocity" and self.weighting in ("velocity", "likelihood"):
            raise ValueError(f"weighting={self.weighting} is for prediction=noise or x0; leave it uniform.")
        if self.std <= 0:
            raise ValueError(f"std={self.std} must be positive.")

    def time_range(self, *, training: bool) -> tuple[float, float]:
        """(t_min, t_max) that avoid singularities of path and prediction, with SiT's values."""
        if self.path == "vp":
            return (1e-5 if training else 1e-3), 1.0
        return (0.0, 1.0) if self.prediction == "velocity" else (1e-3, 1 - 1e-3)

    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients of the path at t, in the shape of t."""
        return paths.coefficients(self.path, t)

    def draw_t(self, uniform: Tensor) -> Tensor:
        """Times t [B] from uniform numbers [B] in [0, 1), by the inverse distribution function."""
        low, high = self.time_range(training=True)
        if self.weighting not in ("lognormal", "logit-normal"):
            return low + (high - low) * uniform
        normal = self.mean + self.std * torch.special.ndtri(uniform)
        if self.weighting == "logit-normal":
            return normal.sigmoid().clamp(low, high)
        ratio = normal.clamp(max=40).exp()  # its square must not overflow in float32
        return paths.time_of_ratio(self.path, ratio).clamp(low, high)

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = α x0 + σ ε; x0 and noise [B, ...], t [B], or [B, 1, H, W] for a time per pixel."""
        c = self._coefficients_for(x0, t)
        return c.alpha * x0 + c.sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target of the prediction, in the shape of x0."""
        if self.prediction == "velocity":
            c = self._coefficients_for(x0, t)
            return c.alpha_dot * x0 + c.sigma_dot * noise
        return noise if self.prediction == "noise" else x0

    def losses(
        self, prediction: Tensor, variance: Tensor | None, x0: Tensor, noise: Tensor, t: Tensor, x_t: Tensor
    ) -> dict[str, Tensor]:
        """{"denoise": weighted mean squared error over the pixels}, [B]; a variance has no part in it."""
        x0, noise, t = _at_least_float32(x0), _at_least_float32(noise), _at_least_float32(t)
        error = _at_least_float32(prediction) - self.target(x0, noise, t)
        if t.ndim > 1:
            return {"denoise": (self._loss_factor(t) * error.square()).flatten(1).mean(1)}
        return {"denoise": self._loss_factor(t) * error.square().flatten(1).mean(1)}

    def x0_hat(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean data implied by the prediction, in the shape of x_t."""
        return conversions.to_x0(prediction, self.prediction, x_t, self._coefficients_for(x_t, t))

    def x0_hat_scale(self, t: Tensor) -> Tensor:
        """|d x0_hat / d prediction| [B]: σ/Δ for velocity (t on the linear path), σ/α for noise, 1 for x0."""
        c = self.coefficients(t)
        if self.prediction == "velocity":
            return c.sigma / c.determinant
        return c.sigma / c.alpha if self.prediction == "noise" else torch.ones_like(t)

    def noise_level(self, t: Tensor) -> Tensor:
        """σ / (α + σ) [B] in [0, 1]: t itself on the linear path."""
        c = self.coefficients(t)
        return c.sigma / (c.alpha + c.sigma)

    def _coefficients_for(self, x: Tensor, t: Tensor) -> Coefficients:
        """Coefficients for times per sample [B], or per pixel with as many dimensions as x."""
        return self.coefficients(t if t.ndim == x.ndim > 1 else t.view(-1, *[1] * (x.ndim - 1)))

    def _loss_factor(self, t: Tensor) -> Tensor:
        """Factor of the loss, [B]; an error e of x0 is αe/σ for the noise and Δe/σ for the velocity."""
        if self.weighting not in ("velocity", "likelihood"):
            return torch.ones_like(t)
        c = self.coefficients(t)
        on_noise = c.determinant / c.alpha
        factor = on_noise**2 if self.weighting == "velocity" else on_noise / c.sigma
        return factor if self.prediction == "noise" else factor * (c.alpha / c.sigma) ** 2


@dataclass(frozen=True)
class DDPM:
    """The process of DiT: noise prediction with 1000 linear betas, and a variance learned from the bound.

    The `variance` v of the network in [-1, 1] interpolates log σ² between log β̃_k of the posterior (v = -1)
    and log β_k (v = 1); a network without variance only predicts the noise.
    """

    def draw_t(self, uniform: Tensor) -> Tensor:
        """Times t = (k + 1) / 1000 [B], k uniform on 0..999, from uniform numbers [B] in [0, 1)."""
        k = (uniform * TIMESTEPS).floor().clamp(max=TIMESTEPS - 1)
        return (k + 1) / TIMESTEPS

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ x0 + √(1 - ᾱ) ε; x0 and noise [B, ...], t [B]."""
        at = self._schedule_at(x0, t)
        return at.sqrt_alpha_bar * x0 + at.sqrt_one_minus_alpha_bar * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise."""
        return noise

    def losses(
        self, prediction: Tensor, variance: Tensor | None, x0: Tensor, noise: Tensor, t: Tensor, x_t: Tensor
    ) -> dict[str, Tensor]:
        """{"denoise": mean squared error, "bound": term of the variational bound}, [B] each; they are summed.

        The bound is in bits per pixel and only trains the variance (the mean is detached). Nichol & Dhariwal
        scale the whole bound by 1/1000; a random one of its 1000 terms, times 1000, is an unbiased estimate,
        so the two factors cancel, as in DiT's code.
        """
        x0, noise, x_t = _at_least_float32(x0), _at_least_float32(noise), _at_least_float32(x_t)
        prediction = _at_least_float32(prediction)
        losses = {"denoise": (prediction - noise).square().flatten(1).mean(1)}
        if variance is not None:
            at = self._schedule_at(x0, t)
            x0_hat = self.x0_hat(prediction.detach(), x_t, t)
            losses["bound"] = bound_bits(x0, x_t, x0_hat, _at_least_float32(variance), at)
        return losses

    def x0_hat(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean data implied by the predicted noise, in the shape of x_t."""
        at = self._schedule_at(x_t, t)
        return (x_t - at.sqrt_one_minus_alpha_bar * prediction) / at.sqrt_alpha_bar

    def x0_hat_scale(self, t: Tensor) -> Tensor:
        """|d x0_hat / d prediction| = √(1/ᾱ - 1) [B]."""
        at = self._schedule_at(t, t)
        return at.sqrt_one_minus_alpha_bar / at.sqrt_alpha_bar

    def noise_level(self, t: Tensor) -> Tensor:
        """√(1 - ᾱ) / (√ᾱ + √(1 - ᾱ)) [B] in [0, 1], comparable with t of the linear path."""
        ratio = self.x0_hat_scale(t)
        return ratio / (1 + ratio)

    def _schedule_at(self, x: Tensor, t: Tensor) -> Schedule:
        k = (TIMESTEPS * t).round().long() - 1
        return ddpm_schedule(x.device, torch.promote_types(x.dtype, torch.float32)).at(k, x.ndim)


Process = FlowMatching | DDPM
