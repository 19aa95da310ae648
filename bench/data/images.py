"""Data sets that live in a store: pixels as they are, or latents drawn anew each time a record is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from bench.data import Batch
from bench.data.store import REFERENCE, TRAIN, Store
from bench.data.vae import VAE, revision
from bench.errors import UserError

REFERENCE_IMAGES = 10_000  # at most, of the training part, where the source has no other; as in ADM's files


@dataclass(frozen=True)
class Expected:
    """What a preset says of its store; None: anything."""

    image_size: int | None = None
    classes: int | None = None
    vae: str | None = None  # "": pixels
    scale: float | None = None


class StoredImages:
    """Model space is pixels in [-1, 1], or x0 = (mean + std n - bias) scale with n drawn at each reading."""

    def __init__(self, folder: Path, expected: Expected) -> None:
        """Raises UserError where the store cannot be used, or is not what the preset expects."""
        self.store = Store(folder)
        self.contents = self.store.contents
        self.latents = self.contents.latents
        _refuse_another(self.store, expected)
        self.classes = len(self.contents.classes)
        self.image_size = self.contents.size
        self.channels = self.latents.channels if self.latents else 3
        self.size = self.latents.size if self.latents else self.image_size
        self._decoder: VAE | None = None

    def __len__(self) -> int:
        return self.contents.records[TRAIN]

    def batch(self, index: Tensor, generator: Generator) -> Batch:
        image, label = self.store.read("image", index), self.store.read("label", index)
        if not self.latents:
            return Batch(image.float() / 127.5 - 1, label, image, index)
        mean, std = self.store.read("mean", index), self.store.read("std", index)
        z = mean + std * torch.randn(mean.shape, generator=generator)
        return Batch((z - self.latents.bias) * self.latents.scale, label, image, index)

    def to_pixels(self, x0: Tensor) -> Tensor:
        """Raises UserError where the decoder cannot be had, or is not the one the store names."""
        if not self.latents:
            return x0
        if self._decoder is None:
            name, wanted = self.latents.decoder, self.latents.decoder_weights
            if (found := revision(name)) != wanted:
                raise UserError(
                    f"the decoder {name} is not the one that the store {self.store.folder} names: its "
                    f"weights' sha256 begins {found}, not {wanted}."
                )
            self._decoder = VAE(name, x0.device)
        return self._decoder.decode(x0 / self.latents.scale + self.latents.bias)

    def reference(self) -> tuple[Tensor, Tensor]:
        """The reference part, or evenly spaced training records where the source had none."""
        records, part = self.contents.records, REFERENCE if REFERENCE in self.contents.records else TRAIN
        count = records[part] if part == REFERENCE else min(records[part], REFERENCE_IMAGES)
        index = torch.arange(count) * records[part] // count
        return self.store.read("image", index, part), self.store.read("label", index, part)


def _refuse_another(store: Store, expected: Expected) -> None:
    contents, latents = store.contents, store.contents.latents
    found = Expected(
        image_size=contents.size,
        classes=len(contents.classes),
        vae=latents.vae if latents else "",
        scale=latents.scale if latents else None,
    )
    for name in ("image_size", "classes", "vae", "scale"):
        wanted, has = getattr(expected, name), getattr(found, name)
        if wanted is not None and wanted != has:
            raise UserError(
                f"the store {store.folder} has {name}={has or 'none'}, this data set expects "
                f"{wanted or 'none'}: prepare it so, or name another store with [path=...]."
            )
