"""Data sets that fit in memory: images as one array, trained on as pixels."""

from __future__ import annotations

from torch import Generator, Tensor

from bench.data.base import ALL, Batch


class InMemory:
    """Records whose x0 are the images themselves, scaled to [-1, 1].

    Args:
        images: [N, C, H, W] uint8, H = W, trained on.
        labels: [N] int64 in [0, classes).
        reference: [M, C, H, W] uint8 and labels [M] that samples are compared with; never trained on.
        classes: number of classes.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, reference: tuple[Tensor, Tensor], classes: int
    ) -> None:
        self.images, self.labels, self.classes = images, labels, classes
        self._reference = reference
        self.channels, self.size = images.shape[1], images.shape[-1]
        self.image_size = self.size

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        indices = indices[rows]
        image = self.images[indices]
        return Batch(image.float() / 127.5 - 1, self.labels[indices], image, indices)

    def to_pixels(self, x0: Tensor) -> Tensor:
        return x0

    def reference(self) -> tuple[Tensor, Tensor]:
        return self._reference
