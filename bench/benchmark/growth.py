"""Growth of time and memory with the size of the work: python -m bench.benchmark.growth

One size is varied at a time, by factors. The exponent e of a column is that of the law size^e which fits it
best, 1 for linear growth; what is constant, such as imports, makes it smaller.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.benchmark import new_table, print_table
from bench.benchmark.apart import seconds_and_bytes
from bench.core.cli import parse
from bench.core.errors import exit_code, unknown

STEPS, BATCHES = 5, 50  # training steps and read batches that are timed


@dataclass(frozen=True)
class Options:
    """What is measured."""

    parts: tuple[str, ...] = ()
    """of batch, tokens, depth, samples, runs, records, processes; all by default"""
    large: bool = False
    """sizes ten times as large where that still takes minutes: 2,000 runs, 10 million records"""


class Part(NamedTuple):
    """One size that grows: what is done, and how large it is."""

    work: Callable[[int], Callable[[], object]]  # size -> what is timed, once all is prepared
    sizes: Sequence[int]
    large: Sequence[int]


def main() -> None:
    """Measure the parts one after the other and print a table with a line for each size."""
    options = parse(Options, __doc__)
    parts = growing()
    for name in options.parts:
        if name not in parts:
            raise unknown("part", name, parts)
    table = new_table("Growth", ["part"], ["size", "seconds", "MB", "exponent: seconds", "MB"])
    for name in options.parts or parts:
        part = parts[name]
        sizes = part.large if options.large else part.sizes
        found = [seconds_and_bytes(partial(part.work, size)) for size in sizes]
        seconds, memory = ([row[column] for row in found] for column in (0, 1))
        for size, duration, peak in zip(sizes, seconds, memory, strict=True):
            last = size == sizes[-1]
            exponents = [f"{exponent(sizes, values):.2f}" if last else "" for values in (seconds, memory)]
            table.add_row(name, f"{size:,}", f"{duration:.3g}", f"{peak / 1e6:.3g}", *exponents)
    print_table(table)


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """e of the power law values ~ sizes^e, by least squares of the logarithms; nan if a value is 0."""
    if min(values) <= 0:
        return math.nan
    x, y = ([math.log(number) for number in numbers] for numbers in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def growing() -> dict[str, Part]:
    """All parts by name. Images of `tokens` grow in both directions, by four tokens for one."""
    powers = [16, 32, 64, 128]
    return {
        "batch": Part(partial(_training, "batch"), powers, [64, 128, 256, 512]),
        "tokens": Part(partial(_training, "tokens"), [16, 64, 256], [16, 64, 256, 1024]),
        "depth": Part(partial(_training, "depth"), [2, 4, 8, 16], [4, 8, 16, 32]),
        "samples": Part(_scoring, [500, 1000, 2000, 4000], [5000, 10_000, 20_000, 40_000]),
        "runs": Part(_report, [10, 50, 200], [20, 200, 2000]),
        "records": Part(_reading, [10**4, 10**5, 10**6], [10**5, 10**6, 10**7]),
        "processes": Part(_processes, [1, 2], [1, 2]),
    }


def _training(grows: str, size: int) -> Callable[[], object]:
    """Training steps of SiT-nano on random images; 32 of them, 16 tokens and 3 blocks unless these grow."""
    import torch

    import backbones

    depth = size if grows == "depth" else 3
    architecture = replace(backbones.architecture("sit-nano"), depth=depth)
    side = 2 * math.isqrt(size) if grows == "tokens" else 8  # patches of 2
    batch = size if grows == "batch" else 32
    network = architecture.build(input_size=side, channels=1, num_classes=10)
    optimizer = torch.optim.AdamW(network.parameters())
    images, label = torch.randn(batch, 1, side, side), torch.zeros(batch, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        output = network(images, torch.rand(batch), label)
        output.prediction.square().mean().backward()
        optimizer.step()

    step()

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


def _scoring(size: int) -> Callable[[], object]:
    """Samples and as many references through two networks, with precision and recall."""
    import torch

    from bench.evaluation.scorer import Scorer
    from bench.nets.metric_nets import feature_nets

    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, size, 1, 8, 8), generator=draw, dtype=torch.uint8)
    nets = feature_nets(("random-conv", "pixels"), torch.device("cpu"))

    def score() -> None:
        scorer = Scorer(nets, images[0])
        scorer.update(images[1])
        scorer.results()

    return score


def _report(size: int) -> Callable[[], object]:
    """The report of simulated runs of ten methods, with ten evaluations each, imports included."""
    from bench.benchmark.report import seconds_of_report
    from bench.benchmark.simulated_runs import write_run

    folder = Path(tempfile.mkdtemp(prefix="growth-"))
    for number in range(size):
        seed, method = divmod(number, 10)
        write_run(folder, f"method{method}" if method else "baseline", seed=seed, speed=1 + 0.2 * method)

    def make() -> float:
        try:
            return seconds_of_report(folder)
        finally:
            shutil.rmtree(folder)

    return make


def _reading(size: int) -> Callable[[], object]:
    """Opening a store of so many records of 16 x 16 pixels, files with holes, and reading random batches."""
    from bench.core.seeding import data_order, generator
    from bench.data.sharded import StoredImages

    folder = Path(tempfile.mkdtemp(prefix="growth-"))
    _write_holes(folder, size)

    def read() -> None:
        try:
            store = StoredImages(folder)
            for step in range(BATCHES):
                store.batch(data_order(0, size, 64 * step, 64), generator(0, "growth", step))
        finally:
            shutil.rmtree(folder)

    return read


def _write_holes(folder: Path, records: int) -> None:
    """A store whose shards have headers and no content: every image is black, of class 0."""
    from bench.data.shards import MANIFEST, Manifest

    manifest = Manifest("simulated", 16, ("one",), {"train": records}, "", 8, None, images={"train": ""})
    for shard in manifest.shards():
        count, end, header = len(shard), 0, {}
        for name, kind, shape in (
            ("label", "I64", [count]),
            ("image", "U8", [count, 3, 16, 16]),
            ("key", "U8", [count, 8]),
        ):
            start, end = end, end + math.prod(shape) * (8 if kind == "I64" else 1)
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        written = json.dumps(header).encode()
        written += b" " * (-len(written) % 8)
        with open(folder / shard.file, "wb") as file:
            file.write(struct.pack("<Q", len(written)) + written)
            file.truncate(8 + len(written) + end)
        manifest.checksums[shard.file] = ""
    (folder / MANIFEST).write_text(json.dumps(manifest.to_json()))


def _processes(size: int) -> Callable[[], object]:
    """A short run on so many processes with gloo, imports included."""
    folder = Path(tempfile.mkdtemp(prefix="growth-"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command += ["-m", "bench.run", "--method", "baseline", "--backbone", "sit-nano", "--steps", "40"]
    command += ["--samples", "100", "--evaluate-every", "40", "--device", "cpu", "--output", str(folder)]

    def run() -> float:
        start = time.perf_counter()
        try:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, capture_output=True, env=environment)
        finally:
            shutil.rmtree(folder)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    sys.exit(exit_code(main))
