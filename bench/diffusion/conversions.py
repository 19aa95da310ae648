"""Conversions between velocity, score, noise and clean data, which are equivalent given x_t.

With x_t = α x0 + σ ε, v = α' x0 + σ' ε and Δ = ασ' - α'σ, each of the four determines the others:

    ε = (α v - α' x_t) / Δ = (x_t - α x0) / σ = -σ s
    x0 = (σ' x_t - σ v) / Δ = (x_t - σ ε) / α
    v = (α' x_t + Δ ε) / α = (σ' x_t - Δ x0) / σ
    s = ∇ log p_t(x_t) = -ε / σ

The same holds for their conditional means given x_t, which networks predict (SiT app. A). `c` are the
coefficients of the path, shaped to multiply x_t. Where α or σ vanishes at an end of the path, divisions by it
are true singularities; for velocities on the linear and gvp paths there is none, except for the score at
t = 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from bench.diffusion.paths import Coefficients

Quantity = Literal["velocity", "noise", "x0", "score"]


def to_noise(value: Tensor, kind: Quantity, x_t: Tensor, c: Coefficients) -> Tensor:
    """ε, or its mean given x_t, from `value` of the given kind; both [B, ...] as x_t."""
    if kind == "velocity":
        return (c.alpha * value - c.alpha_dot * x_t) / c.determinant
    if kind == "x0":
        return (x_t - c.alpha * value) / c.sigma
    return -c.sigma * value if kind == "score" else value


def to_x0(value: Tensor, kind: Quantity, x_t: Tensor, c: Coefficients) -> Tensor:
    """x0, or its mean given x_t, from `value` of the given kind; both [B, ...] as x_t."""
    if kind == "x0":
        return value
    if kind == "velocity":
        return (c.sigma_dot * x_t - c.sigma * value) / c.determinant
    return (x_t - c.sigma * to_noise(value, kind, x_t, c)) / c.alpha


def to_velocity(value: Tensor, kind: Quantity, x_t: Tensor, c: Coefficients) -> Tensor:
    """dx_t/dt, or its mean given x_t, from `value` of the given kind; both [B, ...] as x_t."""
    if kind == "velocity":
        return value
    if kind == "x0":
        return (c.sigma_dot * x_t - c.determinant * value) / c.sigma
    return (c.alpha_dot * x_t + c.determinant * to_noise(value, kind, x_t, c)) / c.alpha


def to_score(value: Tensor, kind: Quantity, x_t: Tensor, c: Coefficients) -> Tensor:
    """∇ log p_t(x_t) from `value` of the given kind; both [B, ...] as x_t."""
    return value if kind == "score" else -to_noise(value, kind, x_t, c) / c.sigma
