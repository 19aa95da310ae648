import pytest
import torch

from bench.diffusion.pixels import to_uint8

LEVELS = torch.arange(256)


@pytest.mark.parametrize("rounding", ["truncate", "round", "adm"])
def test_rounding_clamps_and_keeps_the_ends(rounding):
    images = torch.tensor([-3.0, -1.0, 1.0, 3.0])
    assert to_uint8(images, rounding).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("rounding", ["round", "adm"])
def test_pixels_survive_a_round_trip(rounding):
    assert torch.equal(to_uint8(LEVELS / 127.5 - 1, rounding).long(), LEVELS)


def test_truncation_darkens_by_half_a_level_on_average():
    images = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    exact = 255 * (images + 1) / 2
    assert float((to_uint8(images, "truncate") - exact).mean()) == pytest.approx(-0.5, abs=0.01)
    for rounding in ("round", "adm"):
        assert float((to_uint8(images, rounding) - exact).mean()) == pytest.approx(0, abs=0.01)


def test_rules_differ_as_written():
    images = torch.tensor([100.6, 100.4]) / 127.5 - 1  # levels 100.6 and 100.4
    assert to_uint8(images, "truncate").tolist() == [100, 100]
    assert to_uint8(images, "round").tolist() == [101, 100]
    assert to_uint8(images, "adm").tolist() == [101, 100]
