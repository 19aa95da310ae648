"""What feature nets give, and what a feature net is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bench.core.errors import UserError


class Activations(NamedTuple):
    """What a feature net sees in images."""

    pooled: Tensor  # [B, D] float32, what distances and neighbours are measured in
    spatial: Tensor | None = None  # [B, S], with places, for sFID
    logits: Tensor | None = None  # [B, classes] of the data set, for the agreement with the requested class
    unbiased_logits: Tensor | None = None  # [B, K], for the Inception Score


class FeatureNet(Protocol):
    """A frozen net by which images are judged."""

    name: str
    classifies: bool  # trained to classify: its Frechet distance is called fid, another net's fd

    def __call__(self, images: Tensor) -> Activations:
        """Images [B, C, H, W] uint8, on any device."""
        ...


def same_width(a: Tensor, b: Tensor) -> None:
    """Raises UserError where features [N, D] and [M, E] are of different spaces."""
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"some images give {a.shape[1]} features and others {b.shape[1]}: they are of several sizes, and "
            "a net that takes them as they are cannot compare them. Resize them, or leave that net out."
        )


def join(batches: Sequence[Activations]) -> Activations:
    """The activations of several batches of one net as those of one batch.

    Raises UserError where they are of different spaces.
    """
    for batch in batches:
        same_width(batches[0].pooled, batch.pooled)
    fields = zip(*batches, strict=True)
    return Activations(*(None if parts[0] is None else torch.cat(parts) for parts in fields))  # type: ignore
