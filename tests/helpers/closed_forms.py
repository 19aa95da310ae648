"""What is known in closed form, written without the code under test: a diffusion, and a distance.

A mixture of isotropic Gaussians Σ_k w_k N(μ_k, s_k² I), diffused by x_t = α x0 + σ ε, stays one:
Σ_k w_k N(α μ_k, α² s_k² + σ²). Its score comes from autograd of that density, its velocity from the motion
of each Gaussian (x = α μ_k + std_k(t) z moves with fixed z), its posterior mean from Bayes' rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

PATHS = ("linear", "gvp", "vp")


class Output(NamedTuple):
    prediction: Tensor
    variance: Tensor | None = None
    hidden: Any = None


def alpha_sigma(path: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """α(t), σ(t) from their definitions."""
    if path == "linear":
        return 1 - t, t
    if path == "gvp":
        return torch.cos(math.pi * t / 2), torch.sin(math.pi * t / 2)
    integral_of_beta = 0.1 * t + (20 - 0.1) * t**2 / 2
    return torch.exp(-integral_of_beta / 2), torch.sqrt(1 - torch.exp(-integral_of_beta))


def derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Elementwise df/dt by autograd."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        return torch.autograd.grad(f(t).sum(), t)[0]


def frechet_distance_of_few(x: Tensor, y: Tensor) -> float:
    """The distance of the Gaussians of fewer samples than dimensions, [n, D] and [m, D].

    tr (S_x S_y)^(1/2) is the nuclear norm of X Y^T, both centred, over sqrt((n - 1)(m - 1)).
    """
    x, y = x.double(), y.double()
    centred = [(z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y)]
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = sum(z.square().sum() for z in centred)
    return float((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * overlap)


@dataclass
class Mixture:
    """Each of `means` [K, C, H, W] with a std and a weight [K]; float64."""

    means: Tensor
    stds: Tensor
    weights: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.means.shape[1:], dtype=torch.float64, generator=generator)
        return self.means[component] + self._wide(self.stds)[0, component] * noise

    def log_density(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        return torch.logsumexp(self._log_joint(x, path, t), dim=1)

    def score(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        return derivative(lambda x: self.log_density(x, path, t), x)

    def x0(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        alpha, variance, centred = self._components(x, path, t)
        shrunk = self.means + alpha * self._wide(self.stds) ** 2 / variance * centred
        return (self._responsibility(x, path, t) * shrunk).sum(1)

    def velocity(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        alpha_dot = self._wide(derivative(lambda t: alpha_sigma(path, t)[0], t)).transpose(0, 1)
        log_std_dot = torch.stack(
            [derivative(lambda t, s=s: 0.5 * self._variance(path, t, s).log(), t) for s in self.stds], 1
        )
        _, _, centred = self._components(x, path, t)
        moving = alpha_dot * self.means + log_std_dot.view(*log_std_dot.shape, 1, 1, 1) * centred
        return (self._responsibility(x, path, t) * moving).sum(1)

    def noise(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        _, sigma = alpha_sigma(path, t)
        return -sigma.view(-1, 1, 1, 1) * self.score(x, path, t)

    def quantity(self, kind: str, x: Tensor, path: str, t: Tensor) -> Tensor:
        return getattr(self, kind)(x, path, t)

    @staticmethod
    def _wide(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1, 1)

    @staticmethod
    def _variance(path: str, t: Tensor, std: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(path, t)
        return alpha**2 * std**2 + sigma**2

    def _components(self, x: Tensor, path: str, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha = self._wide(alpha_sigma(path, t)[0]).transpose(0, 1)  # [B, 1, 1, 1, 1]
        variance = self._variance(path, t[:, None], self.stds[None])[..., None, None, None]  # [B, K, 1, 1, 1]
        return alpha, variance, x[:, None] - alpha * self.means

    def _log_joint(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        _, variance, centred = self._components(x, path, t)
        log_normal = -0.5 * (centred**2 / variance + variance.log() + math.log(2 * math.pi))
        return self.weights.log() + log_normal.flatten(2).sum(2)

    def _responsibility(self, x: Tensor, path: str, t: Tensor) -> Tensor:
        return self._log_joint(x, path, t).softmax(1)[..., None, None, None]


@dataclass
class ExactModel:
    """The perfect network for a data distribution, with a record of the calls made to it."""

    data: Mixture
    path: str = "linear"
    prediction: str = "velocity"
    num_classes: int = 10
    shift: float = 0.0  # of the prediction, per label, so that labels matter where a test needs it
    times: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, label: Tensor) -> Output:
        self.times.append(float(t[0]))
        self.rows.append(len(x_t))
        prediction = self.data.quantity(self.prediction, x_t, self.path, t)
        return Output(prediction + self.shift * label.view(-1, 1, 1, 1))
