"""Terms of the variational bound of DDPM, which train the learned variance.

    k > 0    KL( q(x_{k-1} | x_k, x0) || p(x_{k-1} | x_k) ),  in closed form
    k = 0    -log p(x0 | x_1), the probability of the bin x0 ± 1/255 (open-ended beyond ±0.999)

    p(x_{k-1} | x_k) = N( c_k x0_hat + d_k x_k, σ² ),  log σ² = f log β_k + (1 - f) log β̃_k,  f = (v + 1) / 2

Sources: Ho et al. 2020 eqs. 5-8, 13; Nichol & Dhariwal 2021 eq. 15. The bins are those of 8-bit pixels;
DiT also uses them for latents, where they affect 1 of 1000 terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.diffusion.paths import Schedule


def log_variance(raw: Tensor, at: Schedule) -> Tensor:
    """log σ² [B, ...] from the raw variance v in [-1, 1] of the network, at entries `at` of the schedule."""
    fraction = (raw + 1) / 2
    return fraction * at.beta.log() + (1 - fraction) * at.posterior_log_variance


def posterior_mean(x0: Tensor, x_t: Tensor, at: Schedule) -> Tensor:
    """Mean of q(x_{k-1} | x_k, x0) [B, ...]."""
    return at.posterior_x0 * x0 + at.posterior_x_t * x_t


def gaussian_kl(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL(N(mean, e^log_var) || N(other_mean, e^other_log_var)) in nats, elementwise."""
    spread = log_var - other_log_var
    return 0.5 * (spread.exp() - 1 - spread + (mean - other_mean) ** 2 * (-other_log_var).exp())


def _normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation (error below 4e-4), as in the training of official checkpoints.
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def pixel_nll(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """-log probability of the bin of pixel x in [-1, 1] under N(mean, e^log_var), in nats, elementwise."""
    precision = torch.exp(-0.5 * log_var)
    below_upper = _normal_cdf(precision * (x - mean + 1 / 255))
    below_lower = _normal_cdf(precision * (x - mean - 1 / 255))
    upper = torch.where(x > 0.999, 1.0, below_upper)
    lower = torch.where(x < -0.999, 0.0, below_lower)
    return -(upper - lower).clamp(min=1e-12).log()


def bound_bits(x0: Tensor, x_t: Tensor, x0_hat: Tensor, raw_variance: Tensor, at: Schedule) -> Tensor:
    """The term of the bound per sample, in bits per pixel [B], at entries `at` of the schedule."""
    mean, log_var = posterior_mean(x0_hat, x_t, at), log_variance(raw_variance, at)
    kl = gaussian_kl(posterior_mean(x0, x_t, at), at.posterior_log_variance, mean, log_var)
    nats = torch.where(at.timestep == 0, pixel_nll(x0, mean, log_var), kl)
    return nats.flatten(1).mean(1) / math.log(2)
