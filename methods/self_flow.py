"""Self-Flow: two noise levels per image, and alignment with the weight average (arXiv 2603.06507).

For each sample a second time s is drawn from the distribution of t. A random subset of its tokens uses s
instead of t, in noise and in conditioning. All tokens are denoised as usual, and an early block is aligned
with a later block of the weight average (EMA), which sees all tokens at the lower of the two times:

    L = -(1/N) sum_n cos(phi(h^l)_n, stop_gradient(h_EMA^k(x_min(t, s), min(t, s)))_n)

The official repository only contains inference. Its blocks l, k are at 0.3 and 0.7 of the depth, and phi is
that of SRA; ratio 0.25 and weight 0.8 are from a third-party implementation. round(ratio * N) tokens have
the second time.

`sra-dts-as` (arXiv 2607.02508) is this method with other options: tokens attend to their own group only,
and the average sees both groups, each at a lower time. Ablations: `separate_attention` and `teacher_time`
alone, `weight=0` (two noise levels without alignment), `ratio=0` (SRA-like, one level).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from methods.base import (
    BackboneInfo,
    Context,
    Draw,
    EncoderInfo,
    Loss,
    Method,
    Needs,
    Steering,
    TokenTimes,
)
from methods.parts.alignment import block_number
from methods.parts.distances import cosine, cosine_over_tokens
from methods.parts.projectors import mlp


class Drawn(NamedTuple):
    """Passed from `steer` to `losses`."""

    tokens: TokenTimes | None  # None: one time per sample
    mask: Tensor | None


class SelfFlow(Method):
    """Two noise levels per image, and alignment with the weight average.

    Options:
        weight: of the alignment; 0: none.
        ratio: fraction of tokens with the second time.
        depth, target_depth: blocks l and k, 1-based; 0: 0.3 and 0.7 of the depth, rounded.
        separate_attention: tokens only attend to tokens of the same time, also in the average.
        teacher_time: time of the average: "min" of the two, "below" (the time of each group minus up to 0.2,
            drawn at random as in SRA) or "same".
        distance: "cosine", minus the cosine over the channels of each token, or "cosine-over-tokens", 1 minus
            the cosine over the tokens of each channel, as in SRA.
    """

    weight: float = 0.8
    ratio: float = 0.25
    depth: int = 0
    target_depth: int = 0
    separate_attention: bool = False
    teacher_time: Literal["min", "below", "same"] = "min"
    distance: Literal["cosine", "cosine-over-tokens"] = "cosine"
    steers = ("t", "mask")

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        if not 0 <= self.ratio <= 0.5:
            raise ValueError(f"ratio={self.ratio} must lie in [0, 0.5]")
        blocks, self.tokens = backbone.depth, backbone.grid[0] * backbone.grid[1]
        near, far = max(1, round(0.3 * blocks)), round(0.7 * blocks)
        self.block = block_number(self.depth, blocks, {blocks: near})
        self.target_block = block_number(self.target_depth, blocks, {blocks: far}, option="target_depth")
        if self.weight:
            self.projector = mlp(backbone.width, 2 * backbone.width, backbone.width)

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.block,), ema=True) if self.weight else Needs()

    def steer(self, draw: Draw) -> Steering:
        second = draw.draw_t(draw.share.rand()).to(draw.t)
        size = int(self.ratio * self.tokens + 0.5)
        if not size:
            return Steering(memo=Drawn(None, None))
        order = draw.share.rand(self.tokens).argsort(dim=1)
        group = (order.argsort(dim=1) < size).long()  # 1: the second time
        times = TokenTimes(torch.stack([draw.t, second], dim=1), group)
        mask = group[:, :, None] == group[:, None, :] if self.separate_attention else None
        return Steering(t=times, mask=mask, memo=Drawn(times, mask))

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        assert isinstance(context.memo, Drawn) and context.ema is not None
        tokens, mask = context.memo
        seen = context.ema(self.average_time(context, tokens), (self.target_block,), mask)
        student, target = self.projector(context.hidden[self.block]), seen.hidden[self.target_block]
        if self.distance == "cosine":
            value = -cosine(student, target)
        else:
            value = 1 - cosine_over_tokens(student, target)
        return {"self-flow": Loss(value, self.weight)}

    def average_time(self, context: Context, tokens: TokenTimes | None) -> Tensor | TokenTimes:
        """At what time the average sees the image."""
        times = context.t[:, None] if tokens is None else tokens.times  # [B, G]
        if self.teacher_time == "min":
            return times.min(dim=1).values
        if self.teacher_time == "below":
            times = (times - 0.2 * context.share.rand(times.shape[1])).clamp(0, 1)
        return times[:, 0] if tokens is None else TokenTimes(times, tokens.group)
