"""SRA 2 against its equation; there is no public code."""

import torch

from methods.base import BackboneInfo
from methods.sra2 import SRA2, patches
from tests.helpers.official import PREDICTION, Returns, agree, built, step

BACKBONE = BackboneInfo("sit", 12, 16, (2, 2), patch=2, channels=3)


def test_the_equation():
    for beta, expected in ((0.05, [0.3119555302, 0.3115862583]), (1.0, None)):
        method = built(SRA2(beta=beta), BACKBONE)
        method.projector = Returns(patches(PREDICTION, 2))
        loss = method.losses(step(hidden={2: torch.zeros(2, 4, 16)}))["sra2"]
        if expected:
            agree(loss.value, expected)
        else:
            agree(loss.value.mean(), 0.0840651238)
        assert loss.weight == 1


def test_patches_are_ordered_like_the_backbones_output():
    """Row by row, and inside a patch by row, column, channel, written out by hand."""
    image = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    assert patches(image, 2)[0].tolist() == [
        [0, 16, 1, 17, 4, 20, 5, 21],
        [2, 18, 3, 19, 6, 22, 7, 23],
        [8, 24, 9, 25, 12, 28, 13, 29],
        [10, 26, 11, 27, 14, 30, 15, 31],
    ]


def test_published_blocks_and_widths():
    for blocks, block in ((12, 2), (24, 8), (28, 8)):
        method = built(SRA2(), BACKBONE._replace(depth=blocks))
        assert method.needs(0, 1).hidden_depths == (block,)
    widths = [layer.out_features for layer in method.projector if isinstance(layer, torch.nn.Linear)]
    assert widths == [8, 4, 2, 2, 12]
    off = built(SRA2(weight=0.0), BACKBONE)
    assert off.losses(step()) == {} and list(off.parameters()) == []
