"""Cache on disk of the features of a frozen encoder for a whole data set: `dinov2-b[cache=true]`.

Images are not augmented, so features are the same in every epoch. They are stored in float16 shards in the
cache folder, under a key of everything that determines them: encoder, weights, preprocessing, precision, grid
and the fingerprint of the data set. Filling is resumable, and several processes may do it at the same time,
since each shard is renamed when it is complete. When a run starts, shards of a wrong length or checksum are
computed again; the checksums of a cache of more than VERIFIED bytes are not compared.

The cost of filling is added to every run that uses the cache: see `cost`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones import cost
from bench.core.errors import UserError
from bench.core.files import in_units, read_json, sha256, write_json
from bench.core.machine import cache_folder
from bench.core.progress import progress_bar
from bench.data.base import Records
from bench.data.shards import write_shard
from bench.nets.base import NO_LAYERS, Encoder
from methods.base import EncoderLayers, Features

SHARD_RECORDS, BATCH_SIZE = 1024, 128
MANIFEST = "manifest.json"  # written last: with it the cache is complete
VERIFIED = 2 << 30  # bytes of a cache that are read to verify it when a run starts: a few seconds


class FeatureCache:
    """Features of the training records of a data set, by index."""

    def __init__(self, encoder: Encoder, data: Records, identity: str) -> None:
        """`identity` of the data set: see `Dataset.identity`."""
        self.encoder, self.data, self.info = encoder, data, encoder.info
        self.key = {"data": identity, "records": len(data), "grid": encoder.info.grid} | encoder.key
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:12]
        readable = re.sub(r"[^a-zA-Z0-9.]+", "-", encoder.info.name)
        self.folder = cache_folder() / "features" / f"{readable}-{digest}"
        self._opened: dict[int, dict[str, Tensor]] = {}
        self._zeros: dict[str, Tensor] | None = None

    @property
    def bytes(self) -> int:
        """Size on disk in bytes."""
        rows, columns = self.info.grid
        return len(self.data) * (rows * columns + 1) * self.info.width * 2

    @property
    def complete(self) -> bool:
        return "seconds" in self._manifest()

    @property
    def cost(self) -> tuple[float, int]:
        """Recorded seconds and FLOPs of filling the cache; 0 before."""
        manifest = self._manifest()
        return manifest.get("seconds", 0.0), manifest.get("flops", 0)

    def _manifest(self) -> dict[str, Any]:
        """Its content; {} before the cache is complete, or if it is damaged."""
        return read_json(self.folder / MANIFEST)

    def pretend(self) -> None:
        """Return zeros instead of missing features, to time steps for a plan."""
        if not self.complete:
            rows, columns = self.info.grid
            cls = torch.zeros(1, 1).expand(SHARD_RECORDS, self.info.width)
            self._zeros = {"patch": cls[:, None].expand(-1, rows * columns, -1), "cls": cls}

    def __call__(self, index: Tensor, layers: EncoderLayers = NO_LAYERS) -> Features:
        """Features of the records of these numbers, on the CPU. Raises FileNotFoundError before `fill`.

        Raises:
            UserError: for `layers`, since only patch and class tokens are cached.
        """
        if layers != NO_LAYERS:
            raise UserError(
                f"the feature cache of {self.info.name} holds no hidden layers, attention, keys or values: "
                "drop cache=true."
            )
        places = [divmod(number, SHARD_RECORDS) for number in index.tolist()]
        tokens, cls = (
            torch.stack([self._shard(shard)[name][row] for shard, row in places]).float()
            for name in ("patch", "cls")
        )
        return Features(tokens, cls)

    def _shard(self, number: int) -> dict[str, Tensor]:
        if self._zeros:
            return self._zeros
        if number not in self._opened:
            with safe_open(self._path(number), framework="pt") as file:  # views of the mapped file
                self._opened[number] = {name: file.get_tensor(name) for name in ("patch", "cls")}
        return self._opened[number]

    def fill(self) -> None:
        """Compute missing and damaged features, after printing their size.

        Raises UserError if the disk is too small.
        """
        manifest = self._manifest()
        shards = range(-(-len(self.data) // SHARD_RECORDS))
        known = manifest.get("checksums", {})
        present = [shard for shard in shards if self._path(shard).is_file()]
        damaged = [shard for shard in present if not self._intact(shard, known.get(str(shard)))]
        missing = sorted({*shards} - {*present} | {*damaged})
        if manifest and not missing:
            return
        if damaged:
            warnings.warn(
                f"{len(damaged)} of {len(shards)} files in {self.folder} are damaged, and computed again.",
                stacklevel=2,
            )
        missing = missing or list(shards[-1:])  # to see how long it takes
        needed = self.bytes * len(missing) // len(shards)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            print(
                f"features of {self.info.name} for {len(self.data)} images: {in_units(self.bytes)} in "
                f"{self.folder}, where {in_units(free)} are free",
                flush=True,
            )
            if needed > free:
                raise UserError(
                    f"the feature cache takes {in_units(needed)} more, {self.folder} has "
                    f"{in_units(free)} free: set ALIGNMENT_BENCH_CACHE, or drop cache=true."
                )
            seconds = self._write(missing, replaced={*present})
            checksums = {str(shard): sha256(self._path(shard)) for shard in shards}
        except OSError as error:
            raise UserError(
                f"the feature cache {self.folder} cannot be written ({error.strerror or error}): make room "
                "and run the same command again; it continues."
            ) from None
        spent = {name: manifest[name] for name in ("seconds", "flops") if name in manifest}
        if not spent:
            with cost.counter() as counter:
                self._features(0, 1)
            spent["seconds"] = seconds * len(shards) / len(missing)  # of all, where it was continued
            spent["flops"] = counter.get_total_flops() * len(self.data)
        write_json(self.folder / MANIFEST, self.key | spent | {"checksums": checksums})

    def _intact(self, shard: int, checksum: str | None) -> bool:
        """Whether a shard can be opened, and has this checksum if it is known and the cache is small."""
        try:
            with safe_open(self._path(shard), framework="pt") as file:  # refuses files of another length
                if not {"patch", "cls"} <= set(file.keys()):
                    return False
        except (OSError, SafetensorError):
            return False
        return checksum is None or self.bytes > VERIFIED or sha256(self._path(shard)) == checksum

    def _write(self, missing: list[int], replaced: set[int]) -> float:
        """Compute these shards, but those that another process has written since; the seconds that it took.

        `replaced`: shards that were there before, computed all the same.
        """
        start, records = time.perf_counter(), len(self.data)
        done = records - sum(min(records - s * SHARD_RECORDS, SHARD_RECORDS) for s in missing)
        with progress_bar(records, done, f"features of {self.info.name}", "img") as bar:
            for shard in missing:
                first, end = shard * SHARD_RECORDS, min((shard + 1) * SHARD_RECORDS, records)
                if shard in replaced or not self._path(shard).is_file():
                    parts = [
                        self._features(a, min(a + BATCH_SIZE, end)) for a in range(first, end, BATCH_SIZE)
                    ]
                    patch, cls = (torch.cat(x).half().numpy() for x in zip(*parts, strict=True))
                    write_shard(self._path(shard), {"patch": patch, "cls": cls})
                bar.update(end - first)
        return time.perf_counter() - start

    def _features(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(first, end)
        found = self.encoder(self.data.batch(index, torch.Generator()).image)
        return found.patch_tokens.cpu(), found.cls_token.cpu()

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.safetensors"
