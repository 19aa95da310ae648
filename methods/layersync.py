"""LayerSync: an early block follows a later block of the same forward pass (arXiv 2510.12581).

    L = -(1/N) sum_n cos(h^k_n, stop_gradient(h^m_n)),        k < m

No encoder, no projector, no parameters. Defaults are the paper's weight 0.2 and the blocks 8 -> 16 of 28 and
8 -> 18 of 24; other depths use a third and two thirds of the network, which is 4 -> 8 of 12.

In the released trainer m defaults to k, which makes the loss constant, and its variant with several pairs
only uses the last one. This implementation has one pair with k < m.
"""

from __future__ import annotations

from methods.base import BackboneInfo, Context, GetEncoder, Loss, Method, Needs
from methods.parts.alignment import block_number
from methods.parts.distances import cosine

EARLY_BLOCKS = {28: 8, 24: 8}  # blocks of the network -> k
LATE_BLOCKS = {28: 16, 24: 18}  # blocks of the network -> m


class LayerSync(Method):
    """Cosine alignment of one hidden state with a deeper one.

    Options:
        weight: of the alignment loss.
        depth: the early block k, 1-based; 0: the default.
        target_depth: the late block m, 1-based; 0: the default.
    """

    weight: float = 0.2
    depth: int = 0
    target_depth: int = 0

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        self.early = block_number(self.depth, backbone.depth, EARLY_BLOCKS)
        self.late = block_number(self.target_depth, backbone.depth, LATE_BLOCKS, 2 / 3, "target_depth")
        if self.early >= self.late:
            raise ValueError(
                f"block {self.early} cannot follow block {self.late}: target_depth must be deeper"
            )

    def needs(self, step: int, steps: int) -> Needs:
        return Needs(hidden_depths=(self.early, self.late)) if self.weight else Needs()

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.weight:
            return {}
        early, late = context.hidden[self.early], context.hidden[self.late].detach()
        return {"layersync": Loss(-cosine(early, late), self.weight)}
