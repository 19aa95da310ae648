"""SARA against its equations, and where each term's gradient goes."""

import torch.nn.functional as F

from methods.base import BackboneInfo
from methods.sara import SARA, softplus_mean, structure
from tests.helpers.official import Y, Z, agree, built, features, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))


def test_the_structural_distance():
    agree(structure(Z, Y, summed=False), [0.6157870901, 0.2878023399])
    agree(structure(Z, Y, summed=True).mean(), 7.2287154395)


def test_the_adversary():
    real, fake = 4 * r((2, 4), 61), 4 * r((2, 4), 67)
    agree((softplus_mean(-real) + softplus_mean(fake)).mean(), 1.6555877503)
    agree(softplus_mean(-fake).mean(), 1.0382811879)


def terms(**options):
    method = built(SARA(**options), BACKBONE)
    hidden = Z.clone().requires_grad_()
    return method, hidden, method.losses(step(hidden={4: hidden}, features={"teacher": features(Y)}))


def test_terms_and_weights():
    method, hidden, losses = terms()
    assert [loss.weight for loss in losses.values()] == [0.5, 0.5, 0.05, 1.0]
    projected = method.projectors[0](hidden)
    agree(losses["structure"].value, structure(projected, Y, summed=False))
    scores = method.discriminator(projected)[..., 0]
    agree(losses["fool"].value, F.softplus(-scores).mean(dim=1))
    agree(
        losses["discriminate"].value,
        (F.softplus(-method.discriminator(Y)[..., 0]) + F.softplus(scores)).mean(1),
    )


def test_one_backward_trains_both_sides_apart():
    method, hidden, losses = terms()
    losses["fool"].value.sum().backward(retain_graph=True)
    assert hidden.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in method.discriminator.parameters())
    hidden.grad = None
    losses["discriminate"].value.sum().backward()
    assert hidden.grad is None
    assert all(parameter.grad is not None for parameter in method.discriminator.parameters())


def test_without_structure_and_adversary_it_is_repa():
    _, _, losses = terms(structure=0.0, adversarial=0.0)
    assert list(losses) == ["repa"]
    agree(losses["repa"].value, terms()[2]["repa"].value.detach())
