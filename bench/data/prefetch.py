"""Prefetching of batches by threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Results of `read(step)` for consecutive steps; threads read the next ones in advance.

    Reading is copying from memory-mapped files, which does not hold the interpreter's lock, so threads do
    what others need processes for, and nothing is sent between processes. A result is a function of its
    step alone: whatever is asked first, after a resume too, is the same.
    """

    def __init__(self, read: Callable[[int], T], ahead: int = 4) -> None:
        """`ahead`: number of steps read in advance, and of threads."""
        self._read, self._ahead = read, ahead
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch")
        self._coming: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        steps = range(step, step + 1 + self._ahead)
        self._coming = {s: self._coming.get(s) or self._pool.submit(self._read, s) for s in steps}
        return self._coming[step].result()
