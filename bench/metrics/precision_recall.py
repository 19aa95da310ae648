"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

The manifold of a set of features is the union of balls around its members, with the distance to their k-th
neighbour as radius.
    precision  fraction of samples inside the manifold of the reference
    recall     fraction of reference images inside the manifold of the samples
Distances are computed in blocks, so the additional memory is O(BLOCK^2).

`exact` computes in float32 and repeats in float64 those distances for which rounding could change a
comparison. `adm-fp16` reproduces the evaluator of Dhariwal and Nichol (ADM, 2021), which rounds features and
squared distances to half precision; results differ in the third decimal.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.machine import no_tf32

Arithmetic = Literal["exact", "adm-fp16"]
BLOCK = 4096  # rows and columns of a block of distances
SPARE = 5  # neighbours beyond the k-th whose distances are repeated in float64


class PrecisionRecall(NamedTuple):
    """Fractions in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    samples: Tensor, reference: Tensor, neighbours: int = 3, arithmetic: Arithmetic = "exact"
) -> PrecisionRecall:
    """Precision and recall of features of samples [N, D] and reference [M, D], computed on their device.

    Raises:
        UserError: if either set has no k-th neighbour.
    """
    samples_radii = radii(samples, neighbours, arithmetic)
    reference_radii = radii(reference, neighbours, arithmetic)
    centre = _centre(reference, arithmetic)
    in_reference = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    in_samples = torch.zeros(len(reference), dtype=torch.bool, device=samples.device)
    for i in range(0, len(samples), BLOCK):
        rows = slice(i, i + BLOCK)
        for j in range(0, len(reference), BLOCK):
            columns = slice(j, j + BLOCK)
            a, b = samples[rows], reference[columns]
            distances, error = _squared_distances(a - centre, b - centre, arithmetic)
            for radius, covered, dim in (
                (reference_radii[None, columns], in_reference[rows], 1),
                (samples_radii[rows, None], in_samples[columns], 0),
            ):
                outside = distances - radius.float()
                inside = outside <= 0
                if error is not None:
                    row, column = (outside.abs_() <= error).nonzero(as_tuple=True)
                    exact = _exact_squared_distances(a, b, row, column)
                    inside[row, column] = exact <= radius.expand_as(distances)[row, column]
                covered |= inside.any(dim)
    return PrecisionRecall(in_reference.double().mean().item(), in_samples.double().mean().item())


def radii(features: Tensor, neighbours: int, arithmetic: Arithmetic = "exact") -> Tensor:
    """Squared distance of each feature [N, D] to its k-th nearest other feature, [N] float64.

    Raises:
        UserError: if there are fewer than k others.
    """
    count = len(features)
    if count <= neighbours:
        raise UserError(
            f"precision and recall with k={neighbours} need more than {neighbours} images of either kind, "
            f"of one there are {count}."
        )
    kept = min(neighbours + SPARE, count - 1)
    centred = features - _centre(features, arithmetic)
    nearest = torch.full((count, kept), torch.inf, device=features.device)
    who = torch.zeros((count, kept), dtype=torch.long, device=features.device)
    # Each pair of blocks is visited once and serves the rows and the columns.
    for i in range(0, count, BLOCK):
        for j in range(i, count, BLOCK):
            distances, _ = _squared_distances(centred[i : i + BLOCK], centred[j : j + BLOCK], arithmetic)
            if i == j:
                distances.fill_diagonal_(torch.inf)
            else:
                _keep_smallest(nearest[j : j + BLOCK], who[j : j + BLOCK], distances.T, first=i)
            _keep_smallest(nearest[i : i + BLOCK], who[i : i + BLOCK], distances, first=j)
    if arithmetic == "exact":
        everyone = torch.arange(count, device=features.device)
        exact = [_exact_squared_distances(features, features, everyone, other) for other in who.T]
        nearest = torch.stack(exact, dim=1)
    return nearest.double().kthvalue(neighbours, dim=1).values


def _centre(features: Tensor, arithmetic: Arithmetic) -> Tensor | float:
    """Origin of float32 distances, since rounding errors grow with norms; 0 for the arithmetic of ADM."""
    return features.mean(dim=0) if arithmetic == "exact" else 0.0


def _keep_smallest(best: Tensor, who: Tensor, distances: Tensor, first: int) -> None:
    """Update the smallest values of each row, and their indices, with distances to features from `first`."""
    count = min(best.shape[1], distances.shape[1])
    values, columns = distances.topk(count, dim=1, largest=False)
    values, owners = torch.cat([best, values], dim=1), torch.cat([who, columns + first], dim=1)
    best[:], order = values.topk(best.shape[1], dim=1, largest=False)
    who[:] = owners.gather(1, order)


def _squared_distances(a: Tensor, b: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor | None]:
    """Squared distances of [N, D] and [M, D] as [N, M] float32, and a bound of their error (None: exact)."""
    if arithmetic == "adm-fp16":
        distances = _half_precision_distances(a, b)
        if distances.isfinite().all():
            return distances, None
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    with no_tf32():
        distances = torch.addmm(norms, a, b.T, alpha=-2)
    # The error of a sum of D rounded products is about sqrt(D) roundings; the bound is four times that.
    error = norms.mul_(4 * a.shape[1] ** 0.5 * torch.finfo(torch.float32).eps)
    return distances, error if arithmetic == "exact" else None


def _exact_squared_distances(a: Tensor, b: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Squared distances of the pairs a[row], b[column], [P] float64; 0 for equal features."""
    distances = torch.empty(len(row), dtype=torch.float64, device=a.device)
    for pairs in torch.arange(len(row), device=a.device).split(1024):
        difference = a[row[pairs]].double() - b[column[pairs]].double()
        distances[pairs] = difference.square_().sum(dim=1)
    return distances


def _half_precision_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances with intermediate results rounded to half precision and sums in float32."""
    a, b = a.half().float(), b.half().float()
    norms_a, norms_b = ((x.square().half().float()).sum(1).half() for x in (a, b))
    products = 2 * (a @ b.T).half()
    return (norms_a[:, None] - products + norms_b).clamp(min=0).float()
