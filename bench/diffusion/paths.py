"""Paths from data (t = 0) to noise (t = 1), continuous (flow matching) and discrete (DDPM).

Continuous, with x0 the data and ε ~ N(0, I):

    x_t = α(t) x0 + σ(t) ε,        v = dx_t/dt = α'(t) x0 + σ'(t) ε

    linear   α = 1 - t             σ = t                        (SiT, REPA)
    gvp      α = cos(πt/2)         σ = sin(πt/2)                (SiT's GVP, REPA's cosine)
    vp       α = exp(-½∫β)         σ = √(1 - α²)                β(t) = 0.1 + 19.9 t  (Song et al. 2021)

Discrete (Ho et al. 2020, with DiT's numbers), k = 0..999:

    β_k from 1e-4 to 0.02 in equal steps,  ᾱ_k = Π_{j<=k} (1 - β_j),  x_k = √ᾱ_k x0 + √(1 - ᾱ_k) ε
    q(x_{k-1} | x_k, x0) = N(c_k x0 + d_k x_k, β̃_k)

Sources: Ma et al. 2024 (SiT) tab. 1 and app. A; Peebles & Xie 2023 (DiT); Nichol & Dhariwal 2021.
SiT's own code has time reversed (t = 1 data): its t is 1 - t here, and its velocity is -v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

PathName = Literal["linear", "gvp", "vp"]
BETA_MIN, BETA_MAX = 0.1, 20.0  # of the vp path
TIMESTEPS = 1000  # of the discrete process


class Coefficients(NamedTuple):
    """α, σ and their time derivatives at t, in the shape of t."""

    alpha: Tensor
    sigma: Tensor
    alpha_dot: Tensor
    sigma_dot: Tensor

    @property
    def determinant(self) -> Tensor:
        """ασ' - α'σ > 0, of the linear map (x0, ε) -> (x_t, v)."""
        return self.alpha * self.sigma_dot - self.alpha_dot * self.sigma


def coefficients(path: PathName, t: Tensor) -> Coefficients:
    """Coefficients of a path at t in [0, 1], of any shape; σ' of vp is infinite at t = 0."""
    if path == "linear":
        one = torch.ones_like(t)
        return Coefficients(1 - t, t, -one, one)
    if path == "gvp":
        angle = math.pi / 2 * t
        cos, sin = torch.cos(angle), torch.sin(angle)
        return Coefficients(cos, sin, -math.pi / 2 * sin, math.pi / 2 * cos)
    beta = BETA_MIN + (BETA_MAX - BETA_MIN) * t
    log_alpha = -0.25 * (BETA_MAX - BETA_MIN) * t**2 - 0.5 * BETA_MIN * t
    alpha = torch.exp(log_alpha)
    sigma = torch.sqrt(-torch.expm1(2 * log_alpha))
    return Coefficients(alpha, sigma, -0.5 * beta * alpha, 0.5 * beta * alpha**2 / sigma)


def time_of_ratio(path: PathName, ratio: Tensor) -> Tensor:
    """The t at which σ(t) / α(t) equals `ratio` (>= 0, any shape)."""
    if path == "linear":
        return ratio / (1 + ratio)
    if path == "gvp":
        return 2 / math.pi * torch.atan(ratio)
    slope, minus_log_alpha = BETA_MAX - BETA_MIN, 0.5 * torch.log1p(ratio**2)
    return 4 * minus_log_alpha / (BETA_MIN + torch.sqrt(BETA_MIN**2 + 4 * slope * minus_log_alpha))


@dataclass(frozen=True)
class Schedule:
    """A discrete chain and its posterior, one entry per kept timestep, float64 by default.

    `timestep` is the index k in the 1000-step process (int64, increasing).
    """

    timestep: Tensor
    beta: Tensor
    alpha_bar: Tensor
    alpha_bar_previous: Tensor
    sqrt_alpha_bar: Tensor  # computed in float64: in float32, 1 - ᾱ has 4 digits at small k
    sqrt_one_minus_alpha_bar: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor  # the first entry is that of the second, since it would be log 0
    posterior_x0: Tensor  # c_k
    posterior_x_t: Tensor  # d_k

    @classmethod
    def of(cls, alpha_bar: Tensor, timestep: Tensor) -> Schedule:
        """The chain with given marginals ᾱ: β_i = 1 - ᾱ_i / ᾱ_{i-1}."""
        previous = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
        beta = 1 - alpha_bar / previous
        variance = beta * (1 - previous) / (1 - alpha_bar)
        return cls(
            timestep=timestep,
            beta=beta,
            alpha_bar=alpha_bar,
            alpha_bar_previous=previous,
            sqrt_alpha_bar=alpha_bar.sqrt(),
            sqrt_one_minus_alpha_bar=(1 - alpha_bar).sqrt(),
            posterior_variance=variance,
            posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
            posterior_x0=beta * previous.sqrt() / (1 - alpha_bar),
            posterior_x_t=(1 - previous) * (1 - beta).sqrt() / (1 - alpha_bar),
        )

    def at(self, index: Tensor | int, ndim: int = 0) -> Schedule:
        """Entries at `index` [B], shaped [B, 1, ...] with `ndim` dimensions; scalars for an int."""
        shape = (-1, *[1] * (ndim - 1)) if ndim else ()
        return Schedule(*[getattr(self, field.name)[index].view(shape) for field in fields(self)])


@lru_cache
def ddpm_schedule(device: torch.device | None = None, dtype: torch.dtype = torch.float64) -> Schedule:
    """The chain of 1000 linear betas of DiT, computed in float64, then converted."""
    beta = torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)
    schedule = Schedule.of((1 - beta).cumprod(0), torch.arange(TIMESTEPS))
    moved = {
        field.name: getattr(schedule, field.name).to(device=device, dtype=dtype)
        for field in fields(schedule)
        if field.name != "timestep"
    }
    return replace(schedule, timestep=schedule.timestep.to(device), **moved)


def respaced_timesteps(steps: int) -> list[int]:
    """`steps` of the 1000 timesteps, evenly spaced with both ends kept (DiT's `space_timesteps`).

    Positions are a cumulative sum rounded to the nearest integer, half to even, as in DiT's code, so that
    ties agree. Raises ValueError unless 2 <= steps <= 1000.
    """
    if not 2 <= steps <= TIMESTEPS:
        raise ValueError(f"steps={steps}: a DDPM chain can be respaced to 2..{TIMESTEPS} steps.")
    stride = (TIMESTEPS - 1) / (steps - 1)
    return [round(position) for position in accumulate([0.0] + [stride] * (steps - 1))]


def respaced_schedule(steps: int) -> Schedule:
    """The chain over `respaced_timesteps(steps)` with the marginals of the full chain (float64, CPU)."""
    timestep = torch.tensor(respaced_timesteps(steps))
    return Schedule.of(ddpm_schedule().alpha_bar[timestep], timestep)
