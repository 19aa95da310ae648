"""Properties of all registered samplers, and the definitions of the presets."""

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
    sde = "euler-maruyama[steps=50,diffusion=linear,float64=true]"
    assert samplers.get("repa-sde-250[steps=50]") == samplers.get(sde)
    assert samplers.get("sit-sde-250") == samplers.get("repa-sde-250[diffusion=sigma,float64=false]")


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


PATHS = ["linear", "gvp"]


class Repa:
    """Both samplers of REPA's code on the exact model, guided for t in [0.205, 0.705]."""

    def __init__(self, model, path, label, scale):
        self.model, self.path, self.label, self.scale = model, path, label, scale

    def velocity(self, x, t, label):
        return self.model(x, torch.full((len(x),), t, dtype=torch.float64), label).prediction

    def score(self, velocity, x, t):
        alpha, sigma, alpha_dot, sigma_dot = 1 - t, t, -1.0, 1.0
        if self.path == "gvp":
            angle = math.pi / 2 * t
            alpha, sigma = math.cos(angle), math.sin(angle)
            alpha_dot, sigma_dot = -math.pi / 2 * sigma, math.pi / 2 * alpha
        ratio = alpha / alpha_dot
        return (ratio * velocity - x) / (sigma**2 - ratio * sigma_dot * sigma)

    def drift(self, x, t, label):
        velocity = self.velocity(x, t, label)
        return velocity - 0.5 * (2 * t) * self.score(velocity, x, t)

    def guided(self, field, x, t, decided_at):
        if not 0.205 <= decided_at <= 0.705:  # on no grid point
            return field(x, t, self.label)
        null = field(x, t, torch.full_like(self.label, self.model.num_classes))
        return null + self.scale * (field(x, t, self.label) - null)

    def sde(self, x, noise):
        times = [1 - i * 0.96 / 249 for i in range(250)]
        for t, t_next in pairwise(times):
            x = (
                x
                + self.guided(self.drift, x, t, t) * (t_next - t)
                + math.sqrt(2 * t * (t - t_next)) * noise()
            )
        return x - 0.04 * self.guided(self.drift, x, 0.04, 0.04)

    def ode(self, x, steps):
        for i in range(steps):
            t, t_next = 1 - i / steps, 1 - (i + 1) / steps
            slope = self.guided(self.velocity, x, t, t)
            ahead = x + (t_next - t) * slope
            if i < steps - 1:
                slope = 0.5 * slope + 0.5 * self.guided(self.velocity, ahead, t_next, t)
            x = x + (t_next - t) * slope
        return x


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("preset", ["repa-sde-250", "repa-ode-heun-99"])
def test_repa_presets_are_repas_samplers_step_by_step(mixture, preset, path):
    model = ExactModel(mixture, path, shift=0.2)
    streams = [torch.Generator().manual_seed(5) for _ in range(2)]
    start = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def fresh(stream):
        return torch.randn(start.shape, dtype=torch.float64, generator=stream)

    theirs = Repa(model, path, LABEL, 1.8)
    expected = theirs.sde(start, lambda: fresh(streams[0])) if "sde" in preset else theirs.ode(start, 50)
    model.times.clear()
    found = samplers.get(preset).sample(
        model,
        start,
        LABEL,
        process=FlowMatching(path=path),
        guidance=Guidance(1.8, (0.205, 0.705)),
        step_noise=lambda: fresh(streams[1]),
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert len(model.times) == samplers.get(preset).evaluations


def test_the_corrector_of_heun_is_guided_by_its_own_time_unless_told_otherwise(mixture):
    """Steps of 0.25 and an interval that ends at 0.5: `next` guides the corrector of the step to 0.5."""
    guided, noise = {}, torch.zeros(4, 1, 2, 2, dtype=torch.float64)
    for choice in ("next", "current"):
        model = ExactModel(mixture)
        samplers.get(f"heun[steps=4,corrector_guidance={choice}]").sample(
            model,
            noise,
            LABEL,
            process=FlowMatching(),
            guidance=Guidance(2.0, (0.3, 0.5)),
            step_noise=lambda: noise,
        )
        guided[choice] = [rows == 8 for rows in model.rows]
    assert guided["next"] == [False, False, False, True, True, False, False, False]
    assert guided["current"] == [False, False, False, False, True, True, False, False]
