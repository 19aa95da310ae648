"""REPI: keys and values of the encoder, first used, then distilled (2026; no public code).

While step < s, the keys and values of one block are replaced by linear maps of those of the encoder's last
attention layer, K' = W_K k and V' = W_V v, trained by the denoising loss (the scaffold). Afterwards the block
uses its own keys and values, which are regressed on the mapped ones:

    L = mean (K - stop_gradient(K'))^2 + mean (V - stop_gradient(V'))^2

Defaults are the paper's: s = 20K of 400K steps, weight 2, block 6 of 12 and 8 of 24 or 28; with REPA they
are `repi+repa[depth=4,weight=0.25]`. The encoder's class token is left out, so that tokens pair up. Keys
are compared as used by the attention, after normalisation and rotary embedding if there are any.

The total loss jumps at the end of the scaffold, since a term is added. During the scaffold the gradient of
the block's own keys and values is zero, so their first Adam update is about three times the learning rate.
"""

from __future__ import annotations

from torch import Tensor, nn

from methods.base import BackboneInfo, Context, Draw, EncoderLayers, GetEncoder, Loss, Method, Needs, Steering
from methods.parts.alignment import block_number, require_grid, require_heads
from methods.parts.distances import mean_square

PAPER_DEPTHS = {12: 6, 24: 8, 28: 8}  # blocks -> block
LAYER = -1  # of the encoder, the last


class REPI(Method):
    """Keys and values of one block, first replaced by those of the encoder, then supervised by them.

    Options:
        weight: of the loss after the scaffold.
        scaffold: fraction of training in which keys and values are replaced.
        depth: the block, 1-based; 0: the paper's, for other depths half of the network.
        encoder: name of the frozen encoder, a vision transformer; "teacher": the data set's.
    """

    weight: float = 2.0
    scaffold: float = 0.05
    depth: int = 0
    encoder: str = "teacher"
    steers = ("replace",)

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        if not 0 <= self.scaffold <= 1:
            raise ValueError(f"scaffold={self.scaffold} must lie in [0, 1]")
        self.block = block_number(self.depth, backbone.depth, PAPER_DEPTHS, 1 / 2)
        self.heads = backbone.heads
        if self.weight or self.scaffold:
            info = encoder(self.encoder)
            require_heads(info, "keys and values")
            require_grid(info, backbone)
            self.key, self.value = (nn.Linear(info.width, backbone.width) for _ in range(2))

    def needs(self, step: int, steps: int) -> Needs:
        replaced = step < self.scaffold * steps
        if not replaced and not self.weight:
            return Needs()
        own, layers = () if replaced else (self.block,), EncoderLayers(keys_values=(LAYER,))
        return Needs(keys_values_depths=own, encoders=(self.encoder,), encoder_layers={self.encoder: layers})

    def steer(self, draw: Draw) -> Steering:
        if draw.step >= self.scaffold * draw.steps:
            return Steering()
        return Steering(replace={self.block: self.mapped(*draw.features[self.encoder].keys_values[LAYER])})

    def losses(self, context: Context) -> dict[str, Loss]:
        if context.step < self.scaffold * context.steps or not self.weight:
            return {}
        key, value = context.keys_values[self.block]
        mapped_key, mapped_value = self.mapped(*context.features[self.encoder].keys_values[LAYER])
        error = mean_square(key, mapped_key.detach()) + mean_square(value, mapped_value.detach())
        return {"internalise": Loss(error, self.weight)}

    def mapped(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """K' and V', [B, heads, N, D / heads] each, of the encoder's keys and values [B, N, D']."""
        both = self.key(keys), self.value(values)
        key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in both)
        return key, value
