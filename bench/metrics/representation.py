"""Similarity of two representations, and properties of one.

    cka                  centred kernel alignment with linear kernels (Kornblith et al. 2019)
    cknna                the same over common nearest neighbours only (Huh et al. 2024), as in REPA
    linear_probe         accuracy of a linear classifier on held-out images
    token_cosine         cosine of teacher tokens and their best linear prediction, on held-out images
    local_vs_distant     spatial self-similarity: neighbours' cosine minus far tokens' (iREPA, 2512.10794)
    effective_rank       exp of the entropy of the singular values (Roy and Vetterli 2007)

Both kernel alignments use the unbiased HSIC of Song et al. (2012), for Gram matrices K, L without diagonal:
    HSIC = [tr KL + (1'K1)(1'L1) / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-3  # of the linear maps, relative to the mean variance of a feature
FAR = 6 / 16  # of the side of the grid: least Manhattan distance of distant tokens, 6 on 16 x 16


def cka(a: Tensor, b: Tensor) -> float:
    """CKA of features [N, D] and [N, E] of the same images: about 0 (unrelated) to 1 (rotated)."""
    return _alignment(_gram(a), _gram(b))


def cknna(a: Tensor, b: Tensor, neighbours: int = 10) -> float:
    """CKNNA of features [N, D] and [N, E] of the same images, in [0, 1].

    Pairs of images count if in both spaces the second is among the k nearest neighbours of the first.
    """
    gram_a, gram_b = _gram(a), _gram(b)
    near_a, near_b = _near(gram_a, neighbours), _near(gram_b, neighbours)
    common = near_a & near_b
    cross = _hsic(gram_a * common, gram_b * common)
    own = _hsic(gram_a * near_a, gram_a * near_a) * _hsic(gram_b * near_b, gram_b * near_b)
    return (cross / own.sqrt()).item()


def _gram(features: Tensor) -> Tensor:
    """Cosines of all pairs, [N, N] float64, zero on the diagonal."""
    unit = F.normalize(features.double(), dim=1)
    return (unit @ unit.T).fill_diagonal_(0)


def _near(gram: Tensor, neighbours: int) -> Tensor:
    nearest = gram.clone().fill_diagonal_(-torch.inf).topk(neighbours, dim=1).indices
    return torch.zeros_like(gram, dtype=torch.bool).scatter_(1, nearest, True)


def _alignment(k: Tensor, other: Tensor) -> float:
    return (_hsic(k, other) / (_hsic(k, k) * _hsic(other, other)).sqrt()).item()


def _hsic(k: Tensor, other: Tensor) -> Tensor:
    """Unbiased HSIC of Gram matrices [N, N] with zero diagonal, which need not be symmetric."""
    n = len(k)
    trace = (k * other.T).sum()
    means = k.sum() * other.sum() / ((n - 1) * (n - 2))
    through = (k.sum(dim=0) @ other.sum(dim=1)) * 2 / (n - 2)
    return (trace + means - through) / (n * (n - 3))


def linear_probe(features: Tensor, labels: Tensor) -> float:
    """Accuracy of a linear classifier on the second half of [N, D], fitted on the first half.

    The classifier is ridge regression of the classes [N].
    """
    half = len(labels) // 2
    classes = F.one_hot(labels).to(features.device, torch.float64)
    predicted = _predicted(features[:half], classes[:half], features[half:])
    return (predicted.argmax(dim=1).cpu() == labels[half:].cpu()).double().mean().item()


def token_cosine(tokens: Tensor, teacher: Tensor) -> float:
    """Mean cosine between teacher tokens [B, N, E] and their linear prediction from tokens [B, N, D].

    Fitted on the first half of the images, evaluated on the second. It does not depend on a projector, so
    methods with and without one can be compared.
    """
    half = len(tokens) // 2
    x, y = (part[:half].flatten(0, 1) for part in (tokens, teacher))
    predicted = _predicted(x, y.double(), tokens[half:].flatten(0, 1))
    truth = teacher[half:].flatten(0, 1).double()
    return F.cosine_similarity(predicted, truth, dim=1).mean().item()


def _predicted(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Ridge regression of y [N, E] on x [N, D], applied to `new` [M, D], in float64."""
    x, new = x.double(), new.double()
    centre, offset = x.mean(dim=0), y.mean(dim=0)
    x, new = x - centre, new - centre
    covariance = x.T @ x / len(x)
    ridge = RIDGE * covariance.diagonal().mean().clamp(min=1e-12)
    covariance.diagonal().add_(ridge)
    return new @ torch.linalg.solve(covariance, x.T @ (y - offset) / len(x)) + offset


def local_vs_distant(tokens: Tensor, grid: tuple[int, int]) -> float:
    """Mean cosine of adjacent tokens minus that of distant ones, of [B, N, D] with N = rows * columns.

    High if tokens vary smoothly over the image. NaN for a grid without distant tokens.
    """
    rows, columns = grid
    unit = F.normalize(tokens.double(), dim=2)
    cosines = (unit @ unit.transpose(1, 2)).mean(dim=0)  # [N, N]
    place = torch.arange(rows * columns, device=tokens.device)
    row, column = place // columns, place % columns
    apart = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    far = apart >= max(2, round(FAR * max(grid)))
    return (cosines[apart == 1].mean() - cosines[far].mean()).item()


def effective_rank(features: Tensor) -> float:
    """Effective number of dimensions of centred features [N, D]: 1 to min(N - 1, D)."""
    values = torch.linalg.svdvals((features - features.mean(dim=0)).double())
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()
