"""The dispersive loss against released code and closed forms."""

import math

import pytest
import torch

from methods.base import BackboneInfo, Share
from methods.dispersive import Dispersive, repulsion
from tests.helpers.official import agree, built, r, step

BACKBONE = BackboneInfo("sit", 12, 6, (2, 2))
HIDDEN = 4 * r((4, 4, 6), 17)


def dispersed(hidden, **options):
    method = built(Dispersive(**options), BACKBONE)
    samples = len(hidden)
    x0 = torch.zeros(samples, 1, 4, 4, dtype=torch.float64)
    t = torch.full((samples,), 0.5, dtype=torch.float64)
    return method.losses(step(x0=x0, noise=x0, prediction=x0, t=t, hidden={method.block: hidden}))[
        "dispersive"
    ]


def test_the_released_loss_and_its_gradient():
    agree(dispersed(HIDDEN).value, [-1.3749402513] * 4)
    hidden = HIDDEN.clone().requires_grad_()
    loss = dispersed(hidden, tau=1.0)
    agree(loss.value, [-1.2401933228] * 4)
    loss.value.mean().backward()
    agree(hidden.grad.norm(), 0.0754459539)
    agree(hidden.grad[0, 0, :3], [0.0052743556] * 3)


def test_closed_forms():
    same = HIDDEN[:1].expand(4, -1, -1).clone().requires_grad_()
    loss = dispersed(same)
    agree(loss.value, [0.0] * 4)
    loss.value.mean().backward()
    assert same.grad.isfinite().all()
    pair = torch.stack([torch.zeros(1, 24), torch.ones(1, 24)]).double().view(1, 2, 24)  # |z|^2 / D = 1
    agree(repulsion(pair, 1.0), [math.log((2 + 2 / math.e) / 4)])


def test_groups_are_consecutive_samples_of_the_step():
    found = dispersed(HIDDEN, group=2).value
    first, second = (dispersed(HIDDEN[rows]).value[0] for rows in (slice(0, 2), slice(2, 4)))
    agree(found, torch.stack([first, first, second, second]))
    with pytest.raises(ValueError, match="group=3"):
        dispersed(HIDDEN, group=3)


def test_a_share_of_the_batch_has_the_loss_of_all_of_it():
    method = built(Dispersive(), BACKBONE)
    everyone = HIDDEN.flatten(1)
    share = Share(
        batch_size=4,
        rows=slice(2, 4),
        generator=torch.Generator(),
        device=torch.device("cpu"),
        noise_level=torch.ones(4),
        gather=lambda values, gradient=False: everyone if gradient else pytest.fail("needs the gradient"),
    )
    agree(method.losses(step(hidden={3: HIDDEN[2:]}, share=share))["dispersive"].value, [-1.3749402513] * 2)


@pytest.mark.parametrize(("depth", "block"), [(0, 3), (-1, 12), (5, 5)])
def test_the_block(depth, block):
    assert built(Dispersive(depth=depth), BACKBONE).needs(0, 1).hidden_depths == (block,)
