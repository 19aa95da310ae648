"""Inception Score (Salimans et al. 2016): exp(mean KL(p(y|x) || p(y))).

As in the ADM suite, the score is averaged over splits of 5,000 images in the order of their numbers, and p is
the softmax of the logits *without bias*. It lies between 1 and the number of classes.

Each split only stores the sums that its score needs,  sum p  and  sum p log p:
    mean KL = (sum p log p) / n - sum_y p(y) log p(y),   p(y) = (sum p) / n
"""

from __future__ import annotations

import torch
from torch import Tensor

SPLIT = 5000  # images


class InceptionScore:
    """Sums by split, which can be merged over processes."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}  # split -> [2 + classes] float64: n, sum p log p, sum p by class

    def update(self, logits: Tensor, index: Tensor) -> None:
        """Add the logits [B, K] of images with these numbers [B]."""
        log_p = logits.double().log_softmax(dim=1)
        p = log_p.exp()
        negative_entropy = torch.xlogy(p, p).sum(dim=1, keepdim=True)
        rows = torch.cat([torch.ones_like(negative_entropy), negative_entropy, p], dim=1).cpu()
        splits = index.cpu() // SPLIT
        for split in splits.unique().tolist():
            self._add(split, rows[splits == split].sum(dim=0))

    def merge(self, other: InceptionScore) -> None:
        """Add the sums of `other`."""
        for split, sums in other.sums.items():
            self._add(split, sums)

    def _add(self, split: int, sums: Tensor) -> None:
        self.sums[split] = self.sums[split] + sums if split in self.sums else sums

    @property
    def score(self) -> float:
        """Mean over splits; an incomplete last split counts like the others, as in the ADM suite."""
        scores = []
        for sums in self.sums.values():
            count, negative_entropy, p = sums[0], sums[1], sums[2:]
            marginal = p / count
            scores.append((negative_entropy / count - torch.xlogy(marginal, marginal).sum()).exp())
        return torch.stack(scores).mean().item()
