"""Images -> store: python -m bench.prepare cifar10.zip --out stores/cifar10 --size 32

Crops and resizes the images of a folder, zip or tar with a folder for each class, encodes them by a VAE
where one is named, and writes the store that training reads. Kill it at any time: the same command continues,
and the store is the same to the last byte. Every shard has a checksum: --verify STORE.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from bench.data.store import Resize
from bench.errors import UserError, exit_code

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    import numpy as np

    from bench.data.sources import Member, Source
    from bench.data.store import Contents
    from bench.data.vae import VAE

Shard = tuple[str, str, int, int]  # file name, part, first record, end


@dataclass(frozen=True)
class Options:
    """What is prepared, and where it goes."""

    source: Annotated[Path | None, tyro.conf.Positional] = None
    """folder, zip or tar of images, a folder for each class; train/ and test/ or val/ are told apart"""
    out: Path | None = None
    """folder of the store"""
    size: int = 256
    """rows and columns of the images"""
    resize: Resize = "adm"
    """how images come to that size: adm (as ImageNet's in the field) or area (means, for small images)"""
    vae: str | None = None
    """hub id or folder of the VAE that makes latents, e.g. stabilityai/sd-vae-ft-mse; none: pixels"""
    decoder: str | None = None
    """the VAE that decodes samples; the same if not given"""
    workers: int | None = None
    """processes; by default one a core, with a VAE one a GPU"""
    verify: Path | None = None
    """check every record and checksum of this store, and do nothing else"""


def main() -> None:
    """Parse, and prepare or verify."""
    options = tyro.cli(Options, prog="python -m bench.prepare", description=__doc__)
    if options.verify:
        verify(options.verify)
        return
    if not options.source or not options.out:
        raise UserError("say what to prepare and where: python -m bench.prepare IMAGES --out STORE")
    prepare(
        options.source,
        options.out,
        options.size,
        options.vae,
        options.decoder,
        options.workers,
        options.resize,
    )


def prepare(
    path: Path,
    out: Path,
    size: int,
    vae: str | None,
    decoder: str | None,
    workers: int | None = None,
    resize: Resize = "adm",
) -> None:
    """Make the store of the images at `path`, or complete it.

    Raises UserError where an image is damaged, the disk is full, or `out` holds a store of other contents.
    """
    from bench.data.sources import open_source
    from bench.data.store import MANIFEST, UNFINISHED, read_manifest
    from bench.progress import progress_bar
    from bench.store import write_json

    if size < 1:
        raise UserError(f"--size {size}: images have at least one pixel.")
    source = open_source(path)
    contents = describe(source, size, vae, decoder, resize)
    if (out / MANIFEST).is_file():
        _refuse_other(out, read_manifest(out)[0], contents)
        print(f"{out} is complete. Check it: python -m bench.prepare --verify {out}")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / UNFINISHED).is_file():
            _refuse_other(out, _unfinished(out / UNFINISHED), contents)
        elif any(out.iterdir()):
            raise UserError(f"{out} is not empty and no store: choose another --out.")
        write_json(out / UNFINISHED, asdict(contents))
        for left in out.glob(".*.safetensors.*"):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}.") from None
    shards = contents.shards()
    missing = [shard for shard in shards if not (out / shard[0]).is_file()]
    _refuse_full_disk(out, contents, missing)
    total = sum(contents.records.values())
    done = total - sum(end - first for _, _, first, end in missing)
    with progress_bar(total, done, str(out), "img") as bar:
        _make(path, out, contents, missing, workers or _default_workers(vae), bar.update)
    manifest = {"format": 1, "fingerprint": contents.fingerprint, "contents": asdict(contents)}
    write_json(out / MANIFEST, manifest | {"checksums": _checksums(out, shards)})
    (out / UNFINISHED).unlink()
    counts = ", ".join(f"{count} {part}" for part, count in contents.records.items())
    print(f"{out}: {counts} records, {len(contents.classes)} classes, {len(shards)} shards.")


def describe(
    source: Source, size: int, vae: str | None, decoder: str | None, resize: Resize = "adm"
) -> Contents:
    """What the store will hold. Raises UserError where the VAE cannot be had or does not fit."""
    from bench.data.store import CROPS, Contents

    if decoder and not vae:
        raise UserError("--decoder says what makes images of latents again: give --vae too.")
    if vae:
        from bench.data import vae as autoencoders

        latents = autoencoders.describe(vae, decoder or vae, size)
    else:
        latents = None
    return Contents(
        source=source.path.name,
        size=size,
        classes=source.classes,
        records={part: len(members) for part, members in source.parts.items()},
        keys=source.keys_sha256,
        key_bytes=max(len(member.key.encode()) for members in source.parts.values() for member in members),
        latents=latents,
        crop=CROPS[resize],
    )


def verify(folder: Path) -> None:
    """Check sizes, checksums and labels of a store. Raises UserError naming the first damaged shard."""
    from safetensors.numpy import load_file

    from bench.data.store import MANIFEST, Store, read_manifest, sha256
    from bench.progress import progress_bar

    contents, checksums = read_manifest(folder)
    Store(folder)
    with progress_bar(sum(contents.records.values()), 0, "verifying", "img") as bar:
        for name, _, first, end in contents.shards():
            if sha256(folder / name) != checksums[name]:
                raise UserError(
                    f"{folder / name} is damaged (its checksum differs): delete it and {folder / MANIFEST}, "
                    "and prepare the store again; what is intact is kept."
                )
            labels = load_file(folder / name)["label"]
            if len(labels) != end - first or labels.min() < 0 or labels.max() >= len(contents.classes):
                raise UserError(f"{folder / name} has labels outside 0..{len(contents.classes) - 1}.")
            bar.update(end - first)
    print(f"{folder}: {sum(contents.records.values())} records in {len(checksums)} shards, all intact.")


def _make(
    path: Path,
    out: Path,
    contents: Contents,
    missing: list[Shard],
    workers: int,
    progress: Callable[[int], object],
) -> None:
    """Write the missing shards, each by one process."""
    spawn = multiprocessing.get_context("spawn")
    workers = max(1, min(workers, len(missing)))
    threads = max(1, (os.cpu_count() or 1) // workers)
    try:
        if workers == 1:
            _open_worker(0, path, out, contents, threads)
            for shard in missing:
                progress(_make_shard(shard))
            return
        numbers = spawn.Value("i", 0)
        setting = (os.getpid(), numbers, path, out, contents, threads)
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


class _Worker:
    """What a process keeps from shard to shard."""

    source: Source
    out: Path
    contents: Contents
    threads: int
    vae: VAE | None = None  # None: pixels


def _start_worker(
    parent: int, numbers: Synchronized[int], path: Path, out: Path, contents: Contents, threads: int
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    _open_worker(number, path, out, contents, threads)


def _open_worker(number: int, path: Path, out: Path, contents: Contents, threads: int) -> None:
    from bench.data.sources import open_source

    _Worker.source, _Worker.out = open_source(path), out
    _Worker.contents, _Worker.threads = contents, threads
    if contents.latents:
        import torch

        from bench.data.vae import VAE

        gpus = torch.cuda.device_count()
        _Worker.vae = VAE(contents.latents.vae, torch.device(f"cuda:{number % gpus}" if gpus else "cpu"))


def _end_with(parent: int) -> None:
    """A killed command leaves no process behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _make_shard(shard: Shard) -> int:
    """Write one shard. Returns its number of records."""
    import numpy as np

    from bench.data.store import write_shard

    name, part, first, end = shard
    contents, source = _Worker.contents, _Worker.source
    members = source.parts[part][first:end]
    with ThreadPoolExecutor(_Worker.threads) as pool:
        decoded = pool.map(lambda member: source.pixels(member.key, contents.size, contents.resize), members)
        images = np.stack(list(decoded))
    arrays = {"image": images, "label": np.array([member.label for member in members], dtype=np.int64)}
    arrays["key"] = _padded(members, contents.key_bytes)
    if contents.latents and _Worker.vae:
        import torch

        mean, std = _Worker.vae.encode(torch.from_numpy(images))
        arrays |= {"mean": mean.numpy(), "std": std.numpy()}
    write_shard(_Worker.out / name, arrays)
    return len(members)


def _padded(members: list[Member], length: int) -> np.ndarray:
    import numpy as np

    keys = b"".join(member.key.encode().ljust(length, b"\0") for member in members)
    return np.frombuffer(keys, np.uint8).reshape(len(members), length)


def _checksums(out: Path, shards: list[Shard]) -> dict[str, str]:
    from bench.data.store import sha256

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(lambda shard: (shard[0], sha256(out / shard[0])), shards))


def _default_workers(vae: str | None) -> int:
    if not vae:
        return os.cpu_count() or 1
    import torch

    return max(1, torch.cuda.device_count())


def _unfinished(path: Path) -> Contents:
    from bench.data.store import Contents

    try:
        return Contents.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: delete the folder {path.parent} and prepare again.") from None


def _refuse_other(out: Path, found: Contents, wanted: Contents) -> None:
    if found.fingerprint == wanted.fingerprint:
        return
    ours, theirs = asdict(wanted), asdict(found)
    different = [key for key in ours if ours[key] != theirs[key] and key != "source"]
    raise UserError(
        f"{out} holds a store of other contents (it differs in {', '.join(different)}): choose another --out "
        "or delete it."
    )


def _refuse_full_disk(out: Path, contents: Contents, missing: list[Shard]) -> None:
    needed = contents.record_bytes * sum(end - first for _, _, first, end in missing)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UserError(f"the store takes {needed / 1e9:.1f} GB more, {out} has {free / 1e9:.1f} GB free.")


if __name__ == "__main__":
    sys.exit(exit_code(main))
