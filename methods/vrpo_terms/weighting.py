"""Weights of the alignment with the teacher, per sample.

    likelihood        A_i = (r_i - mean over peers) / std over peers; peers are the samples of the batch
                      with the nearest noise levels. This re-weights samples; it is not a policy gradient.
    counterfactual    w = clip(1 + k D_b) for noise bin b, with
                      D = <-dL_denoise/dh, grad_h cos> / (|dL_denoise/dh| |grad_h cos|):
                      to first order, whether moving h towards the teacher lowers the denoising loss
    timestep          sigmoid(SHARPNESS (tau - t)), as in VA-REPA

D is a ratio of sums over the samples of a bin, with exponential decay over steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.vrpo_terms.forces import standardise

BINS = 4  # equal parts of the noise level
MOMENTUM = 0.99  # per step, of the gate's sums
GATE_RANGE = (0.25, 4.0)
SHARPNESS = 10.0

Watch = Callable[[Tensor, Tensor, Tensor], None]  # takes <a, b>, |a|^2, |b|^2 of each sample, [B]


def bin_of(noise_level: Tensor) -> Tensor:
    """The noise bin, 0..BINS-1, of each noise level in [0, 1], [B] int64."""
    return (noise_level * BINS).long().clamp(0, BINS - 1)


def peer_advantage(reward: Tensor, noise_level: Tensor, peers: int) -> Tensor:
    """The reward [B] of each sample, standardised over the `peers` samples of nearest noise level, [B].

    If the batch has fewer samples than `peers`, all of them are peers.
    """
    batch, peers = len(reward), min(peers, len(reward))
    order = noise_level.argsort()
    place = torch.arange(batch, device=reward.device)
    first = (place - peers // 2).clamp(0, batch - peers)
    groups = reward[order][first + torch.arange(peers, device=reward.device)[:, None]]  # [peers, B]
    advantage = torch.empty_like(reward)
    advantage[order] = standardise(groups)[place - first, place]
    return advantage


def timestep_weight(t: Tensor, tau: float) -> Tensor:
    """The weight sigmoid(SHARPNESS (tau - t)) of noise levels [B]: near 1 below tau, near 0 above."""
    return torch.sigmoid(SHARPNESS * (tau - t))


def angle(tokens: Tensor, target: Tensor) -> Tensor:
    """Angle in radians, averaged over tokens, [B, N, D] x [B, N, D] -> [B].

    Its gradient on a unit token has norm 1 (1/N for the mean); that of the cosine has norm sin(angle).
    """
    cosine = F.cosine_similarity(tokens.float(), target.float(), dim=-1)
    return cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos().mean(dim=1)


def probe_gradients(hidden: Tensor, watch: Watch, mean_over: float) -> Tensor:
    """A copy of `hidden` [B, ...] for one branch of the loss, to separate its gradient from all others.

    In the backward pass, `watch` is called with <a, b>, |a|^2, |b|^2 per sample, where a is the gradient of
    the loss of a sample through this branch and b that through all other branches. The loss that is
    differentiated is the sum of per-sample losses divided by `mean_over`. Nothing is computed twice.
    """
    if not hidden.requires_grad:
        return hidden
    branch = hidden.view_as(hidden)
    through_branch: list[Tensor] = []

    def compare(total: Tensor) -> None:
        if not through_branch:  # the branch was not part of the loss
            return
        a = through_branch.pop().flatten(1).float() * mean_over
        b = total.flatten(1).float() * mean_over - a
        watch((a * b).sum(1), a.square().sum(1), b.square().sum(1))

    branch.register_hook(through_branch.append)  # pyright: ignore[reportUnknownMemberType]
    hidden.register_hook(compare)  # pyright: ignore[reportUnknownMemberType]
    return branch


class CounterfactualGate(nn.Module):
    """Factor of the alignment weight by noise bin. Its sums are buffers, saved and resumed with the run."""

    sums: Tensor

    def __init__(self, gain: float) -> None:
        """`gain` is k; 0 gives weight 1 everywhere."""
        super().__init__()
        self.gain = gain
        self.register_buffer("sums", torch.zeros(3, BINS))  # <a, b>, |a|^2, |b|^2
        self._seen: Tensor | None = None  # the same sums for the current step

    def agreement(self) -> Tensor:
        """D of each noise bin, [BINS] in [-1, 1]; 0 before the first update."""
        product, a, b = self.sums
        return product / (a * b).sqrt().clamp(min=torch.finfo(a.dtype).tiny)

    def weight(self, noise_level: Tensor) -> Tensor:
        """The factor w of each sample, [B]."""
        return (1 + self.gain * self.agreement()).clamp(*GATE_RANGE)[bin_of(noise_level)]

    @torch.no_grad()
    def see(self, moments: Tensor, noise_level: Tensor) -> None:
        """Add samples of the current step: `moments` [3, B] are <a, b>, |a|^2 and |b|^2."""
        found = torch.zeros_like(self.sums).index_add_(1, bin_of(noise_level), moments)
        self._seen = found if self._seen is None else self._seen + found

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add the current step to the sums; `total` sums a tensor over processes."""
        if self._seen is not None:
            self.sums.mul_(MOMENTUM).add_(total(self._seen))
            self._seen = None
