"""Named random streams, so that runs of one seed are paired.

Each draw comes from a generator seeded by (seed, stream name, counters) alone: no state is carried from
step to step, so a resumed run draws what an undisturbed one would, and two methods with one seed see the
same initial weights, images, times, noise and dropped labels. Streams are drawn on the CPU for all devices.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def seed_of(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed; streams and counters give unrelated ones."""
    text = "/".join(map(str, (seed, stream, *counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, stream: str, *counters: int) -> torch.Generator:
    """A CPU generator for one draw, for instance `generator(seed, "noise", step)`."""
    return torch.Generator().manual_seed(seed_of(seed, stream, *counters))


def data_order(seed: int, records: int, start: int, count: int) -> torch.Tensor:
    """Indices of positions start .. start+count of an endless stream of shuffled epochs, [count] int64.

    Every epoch is its own permutation of all records; a batch may span two epochs.
    """
    pieces = []
    while count > 0:
        epoch, offset = divmod(start, records)
        order = _epoch(seed, records, epoch)
        pieces.append(order[offset : offset + count])
        start, count = start + len(pieces[-1]), count - len(pieces[-1])
    return torch.cat(pieces)


@lru_cache(maxsize=2)  # of a large data set a permutation takes as long as reading a batch
def _epoch(seed: int, records: int, epoch: int) -> torch.Tensor:
    return torch.randperm(records, generator=generator(seed, "data order", epoch))
