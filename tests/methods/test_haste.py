"""HASTE's attention loss against released code and closed forms; when it ends."""

import pytest
import torch

from methods.base import BackboneInfo, EncoderInfo
from methods.haste import HASTE
from methods.parts.distances import attention_cross_entropy as cross_entropy
from methods.repa import REPA
from tests.helpers.official import Y, Z, agree, built, features, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2), heads=3)
VIT = lambda name: EncoderInfo(name, 6, (2, 2), layers=12, heads=3)  # noqa: E731
TEACHER, STUDENT = 4 * r((2, 3, 4, 4), 29), 4 * r((2, 3, 4, 4), 31)


def test_the_released_loss_at_full_size():
    pairs = zip((11, 13, 17, 19), (59, 61, 67, 71), strict=True)
    shape = (1, 12, 256, 256)
    values = [cross_entropy(r(shape, student), r(shape, teacher)) for student, teacher in pairs]
    agree(torch.stack(values).mean(), 5.5780140951)


def test_one_pair_and_its_least_value():
    agree(cross_entropy(STUDENT, TEACHER), [1.8336555592, 1.8275954791])
    agree(cross_entropy(TEACHER, TEACHER).mean(), 0.9629684413)  # the teacher's entropy
    more = torch.cat([STUDENT, r((2, 5, 4, 4), 7)], dim=1)  # heads that the teacher does not have are free
    agree(cross_entropy(more, TEACHER), [1.8336555592, 1.8275954791])


def aligned(now=0, **options):
    method = built(HASTE(**options), BACKBONE, VIT)
    needs = method.needs(now, 400)
    if not needs.encoders:
        return needs, method.losses(step(step=now))
    for projector in range(len(method.projectors)):
        method.projectors[projector] = torch.nn.Identity()
    maps = {layer: TEACHER for layer in (-4, -3, -2, -1)}
    state = step(
        step=now,
        hidden={8: Z},
        attention={block: STUDENT for block in (5, 6, 7, 8)},
        features={"teacher": features(Y, attention=maps)},
    )
    state.share.logging = True
    return needs, method.losses(state), state.logs


def test_terms_blocks_and_layers():
    needs, losses, logs = aligned()
    assert needs.hidden_depths == (8,) and needs.attention_depths == (5, 6, 7, 8)
    assert needs.encoder_layers["teacher"].attention == (-4, -3, -2, -1)
    agree(losses["attention"].value, [1.8336555592, 1.8275954791])
    agree(losses["repa"].value.mean(), -0.0909803577)
    assert losses["attention"].weight == losses["repa"].weight == 0.5
    agree(logs["attention/teacher_entropy"], 0.9629684413)


@pytest.mark.parametrize(("blocks", "last"), [(12, 100), (24, 250), (28, 250)])
def test_it_ends_at_tau(blocks, last):
    method = built(HASTE(), BACKBONE._replace(depth=blocks), VIT)
    assert method.needs(last - 1, 400).encoders and not method.needs(last, 400).encoders
    assert method.losses(step(step=last)) == {}


def test_without_attention_it_is_repa_that_ends():
    needs, losses, _ = aligned(attention_weight=0.0)
    assert needs.attention_depths == () and list(losses) == ["repa"]
    repa = built(REPA(depth=8, align_until=0.25), BACKBONE, VIT)
    repa.projectors[0] = torch.nn.Identity()
    theirs = repa.losses(step(hidden={8: Z}, features={"teacher": features(Y)}))["repa"]
    assert torch.equal(losses["repa"].value, theirs.value) and losses["repa"].weight == theirs.weight
    assert aligned(now=100)[1] == repa.losses(step(step=100)) == {}


def test_an_encoder_without_attention_is_refused():
    with pytest.raises(ValueError, match="convolutional has no attention"):
        built(HASTE(encoder="convolutional"), BACKBONE)
    with pytest.raises(ValueError, match="do not pair up"):
        built(HASTE(blocks=(1, 2), layers=(1,)), BACKBONE, VIT)
