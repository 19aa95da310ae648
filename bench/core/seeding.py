"""Named random streams, so that runs with the same seed are paired.

Every random number comes from a generator seeded by (seed, stream name, counters) only. No state is carried
from step to step, so a resumed run draws the same numbers as an uninterrupted one, and two methods with the
same seed see the same initial weights, images, times, noise and dropped labels. Numbers are drawn on the CPU
for all devices.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def seed_of(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed, independent for different streams and counters."""
    text = "/".join(map(str, (seed, stream, *counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, stream: str, *counters: int) -> torch.Generator:
    """A CPU generator for one stream, for example `generator(seed, "noise", step)`."""
    return torch.Generator().manual_seed(seed_of(seed, stream, *counters))


def data_order(seed: int, records: int, start: int, count: int) -> torch.Tensor:
    """Indices at positions start .. start + count of an endless stream of shuffled epochs, [count] int64.

    Every epoch is a new permutation of all records; a batch may span two epochs.
    """
    pieces = []
    while count > 0:
        epoch, offset = divmod(start, records)
        order = _epoch(seed, records, epoch)
        pieces.append(order[offset : offset + count])
        start, count = start + len(pieces[-1]), count - len(pieces[-1])
    return torch.cat(pieces)


@lru_cache(maxsize=2)  # a permutation of a large data set takes as long as reading a batch
def _epoch(seed: int, records: int, epoch: int) -> torch.Tensor:
    return torch.randperm(records, generator=generator(seed, "data order", epoch))
