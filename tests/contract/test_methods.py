"""The contract of methods, for every registered one.

The checks are those of `python -m bench.check method`; here they run over the whole registry.
"""

import pytest

import methods
from bench.benchmark.checks import method as checks
from bench.benchmark.checks.trial import Trial
from bench.core.parallel import Parallelism
from methods import cards

BACKBONE = "sit-pico"
CHECKS = {name: check for name, check in checks.CHECKS.items() if name != "processes"}
# Methods that look at an encoder's attention or class token take one that has them.
OPTIONS = {name: "[encoder=digits-vit]" for name in ("haste", "reg", "reglue", "repi")}
NAMES = methods.names()
# With whole weights; and with shards, where the network is called in ways of the method's own.
BY_TWO = [(name, False) for name in NAMES]
BY_TWO += [(card.name, True) for card in cards.every() if card.kind in ("hooks", "state")]


def trial(name, backbone=BACKBONE):
    return Trial(f"{name}{OPTIONS.get(name, '')}", backbone)


@pytest.mark.parametrize("name", NAMES)
def test_every_promise_holds(name):
    for result in checks.check_method(trial(name).method, BACKBONE, CHECKS):
        assert result.state != "failed", f"{result.stage}: {result.text}"


@pytest.fixture(scope="module")
def by_two():
    """Methods trained by two processes together; one start of processes serves all."""
    trained = checks.trained_by_two([(trial(name), Parallelism(fsdp=shard)) for name, shard in BY_TWO])
    return dict(zip(BY_TWO, trained, strict=True))


@pytest.mark.parametrize(("name", "shard"), BY_TWO)
def test_two_processes_train_what_one_trains(name, shard, by_two):
    found = by_two[name, shard]
    checks.refuse_difference(found, checks.uninterrupted(trial(name)), "two processes differ", "")


@pytest.mark.parametrize("name", ["baseline", "repa", "irepa", "vrpo", "layersync"])
def test_losses_alone_train_a_dit_as_well(name):
    assert checks.losses(trial(name, "dit-pico"))
