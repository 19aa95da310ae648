"""A store: a data set on disk in a few large files, read at random and at speed.

    STORE/manifest.json               what it holds and how it was made, with checksums; written last
    STORE/train-00000.safetensors     shards of consecutive records; record i lies in shard i // per_shard
    STORE/reference-00000.safetensors what samples are compared with, where the source has such a part

Every shard holds all fields of its records, so nothing is paired by position across files:

    image [n, 3, R, R] uint8    label [n] int64    key [n, K] uint8, the source's name for it, zero-padded
    mean, std [n, C, H, W] float32, of the VAE's posterior, or z, one draw of it; in stores of latents only

A shard is memory-mapped: opening costs nothing, and a record is read when it is asked for. A folder without
its manifest is unfinished and never read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bench.core.errors import UserError
from bench.core.files import replacing, sha256
from bench.data.base import Shape

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FORMAT = 1
MANIFEST, UNFINISHED = "manifest.json", "unfinished.json"
TRAIN, REFERENCE = "train", "reference"
SHARD_BYTES, SHARD_RECORDS = 512 * 2**20, 4096  # a shard holds at most this much

Statistic = Literal["posterior", "sample"]  # mean and std, drawn from at each reading; or one draw for good
Normalise = Literal["vae", "channels"]  # scale and bias: the VAE's own, or each channel's over the store
Resize = Literal["adm", "area"]  # how images come to their size, with what the manifest says of it
CROPS: dict[Resize, str] = {
    "adm": "ADM: halve by box while twice too large, bicubic, centre",
    "area": "area: centre square, mean of the pixels under each new one",
}


@dataclass(frozen=True)
class Shard:
    """A file of a store, and the records that it holds."""

    file: str
    part: str
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Latents:
    """How latents were made, and what makes images of them again: x0 = (z - bias) * scale."""

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
class Contents:
    """What decides the bytes of a store; known before its preparation starts."""

    source: str  # for the reader; no byte depends on it
    size: int  # rows and columns of the images
    classes: tuple[str, ...]  # a label is a position in this list
    records: dict[str, int]  # of each part
    keys: str  # SHA-256 of all keys and labels, in order
    key_bytes: int
    latents: Latents | None
    crop: str = CROPS["adm"]
    flips: str = "none"

    @property
    def fingerprint(self) -> str:
        """8 hex digits; the same for the same images prepared in the same way, on any machine."""
        content = {key: value for key, value in asdict(self).items() if key != "source"}
        if self.latents:  # weights identify a VAE, wherever it lies
            content["latents"] = {k: v for k, v in content["latents"].items() if k not in ("vae", "decoder")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def shape(self) -> Shape:
        """Classes and size of x0."""
        channels, size = (self.latents.channels, self.latents.size) if self.latents else (3, self.size)
        return Shape(len(self.classes), channels, size)

    @property
    def described(self) -> dict[str, Any]:
        """What a preset may expect, by the preset's names; of pixels, what concerns latents is empty."""
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
        return min(SHARD_RECORDS, 1 << (SHARD_BYTES // self.record_bytes).bit_length() - 1)

    def shards(self) -> list[Shard]:
        step = self.records_per_shard
        return [
            Shard(f"{part}-{first // step:05d}.safetensors", part, first, min(first + step, count))
            for part, count in self.records.items()
            for first in range(0, count, step)
        ]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Contents:
        latents = content["latents"] and Latents(**content["latents"])
        return cls(**{**content, "latents": latents, "classes": tuple(content["classes"])})


def write_shard(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write a shard under a temporary name, on disk before it is renamed. Returns its SHA-256."""
    import numpy as np
    from safetensors.numpy import save_file

    with replacing(path) as unfinished:
        # Safetensors writes memory as it lies, so the order of the axes must be the shape's.
        save_file({field: np.ascontiguousarray(array) for field, array in arrays.items()}, unfinished)
        unfinished.chmod(0o644)  # safetensors leaves files that nobody else may read
        return sha256(unfinished)


class Manifest(NamedTuple):
    """What the manifest of a finished store says."""

    contents: Contents
    checksums: dict[str, str]  # file name of a shard -> SHA-256
    channels: dict[str, list[float]] | None  # mean and std of every latent channel, where they normalise


def read_manifest(folder: Path) -> Manifest:
    """The manifest. Raises UserError for an absent, unfinished or damaged store."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"the store {folder} has format {manifest['format']}, this version reads {FORMAT}: "
                "prepare it again."
            )
        contents = Contents.from_json(manifest["contents"])
        return Manifest(contents, manifest["checksums"], manifest.get("channels"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the manifest of the store {folder} is damaged ({error}): prepare it again."
        ) from None
    if (folder / UNFINISHED).is_file():
        raise UserError(
            f"the store {folder} is unfinished: run the command that prepares it again, it continues."
        )
    raise UserError(
        f"there is no store at {folder}. Make it: python -m bench.prepare IMAGES --out {folder}, or name "
        "another: --data 'NAME[path=STORE]'."
    )


class Store:
    """A finished store, opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where it is absent, unfinished, or a shard is absent or of another size."""
        self.folder = folder
        self.contents, checksums, self.channels = read_manifest(folder)
        for shard in self.contents.shards():
            path = folder / shard.file
            least = len(shard) * self.contents.record_bytes
            if shard.file not in checksums or not path.is_file() or path.stat().st_size < least:
                raise UserError(
                    f"{path} is absent or cut off: delete {folder / MANIFEST} and prepare the store again; "
                    "what is intact is kept."
                )
        self._opened: dict[str, dict[str, Tensor]] = {}

    def read(self, field: str, indices: Tensor, part: str = TRAIN) -> Tensor:
        """One field of the records of these numbers, [B, ...]."""
        import torch

        per_shard = self.contents.records_per_shard
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
