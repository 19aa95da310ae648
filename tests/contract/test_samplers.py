"""Every registered sampler and preset, on data that is one narrow Gaussian per class.

The perfect network for such data, N(m, s^2), is known in closed form: on the linear path x_t has the mean
(1 - t) m and the variance (1 - t)^2 s^2 + t^2, along which every point moves; for DDPM the expected noise is
(x_t - sqrt(a) m) sqrt(1 - a) / (a s^2 + 1 - a). Every sampler ends within the Gaussian of its label.
"""

import pytest
import torch

from bench.core import grammar
from bench.core.errors import UserError
from bench.diffusion import samplers
from bench.diffusion.guidance import Guidance
from bench.diffusion.objectives import DDPM, FlowMatching
from tests.helpers.closed_forms import Output

NAMES = (*samplers.SAMPLERS, *samplers.PRESETS)
LABEL = torch.tensor([0, 3, 1])
SHAPE = (1, 2, 2)
MEANS = torch.linspace(-0.9, 0.9, 5 * 4).view(5, *SHAPE)  # 0.38 apart between classes
SPREAD = 0.04
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


class Perfect(torch.nn.Module):
    """Counts its calls; the last class is the null class."""

    num_classes = 5

    def __init__(self, ddpm: bool) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.ddpm, self.calls = ddpm, 0

    def forward(self, x_t, t, label):
        self.calls += 1
        mean, t = MEANS.to(x_t.dtype)[label.clamp(max=4)], t.view(-1, 1, 1, 1).to(x_t.dtype)
        if not self.ddpm:
            rate = (t - (1 - t) * SPREAD**2) / ((1 - t) ** 2 * SPREAD**2 + t**2)
            return Output(rate * (x_t - (1 - t) * mean) - mean)
        a = ABAR.to(x_t.dtype)[(t * 1000).round().long().clamp(1, 1000) - 1]
        noise = (x_t - a.sqrt() * mean) * (1 - a).sqrt() / (a * SPREAD**2 + 1 - a)
        return Output(noise, torch.zeros_like(x_t))


def sample(name, rows=slice(None)):
    """Samples of some rows, each with a stream of noise of its own; and the network that was called."""
    text, _ = grammar.split(samplers.PRESETS.get(name, name))
    ddpm = text in ("ddpm", "ddim")
    streams = [torch.Generator().manual_seed(seed) for seed in range(len(LABEL))][rows]

    def step_noise():
        return torch.stack([torch.randn(SHAPE, generator=stream) for stream in streams])

    network = Perfect(ddpm)
    process = DDPM() if ddpm else FlowMatching()
    found = samplers.get(name).sample(
        network, step_noise(), LABEL[rows], process=process, guidance=Guidance(), step_noise=step_noise
    )
    return found, network


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_within_the_gaussian_of_the_label(name):
    found, _ = sample(name)
    assert found.shape == (3, *SHAPE) and found.dtype == torch.float32
    distance = (found - MEANS[LABEL]).abs().max().item()
    assert distance < 0.38 / 2, distance  # nearer to the label's mean than to any other's


@pytest.mark.parametrize("name", NAMES)
def test_it_calls_the_network_as_often_as_it_says(name):
    evaluations = samplers.get(name).evaluations
    _, network = sample(name)
    assert network.calls > 0 if evaluations is None else network.calls == evaluations


@pytest.mark.parametrize("name", NAMES)
def test_the_same_noise_gives_the_same_samples(name):
    assert torch.equal(sample(name)[0], sample(name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_its_resolved_name_is_the_same_sampler_and_can_be_typed(name):
    assert samplers.get(samplers.resolved(name)) == samplers.get(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_in_one_line(name):
    with pytest.raises(UserError) as refused:
        samplers.get(f"{name}[colour=red]")
    assert "colour" in str(refused.value) and "\n" not in str(refused.value)
