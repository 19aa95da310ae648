"""Speed of reading data: python -m bench.benchmark.data

Records of ImageNet-256, an image of 256x256 and the mean and deviation of its latents, from the store and
from other layouts of the same records, by the same number of workers: REPA's, a PNG and an .npy file for
each, and an Arrow table of the library `datasets`, where that is installed. Cold: after the system was asked
to forget the files; warm: read before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.benchmark import new_table, print_table
from bench.core.cli import parse
from bench.core.errors import UserError, exit_code

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Records = dict[str, np.ndarray]  # image, label, mean, std
    Open = Callable[[Path, Tensor, int, int], Iterable[Any]]  # folder, order, batch size, workers -> batches


@dataclass(frozen=True)
class Options:
    """Amount of data, readers, and folder."""

    records: int = 2048
    """records per layout, 0.23 MB each"""
    batch_size: int = 256
    """records per batch"""
    workers: int = 2
    """threads of the store, processes of the data loader of others"""
    folder: Path = Path(tempfile.gettempdir())
    """path on the disk that is measured; a folder in it is written, and removed at the end"""


def main() -> None:
    """Write every layout, read each, print a table."""
    options = parse(Options, __doc__)
    if options.records < options.batch_size:
        raise UserError(f"--records {options.records} are fewer than a batch of {options.batch_size}.")

    import torch

    from bench.core import machine

    device = torch.device("cpu")
    table = new_table(
        f"{machine.hardware(device)}, {options.workers} workers, {options.records} records",
        ["layout"],
        ["files", "shuffled, cold", "shuffled, warm", "in order, warm", "per CPU second", "memory"],
    )
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        records = _records(options.records)
        for name, (write, read) in layouts().items():
            place = folder / name.partition(" ")[0]
            place.mkdir()
            write(place, records)
            table.add_row(name, str(sum(1 for _ in place.rglob("*.*"))), *_measure(place, read, options))
    finally:
        shutil.rmtree(folder)
    print_table(table)
    print(
        "records/s; per CPU second of the warm shuffle, which other work on the machine does not change; "
        "memory is what three epochs added to this process, mapped files apart."
    )


def layouts() -> dict[str, tuple[Callable[[Path, Records], None], Open]]:
    """Name -> (writer, reader) of each layout."""
    found = {"store": (write_store, read_store), "files (PNG + npy)": (write_files, read_files)}
    if importlib.util.find_spec("datasets"):
        found["arrow (datasets)"] = (write_arrow, read_arrow)
    return found


def _measure(folder: Path, read: Open, options: Options) -> list[str]:
    import torch

    in_order = torch.arange(options.records)
    shuffled = torch.randperm(options.records, generator=torch.Generator().manual_seed(0))
    forget(folder)
    before, rates, work = _private_memory(), [], []
    for order in (shuffled, shuffled, in_order):
        start, worked = time.perf_counter(), _cpu_seconds()
        deque(read(folder, order, options.batch_size, options.workers), maxlen=0)  # read all, keep none
        rates.append(f"{options.records / (time.perf_counter() - start):,.0f}")
        work.append(f"{options.records / (_cpu_seconds() - worked):,.0f}")
    return [*rates, work[1], f"{_private_memory() - before:.0f} MiB"]


def forget(folder: Path) -> None:
    """Ask the system to drop the files of a folder from its memory."""
    for path in folder.rglob("*.*"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its finished workers."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _private_memory() -> float:
    """MiB of this process that are no mapped files; nan where the system does not tell."""
    try:
        return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) / 1024
    except OSError:
        return float("nan")


def _records(count: int) -> Records:
    import numpy as np

    draw = np.random.default_rng(0)
    return {
        "image": draw.integers(0, 256, (count, 3, 256, 256), dtype=np.uint8),
        "label": np.arange(count) % 1000,
        "mean": draw.standard_normal((count, 4, 32, 32), dtype=np.float32),
        "std": draw.random((count, 4, 32, 32), dtype=np.float32),
    }


def write_store(folder: Path, records: Records) -> None:
    import numpy as np

    from bench.core.files import write_json
    from bench.data.shards import MANIFEST, TRAIN, Latents, Manifest, write_shard

    count, size = len(records["label"]), records["image"].shape[-1]
    manifest = Manifest(
        source="noise",
        size=size,
        classes=tuple(f"{label:04d}" for label in range(1000)),
        records={TRAIN: count},
        keys="",
        key_bytes=16,
        latents=Latents("", "", "", "", channels=4, size=size // 8, scale=0.18215, bias=0.0),
    )
    checksums = {}
    for shard in manifest.shards():
        part = {name: values[shard.first : shard.end] for name, values in records.items()}
        part["key"] = np.zeros((len(shard), 16), np.uint8)
        checksums[shard.file] = write_shard(folder / shard.file, part)
    write_json(folder / MANIFEST, replace(manifest, checksums=checksums).to_json())


def read_store(folder: Path, order: Tensor, batch_size: int, workers: int) -> Iterable[Any]:
    import torch

    from bench.data.prefetch import Prefetch
    from bench.data.sharded import StoredImages

    data, batches = StoredImages(folder), order.split(batch_size)

    def read(step: int) -> Any:
        return data.batch(batches[step], torch.Generator()) if step < len(batches) else None

    return map(Prefetch(read, ahead=workers), range(len(batches)))


def write_files(folder: Path, records: Records) -> None:
    """As REPA's preprocessing does: uncompressed PNG, .npy of mean and std, labels in one JSON file."""
    import numpy as np
    from PIL import Image

    for number, image in enumerate(records["image"]):
        place = folder / f"{number // 1000:05d}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"img{number:08d}.png", compress_level=0)
        latent = np.concatenate([records["mean"][number], records["std"][number]])
        np.save(place / f"img-mean-std-{number:08d}.npy", latent)
    (folder / "dataset.json").write_text(json.dumps({"labels": records["label"].tolist()}))


def read_files(folder: Path, order: Tensor, batch_size: int, workers: int) -> Iterable[Any]:
    import numpy as np
    from PIL import Image
    from torch.utils.data import DataLoader

    labels = json.loads((folder / "dataset.json").read_text())["labels"]

    class Files:
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, number: int) -> Any:
            place = folder / f"{number // 1000:05d}"
            image = np.asarray(Image.open(place / f"img{number:08d}.png")).transpose(2, 0, 1)
            return image, np.load(place / f"img-mean-std-{number:08d}.npy"), labels[number]

    files: Any = Files()
    return DataLoader(files, batch_size, sampler=order.tolist(), num_workers=workers)


def write_arrow(folder: Path, records: Records) -> None:
    import datasets

    def rows() -> Any:
        for number, label in enumerate(records["label"]):
            fields = {name: records[name][number].tobytes() for name in ("image", "mean", "std")}
            yield fields | {"label": int(label)}

    datasets.disable_progress_bars()
    kinds = {name: datasets.Value("binary") for name in ("image", "mean", "std")}
    features = datasets.Features(kinds | {"label": datasets.Value("int64")})
    table: Any = datasets.Dataset.from_generator(rows, features, cache_dir=str(folder / "cache"))
    table.save_to_disk(folder / "table")
    shutil.rmtree(folder / "cache")


def read_arrow(folder: Path, order: Tensor, batch_size: int, workers: int) -> Iterable[Any]:
    import datasets
    import numpy as np
    from torch.utils.data import DataLoader

    class Table:
        rows: Any = datasets.load_from_disk(str(folder / "table"))

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, number: int) -> Any:
            row = self.rows[number]
            image = np.frombuffer(row["image"], np.uint8).reshape(3, 256, 256).copy()
            mean, std = (np.frombuffer(row[name], np.float32).reshape(4, 32, 32) for name in ("mean", "std"))
            return image, np.concatenate([mean, std]), row["label"]

    table: Any = Table()
    return DataLoader(table, batch_size, sampler=order.tolist(), num_workers=workers)


if __name__ == "__main__":
    sys.exit(exit_code(main))
