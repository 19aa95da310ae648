"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

A set of features covers the union of the balls around its members that reach to their k-th neighbour.
    precision  share of samples inside the reference's balls: how many samples look real
    recall     share of reference images inside the samples' balls: how much of reality is reached
Distances are computed block by block, so memory is O(BLOCK^2) beside the features themselves.

`exact` is fast in float32 and decides in float64: wherever rounding could turn a comparison, the distance
is computed again. `adm-fp16` follows the arithmetic of the evaluator of Dhariwal and Nichol (ADM, 2021),
which rounds features and squared distances to half precision: its third decimal differs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.nets.base import no_tf32

Arithmetic = Literal["exact", "adm-fp16"]
BLOCK = 4096  # rows and columns of a block of distances
SPARE = 5  # neighbours beyond the k-th that are measured again, in case rounding changed their order


class PrecisionRecall(NamedTuple):
    """Shares in 0..1."""

    precision: float
    recall: float


def precision_recall(
    samples: Tensor, reference: Tensor, neighbours: int = 3, arithmetic: Arithmetic = "exact"
) -> PrecisionRecall:
    """Of samples [N, D] against reference features [M, D], on the device that they are on.

    Raises UserError where either set has no k-th neighbour.
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
    """Squared distance of each of [N, D] to its k-th nearest neighbour, itself not counted, [N] float64.

    Raises UserError where there are fewer than k others.
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
    """What fast distances are computed from: rounding errors grow with the norms. ADM's stay as they are."""
    return features.mean(dim=0) if arithmetic == "exact" else 0.0


def _keep_smallest(best: Tensor, who: Tensor, distances: Tensor, first: int) -> None:
    """Update the smallest values of each row and whose they are with distances to features `first`, ..."""
    count = min(best.shape[1], distances.shape[1])
    values, columns = distances.topk(count, dim=1, largest=False)
    values, owners = torch.cat([best, values], dim=1), torch.cat([who, columns + first], dim=1)
    best[:], order = values.topk(best.shape[1], dim=1, largest=False)
    who[:] = owners.gather(1, order)


def _squared_distances(a: Tensor, b: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor | None]:
    """Distances of [N, D] and [M, D] as [N, M] float32, and how far they may be off (None: they decide)."""
    if arithmetic == "adm-fp16":
        distances = _half_precision_distances(a, b)
        if distances.isfinite().all():
            return distances, None
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    with no_tf32():
        distances = torch.addmm(norms, a, b.T, alpha=-2)
    # A sum of D rounded products is off by about sqrt(D) roundings; four times that is taken as the bound.
    error = norms.mul_(4 * a.shape[1] ** 0.5 * torch.finfo(torch.float32).eps)
    return distances, error if arithmetic == "exact" else None


def _exact_squared_distances(a: Tensor, b: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Of the pairs a[row], b[column], [P] float64; 0 for equal features."""
    distances = torch.empty(len(row), dtype=torch.float64, device=a.device)
    for pairs in torch.arange(len(row), device=a.device).split(1024):
        difference = a[row[pairs]].double() - b[column[pairs]].double()
        distances[pairs] = difference.square_().sum(dim=1)
    return distances


def _half_precision_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances with every intermediate result rounded to half precision, sums taken in float32."""
    a, b = a.half().float(), b.half().float()
    norms_a, norms_b = ((x.square().half().float()).sum(1).half() for x in (a, b))
    products = 2 * (a @ b.T).half()
    return (norms_a[:, None] - products + norms_b).clamp(min=0).float()
