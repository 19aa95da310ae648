"""Self-Flow and SRA-DTS-AS: groups, times of the average, the mask, and exact reductions."""

from dataclasses import replace

import pytest
import torch

from backbones.blocks import Output
from methods.base import BackboneInfo, Draw, TokenTimes
from methods.self_flow import SelfFlow
from methods.sra_dts_as import SRADTSAS
from tests.helpers.official import NOISE, X0, Returns, T, Y, Z, agree, built, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))


def steered(method, tokens=None, draw_t=lambda uniform: uniform):
    state = step()
    return method.steer(Draw(X0, NOISE, T, state.label, {}, 0, 400, state.share, draw_t)), state


@pytest.mark.parametrize(("grid", "second", "first"), [((4, 4), 4, 12), ((2, 2), 1, 3), ((2, 5), 3, 7)])
@pytest.mark.parametrize("kind", [SelfFlow, SRADTSAS])
def test_group_sizes_of_the_released_code(kind, grid, second, first):
    steering, _ = steered(built(kind(), BACKBONE._replace(grid=grid)))
    group = steering.t.group
    assert group.sum(dim=1).tolist() == [second] * 2 and (1 - group).sum(dim=1).tolist() == [first] * 2
    assert not torch.equal(group[0], group[1]) or second == 1
    agree(steering.t.times[:, 0], T)


def seen(method, times, group):
    """The term of tokens Z and Y, and how the average was called."""
    method.projector = Returns(Z)
    calls = []

    def ema(t, depths, mask=None):
        calls.append((t, depths, mask))
        return Output(torch.zeros(()), None, {depth: Y for depth in depths})

    steering, _ = steered(method)
    memo = replace(steering.memo, t=TokenTimes(times, group))
    return method.losses(step(hidden={method.block: Z}, ema=ema, memo=memo))["self-flow"], calls[0]


TIMES = torch.tensor([[0.25, 0.6], [0.75, 0.4]], dtype=torch.float64)
GROUP = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])


def test_the_average_sees_all_tokens_at_the_lower_time():
    loss, (t, depths, mask) = seen(built(SelfFlow(), BACKBONE), TIMES, GROUP)
    agree(t, [0.25, 0.4])
    assert depths == (8,) and mask is None and loss.weight == 0.8
    agree(loss.value, [-0.1407100551, -0.0412506604])


def test_separated_attention():
    method = built(SRADTSAS(), BACKBONE)
    steering, _ = steered(method)
    group = steering.t.group
    for sample in range(2):
        for i in range(4):
            for j in range(4):
                assert steering.mask[sample, i, j] == (group[sample, i] == group[sample, j])
    loss, (t, depths, mask) = seen(method, TIMES, GROUP)
    assert torch.equal(mask, steering.mask) and depths == (8,) and loss.weight == 0.5
    assert torch.equal(t.group, GROUP)
    assert (t.times <= TIMES).all() and (t.times >= TIMES - 0.2).all() and (t.times != TIMES).all()
    agree(loss.value, [0.8868345269, 0.9315451905])  # over tokens, as SRA's released code
    _, (t, _, _) = seen(built(SRADTSAS(teacher_time="same"), BACKBONE), TIMES, GROUP)
    assert torch.equal(t.times, TIMES)


def test_the_second_time_has_the_law_of_the_first():
    steering, _ = steered(built(SelfFlow(), BACKBONE), draw_t=lambda uniform: 0.3 + 0 * uniform)
    agree(steering.t.times[:, 1], [0.3, 0.3], 1e-7)
    agree(steering.t.per_token, torch.where(steering.t.group == 1, 0.3, T[:, None]), 1e-7)


def test_no_second_group_and_no_weight_are_the_baseline():
    off = built(SelfFlow(ratio=0.0, weight=0.0), BACKBONE)
    steering, _ = steered(off)
    assert steering.t is None and steering.mask is None
    assert off.losses(step()) == {} and not off.needs(0, 10).ema and list(off.parameters()) == []


def test_published_blocks():
    for blocks, near, far in ((12, 4, 8), (24, 7, 17), (28, 8, 20)):
        method = built(SelfFlow(), BACKBONE._replace(depth=blocks))
        assert (method.block, method.target_block) == (near, far)
    method = built(SRADTSAS(), BACKBONE)
    assert (method.block, method.target_block) == (3, 8)
