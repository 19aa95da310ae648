"""Random streams: a function of (seed, name, counters), nothing else."""

import torch

from bench.core.seeding import data_order, generator, seed_of


def test_streams_and_counters_are_separate():
    keys = [(0, "noise", 0), (0, "noise", 1), (1, "noise", 0), (0, "time", 0), (0, "noise")]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_neighbouring_streams_are_uncorrelated():
    draws = torch.stack([torch.randn(20_000, generator=generator(0, "noise", step)) for step in range(5)])
    correlations = torch.corrcoef(draws) - torch.eye(5)
    assert correlations.abs().max() < 5 / 20_000**0.5  # five standard errors


def test_every_epoch_sees_every_record_once():
    order = data_order(seed=3, records=50, start=0, count=150)
    for epoch in order.split(50):
        assert sorted(epoch.tolist()) == list(range(50))
    assert not torch.equal(order[:50], order[50:100])


def test_any_piece_of_the_order_can_be_entered_anywhere():
    whole = data_order(seed=3, records=50, start=0, count=200)
    pieces = [data_order(seed=3, records=50, start=start, count=16) for start in range(0, 192, 16)]
    assert torch.equal(torch.cat(pieces), whole[:192])
