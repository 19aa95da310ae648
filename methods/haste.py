"""HASTE: align features and attention early, then stop (arXiv 2505.16792).

Until tau, REPA after block 8 and the cross-entropy between attention maps of student blocks and teacher
layers; afterwards the denoising loss alone:

    weight * REPA + attention_weight * A,
    A = mean over pairs, heads, rows of  -sum_k softmax(T)_k log softmax(S)_k

with S, T the attention logits over image tokens; rows and columns of the class token are removed before the
softmax. Defaults are the paper's: weights 0.5, blocks 5 to 8 with layers 9 to 12 of 12, tau
100K of 400K steps for 12 blocks and 250K for 24 or 28.

The minimum of A is the teacher's entropy, which differs between teachers and is logged. Student heads beyond
the number of teacher heads are not aligned. The released code computes log(softmax), which can underflow.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from methods.base import BackboneInfo, Context, EncoderLayers, GetEncoder, Loss, Needs
from methods.parts.alignment import block_number, require_heads
from methods.parts.distances import attention_cross_entropy, cosine
from methods.repa import REPA


class HASTE(REPA):
    """REPA with alignment of attention, both ended early.

    Options, in addition to those of REPA:
        align_until: fraction of training after which alignment ends; 0: the paper's.
        attention_weight: weight of A.
        blocks: student blocks, joined by ":"; (): 5:6:7:8, of fewer than 12 the four up to the depth of REPA.
        layers: encoder layers, as many as blocks; (): the last ones.
    """

    align_until: float = 0.0
    attention_weight: float = 0.5
    blocks: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        self.align_until = self.align_until or (0.25 if backbone.depth == 12 else 0.625)
        self.depth = self.depth or (8 if backbone.depth >= 12 else 0)
        super().build(backbone, encoder)
        last = self.alignment_depth
        usual = (5, 6, 7, 8) if backbone.depth >= 12 else tuple(range(max(1, last - 3), last + 1))
        blocks = self.blocks or usual
        self.student_blocks = tuple(block_number(b, backbone.depth, {}, option="blocks") for b in blocks)
        self.teacher_layers = self.layers or tuple(range(-len(self.student_blocks), 0))
        if len(self.teacher_layers) != len(self.student_blocks):
            raise ValueError(f"blocks {self.student_blocks} and layers {self.teacher_layers} do not pair up")
        if self.weight and self.attention_weight:
            if len(self.encoders) > 1:
                raise ValueError(f"encoder={self.encoder}: haste aligns with one encoder")
            require_heads(encoder(self.encoder), "attention to align with")

    def needs(self, step: int, steps: int) -> Needs:
        needs = super().needs(step, steps)
        if not needs.encoders or not self.attention_weight:
            return needs
        layers = {self.encoder: EncoderLayers(attention=self.teacher_layers)}
        return replace(needs, attention_depths=self.student_blocks, encoder_layers=layers)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        losses = {"repa": Loss(-self.compare(cosine, context), self.weight)}
        if self.attention_weight:
            teachers = [context.features[self.encoder].attention[layer] for layer in self.teacher_layers]
            students = [context.attention[block] for block in self.student_blocks]
            found = list(map(attention_cross_entropy, students, teachers))
            value = sum(found, start=torch.zeros(())) / len(found)
            losses["attention"] = Loss(value, self.attention_weight)
            if context.share.logging:
                entropies = [attention_cross_entropy(teacher, teacher).mean() for teacher in teachers]
                context.logs["attention/teacher_entropy"] = sum(entropies) / len(entropies)
        return losses
