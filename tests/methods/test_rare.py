"""RARE against its equations: token weights, whitening, and the release."""

import pytest
import torch

from methods.base import BackboneInfo, EncoderInfo
from methods.irepa import IREPA
from methods.parts.distances import spatial_norm, token_cosines
from methods.rare import RARE, token_weights
from tests.helpers.official import Returns, Y, Z, agree, built, features, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))


def test_token_weights():
    eta = (1 - token_cosines(Z, Y)) / 2
    agree(token_cosines(Z, Y)[0], [0.9128161943, -0.5159973456, -0.6680847650, 0.8341061365])
    agree(token_weights(eta, 4.0)[0], [0.2377849586, 1.6780429852, 1.8463870975, 0.2377849586])
    agree(token_weights(eta, 4.0)[1], [0.8652752500, 0.9301665131, 1.3421254732, 0.8624327637])


def test_the_loss(monkeypatch):
    method = built(RARE(components=0), BACKBONE)
    method.projectors[0] = Returns(Z)
    monkeypatch.setattr(method, "target", lambda _: Y)
    loss = method.losses(step(hidden={4: Z}, features={"teacher": features(Y)}))["rare"]
    agree(loss.value, [0.4210042405, -0.0031398808])
    agree(loss.value.mean(), 0.2089321799)


def test_without_weights_and_whitening_it_is_irepa():
    ours, theirs = built(RARE(components=0, clip=1.0), BACKBONE), built(IREPA(), BACKBONE)
    state = step(hidden={4: Z}, features={"teacher": features(Y)})
    agree(ours.losses(state)["rare"].value, theirs.losses(state)["irepa"].value)


def test_the_teacher_is_whitened_by_statistics_of_the_data():
    data = r((8, 4, 6), 13)
    layers = []

    def sample(count, seen):
        layers.append((count, seen.hidden))
        yield from (features(part, hidden={-2: part}) for part in data.split(3))

    info = EncoderInfo("teacher", 6, (2, 2), layers=12, heads=2, sample=sample)
    method = built(RARE(components=3, layer=-2), BACKBONE, lambda _: info)
    assert layers == [(20_000, (-2,))]
    assert method.needs(0, 10).encoder_layers["teacher"].hidden == (-2,)
    white = method.whitening(data).flatten(0, 1)
    agree(white.mean(dim=0), [0.0] * 3, 1e-6)
    agree(white.T @ white / len(white), torch.eye(3, dtype=torch.float64), 1e-5)
    target = method.target(features(0 * data, hidden={-2: data}))
    agree(target, spatial_norm(method.whitening(data), 0.6))


def test_the_release():
    """eta stays where it is, so both averages agree as soon as the warm-up of an eighth is over."""
    method = built(RARE(components=0), BACKBONE)
    steps, seen = 80, []
    state = step(hidden={4: Z}, features={"teacher": features(Y)}, steps=steps)
    for now in range(steps):
        state.step = now
        loss = method.losses(state)
        seen.append(loss["rare"].weight if loss else 0.0)
        assert bool(method.needs(now, steps).encoders) == bool(loss)
        method.after_backward(lambda total: total)
    assert method.released == 11
    assert seen[:12] == [1.0] * 12  # the first of the ramp is still 1
    assert seen[16] == pytest.approx(0.5) and seen[21:] == [0.0] * 59


def test_a_falling_eta_delays_the_release_until_the_latest():
    method = built(RARE(components=0), BACKBONE)
    for now in range(60):
        method._errors, method._now = [torch.tensor([0.5 * 0.9**now, 1.0]).double()], (now, 80)
        method.after_backward(lambda total: total)
    assert method.released == 51  # 5/8 of 80 steps
    assert method.averages.tolist() == pytest.approx([0.5 * 0.9**59, 0.5 * average_of_powers(0.9, 0.75, 60)])
    again = built(RARE(components=0), BACKBONE)
    again.load_state_dict(method.state_dict())
    assert again.strength(70, 80) == 0 and again.strength(50, 80) == 1


def average_of_powers(ratio, momentum, count):
    """sum_i (1 - m) m^(count - 1 - i) ratio^i, summed by hand."""
    return sum((1 - momentum) * momentum ** (count - 1 - i) * ratio**i for i in range(count))
