"""The processes that train one run together, through torch.distributed; alone, all of it is trivial.

Process r of W takes its consecutive part of every batch. Random draws are those of the whole batch, of which
each process keeps its rows, so W processes compute what one computes, up to the order of float additions.

    replicated   DistributedDataParallel: every process has all weights; gradients are averaged
    sharded      FSDP2 (`fully_shard`): every process keeps 1/W of weights, EMA and moments, and gathers the
                 weights of one block at a time

A part may be taken in micro-batches, whose gradients add up to the batch's. Whoever starts the processes sets
RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT: torchrun, or a job (`bench/launch/job.py`).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bench.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Division:
    """How a step is divided. No result depends on it but for the order of float additions."""

    micro_batch: int = 0  # images that a process holds at once; 0: all of its part
    shard: bool = False  # weights, EMA and moments over the processes; else each has all of them

    def portions(self, batch_size: int) -> list[slice]:
        """This process's rows of a batch, micro-batch by micro-batch: equally many on all processes.

        Raises UserError where the batch has fewer images than there are parts.
        """
        part = -(-batch_size // count())
        pieces = -(-part // self.micro_batch) if self.micro_batch else 1
        if count() * pieces > batch_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be divided into {count() * pieces} parts "
                f"({count()} processes, {pieces} micro-batches each): use fewer processes."
            )
        bounds = [piece * batch_size // (count() * pieces) for piece in range(count() * pieces + 1)]
        first = rank() * pieces
        return [slice(bounds[i], bounds[i + 1]) for i in range(first, first + pieces)]


UNDIVIDED = Division()


def asked_for() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def together(device_wish: str) -> Iterator[None]:
    """While inside, this process is one of those that torchrun or a job started; alone, nothing happens.

    gloo connects CPUs, NCCL GPUs; process n of a machine takes its n-th GPU.
    """
    if not asked_for():
        yield
        return
    cuda = device_wish != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        with nullcontext() if is_first() else redirect_stdout(io.StringIO()):  # one process speaks
            yield
    finally:
        distributed.destroy_process_group()


def _started() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if _started() else 0


def count() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if _started() else 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


# Values.


def total(values: Tensor) -> Tensor:
    """The sum over processes of a tensor of one shape."""
    if count() == 1:
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values


def highest(number: int) -> int:
    """The largest over processes: what one of them noticed, all know."""
    if count() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def by_first(action: Callable[[], T]) -> T:
    """What the first process finds by `action`, on every process; so is a UserError of it."""
    if count() == 1:
        return action()
    outcome: tuple[Any, str] = None, ""
    if is_first():
        try:
            outcome = action(), ""
        except UserError as error:
            outcome = None, str(error)
    box: list[Any] = [outcome]
    distributed.broadcast_object_list(box, device=torch.device("cpu"))
    value, message = box[0]
    if message:
        raise UserError(message)
    return value


def raise_on_all(action: Callable[[], T]) -> T:
    """Each process's own result of `action`; an error on any process is raised on all, so that none waits."""
    if count() == 1:
        return action()
    value: Any = None
    failed: Exception | None = None
    try:
        value = action()
    except Exception as error:
        failed = error
    messages = everyones("" if failed is None else str(failed) or type(failed).__name__)
    if failed is not None:
        raise failed
    for message in filter(None, messages):
        raise UserError(message)
    return value


def gathered(rows: Tensor, gradient: bool = False) -> Tensor:
    """[b, ...] of each process -> [B, ...] in the order of processes.

    With `gradient`, the gradients that all processes send to a row are summed: of a loss that each of them
    computes alike, averaging gradients over processes then gives what one process would compute.
    """
    if count() == 1:
        return rows if gradient else rows.detach()
    return _Gather.apply(rows) if gradient else torch.cat(everyones(rows.detach().cpu())).to(rows.device)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = everyones(rows.detach().cpu())
        first = sum(len(part) for part in parts[: rank()])
        ctx.own = slice(first, first + len(rows))
        return torch.cat(parts).to(rows.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])[ctx.own]


def everyones(value: T) -> list[T]:
    """Every process's value, by process."""
    everywhere: list[Any] = [value] * count()
    if count() > 1:
        distributed.all_gather_object(everywhere, value)
    return everywhere


def merged(rows: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """A step's row from those of this process's micro-batches, whose weights add up to 1 over all processes.

    Losses become those of the whole batch. A method's logs become means over the micro-batches that have
    them: close to those of the whole batch, not equal where they are no means.
    """
    if count() == 1 and len(rows) == 1:
        return dict(rows[0])
    parts = [name for name in rows[0] if name != "logs"]
    flat = [_flat({name: row[name] for name in parts}) for row in rows]
    values = torch.stack([torch.stack([row[key] for key in flat[0]]) for row in flat])  # [rows, names]
    own = torch.tensor(weights).to(values) @ values
    found = dict(zip(flat[0], total(own), strict=True))
    logs: dict[str, list[float]] = {}
    own_logs = [{key: float(value) for key, value in row["logs"].items()} for row in rows]
    for row in (row for of_one in everyones(own_logs) for row in of_one):
        for key, value in row.items():
            if math.isfinite(value):  # a spread of one sample is none
                logs.setdefault(key, []).append(value)
    return {
        name: {key: found[name, key] for key in rows[0][name]}
        if isinstance(rows[0][name], Mapping)
        else found[name, ""]
        for name in parts
    } | {"logs": {key: sum(values) / len(values) for key, values in logs.items()}}


def _flat(row: Mapping[str, Any]) -> dict[tuple[str, str], Tensor]:
    pairs = {name: value if isinstance(value, Mapping) else {"": value} for name, value in row.items()}
    return {(name, key): value for name, inner in pairs.items() for key, value in inner.items()}


# Weights and gradients.


def shared(network: nn.Module, blocks: Iterable[nn.Module], division: Division) -> nn.Module:
    """The network whose backward averages gradients over processes; alone, the network itself.

    Sharded, the network's own parameters become this process's parts of them.
    """
    if count() == 1:
        return network
    if division.shard:
        return sharded(network, blocks)
    return DistributedDataParallel(network)


def sharded(network: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
    """The network with its parameters divided over the processes, in place; `blocks` are gathered singly."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(network.parameters()).device.type, (count(),))
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh)
    return network


def averaging(network: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Around forward and backward of a micro-batch: gradients are averaged with the last one only."""
    if isinstance(network, DistributedDataParallel):
        return nullcontext() if last else network.no_sync()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    return nullcontext()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average over processes what `shared` does not: the gradients of parameters outside the network."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not gradients:
        return
    flat = total(torch.cat([gradient.flatten() for gradient in gradients])) / count()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to a global norm of `limit`; returns the norm before it. Shards count together."""
    kinds: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(is_shard(parameter), []).append(parameter)
    if True not in kinds:
        return nn.utils.clip_grad_norm_(kinds[False], limit)
    gradients = [[p.grad for p in kind if p.grad is not None] for kind in kinds.values()]
    norm = torch.stack([whole(nn.utils.get_total_norm(kind)) for kind in gradients]).norm()
    for kind in kinds.values():
        nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm


def is_shard(tensor: Tensor) -> bool:
    """Whether the other processes hold the rest of it."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a shard; all processes must ask together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`whole` for every tensor, shards on the CPU: no device has room for all of them."""
    return {key: whole(tensor).cpu() if is_shard(tensor) else tensor for key, tensor in state.items()}


def divided_as(example: Tensor, value: Tensor) -> Tensor:
    """A whole tensor as `example` is held: its shard, on its device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(example.device)
    if isinstance(example, DTensor):
        return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)
    return value


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module that may hold shards."""
    own = module.state_dict()
    module.load_state_dict(
        {key: divided_as(own[key], value) if key in own else value for key, value in state.items()}
    )
