"""Self-Flow: two noise levels per image, and alignment with the weight average (arXiv 2603.06507).

For each sample a second time s is drawn from the distribution of t. A random subset of its tokens uses s
instead of t, in noise and in conditioning. All tokens are denoised as usual, and an early block is aligned
with a later block of the weight average (EMA), which sees all tokens at the lower of the two times:

    L = -(1/N) sum_i cos(phi(h^m)_i, stop_gradient(h_EMA^n(x_min(t, s), min(t, s)))_i)

The official repository only contains inference. Its blocks m, n are at 0.3 and 0.7 of the depth, and phi is
that of SRA; ratio 0.25 and weight 0.8 are from a third-party implementation. Ablations: `weight=0` (two noise
levels alone), `ratio=0` (one noise level, as in SRA). `sra-dts-as` is this method with other options.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from methods.base import BackboneInfo, Context, Draw, GetEncoder, Loss, Steering, TokenTimes
from methods.parts.distances import cosine, cosine_over_tokens
from methods.parts.self_alignment import SelfAlignment


class SelfFlow(SelfAlignment):
    """Two noise levels per image, and alignment with the weight average.

    Options, in addition to those of SelfAlignment:
        ratio: fraction of tokens with the second time; round(ratio * N) tokens of a sample.
        separate_attention: tokens only attend to tokens of the same time, also in the average.
        teacher_time: the average's: "min" of both, "below" each by up to 0.2 as in SRA, or the "same".
        distance: "cosine" of tokens, or "cosine-over-tokens" of channels (1 - cos), as in SRA.
    """

    weight: float = 0.8
    ratio: float = 0.25
    separate_attention: bool = False
    teacher_time: Literal["min", "below", "same"] = "min"
    distance: Literal["cosine", "cosine-over-tokens"] = "cosine"
    steers = ("t", "mask")

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if not 0 <= self.ratio <= 0.5:
            raise ValueError(f"ratio={self.ratio} must lie in [0, 0.5]")
        self.tokens = backbone.grid[0] * backbone.grid[1]
        super().build(backbone, encoder)

    def usual_blocks(self, backbone: BackboneInfo) -> tuple[int, int]:
        return max(1, round(0.3 * backbone.depth)), round(0.7 * backbone.depth)

    def steer(self, draw: Draw) -> Steering:
        second = draw.draw_t(draw.share.rand()).to(draw.t)
        size, steering = int(self.ratio * self.tokens + 0.5), Steering()
        if size:
            order = draw.share.rand(self.tokens).argsort(dim=1)
            group = (order.argsort(dim=1) < size).long()  # 1: the second time
            mask = group[:, :, None] == group[:, None, :] if self.separate_attention else None
            steering = Steering(TokenTimes(torch.stack([draw.t, second], dim=1), group), mask=mask)
        return replace(steering, memo=steering)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        steered = context.memo
        assert isinstance(steered, Steering)
        student, target = self.pair(context, self.average_time(context, steered.t), steered.mask)
        over_tokens = self.distance == "cosine-over-tokens"
        value = 1 - cosine_over_tokens(student, target) if over_tokens else -cosine(student, target)
        return {"self-flow": Loss(value, self.weight)}

    def average_time(self, context: Context, t: Tensor | TokenTimes | None) -> Tensor | TokenTimes:
        """At what time the average sees the image, `Steering.t` being `t`."""
        times = t.times if isinstance(t, TokenTimes) else context.t[:, None]  # [B, G]
        if self.teacher_time == "min":
            return times.min(dim=1).values
        if self.teacher_time == "below":
            times = (times - 0.2 * context.share.rand(times.shape[1])).clamp(0, 1)
        return TokenTimes(times, t.group) if isinstance(t, TokenTimes) else times[:, 0]
