"""Contrastive flow matching against the released loss; who may be whose negative."""

import pytest
import torch

from methods.base import BackboneInfo
from methods.cfm import CFM
from methods.parts.distances import mean_square
from tests.helpers.official import agree, built, r, step, weighted

SHAPE, NULL = (4, 3, 4, 4), 10
BACKBONE = BackboneInfo("sit", 12, 6, (2, 2), classes=NULL)
X0, NOISE, PREDICTION = r(SHAPE, 7), r(SHAPE, 5), r(SHAPE, 11)  # the target is NOISE - X0
NEGATIVES = torch.tensor([1, 3, 1, 2])


def contrast(monkeypatch, label=(1, 2, 3, 4), **options):
    method = built(CFM(**options), BACKBONE)
    monkeypatch.setattr(method, "partners", lambda *_: NEGATIVES)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    state = step(x0=X0, noise=NOISE, prediction=PREDICTION, t=t, label=torch.tensor(label))
    return state, method.losses(state)["contrastive"]


def test_the_released_loss(monkeypatch):
    state, loss = contrast(monkeypatch)
    usual = mean_square(state.prediction, state.target)
    agree(usual, [0.2546852305, 0.2468735608, 0.2566337195, 0.2465945726])
    agree(loss.value, [0.2968124491, 0.2374543876, 0.2471791193, 0.2881638148])
    total = usual + loss.weight * loss.value
    agree(total, [0.2398446080, 0.2350008414, 0.2442747635, 0.2321863818])
    agree(usual.mean() + weighted(loss), 0.2378266487)


def test_the_released_loss_without_null_samples(monkeypatch):
    state, loss = contrast(monkeypatch, label=(1, NULL, 3, 4), skip_null=True)
    agree(loss.weight * loss.value / -0.05, [0.3957499321, 0, 0.3295721590, 0.3842184197])
    agree(mean_square(state.prediction, state.target).mean() + weighted(loss), 0.2373275144)
    _, none = contrast(monkeypatch, label=(NULL,) * 4, skip_null=True)
    agree(weighted(none), 0.0)


def test_negatives_are_others_drawn_uniformly():
    labels, draws = torch.tensor([0, 0, 1, 0]), torch.Generator().manual_seed(0)
    method = CFM()
    counts = torch.zeros(4, 4)
    for _ in range(3000):
        counts[torch.arange(4), method.partners(labels, draws)] += 1
    assert counts.diagonal().eq(0).all()
    expected = torch.full((4, 4), 1000.0).fill_diagonal_(0)
    assert (counts - expected).abs().max() < 5 * (3000 * 2 / 9) ** 0.5
    other_class = CFM(negatives="other-class")
    for _ in range(50):
        found = other_class.partners(labels, draws)
        assert found[[0, 1, 3]].tolist() == [2, 2, 2] and found[2] != 2
    alone = other_class.partners(torch.zeros(3, dtype=torch.long), draws)  # no other class: any other sample
    assert (alone != torch.arange(3)).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="unbounded"):
        built(CFM(weight=1.0), BACKBONE)
    with pytest.raises(ValueError, match="2 samples"):
        built(CFM(), BACKBONE).losses(step(x0=X0[:1], noise=NOISE[:1], prediction=X0[:1], t=torch.ones(1)))
    off = built(CFM(weight=0.0), BACKBONE)
    assert off.losses(step()) == {} and not off.needs(0, 10).whole_batch
