"""REG: alignment over N + 1 tokens against the released loss; what the state carries."""

import pytest
import torch

from methods.base import BackboneInfo, Draw, EncoderInfo
from methods.parts.distances import mean_square
from methods.reg import REG
from tests.helpers.official import NOISE, PREDICTION, X0, T, Y, agree, built, features, r, step, weighted

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))
CLS, CLS_NOISE, CLS_PREDICTION = r((2, 6), 37), r((2, 6), 47), r((2, 6), 41)
SEEN = {"teacher": features(Y, CLS)}


def test_the_released_loss():
    method = built(REG(), BACKBONE)
    method.projectors[0] = torch.nn.Identity()
    student = r((2, 5, 6), 43)
    state = step(hidden={4: student[:, 1:]}, extra_hidden={4: student[:, :1]}, features=SEEN)
    loss = method.losses(state)["repa"]
    agree(loss.value.mean(), -0.2142212973)
    token = mean_square(CLS_PREDICTION, CLS_NOISE - CLS)
    agree(token, [0.1089293938, 0.3344581429])
    denoising = mean_square(PREDICTION, NOISE - X0).mean()
    (extra,) = method.extras()
    agree(denoising + extra.weight * token.mean() + weighted(loss), 0.1525647508)


def test_the_state_holds_the_encoders_class_token():
    method = built(REG(), BACKBONE)
    (extra,) = method.extras()
    assert extra == type(extra)("cls", 6, "token", 0.03, True)
    found = method.steer(Draw(X0, NOISE, T, torch.zeros(2), SEEN, 0, 400, step().share)).extras["cls"]
    agree(((1 - T[:, None]) * found + T[:, None] * CLS_NOISE).sum(), 0.2551546392)


def test_the_token_is_needed_when_nothing_is_aligned_any_more():
    method = built(REG(align_until=0.5), BACKBONE)
    assert method.needs(399, 400).encoders == ("teacher",) and method.losses(step(step=399)) == {}
    alone = built(REG(weight=0.0), BACKBONE)
    assert alone.needs(0, 400).encoders == ("teacher",) and alone.needs(0, 400).hidden_depths == ()


def test_an_encoder_without_a_class_token_is_refused():
    without = lambda name: EncoderInfo(name, 6, (2, 2), class_token=False)  # noqa: E731
    with pytest.raises(ValueError, match="siglip-b has no class token"):
        built(REG(encoder="siglip-b"), BACKBONE, without)
    with pytest.raises(ValueError, match="one encoder"):
        built(REG(encoder="a+b"), BACKBONE)
