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

from collections.abc import Callable
from typing import Literal

from methods.base import BackboneInfo, EncoderInfo
from methods.parts.alignment import block_number
from methods.self_flow import SelfFlow
from methods.sra import STUDENT_BLOCKS, TEACHER_BLOCKS


class SRADTSAS(SelfFlow):
    """Self-Flow with separated attention. Options are those of Self-Flow."""

    version = 2
    weight: float = 0.5
    separate_attention: bool = True
    teacher_time: Literal["min", "below", "same"] = "below"
    distance: Literal["cosine", "cosine-over-tokens"] = "cosine-over-tokens"

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        family, blocks = backbone.family, backbone.depth
        self.depth = block_number(self.depth, blocks, STUDENT_BLOCKS[family], 1 / 4)
        self.target_depth = block_number(
            self.target_depth, blocks, TEACHER_BLOCKS[family], 2 / 3, "target_depth"
        )
        super().build(backbone, encoder)
