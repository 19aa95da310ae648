"""SRA against its released loss, times and weights."""

import pytest
import torch

from backbones.blocks import Output
from methods.base import BackboneInfo
from methods.sra import SRA
from tests.helpers.official import NOISE, X0, Returns, T, Y, Z, agree, built, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))


def compared(now=0, **options):
    """The term for the tokens Z and Y, the times asked of the average, and the method."""
    method = built(SRA(**options), BACKBONE)
    method.projector = Returns(Z)
    asked = []

    def ema(t, depths, mask=None):
        asked.append((t, depths))
        return Output(torch.zeros(()), None, {depth: Y for depth in depths})

    return method.losses(step(hidden={3: Z}, ema=ema, step=now))["sra"], asked[0]


@pytest.mark.parametrize(
    ("distance", "first", "second"),
    [
        ("smooth-l1", 0.3072592288, 0.3035570996),
        ("cosine", 0.8592899449, 0.9587493396),
        ("cosine-over-tokens", 0.8868345269, 0.9315451905),  # as released
    ],
)
def test_the_released_distances(distance, first, second):
    loss, _ = compared(distance=distance)
    agree(loss.value, [first, second])


def test_the_average_sees_the_same_noise_at_a_lower_time():
    """U = (0.5, 0.25) gives t' = 0.15 and 0.70, as released."""
    state = step(share=None)
    state.share.rand = lambda *_: torch.tensor([0.5, 0.25])
    method = built(SRA(), BACKBONE)
    method.projector = Returns(Z)
    asked = []
    state.hidden, state.ema = {3: Z}, lambda t, depths: asked.append(t) or Output(Z, None, {8: Y})
    method.losses(state)
    (lower,) = asked
    agree(lower, [0.15, 0.70], 1e-7)
    wide = lower.view(-1, 1, 1, 1)
    agree(((1 - wide) * X0 + wide * NOISE).flatten(1).sum(dim=1), [-2.8170103077, 1.7412371162], 1e-6)
    for _ in range(20):
        _, (lower, depths) = compared()
        assert depths == (8,) and (lower <= T).all() and (lower >= T - 0.2).all()


@pytest.mark.parametrize(
    ("epoch", "weight"), [(0, 0.2), (149, 0.2), (150, 0.1995400128), (399, 0.1124682650), (799, 0.0447744228)]
)
def test_the_weight_of_the_paper(epoch, weight):
    assert compared(now=5004 * epoch)[0].weight == pytest.approx(weight, abs=1e-9)
    assert compared(now=5004 * epoch, weight=0.5, decay=False)[0].weight == 0.5


@pytest.mark.parametrize(
    ("family", "blocks", "pair"),
    [
        ("sit", 12, (3, 8)),
        ("sit", 24, (6, 16)),
        ("sit", 28, (8, 20)),
        ("dit", 12, (3, 7)),
        ("dit", 24, (6, 14)),
        ("dit", 28, (8, 16)),
    ],
)
def test_published_blocks(family, blocks, pair):
    method = built(SRA(), BACKBONE._replace(family=family, depth=blocks))
    assert (method.block, method.target_block) == pair
    assert method.needs(0, 10).ema and not SRA(weight=0.0).needs(0, 10).ema
