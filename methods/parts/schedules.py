"""Weights of samples as a function of the noise level t in [0, 1]; 1 is noise.

constant    1
linear      1 - t
sigmoid     1 / (1 + exp(-k (tau - t)))
cosine      (1 + cos(pi t / tau)) / 2 for t < tau, else 0
snr         s(t) / (s(t) + s(tau)),  s = (signal / noise)^2 = ((1 - t) / t)^2
hard        1 for t < tau, else 0
hard-high   1 for t >= tau, else 0
cutoff      1 for t <= tau, else 0
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.parts.distances import at_least_float32


def timestep_weight(schedule: str, t: Tensor, tau: float, k: float) -> Tensor:
    """Weights of noise levels `t` under a schedule, in the same shape.

    Args:
        schedule: a name of the table above.
        t: noise levels in [0, 1].
        tau: threshold, in (0, 1).
        k: sharpness of the sigmoid.

    Raises:
        ValueError: unknown schedule.
    """
    t = at_least_float32(t)
    match schedule:
        case "constant":
            return torch.ones_like(t)
        case "linear":
            return 1 - t
        case "sigmoid":
            return torch.sigmoid(k * (tau - t))
        case "cosine":
            return (1 + torch.cos(math.pi * t / tau)) / 2 * (t < tau)
        case "snr":  # the fraction expanded by t^2, so that it is finite at t = 0
            signal, noise = (1 - t).square(), ((1 - tau) / tau * t).square()
            return signal / (signal + noise)
        case "hard":
            return (t < tau).to(t)
        case "hard-high":
            return (t >= tau).to(t)
        case "cutoff":
            return (t <= tau).to(t)
        case _:
            raise ValueError(f"no schedule {schedule}")
