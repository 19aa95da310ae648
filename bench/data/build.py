"""The shards of a store, each made by one process: read, resize and encode its images, write, rename."""

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
from typing import TYPE_CHECKING

import numpy as np

from bench.core.errors import UserError
from bench.data.hub_sources import open_source
from bench.data.shards import Contents, Shard, write_shard
from bench.data.sources import Member, Source

if TYPE_CHECKING:  # workers that encode nothing start faster without torch
    from bench.data.vae import VAE


def make(
    source: str,
    out: Path,
    contents: Contents,
    missing: list[Shard],
    workers: int | None,
    progress: Callable[[int], object],
) -> None:
    """Write the missing shards; `workers` None: a process for every core, with a VAE for every GPU.

    Raises UserError where an image is damaged, the disk is full, or a process ends early.
    """
    spawn = multiprocessing.get_context("spawn")
    workers = max(1, min(workers or _default_workers(contents), len(missing)))
    threads = max(1, (os.cpu_count() or 1) // workers)
    try:
        if workers == 1:
            _open_worker(0, source, out, contents, threads)
            for shard in missing:
                progress(_make_shard(shard))
            return
        numbers = spawn.Value("i", 0)
        setting = (os.getpid(), numbers, source, out, contents, threads)
        with ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=setting) as pool:
            try:
                for future in as_completed([pool.submit(_make_shard, shard) for shard in missing]):
                    progress(future.result())
            finally:
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool:
        raise UserError(
            "a process ended early, perhaps killed for its memory: run again with fewer --workers."
        ) from None
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): make room and run the same command "
            "again; it continues."
        ) from None


def _default_workers(contents: Contents) -> int:
    if not contents.latents:
        return os.cpu_count() or 1
    import torch

    return torch.cuda.device_count()


class _Worker:
    """What a process keeps from shard to shard."""

    source: Source
    out: Path
    contents: Contents
    threads: int
    vae: VAE | None = None  # None: pixels


def _start_worker(
    parent: int, numbers: Synchronized[int], source: str, out: Path, contents: Contents, threads: int
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    _open_worker(number, source, out, contents, threads)


def _open_worker(number: int, source: str, out: Path, contents: Contents, threads: int) -> None:
    _Worker.source, _Worker.out = open_source(source), out
    _Worker.contents, _Worker.threads = contents, threads
    if latents := contents.latents:
        import torch

        from bench.data.vae import VAE

        gpus = torch.cuda.device_count()
        device = torch.device(f"cuda:{number % gpus}" if gpus else "cpu")
        _Worker.vae = VAE(latents.vae, device, latents.precision, latents.tiled)


def _end_with(parent: int) -> None:
    """A killed command leaves no process behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _make_shard(shard: Shard) -> int:
    """Write one shard. Returns its number of records."""
    contents, source = _Worker.contents, _Worker.source
    members = source.parts[shard.part][shard.first : shard.end]
    with ThreadPoolExecutor(_Worker.threads) as pool:
        decoded = pool.map(lambda member: source.pixels(member.key, contents.size, contents.resize), members)
        images = np.stack(list(decoded))
    arrays = {"image": images, "label": np.array([member.label for member in members], dtype=np.int64)}
    arrays["key"] = _padded(members, contents.key_bytes)
    if contents.latents and _Worker.vae:
        import torch

        from bench.core.seeding import generator

        mean, std = _Worker.vae.encode(torch.from_numpy(images))
        if contents.latents.statistic == "posterior":
            arrays |= {"mean": mean.numpy(), "std": std.numpy()}
        else:
            draw = generator(0, f"latents of {shard.part}", shard.first)
            arrays["z"] = (mean + std * torch.randn(mean.shape, generator=draw)).numpy()
    write_shard(_Worker.out / shard.file, arrays)
    return len(members)


def _padded(members: list[Member], length: int) -> np.ndarray:
    keys = b"".join(member.key.encode().ljust(length, b"\0") for member in members)
    return np.frombuffer(keys, np.uint8).reshape(len(members), length)
