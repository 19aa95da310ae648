"""Classifier-free guidance: f = f(x, t, ∅) + w (f(x, t, y) - f(x, t, ∅))  (Ho & Salimans 2022).

f is the prediction of the network. Velocity, noise, score and SDE drift are affine functions of each other at
the same x_t, so guiding one of them guides all: guidance of the drift in REPA's sampler and guidance of the
prediction here are equivalent. Code bases differ in two respects:

    channels   SiT and DiT guide the first 3 of 4 latent channels, REPA and its forks all
    interval   REPA guides only for t within an interval (Kynkäänniemi et al. 2024), ends included

The variance of DiT is always the conditional one, as in the official code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Prediction = tuple[Tensor, Tensor | None]  # prediction, raw variance or None


@dataclass(frozen=True)
class Guidance:
    """Parameters of the guidance. With scale 1, or outside the interval, there is no unconditional pass.

    Attributes:
        scale: w >= 0.
        interval: times at which guidance acts, ends included; 0 is data, 1 is noise.
        channels: guide the first channels only; None: all.
        entries: bool mask in the shape of one sample, used instead of `channels`.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int | None = None
    entries: Tensor | None = None

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval={low}:{high} must lie in 0:1, low end first (0 is data).")
        if self.scale < 0:
            raise ValueError(f"scale={self.scale} must not be negative; 1 is no guidance.")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels={self.channels} must be at least 1, or none for all.")

    def acts_at(self, t: float) -> bool:
        """Whether guidance acts at time t, which requires the unconditional pass."""
        return self.scale != 1.0 and self.interval[0] <= t <= self.interval[1]

    def predictor(self, model: Callable[..., Any], label: Tensor, noise: Tensor) -> Callable[..., Prediction]:
        """The guided network, (x_t [B, C, H, W], t) -> (prediction, variance) in the dtype of x_t.

        Its third argument, `decided_at`, is the time that is compared with the interval; None: t.

        The model is called in the dtype of its parameters (without parameters, in that of `noise`), with
        times in float32 at least, since bfloat16 cannot represent 1000 of them. If guidance acts, both passes
        are one call with a batch of 2B. The null class is `model.num_classes`; the guided network raises
        ValueError if it is needed and the model has none.
        """
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        dtype = noise.dtype if parameter is None else parameter.dtype
        time_dtype = torch.promote_types(dtype, torch.float32)
        no_class: int | None = getattr(model, "num_classes", None)

        def call(x_t: Tensor, t: float, label: Tensor) -> Prediction:
            time = torch.full((len(x_t),), t, dtype=time_dtype, device=x_t.device)
            output = model(x_t.to(dtype), time, label)
            variance = None if output.variance is None else output.variance.to(x_t.dtype)
            return output.prediction.to(x_t.dtype), variance

        def predict(x_t: Tensor, t: float, decided_at: float | None = None) -> Prediction:
            if not self.acts_at(t if decided_at is None else decided_at):
                return call(x_t, t, label)
            if no_class is None:
                raise ValueError("guidance needs model.num_classes, the label of the null class.")
            null = torch.full_like(label, no_class)
            both, variance = call(torch.cat([x_t, x_t]), t, torch.cat([label, null]))
            conditional, unconditional = both.chunk(2)
            guided = unconditional + self.scale * (conditional - unconditional)
            if self.entries is not None:
                guided = torch.where(self.entries.to(guided.device), guided, conditional)
            elif self.channels is not None:
                guided = torch.cat([guided[:, : self.channels], conditional[:, self.channels :]], dim=1)
            return guided, None if variance is None else variance[: len(x_t)]

        return predict
