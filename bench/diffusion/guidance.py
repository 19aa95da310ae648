"""Classifier-free guidance: f = f(x, t, ∅) + w (f(x, t, y) - f(x, t, ∅))  (Ho & Salimans 2022).

f is the network's prediction. Velocity, noise, score and SDE drift are affine in one another at the
same x_t with the same coefficients, so guiding one of them guides them all alike: guidance of the drift
in REPA's sampler and of the prediction here are one thing. What does differ between code bases:

    channels   SiT and DiT guide the first 3 of 4 latent channels, REPA and its forks all
    interval   REPA guides only for t within an interval (Kynkäänniemi et al. 2024), ends included

A DiT's variance is always the conditional one, as in its own code.
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
    """scale w >= 0, where it acts in time (0 data, 1 noise; ends included) and in channels (None: all).

    `entries`, bool and of the shape of one sample, says it entry by entry, in the place of `channels`.

    With scale 1, and at times outside the interval, the unconditional pass is not made.
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
        """Whether the unconditional pass is made at time t."""
        return self.scale != 1.0 and self.interval[0] <= t <= self.interval[1]

    def predictor(self, model: Callable[..., Any], label: Tensor, noise: Tensor) -> Callable[..., Prediction]:
        """The function (x_t [B, C, H, W], t) -> guided (prediction, variance), of x_t's dtype.

        Its third argument, `decided_at`, is the time whose place in the interval decides; None: t itself.

        The model is called in the dtype of its parameters (of `noise`, for a callable without any), with
        times in float32 at least, as bfloat16 cannot tell 1000 of them apart. Where guidance acts, both
        halves share one call on a batch of 2B. The label of no class is `model.num_classes`; raises
        ValueError for a model that does not say, once it is needed.
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
                raise ValueError("guidance needs model.num_classes, which is the label of no class.")
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
