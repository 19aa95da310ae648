"""Data sets in a store: pixels, or latents that are sampled each time a record is read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from bench.core.errors import UserError
from bench.data.base import ALL, Batch
from bench.data.shards import REFERENCE, TRAIN, ShardedRecords
from bench.data.vae import VAE, revision

REFERENCE_IMAGES = 10_000  # at most, of the training part, if the source has no other; as in ADM's files


class StoredImages:
    """Model space is pixels in [-1, 1], or x0 = (mean + std n - bias) scale, with n drawn at every read."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the store is absent, unfinished or damaged."""
        self.store = ShardedRecords(folder)
        self.manifest = self.store.manifest
        self.latents = self.manifest.latents
        self.classes, self.channels, self.size = self.manifest.shape
        self.image_size = self.manifest.size
        self._decoder: VAE | None = None
        if channels := self.manifest.channels:  # every channel has mean 0 and deviation 1
            self.bias = torch.tensor(channels["mean"]).view(-1, 1, 1)
            self.scale = 1 / torch.tensor(channels["std"]).view(-1, 1, 1)
        elif self.latents:
            self.bias, self.scale = torch.tensor(self.latents.bias), torch.tensor(self.latents.scale)

    def __len__(self) -> int:
        return self.manifest.records[TRAIN]

    def batch(self, indices: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        records, indices = len(indices), indices[rows]
        label = self.store.read("label", indices)
        if label.min() < 0 or label.max() >= self.classes:
            raise UserError(f"the store {self.store.folder} has labels outside 0..{self.classes - 1}.")
        wanted = images or not self.latents
        image = self.store.read("image", indices) if wanted else torch.empty(0, dtype=torch.uint8)
        if not self.latents:
            return Batch(image.float() / 127.5 - 1, label, image, indices)
        if self.latents.statistic == "posterior":
            mean, std = self.store.read("mean", indices), self.store.read("std", indices)
            drawn = torch.randn((records, *mean.shape[1:]), generator=generator)
            z = mean + std * drawn[rows]
        else:
            z = self.store.read("z", indices)
        return Batch((z - self.bias) * self.scale, label, image, indices)

    def to_pixels(self, x0: Tensor) -> Tensor:
        """Raises UserError if the decoder is not available, or is not that of the store."""
        if not self.latents:
            return x0
        if self._decoder is None:
            name, wanted = self.latents.decoder, self.latents.decoder_weights
            if (found := revision(name)) != wanted:
                raise UserError(
                    f"the decoder {name} is not the one that the store {self.store.folder} names: its "
                    f"weights' sha256 begins {found}, not {wanted}."
                )
            self._decoder = VAE(name, x0.device, self.latents.precision, self.latents.tiled)
        z = x0 / self.scale.to(x0.device) + self.bias.to(x0.device)
        return self._decoder.decode(z)

    def reference(self) -> tuple[Tensor, Tensor]:
        """The reference split, or evenly spaced training records if the source has none."""
        records, part = self.manifest.records, REFERENCE if REFERENCE in self.manifest.records else TRAIN
        count = records[part] if part == REFERENCE else min(records[part], REFERENCE_IMAGES)
        indices = torch.arange(count) * records[part] // count
        return self.store.read("image", indices, part), self.store.read("label", indices, part)
