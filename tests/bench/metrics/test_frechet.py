import numpy as np
import pytest
import scipy.linalg
import torch

from bench.core.errors import UserError
from bench.metrics import frechet
from bench.metrics.frechet import Gaussian, GaussianStatistics, frechet_distance, gaussian_of
from tests.helpers.closed_forms import frechet_distance_of_few


def features(count: int, dimension: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.2, 2, dimension)
    mixing = torch.randn(dimension, dimension, generator=draw) / dimension**0.5
    return torch.randn(count, dimension, generator=draw) * scale @ mixing + shift


def test_distance_of_a_gaussian_to_itself_is_zero():
    a = gaussian_of(features(500, 40, seed=0))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_distance_of_commuting_gaussians_is_that_of_means_and_deviations_along_the_axes():
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    deviations = torch.tensor([[1, 2, 3, 4, 5, 6], [2, 2, 1, 0.5, 9, 3]], dtype=torch.float64)
    mean = torch.arange(6, dtype=torch.float64)
    a, b = (Gaussian(i * mean, rotation * s**2 @ rotation.T) for i, s in enumerate(deviations))
    truth = mean.square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(a, b) == pytest.approx(truth.item(), rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(truth.item(), rel=1e-12)


def test_distance_matches_scipys_matrix_square_root_where_that_is_well_conditioned():
    a, b = gaussian_of(features(2000, 64, seed=1)), gaussian_of(features(2000, 64, seed=2, shift=0.1))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    difference = (a.mean - b.mean).numpy()
    truth = difference @ difference + np.trace((a.covariance + b.covariance).numpy() - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-9)


def test_distance_with_fewer_samples_than_dimensions_matches_singular_values_of_the_data():
    x, y = features(20, 100, seed=1), features(30, 100, seed=2)
    truth = frechet_distance_of_few(x, y)
    assert frechet_distance(gaussian_of(x), gaussian_of(y)) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("sizes", [[300], [1, 299], [100] * 3, [7] * 42 + [6]])
def test_statistics_match_numpy_however_the_batches_are_cut(sizes: list[int]):
    x = features(300, 10, seed=0, shift=1e4)  # far from the origin: sums of squares would cancel
    statistics = GaussianStatistics(10)
    for batch in x.split(sizes):
        statistics.update(batch)
    np.testing.assert_allclose(statistics.gaussian.mean, np.mean(x.double().numpy(), axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.gaussian.covariance, np.cov(x.double().numpy().T), rtol=1e-9)


def test_merged_statistics_are_those_of_everything():
    x = features(300, 10, seed=0, shift=1e4)
    parts = [GaussianStatistics(10) for _ in range(3)]
    for statistics, part in zip(parts, x.split([10, 200, 90]), strict=True):
        statistics.update(part)
    parts[0].merge(parts[1])
    parts[0].merge(GaussianStatistics(10))  # saw nothing
    parts[0].merge(parts[2])
    assert parts[0].count == 300
    torch.testing.assert_close(parts[0].gaussian, gaussian_of(x), rtol=1e-10, atol=1e-10)


def test_self_test_passes_here_and_notices_wrong_linear_algebra(monkeypatch: pytest.MonkeyPatch):
    frechet.self_test.cache_clear()
    frechet.self_test()
    frechet.self_test.cache_clear()
    honest = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: honest(matrix) * 1.01)
    with pytest.raises(UserError, match="linear algebra"):
        frechet.self_test()
    frechet.self_test.cache_clear()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: Gaussian(g.mean[:-1], g.covariance), "dimensions"),
        (lambda g: Gaussian(g.mean * torch.nan, g.covariance), "NaN"),
        (lambda g: Gaussian(g.mean, -g.covariance), "negative eigenvalue"),
    ],
)
def test_what_is_not_a_gaussian_is_refused(spoil, message: str):
    good = gaussian_of(features(100, 8, seed=0))
    for pair in ((spoil(good), good), (good, spoil(good))):
        with pytest.raises(UserError, match=message):
            frechet_distance(*pair)


def test_a_single_sample_has_no_covariance():
    with pytest.raises(UserError, match="at least 2"):
        gaussian_of(torch.zeros(1, 3))


def test_against_equal_images_it_is_the_mean_squared_distance_to_their_feature():
    draw = torch.Generator().manual_seed(0)
    drawn, same = torch.randn(50, 8, generator=draw), torch.randn(8, generator=draw).double()
    equal = frechet.gaussian_of(same.expand(12, 8))
    assert not equal.covariance.any()
    centred = drawn.double() - same
    offset, spread = centred.mean(dim=0).square().sum(), centred.var(dim=0).sum()
    for pair in ((frechet.gaussian_of(drawn), equal), (equal, frechet.gaussian_of(drawn))):
        assert frechet.frechet_distance(*pair) == pytest.approx((offset + spread).item())
