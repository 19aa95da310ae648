"""A store: a data set in a few large files, with fast random access.

    STORE/manifest.json               what it holds and how it was made, with checksums; written last
    STORE/train-00000.safetensors     shards of consecutive records; record i lies in shard i // per_shard
    STORE/reference-00000.safetensors what samples are compared with, if the source has such a part

Every shard holds all fields of its records, so nothing is paired by position across files:

    image [n, 3, R, R] uint8    label [n] int64    key [n, K] uint8, the source's name for it, zero-padded
    mean, std [n, C, H, W] float32, of the VAE's posterior, or z, one draw of it; in stores of latents only

A shard is memory-mapped: opening is free, and records are read on demand. A folder without
its manifest is unfinished and never read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.core.errors import UserError
from bench.core.files import replacing, sha256
from bench.data.base import Shape

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FORMAT = 2  # format 1, which lacks the checksums of images, is read too
MANIFEST, UNFINISHED = "manifest.json", "unfinished.json"
SHARD_NAME = re.compile(r"\.?(train|reference)-\d{5}\b.*\.safetensors")
TRAIN, REFERENCE = "train", "reference"
SHARD_BYTES, SHARD_RECORDS = 512 * 2**20, 4096  # a shard holds at most this much
LARGEST_SIZE = math.isqrt(SHARD_BYTES // 3)  # rows and columns of an image that still fits a shard

Statistic = Literal["posterior", "sample"]  # mean and std, sampled at every read; or one fixed sample
Normalise = Literal["vae", "channels"]  # scale and bias of the VAE, or of each channel over the store
Resize = Literal["adm", "area"]  # how images are resized, with the description in the manifest
CROPS: dict[Resize, str] = {
    "adm": "ADM: halve by box while twice too large, bicubic, centre",
    "area": "area: centre square, mean of the pixels under each new one",
}


@dataclass(frozen=True)
class Shard:
    """A file of a store, and its records."""

    file: str
    part: str
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Latents:
    """How latents were made and are decoded: x0 = (z - bias) * scale."""

    vae: str  # hub id or folder
    vae_weights: str  # first 16 hex digits of the weight file's SHA-256: the revision
    decoder: str
    decoder_weights: str
    channels: int
    size: int
    scale: float  # of the VAE's own configuration
    bias: float
    statistic: Statistic = "posterior"
    normalise: Normalise = "vae"
    precision: Literal["fp32", "bf16"] = "fp32"  # of the VAE's arithmetic, both ways
    tiled: bool = False  # whether it sees large images in overlapping tiles

    @property
    def fields(self) -> tuple[str, ...]:
        """The latent fields of a record."""
        return ("mean", "std") if self.statistic == "posterior" else ("z",)


@dataclass(frozen=True)
class Manifest:
    """Content and origin of a store; all but the last three fields are known in advance."""

    source: str  # for the reader; nothing depends on it
    size: int  # rows and columns of the images
    classes: tuple[str, ...]  # a label is a position in this list
    records: dict[str, int]  # of each part
    keys: str  # SHA-256 of all keys and labels, in order
    key_bytes: int
    latents: Latents | None
    crop: str = CROPS["adm"]
    flips: str = "none"
    images: dict[str, str] = field(default_factory=dict)  # part -> SHA-256 of its images and labels, in order
    checksums: dict[str, str] = field(default_factory=dict)  # file name of a shard -> SHA-256
    channels: dict[str, list[float]] | None = None  # mean and std of each latent channel, if they normalise

    @property
    def identity(self) -> str:
        """8 hex digits, determined by images and labels, independent of the names of files and classes.

        Latents count by how they were made, since their last digits differ between machines. A manifest of
        format 1 has no checksums of images; those of its shards count instead, and with them the names.
        """
        latents = _without_places(self.latents) if self.latents else None
        content = {
            "size": self.size,
            "classes": len(self.classes),
            "records": self.records,
            "latents": latents,
            "images": self.images or self.checksums,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def plan(self) -> dict[str, Any]:
        """What is known in advance and determines the content, without paths of files."""
        plan = {key: value for key, value in asdict(self).items() if key not in _NOT_PLANNED}
        return plan | {"latents": _without_places(self.latents) if self.latents else None}

    @property
    def shape(self) -> Shape:
        """Classes and size of x0."""
        channels, size = (self.latents.channels, self.latents.size) if self.latents else (3, self.size)
        return Shape(len(self.classes), channels, size)

    @property
    def described(self) -> dict[str, Any]:
        """Properties that a preset may expect, by its keys; those of latents are empty for pixels."""
        kept = ("vae", "decoder", "scale", "statistic", "normalise")
        latents = {key: getattr(self.latents, key) if self.latents else "" for key in kept}
        return {"image_size": self.size, **self.shape._asdict(), "resize": self.resize, **latents}

    @property
    def resize(self) -> Resize:
        return next(name for name, text in CROPS.items() if text == self.crop)

    @property
    def record_bytes(self) -> int:
        latent = 0
        if self.latents:
            latent = len(self.latents.fields) * 4 * self.latents.channels * self.latents.size**2
        return 3 * self.size**2 + latent + 8 + self.key_bytes

    @property
    def records_per_shard(self) -> int:
        """A power of two."""
        fitting = max(1, SHARD_BYTES // self.record_bytes)
        return min(SHARD_RECORDS, 1 << fitting.bit_length() - 1)

    def shards(self) -> list[Shard]:
        step = self.records_per_shard
        return [
            Shard(f"{part}-{first // step:05d}.safetensors", part, first, min(first + step, count))
            for part, count in self.records.items()
            for first in range(0, count, step)
        ]

    def to_json(self) -> dict[str, Any]:
        """As JSON; `identity` is only for human readers."""
        return {"format": FORMAT, "identity": self.identity} | asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Manifest:
        """Parse this format or format 1. Raises ValueError, KeyError or TypeError for anything else."""
        if content.get("format", 1) == 1:  # what was known beforehand stood apart, and alone while unfinished
            content = {**content.get("contents", content), **{k: content.get(k) for k in _FINISHED}}
            content |= {"images": {}, "checksums": content["checksums"] or {}}
        latents = content["latents"] and Latents(**content["latents"])
        fields = {key: content[key] for key in cls.__dataclass_fields__}
        return cls(**fields | {"latents": latents, "classes": tuple(content["classes"])})


_FINISHED = ("checksums", "channels")
_NOT_PLANNED = ("source", "images", *_FINISHED)


def _without_places(latents: Latents) -> dict[str, Any]:
    """A VAE is identified by its weights, not its path."""
    return {key: value for key, value in asdict(latents).items() if key not in ("vae", "decoder")}


def write_shard(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write a shard atomically. Returns its SHA-256."""
    import numpy as np
    from safetensors.numpy import save_file

    with replacing(path) as unfinished:
        # Safetensors writes memory as it lies, so the order of the axes must be the shape's.
        save_file({field: np.ascontiguousarray(array) for field, array in arrays.items()}, unfinished)
        unfinished.chmod(0o644)  # safetensors leaves files that nobody else may read
        return sha256(unfinished)


def records_digest(images: np.ndarray, labels: np.ndarray) -> bytes:
    """32 bytes for each record, the SHA-256 of its pixels and label; images [n, 3, R, R] uint8."""
    pairs = zip(images, labels.astype("<i8"), strict=True)
    return b"".join(hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store. Raises UserError if it is absent, unfinished or damaged."""
    again = "prepare it again; intact shards are kept"
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        if content["format"] not in (1, FORMAT):
            raise UserError(
                f"the store {folder} has format {content['format']}, this version reads 1 and {FORMAT}: "
                "prepare it again."
            )
        manifest = Manifest.from_json(content)
        if missing := [shard.file for shard in manifest.shards() if shard.file not in manifest.checksums]:
            raise UserError(
                f"the manifest of the store {folder} has no checksum of {missing[0]}, so its images "
                f"cannot be identified: {again}."
            )
        return manifest
    except FileNotFoundError:
        raise _no_store(folder) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the manifest of the store {folder} is damaged ({error}): {again}.") from None


def _no_store(folder: Path) -> UserError:
    if (folder / UNFINISHED).is_file():
        return UserError(
            f"the store {folder} is unfinished: run the command that prepares it again, it continues."
        )
    return UserError(
        f"there is no store at {folder}. Make it: python -m bench.prepare IMAGES --output {folder}, or name "
        "another: --data 'NAME[path=STORE]'."
    )


class ShardedRecords:
    """A finished store, opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if it is absent or unfinished, or if a shard is absent or of another size."""
        self.folder = folder
        self.manifest = read_manifest(folder)
        for shard in self.manifest.shards():
            path = folder / shard.file
            if not path.is_file() or path.stat().st_size < len(shard) * self.manifest.record_bytes:
                raise UserError(
                    f"{path} is absent or cut off: prepare the store again; intact shards are kept."
                )
        self._opened: dict[str, dict[str, Tensor]] = {}

    def read(self, field: str, indices: Tensor, part: str = TRAIN) -> Tensor:
        """One field of the records of these numbers, [B, ...]."""
        import torch

        per_shard = self.manifest.records_per_shard
        rows = []
        for number in indices.tolist():
            shard, row = divmod(number, per_shard)
            rows.append(self._shard(f"{part}-{shard:05d}.safetensors")[field][row])
        return torch.stack(rows)

    def _shard(self, name: str) -> dict[str, Tensor]:
        if name not in self._opened:
            from safetensors import safe_open

            with safe_open(self.folder / name, framework="pt") as file:  # views of the mapped file
                self._opened[name] = {field: file.get_tensor(field) for field in file.keys()}  # noqa: SIM118
        return self._opened[name]
