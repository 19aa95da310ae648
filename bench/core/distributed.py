"""Processes that work on one run together, through torch.distributed; on a single process all is trivial.

Process r of W holds consecutive rows of every batch, its local batch. Random numbers are drawn for the whole
batch, of which each process keeps its rows, so W processes compute what one computes, up to the order of
floating-point sums. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are set by torchrun or by a job
(`bench/launch/job.py`). How weights and gradients are distributed is in `parallel.py`.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from bench.core.errors import UserError

T = TypeVar("T")


def is_requested() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device_wish: str) -> Iterator[None]:
    """Context of a process group, if torchrun or a job started several processes.

    gloo connects CPUs, NCCL GPUs; process n of a machine uses its n-th GPU.
    """
    if not is_requested():
        yield
        return
    cuda = device_wish != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        with nullcontext() if is_first() else redirect_stdout(io.StringIO()):  # only rank 0 prints
            yield
    finally:
        distributed.destroy_process_group()


def _started() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _started() else 0


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if _started() else 1


def is_first() -> bool:
    """Whether this is rank 0, the process that writes and prints."""
    return rank() == 0


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over processes."""
    if world_size() == 1:
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values


def all_reduce_max(number: int) -> int:
    """The largest number over processes."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def broadcast_from_rank0(action: Callable[[], T]) -> T:
    """Call `action` on rank 0 and return its result on every process; a collective.

    If it raises, every process raises, so that none is left waiting: rank 0 the error itself, the others the
    same UserError or KeyboardInterrupt, or for any other kind a RuntimeError that names it.
    """
    if world_size() == 1:
        return action()
    found: Any = None
    failure: BaseException | None = None
    message: list[Any] = [None]
    if is_first():
        try:
            found = action()
            message = [("value", pickle.dumps(found))]
        except UserError as error:
            failure, message = error, [("user error", str(error))]
        except KeyboardInterrupt as error:
            failure, message = error, [("interrupt", "")]
        except BaseException as error:
            failure, message = error, [("error", f"{type(error).__name__}: {error}")]
    distributed.broadcast_object_list(message, device=torch.device("cpu"))
    if failure is not None:
        raise failure
    if is_first():
        return found
    kind, content = message[0]
    if kind == "user error":
        raise UserError(content)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "error":
        raise RuntimeError(f"process 0 failed with {content}")
    return pickle.loads(content)


def raise_on_all(action: Callable[[], T]) -> T:
    """Call `action` on each process; an error on any of them is raised on all, so that none waits."""
    if world_size() == 1:
        return action()
    value: Any = None
    failed: Exception | None = None
    try:
        value = action()
    except Exception as error:
        failed = error
    messages = all_gather_object("" if failed is None else str(failed) or type(failed).__name__)
    if failed is not None:
        raise failed
    for message in filter(None, messages):
        raise UserError(message)
    return value


def all_gather(rows: Tensor, gradient: bool = False) -> Tensor:
    """Concatenate [b, ...] of all processes to [B, ...], in order of rank.

    With `gradient`, the gradients of a row are summed over processes. If all of them compute the same loss
    from the result, averaging gradients over processes gives those of a single process.
    """
    if world_size() == 1:
        return rows if gradient else rows.detach()
    if gradient:
        return _Gather.apply(rows)
    return torch.cat(all_gather_object(rows.detach().cpu())).to(rows.device)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = all_gather_object(rows.detach().cpu())
        first = sum(len(part) for part in parts[: rank()])
        ctx.own = slice(first, first + len(rows))
        return torch.cat(parts).to(rows.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_reduce_sum(gradients[0])[ctx.own]


def all_gather_object(value: T) -> list[T]:
    """The values of all processes, in order of rank."""
    everywhere: list[Any] = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(everywhere, value)
    return everywhere


def reduce_rows(rows: Sequence[Mapping[str, Any]], fractions: Sequence[float]) -> dict[str, Any]:
    """The row of a step from the rows of all micro-batches of all processes.

    Losses are those of the whole batch. Logs of a method are averaged over the micro-batches that have them;
    these are only approximately those of the whole batch if they are not means.

    Args:
        rows: rows of the micro-batches of this process.
        fractions: the fraction of the whole batch in each of them.
    """
    if world_size() == 1 and len(rows) == 1:
        return dict(rows[0])
    groups = [name for name in rows[0] if name != "logs"]
    flat = [_flat({name: row[name] for name in groups}) for row in rows]
    values = torch.stack([torch.stack([row[key] for key in flat[0]]) for row in flat])  # [rows, names]
    local = torch.tensor(fractions).to(values) @ values
    found = dict(zip(flat[0], all_reduce_sum(local), strict=True))
    logs: dict[str, list[float]] = {}
    local_logs = [{key: float(value) for key, value in row["logs"].items()} for row in rows]
    for row in (row for of_one in all_gather_object(local_logs) for row in of_one):
        for key, value in row.items():
            if math.isfinite(value):  # the standard deviation of one sample is NaN
                logs.setdefault(key, []).append(value)
    return {
        name: {key: found[name, key] for key in rows[0][name]}
        if isinstance(rows[0][name], Mapping)
        else found[name, ""]
        for name in groups
    } | {"logs": {key: sum(values) / len(values) for key, values in logs.items()}}


def _flat(row: Mapping[str, Any]) -> dict[tuple[str, str], Tensor]:
    pairs = {name: value if isinstance(value, Mapping) else {"": value} for name, value in row.items()}
    return {(name, key): value for name, inner in pairs.items() for key, value in inner.items()}
