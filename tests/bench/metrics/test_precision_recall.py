import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.metrics import precision_recall as module
from bench.metrics.precision_recall import precision_recall


def normal(count: int, dimension: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)) + shift


def brute_force(samples: np.ndarray, reference: np.ndarray, neighbours: int) -> tuple[float, float]:
    """The definition, distance by distance."""

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(centres - c, axis=1))[neighbours] for c in centres]  # [0] is itself
        inside = [
            any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radii, strict=True)) for p in points
        ]
        return float(np.mean(inside))

    return covered(samples, reference), covered(reference, samples)


@pytest.mark.parametrize("block", [7, 50, 4096])
@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_shares_match_brute_force_in_any_blocks(block: int, neighbours: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BLOCK", block)
    samples, reference = normal(60, 4, seed=0, shift=1.0), normal(45, 4, seed=1)
    truth = brute_force(samples.double().numpy(), reference.double().numpy(), neighbours)
    assert min(truth) > 0.1 and max(truth) < 0.95  # a case that can fail
    assert precision_recall(samples, reference, neighbours) == pytest.approx(truth, abs=1e-12)


def test_published_case_of_two_standard_normals_in_1000_dimensions():
    """The example of clovaai/generative-evaluation-prdc: precision 0.4772 at k = 5, of 10,000 each.

    A part of the samples estimates the same precision, faster; recall would need them all.
    """
    precision, _ = precision_recall(normal(1500, 1000, seed=0), normal(10_000, 1000, seed=1), neighbours=5)
    assert precision == pytest.approx(0.4772, abs=0.04)


def test_published_case_of_an_outlier_that_makes_bad_samples_look_good():
    """Naeem et al. 2020, figure 1: samples around one real outlier are all inside its large ball."""
    cluster, outlier = normal(50, 2, seed=0), torch.tensor([[30.0, 0.0]])
    samples = 0.5 * normal(50, 2, seed=1) + outlier
    precision, recall = precision_recall(samples, torch.cat([cluster, outlier]), neighbours=3)
    assert precision == 1.0
    assert recall <= 1 / 51


def test_a_set_covers_itself_and_sets_far_apart_cover_nothing():
    x = normal(100, 3, seed=0)
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)


def test_copies_of_one_image_have_balls_of_radius_zero_that_hold_the_copies_only():
    point = normal(1, 2048, seed=0) * 30
    collapsed = point.repeat(8, 1)
    reference = torch.cat([collapsed, normal(20, 2048, seed=1)])
    precision, recall = precision_recall(collapsed, reference)
    assert precision == 1.0
    assert recall == 8 / 28


def test_adm_arithmetic_rounds_distances_to_half_precision():
    samples, reference = normal(300, 64, seed=0), normal(200, 64, seed=1)

    def half_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a.astype(np.float16), b.astype(np.float16)
        products = (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16)
        norms_a, norms_b = ((x * x).astype(np.float32).sum(1).astype(np.float16) for x in (a, b))
        return np.maximum((norms_a[:, None] - 2 * products) + norms_b, 0)

    def radii(x: np.ndarray) -> np.ndarray:
        distances = half_distances(x, x)
        np.fill_diagonal(distances, np.inf)
        return np.sort(distances, axis=1)[:, 2]

    x, y = samples.numpy(), reference.numpy()
    between = half_distances(x, y)
    truth = (between <= radii(y)).any(1).mean(), (between <= radii(x)[:, None]).any(0).mean()
    shares = precision_recall(samples, reference, arithmetic="adm-fp16")
    assert shares == pytest.approx(truth, abs=0.011)  # the order of a sum may turn a tie
    assert shares == pytest.approx(precision_recall(samples, reference), abs=0.05)


def test_adm_arithmetic_falls_back_where_half_precision_overflows():
    samples, reference = 1e3 * normal(50, 64, seed=0), 1e3 * normal(50, 64, seed=1)
    assert precision_recall(samples, reference, arithmetic="adm-fp16") == precision_recall(samples, reference)


def test_too_few_images_for_a_neighbour_are_refused():
    with pytest.raises(UserError, match="more than 3"):
        precision_recall(normal(3, 2, seed=0), normal(10, 2, seed=1))
