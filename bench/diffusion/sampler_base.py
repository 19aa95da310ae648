"""Base class of samplers: guidance, precision of the state, and noise that is drawn by the caller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.diffusion.guidance import Guidance, Prediction
from bench.diffusion.objectives import Process

Model = Callable[..., Any]  # the backbone's signature: (x_t, t, label) -> Output
Predict = Callable[..., Prediction]  # what `Guidance.predictor` makes of the model
StepNoise = Callable[[], Tensor]  # fresh standard normal noise [B, C, H, W]


@dataclass(frozen=True)
class Sampler(ABC):
    """A frozen dataclass of its options, which never draws noise of its own.

    Options:
        float64: keep the state in float64 (REPA's code) instead of the dtype of the noise (SiT's code).
    """

    float64: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def evaluations(self) -> int | None:
        """Model evaluations per sample (guided ones count once); None for adaptive samplers."""

    @abstractmethod
    def solve(self, predict: Predict, process: Process, x: Tensor, step_noise: StepNoise) -> Tensor:
        """The state at t = 0 from the state x at the noise end, both [B, C, H, W]; see `sample`."""

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
        """x0 [B, C, H, W] from standard normal noise [B, C, H, W] and label [B].

        `step_noise()` gives the fresh noise of one stochastic step; deterministic samplers never call it.
        Raises UserError for a process that the sampler is not made for.
        """
        predict = guidance.predictor(model, label, noise)
        x = noise.double() if self.float64 else noise
        return self.solve(predict, process, x, step_noise).to(noise.dtype)
