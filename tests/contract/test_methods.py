"""The contract of methods, for every registered one.

The checks are those of `python -m bench.check method`; here they run over the whole registry.
"""

import pytest

import methods
from bench.checks import method as checks
from bench.checks.trial import Trial

BACKBONE = "sit-pico"
CHECKS = {name: check for name, check in checks.CHECKS.items() if name != "processes"}
# Methods that look at an encoder's attention or class token take one that has them.
OPTIONS = {name: "[encoder=digits-vit]" for name in ("haste", "reg", "reglue", "repi")}
NAMES = methods.names()


def trial(name, backbone=BACKBONE):
    return Trial(f"{name}{OPTIONS.get(name, '')}", backbone)


@pytest.mark.parametrize("name", NAMES)
def test_every_promise_holds(name):
    for result in checks.check_method(trial(name).method, BACKBONE, CHECKS):
        assert result.state != "failed", f"{result.stage}: {result.text}"


@pytest.fixture(scope="module")
def by_two():
    """Every method trained by two processes together; one start of processes serves all."""
    trials = [trial(name) for name in NAMES]
    return dict(zip(NAMES, checks.trained_by_two(trials), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_what_one_trains(name, by_two):
    checks.refuse_difference(by_two[name], checks.uninterrupted(trial(name)), "two processes differ", "")


@pytest.mark.parametrize("name", ["baseline", "repa", "irepa", "vrpo", "layersync"])
def test_losses_alone_train_a_dit_as_well(name):
    assert checks.losses(trial(name, "dit-pico"))
