"""Data sets that live in a store: pixels as they are, or latents drawn anew each time a record is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from bench.core.errors import UserError
from bench.data.dataset import ALL, Batch
from bench.data.shards import REFERENCE, TRAIN, Store
from bench.data.vae import VAE, revision

REFERENCE_IMAGES = 10_000  # at most, of the training part, where the source has no other; as in ADM's files


@dataclass(frozen=True)
class Expected:
    """What a preset says of its store; None: anything."""

    image_size: int | None = None
    classes: int | None = None
    resize: str | None = None
    vae: str | None = None  # "": pixels
    decoder: str | None = None
    scale: float | None = None
    statistic: str | None = None
    normalise: str | None = None


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
        if self.store.channels:  # every channel has mean 0 and deviation 1
            self.bias = torch.tensor(self.store.channels["mean"]).view(-1, 1, 1)
            self.scale = 1 / torch.tensor(self.store.channels["std"]).view(-1, 1, 1)
        elif self.latents:
            self.bias, self.scale = torch.tensor(self.latents.bias), torch.tensor(self.latents.scale)

    def __len__(self) -> int:
        return self.contents.records[TRAIN]

    def batch(self, index: Tensor, generator: Generator, images: bool = True, rows: slice = ALL) -> Batch:
        records, index = len(index), index[rows]
        label = self.store.read("label", index)
        if label.min() < 0 or label.max() >= self.classes:
            raise UserError(f"the store {self.store.folder} has labels outside 0..{self.classes - 1}.")
        wanted = images or not self.latents
        image = self.store.read("image", index) if wanted else torch.empty(0, dtype=torch.uint8)
        if not self.latents:
            return Batch(image.float() / 127.5 - 1, label, image, index)
        if self.latents.statistic == "posterior":
            mean, std = self.store.read("mean", index), self.store.read("std", index)
            drawn = torch.randn((records, *mean.shape[1:]), generator=generator)
            z = mean + std * drawn[rows]
        else:
            z = self.store.read("z", index)
        return Batch((z - self.bias) * self.scale, label, image, index)

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
            self._decoder = VAE(name, x0.device, self.latents.precision, self.latents.tiled)
        z = x0 / self.scale.to(x0.device) + self.bias.to(x0.device)
        return self._decoder.decode(z)

    def reference(self) -> tuple[Tensor, Tensor]:
        """The reference part, or evenly spaced training records where the source had none."""
        records, part = self.contents.records, REFERENCE if REFERENCE in self.contents.records else TRAIN
        count = records[part] if part == REFERENCE else min(records[part], REFERENCE_IMAGES)
        index = torch.arange(count) * records[part] // count
        return self.store.read("image", index, part), self.store.read("label", index, part)


def _refuse_another(store: Store, expected: Expected) -> None:
    contents, latents = store.contents, store.contents.latents
    found: dict[str, object] = {
        "image_size": contents.size,
        "classes": len(contents.classes),
        "resize": contents.resize,
        "vae": latents.vae if latents else "",
    }
    for name in ("decoder", "scale", "statistic", "normalise"):
        found[name] = getattr(latents, name) if latents else ""
    for name, has in found.items():
        wanted = getattr(expected, name)
        if wanted is not None and wanted != has:
            raise UserError(
                f"the store {store.folder} has {name}={has or 'none'}, this data set expects "
                f"{wanted or 'none'}: prepare it so, or name another store with [path=...]."
            )
