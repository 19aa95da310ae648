"""Samplers of flow matching: the probability-flow ODE and the SDEs that share its marginals.

    ODE    dx = v(x, t) dt                                      from t = 1 (noise) down to t = 0 (data)
    SDE    dx = (v(x, t) - D(t) s(x, t)) dt + √(2 D(t)) dW̄      for any D(t) >= 0, with s = ∇ log p_t

D is what SiT's code calls the diffusion and half of the w_t of SiT's paper (eq. 5) and of REPA's code:
REPA's w = 2t is D = t, which is D = σ on the linear path. Each sampler calls the model at times of a
float64 grid on [0, 1] (slightly inside if the process has a singularity); its state has the dtype of the
noise, as in SiT, or float64, as in REPA. Sources: Ma et al. 2024 (SiT), sec. 2 and `transport/`;
Yu et al. 2024 (REPA), `samplers.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.diffusion.conversions import to_score, to_velocity, to_x0
from bench.diffusion.objectives import FlowMatching, Process
from bench.diffusion.paths import Coefficients
from bench.diffusion.sampler_base import Predict, Sampler, StepNoise


class Flow:
    """The guided network as a vector field on the path of a flow process."""

    def __init__(self, predict: Predict, process: FlowMatching) -> None:
        self.process = process
        self.t_min, self.t_max = process.time_range(training=False)
        self._predict = predict

    def coefficients(self, t: float) -> Coefficients:
        return self.process.coefficients(torch.tensor(t, dtype=torch.float64))

    def velocity(self, x: Tensor, t: float, guided_as_at: float | None = None) -> Tensor:
        prediction = self._predict(x, t, guided_as_at)[0]
        return to_velocity(prediction, self.process.prediction, x, self.coefficients(t))

    def velocity_and_score(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        prediction, kind, c = self._predict(x, t)[0], self.process.prediction, self.coefficients(t)
        return to_velocity(prediction, kind, x, c), to_score(prediction, kind, x, c)


def _grid(start: float, stop: float, points: int) -> list[float]:
    return torch.linspace(start, stop, points, dtype=torch.float64).tolist()


def _require_steps(steps: int, least: int) -> None:
    if steps < least:
        raise ValueError(f"steps={steps} must be at least {least}.")


class FlowSampler(Sampler):
    """Integrates the vector field of a flow process from noise to data."""

    def solve(self, predict: Predict, process: Process, x: Tensor, step_noise: StepNoise) -> Tensor:
        """`integrate` the vector field of the process. Raises UserError unless it is a flow process."""
        if not isinstance(process, FlowMatching):
            raise UserError("this sampler integrates flow processes; for process ddpm take ddpm or ddim.")
        return self.integrate(Flow(predict, process), x, step_noise)

    @abstractmethod
    def integrate(self, flow: Flow, x: Tensor, step_noise: StepNoise) -> Tensor:
        """x at t_min from x at t_max, both [B, C, H, W]."""


@dataclass(frozen=True)
class Euler(FlowSampler):
    """First order: `steps` equal steps, one model evaluation each."""

    steps: int = 50

    def __post_init__(self) -> None:
        _require_steps(self.steps, 1)

    @property
    def evaluations(self) -> int:
        """Model evaluations per sample (guided ones count once)."""
        return self.steps

    def integrate(self, flow: Flow, x: Tensor, step_noise: StepNoise) -> Tensor:
        """Euler steps along the velocity."""
        times = _grid(flow.t_max, flow.t_min, self.steps + 1)
        for t, t_next in pairwise(times):
            x = x + (t_next - t) * flow.velocity(x, t)
        return x


@dataclass(frozen=True)
class Heun(FlowSampler):
    """Second order: `steps` equal steps, two model evaluations each.

    Options:
        last_step: `heun` like all others (torchdiffeq's `heun2`, SiT), or `euler`, with one evaluation
            (REPA).
        corrector_guidance: the time that decides whether the second evaluation of a step from t to t_next is
            guided, if guidance is limited to an interval: t_next (`next`) or t (`current`, REPA).
    """

    steps: int = 25
    last_step: Literal["heun", "euler"] = "heun"
    corrector_guidance: Literal["next", "current"] = "next"

    def __post_init__(self) -> None:
        _require_steps(self.steps, 1)

    @property
    def evaluations(self) -> int:
        """Model evaluations per sample (guided ones count once)."""
        return 2 * self.steps - (self.last_step == "euler")

    def integrate(self, flow: Flow, x: Tensor, step_noise: StepNoise) -> Tensor:
        """Trapezoidal steps along the velocity."""
        times = _grid(flow.t_max, flow.t_min, self.steps + 1)
        for t, t_next in pairwise(times):
            velocity = flow.velocity(x, t)
            euler = x + (t_next - t) * velocity
            if t_next == times[-1] and self.last_step == "euler":
                return euler
            ahead = flow.velocity(euler, t_next, t_next if self.corrector_guidance == "next" else t)
            x = x + (t_next - t) * (velocity + ahead) / 2
        return x


@dataclass(frozen=True)
class Dopri5(FlowSampler):
    """Adaptive fifth-order Dormand-Prince (torchdiffeq), SiT's default for ODEs, with its tolerances.

    The step size is chosen for the whole batch, so a sample depends on its batch, within the tolerance.
    """

    atol: float = 1e-6
    rtol: float = 1e-3

    @property
    def evaluations(self) -> None:
        """None: adaptive."""
        return None

    def integrate(self, flow: Flow, x: Tensor, step_noise: StepNoise) -> Tensor:
        """One call of torchdiffeq's `odeint`."""
        from torchdiffeq import odeint

        times = torch.tensor([flow.t_max, flow.t_min], dtype=torch.float64, device=x.device)
        states: Any = odeint(
            lambda t, x: flow.velocity(x, float(t)),
            x,
            times,
            method="dopri5",
            atol=self.atol,
            rtol=self.rtol,
            options={"step_t": times[1:]},  # step exactly to t_min instead of interpolating
        )
        return states[-1]


Diffusion = Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"]


def diffusion_coefficient(form: Diffusion, norm: float, t: float, c: Coefficients) -> float:
    """D(t) >= 0, in the forms of SiT's code (its tab. 3 lists w = 2D), scaled by `norm` as there.

    `sbdm` is that of score-based diffusion, half of the β(t) whose forward process has this path.
    """
    if form == "constant":
        return norm
    if form == "sbdm":
        return norm * float(c.sigma * c.determinant / c.alpha)
    if form == "sigma":
        return norm * float(c.sigma)
    if form == "linear":
        return norm * t
    if form == "decreasing":  # from the noise end to the data end
        return 0.25 * (1 - norm * math.cos(math.pi * t)) ** 2
    return norm * math.sin(math.pi * t) ** 2


@dataclass(frozen=True)
class EulerMaruyama(FlowSampler):
    """First order, stochastic: `steps` grid points from noise to t = h, then a last step to 0.

    h is `last_step_size`, and the last step adds no noise:
        mean      x - h (v - D s)                                 (SiT's default, REPA)
        euler     x - h v
        tweedie   E[x0 | x]
        none      no last step: the grid ends at t = 0 (or t_min of the process), with one evaluation less
    """

    steps: int = 250
    diffusion: Diffusion = "sigma"
    diffusion_norm: float = 1.0
    last_step: Literal["mean", "euler", "tweedie"] | None = "mean"
    last_step_size: float = 0.04

    def __post_init__(self) -> None:
        _require_steps(self.steps, 2)
        if self.diffusion_norm <= 0:
            raise ValueError(f"diffusion_norm={self.diffusion_norm} must be positive.")
        if not 0 < self.last_step_size < 1:
            raise ValueError(f"last_step_size={self.last_step_size} must lie between 0 and 1.")

    @property
    def evaluations(self) -> int:
        """Model evaluations per sample (guided ones count once)."""
        return self.steps - (self.last_step is None)

    def integrate(self, flow: Flow, x: Tensor, step_noise: StepNoise) -> Tensor:
        """`steps` - 1 stochastic steps, then the last one."""
        # D of sbdm is infinite if α = 0, at t = 1 of all paths but vp; 1e-3 is SiT's sample_eps.
        infinite = self.diffusion == "sbdm" and flow.process.path != "vp"
        t_max = 1 - 1e-3 if infinite else flow.t_max
        times = _grid(t_max, flow.t_min if self.last_step is None else self.last_step_size, self.steps)
        for t, t_next in pairwise(times):
            velocity, score = flow.velocity_and_score(x, t)
            diffusion = self._diffusion_at(flow, t)
            spread = math.sqrt(2 * diffusion * (t - t_next))
            x = x + (t_next - t) * (velocity - diffusion * score) + spread * step_noise().to(x)
        return self._last_step(flow, x, times[-1])

    def _diffusion_at(self, flow: Flow, t: float) -> float:
        return diffusion_coefficient(self.diffusion, self.diffusion_norm, t, flow.coefficients(t))

    def _last_step(self, flow: Flow, x: Tensor, t: float) -> Tensor:
        if self.last_step is None:
            return x
        velocity, score = flow.velocity_and_score(x, t)
        if self.last_step == "tweedie":
            return to_x0(score, "score", x, flow.coefficients(t))
        drift = velocity if self.last_step == "euler" else velocity - self._diffusion_at(flow, t) * score
        return x - t * drift
