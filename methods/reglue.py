"""REGLUE: class token and feature map in one state (arXiv 2512.16636).

REG and ReDi combined: the encoder's class token is an extra token, components of its patch tokens are extra
channels, both with the t of the image, and REPA runs over N + 1 tokens. Defaults are the paper's: class token
0.03, REPA 0.5, 16 channels.

Deviation: the paper's 16 channels are a convolutional compression of four layers of DINOv2 (8 to 11),
trained beforehand; here they are principal components of the patch tokens. One branch of the released
sampler uses the guidance scale w + 1.
"""

from __future__ import annotations

from backbones.extras import Extra
from methods.base import BackboneInfo, Draw, GetEncoder, Steering
from methods.redi import ReDi
from methods.reg import REG


class REGLUE(REG):
    """REG with principal components of the teacher as channels of the state.

    Options, in addition to those of REG:
        map_weight: of the denoising loss of the channels.
        components: number of channels.
        whiten: give every channel unit variance.
        records: training images used for the statistics.
    """

    map_weight: float = 1.0
    components: int = 16
    whiten: bool = False
    records: int = 1000

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        self.redi = ReDi(
            weight=self.map_weight,
            components=self.components,
            whiten=self.whiten,
            encoder=self.encoder,
            records=self.records,
        )
        self.redi.build(backbone, encoder)

    def extras(self) -> tuple[Extra, ...]:
        return (*super().extras(), *self.redi.extras())

    def steer(self, draw: Draw) -> Steering:
        both = super().steer(draw).extras, self.redi.steer(draw).extras
        return Steering(extras={name: value for extras in both for name, value in extras.items()})
