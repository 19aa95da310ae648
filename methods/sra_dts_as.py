"""SRA-DTS-AS: dual timesteps with separated attention (arXiv 2607.02508).

Self-Flow with three differences: tokens only attend to tokens of the same noise level; the average (EMA)
sees both groups, each up to 0.2 below its own level; the loss is 1 - cos over the tokens of a channel, as in
SRA. Defaults are those of the released script: blocks 3 -> 8 of 12, ratio 0.25, weight 0.5; other depths use
the blocks of SRA.

Two details of the released code are not reproduced: in its variant "self_flow with teacher mask" the other
group is embedded from the clean latent, and the average is given labels before dropout, the network labels
after it.
"""

from __future__ import annotations

from typing import Literal

from methods.base import BackboneInfo
from methods.parts.self_alignment import SelfAlignment
from methods.self_flow import SelfFlow


class SRADTSAS(SelfFlow):
    """Self-Flow with separated attention. Options are those of Self-Flow."""

    version = 2
    weight: float = 0.5
    separate_attention: bool = True
    teacher_time: Literal["min", "below", "same"] = "below"
    distance: Literal["cosine", "cosine-over-tokens"] = "cosine-over-tokens"

    def usual_blocks(self, backbone: BackboneInfo) -> tuple[int, int]:
        return SelfAlignment.usual_blocks(self, backbone)
