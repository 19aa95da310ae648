"""Features and statistics of a set of images, accumulated over batches and merged over processes."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.machine import no_tf32
from bench.metrics.frechet import Gaussian, GaussianStatistics
from bench.metrics.inception_score import InceptionScore
from bench.nets.base import Activations, FeatureNet, same_width


class FeatureAccumulator:
    """Features and statistics of a set of images for one network."""

    def __init__(self) -> None:
        self.pooled: list[Tensor] = []  # [B, D] each
        self.index: list[Tensor] = []  # [B] each, numbers of the images
        self.statistics: GaussianStatistics | None = None  # of the pooled features
        self.spatial: GaussianStatistics | None = None
        self.inception = InceptionScore()
        self.labelled = 0  # samples with a requested class
        self.correct = 0  # of these, classified as that class

    def update(self, seen: Activations, labels: Tensor | None, index: Tensor) -> None:
        """Add a batch: activations, requested classes [B] and numbers [B] of its images.

        Raises:
            UserError: if features are not finite or of another dimension than earlier ones, or for labels
                that the network does not know.
        """
        if not seen.pooled.isfinite().all():
            raise UserError(f"the features of images {index.min()} to {index.max()} hold NaN or infinity.")
        if self.pooled:
            same_width(self.pooled[0], seen.pooled)
        self.pooled.append(seen.pooled)
        self.index.append(index)
        if self.statistics is None:
            self.statistics = GaussianStatistics(seen.pooled.shape[1], seen.pooled.device)
        self.statistics.update(seen.pooled)
        if seen.spatial is not None:
            if self.spatial is None:
                self.spatial = GaussianStatistics(seen.spatial.shape[1], seen.spatial.device)
            self.spatial.update(seen.spatial)
        if seen.unbiased_logits is not None:
            self.inception.update(seen.unbiased_logits, index)
        if labels is not None and seen.logits is not None:
            if labels.min() < 0 or labels.max() >= seen.logits.shape[1]:
                raise UserError(
                    f"the images are labelled {labels.min()} to {labels.max()}, a net that judges their "
                    f"classes knows 0 to {seen.logits.shape[1] - 1}: leave the labels or that net out."
                )
            self.labelled += len(labels)
            self.correct += int((seen.logits.argmax(dim=1).cpu() == labels.cpu()).sum())

    def merge(self, other: FeatureAccumulator) -> None:
        """Add all images of `other`, which must be different ones."""
        self.pooled += other.pooled
        self.index += other.index
        self.statistics = _merged(self.statistics, other.statistics)
        self.spatial = _merged(self.spatial, other.spatial)
        self.inception.merge(other.inception)
        self.labelled += other.labelled
        self.correct += other.correct

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(len, self.index))

    @property
    def gaussian(self) -> Gaussian:
        """Mean and covariance of the pooled features. Raises UserError for fewer than two images."""
        if self.statistics is None:
            raise UserError("there are no images to score.")
        return self.statistics.gaussian

    @property
    def features(self) -> Tensor:
        """All pooled features [N, D], ordered by image number."""
        return torch.cat(self.pooled)[torch.cat(self.index).argsort().to(self.pooled[0].device)]


def _merged(a: GaussianStatistics | None, b: GaussianStatistics | None) -> GaussianStatistics | None:
    if a is None or b is None:
        return a or b
    a.merge(b)
    return a


def extract(net: FeatureNet, images: Tensor) -> Activations:
    """Activations of images [B, C, H, W] uint8, in float32 without TF32."""
    with no_tf32():
        return net(images)
