"""Time and memory of work in a process of its own, forked after the imports.

Memory is the most that the work itself takes, since its process has done nothing before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Work = Callable[[], Callable[[], object]]  # prepares, and returns what is timed; it can be pickled


def seconds_and_bytes(work: Work) -> tuple[float, float]:
    """Seconds of what `work` returns, and bytes of memory of all of it, on one thread.

    Seconds are what it returns where that is a float. Raises RuntimeError if its process ends without a
    result.
    """
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.evaluation.scorer", "bench.training.trainer", "torch._dynamo"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(send, work))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(f"the measurement of {work} failed") from None
    finally:
        process.join()


def _measure(send: Connection, work: Work) -> None:
    import resource

    import torch

    from bench.benchmark import now

    def peaks() -> list[int]:  # of this process, and of the largest that it has started; Linux counts in KiB
        return [1024 * resource.getrusage(who).ru_maxrss for who in users]

    users = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    torch.set_num_threads(1)
    before = peaks()
    timed = work()
    cpu = torch.device("cpu")
    start = now(cpu)
    seconds = timed()
    seconds = seconds if isinstance(seconds, float) else now(cpu) - start
    send.send((seconds, max(after - first for after, first in zip(peaks(), before, strict=True))))
