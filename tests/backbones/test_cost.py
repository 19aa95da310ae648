"""Closed forms of size and cost against published counts, built networks and torch's own FLOP counter."""

import pytest
import torch

import backbones
from backbones import cost

OPTIONS = [{}, {"qk_norm": True}, {"qk_norm": True, "rms_norm": True}, {"rope": True}, {"swiglu": True}]
PUBLISHED = {  # with learned variance, 4 latent channels, input 32, 1000 classes
    "s/2": 32_963_360,
    "b/2": 130_512_416,
    "l/2": 458_102_816,
    "xl/2": 675_129_632,
    "xl/4": 675_074_432,
    "xl/8": 675_683_072,
}
ALL = [f"{f}-{size}/{patch}" for f in ("sit", "dit") for size in ("s", "b", "l", "xl") for patch in (2, 4, 8)]


def on_meta(architecture, **image):
    with torch.device("meta"):
        return backbones.build(architecture, **image)


@pytest.mark.parametrize("family", ["sit", "dit"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(family, name):
    architecture = backbones.architecture(f"{family}-{name}", learned_variance=True)
    assert cost.parameters(architecture, 32, 4, 1000) == PUBLISHED[name]
    network = on_meta(architecture, input_size=32, channels=4, num_classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["sit-ti", "dit-ti", *ALL])
def test_parameters_of_every_variant_are_those_of_the_built_network(name, options):
    architecture = backbones.architecture(name, **options)
    network = on_meta(architecture, input_size=32, channels=4, num_classes=1000)
    built = sum(parameter.numel() for parameter in network.parameters())
    assert cost.parameters(architecture, 32, 4, 1000) == built


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["sit-ti", "dit-ti", "sit-s/4", "dit-b/8"])
def test_flops_are_those_torch_counts(name, options):
    architecture = backbones.architecture(name, **options)
    network = backbones.build(architecture, input_size=16, channels=3, num_classes=7)
    with cost.counter() as counter, torch.no_grad():
        network(torch.randn(2, 3, 16, 16), torch.rand(2), torch.zeros(2, dtype=torch.long))
    assert 2 * cost.flops(architecture, 16, 3) == counter.get_total_flops()


def test_logits_that_are_looked_at_cost_a_product_forward_and_two_backward():
    architecture = backbones.architecture("sit-pico")  # 16 tokens of width 32
    plain, looked = (cost.counted_step(architecture, 8, 1, attention_depths=d) for d in ((), (1, 2)))
    assert looked - plain == 2 * 3 * (2 * 16 * 16 * 32)
