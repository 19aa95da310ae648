import pytest
import torch
from torch import nn

from bench.diffusion.conversions import to_score
from bench.diffusion.guidance import Guidance
from bench.diffusion.paths import coefficients
from tests.helpers.closed_forms import ExactModel, Output


class Network(nn.Module):
    """Predicts x w + label + t and a variance of its own; counts its calls."""

    num_classes = 7

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=dtype))
        self.calls: list[tuple[int, torch.dtype, torch.dtype]] = []

    def forward(self, x_t, t, label):
        self.calls.append((len(x_t), x_t.dtype, t.dtype))
        wide = label.view(-1, 1, 1, 1)
        return Output(x_t * self.weight + wide + t.view(-1, 1, 1, 1).to(x_t), x_t * wide)


@pytest.fixture
def x(generator):
    return torch.randn(5, 4, 2, 2, generator=generator)


LABEL = torch.tensor([0, 1, 2, 3, 6])


def test_scale_1_is_the_conditional_model_bit_for_bit_in_one_pass(x):
    network = Network()
    prediction, variance = Guidance(1.0, (0.2, 0.8), 3).predictor(network, LABEL, x)(x, 0.5)
    assert len(network.calls) == 1 and network.calls[0][0] == len(x)
    expected = network(x, torch.full((5,), 0.5), LABEL)
    assert torch.equal(prediction, expected.prediction) and torch.equal(variance, expected.variance)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
def test_guided_channels_extrapolate_from_the_null_class_and_others_stay_conditional(x, scale, channels):
    network, t = Network(), torch.full((5,), 0.5)
    prediction, variance = Guidance(scale, channels=channels).predictor(network, LABEL, x)(x, 0.5)
    conditional = network(x, t, LABEL)
    null = network(x, t, torch.full_like(LABEL, 7)).prediction
    expected = null + scale * (conditional.prediction - null)
    guided = 4 if channels is None else channels
    torch.testing.assert_close(prediction[:, :guided], expected[:, :guided])
    assert torch.equal(prediction[:, guided:], conditional.prediction[:, guided:])
    assert torch.equal(variance, conditional.variance)


def test_interval_includes_its_ends_and_skips_the_null_pass_outside(x):
    network = Network()
    predict = Guidance(1.5, (0.2, 0.7)).predictor(network, LABEL, x)
    for t in (0.1999, 0.2, 0.5, 0.7, 0.7001):
        predict(x, t)
    assert [rows for rows, *_ in network.calls] == [5, 10, 10, 10, 5]


@pytest.mark.parametrize(
    ("dtype", "time_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_model_is_called_in_its_own_dtype_and_answers_in_that_of_the_state(x, dtype, time_dtype):
    network = Network(dtype)
    prediction, _ = Guidance(1.5).predictor(network, LABEL, x)(x.double(), 0.5)
    assert network.calls == [(10, dtype, time_dtype)] and prediction.dtype == torch.float64


def test_guiding_the_velocity_guides_the_score_alike(mixture, generator):
    """The score is affine in the velocity, so SiT's and REPA's guidance (of drifts) are this one."""
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=generator)
    model, t = ExactModel(mixture, shift=0.1), torch.full((5,), 0.4, dtype=torch.float64)
    c = coefficients("linear", t.view(-1, 1, 1, 1))
    guided, _ = Guidance(2.5).predictor(model, LABEL, x)(x, 0.4)
    given, null = (
        to_score(model(x, t, label).prediction, "velocity", x, c)
        for label in (LABEL, torch.full_like(LABEL, 10))
    )
    torch.testing.assert_close(to_score(guided, "velocity", x, c), null + 2.5 * (given - null))


@pytest.mark.parametrize(
    "options", [{"scale": -1.0}, {"interval": (0.8, 0.2)}, {"interval": (0.0, 1.5)}, {"channels": 0}]
)
def test_impossible_options_are_refused_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Guidance(**options)


def test_a_model_without_a_null_class_cannot_be_guided(x):
    predict = Guidance(2.0).predictor(lambda x, t, label: Output(x), LABEL, x)
    with pytest.raises(ValueError, match="num_classes"):
        predict(x, 0.5)
