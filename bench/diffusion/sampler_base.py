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

Model = Callable[..., Any]  # (x_t, t, label) -> Output, as a backbone
Predict = Callable[..., Prediction]  # the result of `Guidance.predictor`
StepNoise = Callable[[], Tensor]  # fresh standard normal noise [B, C, H, W]


@dataclass(frozen=True)
class Sampler(ABC):
    """Base class: a frozen dataclass of options. Samplers never draw noise themselves.

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
        """The state at t = 0 from the state x at t = 1, both [B, C, H, W]; see `sample`."""

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
        """Samples x0 [B, C, H, W] from standard normal noise [B, C, H, W].

        Args:
            model: the backbone.
            noise: the initial state.
            label: [B] int64, class labels.
            process: the diffusion process of the model.
            guidance: classifier-free guidance.
            step_noise: returns fresh noise [B, C, H, W] for a stochastic step.

        Raises:
            UserError: the sampler does not support the process.
        """
        predict = guidance.predictor(model, label, noise)
        x = noise.double() if self.float64 else noise
        return self.solve(predict, process, x, step_noise).to(noise.dtype)
