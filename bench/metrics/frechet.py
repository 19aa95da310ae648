"""Frechet distance between two Gaussians, and their statistics, in float64.

    d(a, b) = |mean_a - mean_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2))        (Dowson & Landau 1982)

With any factor S_b = L L^T, the product S_a S_b has the eigenvalues of the *symmetric* matrix L^T S_a L, so
the last trace is the sum of their square roots. `scipy.linalg.sqrtm` of the unsymmetric product, which most
evaluators use, is slower and has returned wrong but plausible values in several releases.

The distance of Inception features is the FID (Heusel et al. 2017).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError


class Gaussian(NamedTuple):
    """Mean and covariance of a set of features."""

    mean: Tensor  # [D] float64
    covariance: Tensor  # [D, D] float64, unbiased (divided by N - 1)


class GaussianStatistics:
    """Mean and covariance of features, accumulated over batches.

    Batches are combined by the pairwise update of Chan, Golub and LeVeque (1983), so the result does not
    depend on batch size and number of processes, up to float64 rounding.
    """

    def __init__(self, dimension: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Add features [B, D]."""
        batch = features.to(self.mean.device, torch.float64)
        mean = batch.mean(dim=0)
        centred = batch - mean
        self._absorb(len(batch), mean, _scatter(centred))

    def merge(self, other: GaussianStatistics) -> None:
        """Add the statistics of `other`."""
        self._absorb(other.count, other.mean.to(self.mean.device), other.scatter.to(self.mean.device))

    def _absorb(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        shift = mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(shift, shift, alpha=self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    @property
    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance. Raises UserError for fewer than two samples."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 samples, there are {self.count}.")
        return Gaussian(self.mean, self.scatter / (self.count - 1))


def _scatter(centred: Tensor) -> Tensor:
    """X^T X [D, D]. numpy recognises the symmetric product and computes half of it; torch does not."""
    if centred.device.type == "cpu":
        array = centred.numpy()
        return torch.from_numpy(array.T @ array)
    return centred.T @ centred


def gaussian_of(features: Tensor) -> Gaussian:
    """Mean and covariance of features [N, D]."""
    statistics = GaussianStatistics(features.shape[1], features.device)
    for block in features.split(4096):
        statistics.update(block)
    return statistics.gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Frechet (2-Wasserstein) distance between two Gaussians; symmetric, at least 0.

    Raises:
        UserError: if dimensions differ, a value is not finite, or a covariance has a negative eigenvalue
            beyond rounding.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {len(a.mean)} and {len(b.mean)} dimensions are of different nets.")
    if not all(torch.isfinite(part).all() for gaussian in (a, b) for part in gaussian):
        raise UserError("the feature statistics hold NaN or infinity: an image or a feature net is broken.")
    mean_a, covariance_a = (part.double() for part in a)
    mean_b, covariance_b = (part.to(mean_a.device, torch.float64) for part in b)
    factor = _factor(covariance_b)  # the reference, which rarely has fewer images than dimensions
    eigenvalues = torch.linalg.eigvalsh(factor.T @ covariance_a @ factor)
    _refuse_negative(eigenvalues)
    overlap = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * overlap
    return max(distance.item(), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """L [D, r] with L L^T = covariance: the Cholesky factor, or for few samples from eigenvectors."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return lower
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    _refuse_negative(eigenvalues)
    noise = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()
    positive = eigenvalues > noise  # at most one less than the number of images; none if all are equal
    return eigenvectors[:, positive] * eigenvalues[positive].sqrt()


def _refuse_negative(eigenvalues: Tensor) -> None:
    if len(eigenvalues) and eigenvalues.min() < -1e-6 * eigenvalues.abs().max():
        raise UserError(
            f"a covariance has the negative eigenvalue {eigenvalues.min():.3g}: the reference statistics are "
            "damaged, or were not made from features of this net."
        )


@cache
def self_test() -> None:
    """Check the linear algebra of this machine on known distances, once per process.

    Raises:
        UserError: if it is wrong.
    """
    dimension = 256
    draw = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=draw, dtype=torch.float64))
    spread_a, spread_b = torch.linspace(0.1, 2, dimension).double(), torch.linspace(3, 0, dimension).double()
    mean = torch.full((dimension,), 0.25, dtype=torch.float64)
    a = Gaussian(mean, rotation * spread_a.square() @ rotation.T)
    b = Gaussian(-mean, rotation * spread_b.square() @ rotation.T)
    # Covariances that commute: the distance is that of means and of standard deviations along each axis.
    expected = 0.25 * dimension + (spread_a - spread_b).square().sum().item()
    for first, second, truth in ((a, a, 0.0), (a, b, expected), (b, a, expected)):
        found = frechet_distance(first, second)
        if abs(found - truth) > 1e-6 * expected:
            raise UserError(
                f"the linear algebra of this torch ({torch.__version__}) is wrong: a Frechet distance of "
                f"{truth:.9g} came out as {found:.9g}. Install another build."
            )
