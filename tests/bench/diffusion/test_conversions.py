import pytest
import torch

from bench.diffusion import conversions
from bench.diffusion.paths import coefficients
from tests.helpers.closed_forms import PATHS

KINDS = ("velocity", "noise", "x0", "score")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_conversions_agree_with_the_closed_forms_of_a_mixture(path, kind, mixture, generator):
    t = torch.linspace(0.02, 0.98, 64, dtype=torch.float64)
    x_t = 2 * torch.randn(64, 1, 2, 2, dtype=torch.float64, generator=generator)
    c = coefficients(path, t.view(-1, 1, 1, 1))
    value = mixture.quantity(kind, x_t, path, t)
    for wanted in KINDS:
        convert = getattr(conversions, f"to_{wanted}")
        torch.testing.assert_close(
            convert(value, kind, x_t, c), mixture.quantity(wanted, x_t, path, t), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("path", PATHS)
def test_velocity_gives_score_and_data_at_pure_noise(path, mixture, generator):
    t = torch.ones(8, dtype=torch.float64)
    x_t = torch.randn(8, 1, 2, 2, dtype=torch.float64, generator=generator)
    c = coefficients(path, t.view(-1, 1, 1, 1))
    velocity = mixture.velocity(x_t, path, t)
    for wanted in ("score", "x0"):
        found = getattr(conversions, f"to_{wanted}")(velocity, "velocity", x_t, c)
        torch.testing.assert_close(found, mixture.quantity(wanted, x_t, path, t), rtol=1e-10, atol=1e-10)
