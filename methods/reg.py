"""REG, representation entanglement (arXiv 2507.01467).

The encoder's class token c is part of the state: an additional token of the network with the t of the image,
its own noise and its own denoising loss. At sampling it is generated with the image, without an encoder:

    c_t = (1 - t) c + t eps_c,      denoising + cls_weight |v_c - (eps_c - c)|^2 + weight REPA([c; y])

REPA runs over N + 1 tokens, the student's class token first. Defaults are the paper's: cls_weight 0.03 on
the mean over channels, and REPA's 0.5 and depth. c is not normalised. Guidance acts on
the token as on the image; the released sampler has a separate scale for it, which is the same in the
published command.

A comment inside the released training command disables all flags after it, and with the cosine path the
released target broadcasts wrongly. Neither is reproduced.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from backbones.extras import Extra
from methods.base import BackboneInfo, Context, Draw, Features, GetEncoder, Loss, Needs, Steering
from methods.parts.distances import cosine
from methods.repa import REPA

TOKEN = "cls"


class REG(REPA):
    """REPA with the encoder's class token as part of the state.

    Options, in addition to those of REPA:
        cls_weight: of the class token's denoising loss.
        guided: whether classifier-free guidance acts on the class token.
    """

    cls_weight: float = 0.03
    guided: bool = True

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        if len(self.encoders) > 1:
            raise ValueError(f"encoder={self.encoder}: one encoder gives the class token")
        info = encoder(self.encoder)
        if not info.class_token:
            raise ValueError(f"encoder {info.name} has no class token: choose another, such as dinov2-b")
        self.cls_width = info.width

    def extras(self) -> tuple[Extra, ...]:
        return (Extra(TOKEN, self.cls_width, "token", self.cls_weight, self.guided),)

    def needs(self, step: int, steps: int) -> Needs:
        return replace(super().needs(step, steps), encoders=self.encoders)

    def steer(self, draw: Draw) -> Steering:
        return Steering(extras={TOKEN: draw.features[self.encoder].cls_token})

    def target(self, features: Features) -> Tensor:
        return torch.cat([features.cls_token[:, None], features.patch_tokens], dim=1)

    def losses(self, context: Context) -> dict[str, Loss]:
        if not self.aligns(context.step, context.steps):
            return {}
        depth = self.alignment_depth
        tokens = torch.cat([context.extra_hidden[depth][:, :1], context.hidden[depth]], dim=1)
        everything = replace(context, hidden={depth: tokens})
        return {"repa": Loss(-self.compare(cosine, everything), self.weight)}
