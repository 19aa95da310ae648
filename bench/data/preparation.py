"""Making a store of images: what it will hold, its shards, and the check of a finished one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Literal

from bench.core.cli import OptionalStr
from bench.core.errors import UserError
from bench.core.files import in_units
from bench.data.shards import Normalise, Resize, Statistic

if TYPE_CHECKING:
    from bench.data.build import Built
    from bench.data.shards import Manifest, Shard
    from bench.data.sources import Source


@dataclass(frozen=True)
class Recipe:
    """Processing of the images."""

    size: int = 256
    """rows and columns of the images"""
    resize: Resize = "adm"
    """resizing: adm (crop of ADM, usual for ImageNet) or area (averages, for small images)"""
    vae: OptionalStr = None
    """hub id or folder of the VAE of latents, e.g. stabilityai/sd-vae-ft-mse; by default pixels"""
    decoder: OptionalStr = None
    """the VAE that decodes samples; by default the same"""
    statistic: Statistic = "posterior"
    """of latents: posterior stores mean and std, sampled at every read (REPA); sample stores one sample"""
    normalise: Normalise = "vae"
    """of latents: by scale and bias of the VAE, or every channel to mean 0 and standard deviation 1"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the matrix products of encoder and decoder"""
    tiled: bool = False
    """encode large images in overlapping tiles: less memory, slightly different latents"""


def prepare(source: str, out: Path, recipe: Recipe, workers: int | None = None, yes: bool = False) -> None:
    """Make or complete the store of the images of `source`.

    Raises:
        UserError: if an image is damaged, the disk is full, `out` holds anything but an unfinished or
            complete store of these images, or, without `yes`, if they look surprising.
    """
    from bench.core.files import write_json
    from bench.core.progress import progress_bar
    from bench.data.build import build_shards
    from bench.data.hub_sources import open_source
    from bench.data.shards import LARGEST_SIZE, MANIFEST, UNFINISHED

    if not 1 <= recipe.size <= LARGEST_SIZE:
        raise UserError(f"--size {recipe.size}: images have 1 to {LARGEST_SIZE} rows and columns.")
    found = _found(out)
    _refuse_inside(out, source)
    opened = open_source(source)
    print(f"{source}:\n{indent(opened.layout.summary, '  ')}")
    if found is None and not yes:
        opened.layout.refuse_surprises(source)
    manifest = describe(opened, recipe)
    if found:
        _refuse_other(out, found, manifest)
    finished = (out / MANIFEST).is_file() and found is not None
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not finished:
            write_json(out / UNFINISHED, manifest.to_json())
        for left in out.glob(".*.safetensors*"):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from None
    shards, total = manifest.shards(), sum(manifest.records.values())
    _refuse_full_disk(out, manifest, [shard for shard in shards if not (out / shard.file).is_file()])
    checked = replace(manifest, checksums=found.checksums if found else {})
    with progress_bar(total, 0, str(out), "img") as bar:
        built = build_shards(source, out, checked, workers, bar.update)
    manifest = _completed(manifest, built, out)
    if finished and found and replace(manifest, source=found.source) == found:
        print(f"{out} is complete and holds these images.")
        return
    try:
        write_json(out / MANIFEST, manifest.to_json())
        (out / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from None
    size = in_units(sum((out / shard.file).stat().st_size for shard in shards))
    print(f"{out}: complete; records: {total}, shards: {len(shards)}, {size} in all.")


def _completed(manifest: Manifest, built: list[Built], out: Path) -> Manifest:
    digests = {part: hashlib.sha256() for part in manifest.records}
    for shard, _, records in built:
        digests[shard.part].update(records)
    normalised = manifest.latents and manifest.latents.normalise == "channels"
    return replace(
        manifest,
        images={part: digest.hexdigest() for part, digest in digests.items()},
        checksums={shard.file: checksum for shard, checksum, _ in built},
        channels=_channel_statistics(out, manifest) if normalised else None,
    )


def describe(source: Source, recipe: Recipe) -> Manifest:
    """What the store will hold. Raises UserError if the VAE is not available or does not fit."""
    from bench.data.shards import CROPS, Manifest
    from bench.data.sources import as_bytes

    if recipe.decoder and not recipe.vae:
        raise UserError("--decoder says what makes images of latents again: give --vae too.")
    latents = None
    if recipe.vae:
        from bench.data import vae as autoencoders

        vae = os.path.expanduser(recipe.vae)
        decoder = os.path.expanduser(recipe.decoder or recipe.vae)
        how = {key: getattr(recipe, key) for key in ("statistic", "normalise", "precision", "tiled")}
        latents = autoencoders.describe(vae, decoder, recipe.size, **how)
    parts = source.layout.parts
    return Manifest(
        source=source.name,
        size=recipe.size,
        classes=source.layout.classes,
        records={part: len(members) for part, members in parts.items()},
        keys=source.keys_sha256,
        key_bytes=max(len(as_bytes(member.key)) for members in parts.values() for member in members),
        latents=latents,
        crop=CROPS[recipe.resize],
    )


def verify(folder: Path) -> None:
    """Check sizes, checksums and labels of a store. Raises UserError naming the first damaged shard."""
    from safetensors.numpy import load_file

    from bench.core.files import sha256
    from bench.core.progress import progress_bar
    from bench.data.shards import ShardedRecords

    manifest = ShardedRecords(folder).manifest
    with progress_bar(sum(manifest.records.values()), 0, "verifying", "img") as bar:
        for shard in manifest.shards():
            path = folder / shard.file
            if sha256(path) != manifest.checksums[shard.file]:
                raise UserError(
                    f"{path} is damaged (its checksum differs): prepare the store again, intact shards are "
                    "kept."
                )
            labels = load_file(path)["label"]
            if len(labels) != len(shard) or labels.min() < 0 or labels.max() >= len(manifest.classes):
                raise UserError(f"{path} has labels outside 0..{len(manifest.classes) - 1}.")
            bar.update(len(shard))
    print(
        f"{folder}: {sum(manifest.records.values())} records in {len(manifest.checksums)} shards, all intact."
    )


def _channel_statistics(out: Path, manifest: Manifest) -> dict[str, list[float]]:
    """Mean and deviation of every channel of z over the training part, in float64.

    For z = mean + std n the variance is that of the means plus the mean of std^2.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from bench.data.shards import TRAIN

    assert manifest.latents
    count, total, squares = 0, *np.zeros((2, manifest.latents.channels))
    for shard in manifest.shards():
        if shard.part == TRAIN:
            fields = load_file(out / shard.file)
            z = fields["z" if "z" in fields else "mean"].astype(np.float64)  # [n, C, H, W]
            spread = fields["std"].astype(np.float64) if "std" in fields else np.zeros(1)
            count += z.size // z.shape[1]
            total = total + z.sum(axis=(0, 2, 3))
            squares = squares + (z**2 + spread**2).sum(axis=(0, 2, 3))
    mean = total / count
    return {"mean": mean.tolist(), "std": np.sqrt(squares / count - mean**2).tolist()}


def _found(out: Path) -> Manifest | None:
    """What a folder says that it holds, finished or not; None if it says nothing.

    Raises:
        UserError: if it holds anything but a store.
    """
    from bench.data.shards import MANIFEST, SHARD_NAME, UNFINISHED, Manifest

    known = (MANIFEST, UNFINISHED)
    for file in out.iterdir() if out.is_dir() else ():
        if file.name.lstrip(".").split(".")[0] + ".json" not in known and not SHARD_NAME.match(file.name):
            raise UserError(f"{out} is not empty and no store ({file.name}): choose another --output.")
    for name in known:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Manifest.from_json(json.loads((out / name).read_bytes()))
    return None


def _refuse_inside(out: Path, source: str) -> None:
    folder = Path(source).expanduser()
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--output {out} lies inside the images of {source}: choose a folder outside.")


def _refuse_other(out: Path, found: Manifest, wanted: Manifest) -> None:
    ours, theirs = wanted.plan, found.plan
    different = [_SAID.get(key, key) for key in ours if ours[key] != theirs[key]]
    if different:
        raise UserError(
            f"{out} holds a store of other contents (it differs in {', '.join(different)}): choose another "
            "--output or delete it."
        )


_SAID = {"keys": "the names of its images", "key_bytes": "the length of their names", "crop": "resize"}


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {out}: {error.strerror or error}.")


def _refuse_full_disk(out: Path, manifest: Manifest, missing: list[Shard]) -> None:
    needed = manifest.record_bytes * sum(map(len, missing))
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UserError(f"the store takes {in_units(needed)} more, {out} has {in_units(free)} free.")
