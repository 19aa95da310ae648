"""The contract of backbones, for every registered one; the small ones also pass the checks of a network.

The checks are those of `python -m bench.check backbone`, without its training runs, which the contract of
methods makes.
"""

import pytest

import backbones
from bench.benchmark.checks.backbone import CHECKS
from bench.benchmark.checks.result import run_checks
from bench.config import resolve

WITHOUT_TRAINING = {
    name: check for name, check in CHECKS.items() if name not in ("training", "resume", "samples")
}


@pytest.mark.parametrize("name", backbones.names())
def test_an_architecture_is_determined_by_its_name_and_states_its_size(name):
    architecture = resolve.architecture(name)
    assert resolve.architecture(architecture.name) == architecture
    rows, columns = architecture.grid(32)
    assert (architecture.patch * rows, architecture.patch * columns) == (32, 32)
    assert architecture.width % architecture.heads == 0 and architecture.depth > 0
    assert architecture.parameters(32, 4, 1000) > architecture.parameters(32, 4, 10) > 0
    assert architecture.flops(64, 4) > 4 * architecture.flops(32, 4) * 0.9  # more tokens; attention adds
    assert architecture.process in ("flow", "ddpm")


@pytest.mark.parametrize("name", [name for name in backbones.names() if name.endswith("-pico")])
def test_a_network_keeps_the_contract(name):
    for result in run_checks(WITHOUT_TRAINING, name, name):
        assert result.state != "failed", f"{result.stage}: {result.text}"
