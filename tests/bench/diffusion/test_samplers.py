"""What holds for every sampler in the registry, and what the presets are."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from bench.core import grammar
from bench.core.errors import UserError
from bench.diffusion import samplers
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import DDPM, FlowMatching
from tests.helpers.closed_forms import ExactModel, Output

SHORT = [
    "euler[steps=6]",
    "heun[steps=6]",
    "dopri5",
    "euler-maruyama[steps=6]",
    "ddpm[steps=6]",
    "ddim[steps=6,eta=0.5]",
]
LABEL = torch.tensor([0, 3, 1, 2])


def process_of(name):
    return DDPM() if grammar.split(name)[0] in ("ddpm", "ddim") or "ddpm" in name else FlowMatching()


class Network(nn.Module):
    """Small, smooth, conditional; records the dtype and number of calls."""

    num_classes = 5

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7))
        self.dtypes: list[torch.dtype] = []

    def forward(self, x_t, t, label):
        self.dtypes.append(x_t.dtype)
        prediction = torch.tanh(self.slope * x_t + t.view(-1, 1, 1, 1)) + 0.1 * label.view(-1, 1, 1, 1)
        return Output(prediction, torch.tanh(x_t))


def draw(name, network=None, seeds=(0, 1, 2, 3), label=LABEL, guidance=None):
    """Samples with one stream of noise per sample, as the suite draws them."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def step_noise():
        return torch.stack([torch.randn(4, 2, 2, generator=stream) for stream in streams])

    return samplers.get(name).sample(
        network or Network(),
        step_noise(),
        label,
        process=process_of(name),
        guidance=guidance or Guidance(1.5, (0.1, 0.8)),
        step_noise=step_noise,
    )


def test_every_registered_sampler_is_tested_here():
    assert {grammar.split(name)[0] for name in SHORT} == set(samplers.SAMPLERS)


@pytest.mark.parametrize("name", [name for name in SHORT if name != "dopri5"])
def test_a_sample_does_not_depend_on_its_batch(name):
    together = draw(name)
    for i in range(4):
        alone = draw(name, seeds=(i,), label=LABEL[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHORT)
def test_samplers_leave_the_global_random_stream_alone(name):
    before = torch.get_rng_state()
    assert torch.equal(draw(name), draw(name))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [*SHORT, "euler-maruyama[steps=6,last_step=none]"])
def test_evaluations_are_the_calls_made(name):
    network = Network()
    draw(name, network, guidance=Guidance(1.5))
    assert samplers.get(name).evaluations in (len(network.dtypes), None)


@pytest.mark.parametrize("name", SHORT)
def test_a_float64_state_refines_the_sample_and_leaves_the_network_in_float32(name):
    inside = name[:-1] + ",float64=true]" if name.endswith("]") else f"{name}[float64=true]"
    network = Network()
    found = draw(inside, network)
    assert set(network.dtypes) == {torch.float32} and found.dtype == torch.float32
    torch.testing.assert_close(found, draw(name), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SHORT)
def test_samplers_refuse_the_other_process(name):
    other = FlowMatching() if process_of(name) == DDPM() else DDPM()
    noise = torch.zeros(1, 4, 2, 2)
    with pytest.raises(UserError, match="process"):
        samplers.get(name).sample(
            Network(), noise, LABEL[:1], process=other, guidance=Guidance(), step_noise=lambda: noise
        )


@pytest.mark.parametrize("name", samplers.PRESETS)
def test_presets_cost_the_evaluations_in_their_names(name):
    evaluations = samplers.get(name).evaluations
    assert evaluations is None if name == "sit-ode-dopri5" else evaluations == int(name.rpartition("-")[2])


def test_presets_take_options_and_say_what_they_are():
    assert samplers.get("repa-sde-250[steps=50]") == samplers.get("euler-maruyama[steps=50,float64=true]")
    assert samplers.get("sit-sde-250") == samplers.get("repa-sde-250[float64=false]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hoin", "Did you mean 'heun'"),
        ("heun[step=3]", "steps"),
        ("heun[steps=many]", "steps=many"),
        ("ddpm[steps=5000]", "steps=5000"),
        ("repa-sde-250[diffusion=cubic]", "diffusion=cubic"),
    ],
)
def test_what_cannot_be_a_sampler_is_one_clear_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        samplers.get(text)
    assert "\n" not in str(error.value)


def test_repa_preset_is_repas_sampler_step_by_step(mixture):
    """Paper and code of REPA: w = 2t, drift v - w s / 2, guidance of the drift for t in [0, 0.7]."""
    model, scale = ExactModel(mixture, shift=0.2), 1.8
    streams = [torch.Generator().manual_seed(5) for _ in range(2)]
    noise = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    label = torch.tensor([0, 3, 1, 2])

    def drift(x, t, label):
        velocity = model(x, torch.full((4,), t, dtype=torch.float64), label).prediction
        score = -((1 - t) * velocity + x) / t
        return velocity - 0.5 * (2 * t) * score

    def guided_drift(x, t):
        if not 0 <= t <= 0.7:
            return drift(x, t, label)
        null = drift(x, t, torch.full_like(label, model.num_classes))
        return null + scale * (drift(x, t, label) - null)

    times = [1 - i * 0.96 / 249 for i in range(250)]
    x = noise
    for t, t_next in pairwise(times):
        fresh = torch.randn(x.shape, dtype=torch.float64, generator=streams[0])
        x = x + guided_drift(x, t) * (t_next - t) + math.sqrt(2 * t) * math.sqrt(t - t_next) * fresh
    x = x - 0.04 * guided_drift(x, 0.04)

    model.times.clear()
    found = samplers.get("repa-sde-250").sample(
        model,
        noise,
        label,
        process=FlowMatching(),
        guidance=Guidance(scale, (0.0, 0.7)),
        step_noise=lambda: torch.randn(x.shape, dtype=torch.float64, generator=streams[1]),
    )
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert len(model.times) == 250 and model.times[0] == 1.0 and model.times[-1] == pytest.approx(0.04)
