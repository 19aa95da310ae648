"""A data set without images: samples can be decoded, but nothing can be trained.

Together with a file of reference statistics, this is sufficient to score a released checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from bench.core.errors import UserError
from bench.data.base import ALL, Batch, Shape
from bench.data.vae import VAE, weight_file


class DecodeOnly:
    """Model space is z * scale, with z the latents of a VAE, or pixels; no records."""

    def __init__(self, shape: Shape, store: dict[str, Any]) -> None:
        """`store` says what the data set's store would be: image_size, vae, scale, perhaps decoder.

        Raises:
            UserError: if the decoder is not on this machine: now, not when all samples are drawn.
        """
        self.classes, self.channels, self.size = shape
        self.image_size: int = store["image_size"]
        self.decoder: str = store.get("decoder") or store["vae"]  # "": the data are pixels
        self.scale: float = store.get("scale", 1.0)
        if self.decoder:
            weight_file(self.decoder)
        self._vae: VAE | None = None

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        raise UserError("there is no store of this data set to train on: python -m bench.prepare")

    def to_pixels(self, x0: Tensor) -> Tensor:
        if not self.decoder:
            return x0
        if self._vae is None:
            self._vae = VAE(self.decoder, x0.device)
        return self._vae.decode(x0 / self.scale)

    def reference(self) -> tuple[Tensor, Tensor]:
        raise UserError(
            "there is no store of this data set to compare with: name a file, --data "
            "'NAME[reference=VIRTUAL_imagenet256_labeled.npz]', or make the store, python -m bench.prepare"
        )
