"""REPI against its equations: the supervision, the scaffold, and what trains when."""

import pytest

from methods.base import BackboneInfo, Draw, EncoderInfo
from methods.repi import REPI
from tests.helpers.official import NOISE, X0, T, agree, built, features, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2), heads=2)
VIT = lambda name: EncoderInfo(name, 5, (2, 2), layers=12, heads=1)  # noqa: E731
SEEN = {"teacher": features(r((2, 4, 5), 3), keys_values={-1: (r((2, 4, 5), 19), r((2, 4, 5), 23))})}


def draw(method, now):
    state = step()
    return method.steer(Draw(X0, NOISE, T, state.label, SEEN, now, 400, state.share))


def test_the_supervision(monkeypatch):
    keys, theirs, values, their_values = (r((2, 2, 4, 3), p) for p in (5, 7, 11, 13))
    method = built(REPI(), BACKBONE, VIT)
    monkeypatch.setattr(method, "mapped", lambda *_: (theirs, their_values))
    loss = method.losses(step(step=20, keys_values={6: (keys, values)}, features=SEEN))["internalise"]
    agree(loss.value, [0.3056780742, 0.3356360931])
    assert loss.weight == 2


def test_the_borrowed_keys_and_values_change_the_attention_as_computed_by_hand():
    queries = r((2, 2, 4, 3), 17)
    for keys, values, expected in ((7, 13, 0.4230516457), (5, 11, 0.7395790481)):
        weights = (queries @ r((2, 2, 4, 3), keys).transpose(2, 3) / 3**0.5).softmax(dim=-1)
        agree((weights @ r((2, 2, 4, 3), values)).square().sum(), expected)


def test_heads_are_laid_out_as_in_the_backbones_attention():
    """Channels head * (D / heads) .. belong to a head, for keys and for values."""
    method = built(REPI(), BACKBONE, VIT)
    key, value = draw(method, 0).replace[6]
    assert key.shape == value.shape == (2, 2, 4, 3)
    for found, layer, index in ((key, method.key, 0), (value, method.value, 1)):
        whole = layer(SEEN["teacher"].keys_values[-1][index])
        agree(found[:, 1], whole[:, :, 3:])


def test_the_scaffold_comes_first_and_trains_the_maps():
    method = built(REPI(), BACKBONE, VIT)
    before, after = method.needs(19, 400), method.needs(20, 400)
    assert before.keys_values_depths == () and after.keys_values_depths == (6,)
    assert before.encoder_layers["teacher"].keys_values == (-1,)
    assert method.losses(step(step=19)) == {} and not draw(method, 20).replace
    sum(x.sum() for x in draw(method, 19).replace[6]).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.zero_grad()
    own = (r((2, 2, 4, 3), 5).requires_grad_(), r((2, 2, 4, 3), 11).requires_grad_())
    method.losses(step(step=20, keys_values={6: own}, features=SEEN))["internalise"].value.sum().backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    assert all(x.grad is not None for x in own)


def test_nothing_of_it_is_the_baseline():
    off = built(REPI(weight=0.0, scaffold=0.0), BACKBONE, VIT)
    assert not off.needs(0, 400).encoders and list(off.parameters()) == []
    assert off.losses(step()) == {} and not draw(off, 0).replace


@pytest.mark.parametrize(("blocks", "block"), [(12, 6), (24, 8), (28, 8), (4, 2)])
def test_published_blocks_and_refusals(blocks, block):
    assert built(REPI(), BACKBONE._replace(depth=blocks), VIT).block == block
    with pytest.raises(ValueError, match="has no keys and values"):
        built(REPI(), BACKBONE)
    with pytest.raises(ValueError, match=r"gives \(3, 3\) tokens"):
        built(REPI(), BACKBONE._replace(grid=(2, 2)), lambda name: EncoderInfo(name, 5, (3, 3), heads=1))
