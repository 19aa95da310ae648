"""Building of the shards of a store, each by one process: read, resize, encode, write, rename."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.core.errors import UserError
from bench.core.files import sha256
from bench.data.hub_sources import open_source
from bench.data.layout import Member
from bench.data.shards import Manifest, Shard, records_digest, write_shard
from bench.data.sources import Source, as_bytes

if TYPE_CHECKING:  # workers that encode nothing start faster without torch
    from bench.data.vae import VAE


class Built(NamedTuple):
    """A complete shard."""

    shard: Shard
    checksum: str  # SHA-256 of the file
    records: bytes  # 32 per record: see `records_digest`


def build_shards(
    source: str,
    out: Path,
    manifest: Manifest,
    workers: int | None,
    progress: Callable[[int], object],
) -> list[Built]:
    """Build all shards, in order; existing ones are compared with the source and kept.

    If `manifest` has checksums, a shard that differs from its own is damaged and made again. `workers` None:
    a process for every core, with a VAE for every GPU.

    Raises:
        UserError: if an image is damaged, a shard holds other images, the disk is full, or a process ends
            early.
    """
    spawn, shards = multiprocessing.get_context("spawn"), manifest.shards()
    workers = max(1, min(workers or _default_workers(manifest), len(shards)))
    threads = max(1, (os.cpu_count() or 1) // workers)
    built = []
    try:
        if workers == 1:
            _open_worker(0, source, out, manifest, threads)
            for shard in shards:
                built.append(_build_shard(shard))
                progress(len(shard))
            return built
        numbers = spawn.Value("i", 0)
        setting = (os.getpid(), numbers, source, out, manifest, threads)
        with ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=setting) as pool:
            futures = [pool.submit(_build_shard, shard) for shard in shards]
            try:
                for future in as_completed(futures):
                    progress(len(future.result().shard))
            finally:
                pool.shutdown(cancel_futures=True)
            return [future.result() for future in futures]
    except BrokenProcessPool:
        raise UserError(
            "a process ended early, perhaps killed for its memory: run again with fewer --workers."
        ) from None
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): make room and run the same command "
            "again; it continues."
        ) from None


def _default_workers(manifest: Manifest) -> int:
    if not manifest.latents:
        return os.cpu_count() or 1
    import torch

    return torch.cuda.device_count()


class _Worker:
    """State of a worker process."""

    number: int
    source: Source
    out: Path
    manifest: Manifest
    threads: int
    vae: VAE | None = None  # until a shard needs it


def _start_worker(
    parent: int, numbers: Synchronized[int], source: str, out: Path, manifest: Manifest, threads: int
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    _open_worker(number, source, out, manifest, threads)


def _open_worker(number: int, source: str, out: Path, manifest: Manifest, threads: int) -> None:
    _Worker.number, _Worker.source, _Worker.out = number, open_source(source), out
    _Worker.manifest, _Worker.threads, _Worker.vae = manifest, threads, None


def _end_with(parent: int) -> None:
    """End this process if the command is killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _build_shard(shard: Shard) -> Built:
    """Write one shard, unless it exists."""
    manifest, source, path = _Worker.manifest, _Worker.source, _Worker.out / shard.file
    members = source.layout.parts[shard.part][shard.first : shard.end]
    with ThreadPoolExecutor(_Worker.threads) as pool:
        decoded = pool.map(lambda member: source.pixels(member.key, manifest.size, manifest.resize), members)
        images = np.stack(list(decoded))
    arrays = {"image": images, "label": np.array([member.label for member in members], dtype=np.int64)}
    arrays["key"] = _padded(members, manifest.key_bytes)
    records = records_digest(images, arrays["label"])
    if (checksum := _kept(path, arrays)) is None:
        checksum = write_shard(path, arrays | _latents(shard, images))
    return Built(shard, checksum, records)


def _kept(path: Path, arrays: dict[str, np.ndarray]) -> str | None:
    """The checksum of an existing shard; None if it is absent or damaged.

    Raises:
        UserError: if it holds other images.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        checksum = sha256(path)
        found = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    if _Worker.manifest.checksums.get(path.name, checksum) != checksum:
        return None
    if any(name not in found or not np.array_equal(found[name], array) for name, array in arrays.items()):
        raise UserError(
            f"{path} does not hold the images of {_Worker.source.name}: choose another --output, or delete "
            "that file if it is damaged."
        )
    return checksum


def _latents(shard: Shard, images: np.ndarray) -> dict[str, np.ndarray]:
    """The latent fields of a shard; none for pixels."""
    latents = _Worker.manifest.latents
    if not latents:
        return {}
    import torch

    from bench.core.seeding import generator
    from bench.data.vae import VAE

    if _Worker.vae is None:
        gpus = torch.cuda.device_count()
        device = torch.device(f"cuda:{_Worker.number % gpus}" if gpus else "cpu")
        _Worker.vae = VAE(latents.vae, device, latents.precision, latents.tiled)
    mean, std = _Worker.vae.encode(torch.from_numpy(images))
    if latents.statistic == "posterior":
        return {"mean": mean.numpy(), "std": std.numpy()}
    draw = generator(0, f"latents of {shard.part}", shard.first)
    return {"z": (mean + std * torch.randn(mean.shape, generator=draw)).numpy()}


def _padded(members: list[Member], length: int) -> np.ndarray:
    keys = b"".join(as_bytes(member.key).ljust(length, b"\0") for member in members)
    return np.frombuffer(keys, np.uint8).reshape(len(members), length)
