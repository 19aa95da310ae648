"""The processes that train one run together, through torch.distributed; alone, all of it is trivial.

Process r of W takes consecutive rows of every batch, its local batch. Random draws are those of the whole
batch, of which each process keeps its rows, so W processes compute what one computes, up to the order of
float additions.

    DDP      every process has all weights; gradients are averaged
    FSDP2    every process keeps 1/W of weights, EMA and moments, and gathers the weights of one block at a
             time

A local batch may be taken in micro-batches, whose gradients add up to the batch's. RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT are set by what starts the processes: torchrun, or a job
(`bench/launch/job.py`).
"""

from __future__ import annotations

import io
import math
import os
import pickle
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
class Parallelism:
    """How a step's batch and the weights are divided. No result depends on it, up to float rounding."""

    micro_batch: int = 0  # images that a process holds at once; 0: its whole local batch
    fsdp: bool = False  # weights, EMA and moments sharded over the processes; else each has all of them

    def micro_batches(self, batch_size: int) -> list[slice]:
        """This process's rows of a batch, micro-batch by micro-batch: equally many on all processes.

        Raises UserError if the batch has fewer images than there are micro-batches.
        """
        local = -(-batch_size // world_size())
        each = -(-local // self.micro_batch) if self.micro_batch else 1
        number = world_size() * each
        if number > batch_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be divided into {number} parts "
                f"({world_size()} processes, {each} micro-batches each): use fewer processes."
            )
        bounds = [i * batch_size // number for i in range(number + 1)]
        first = rank() * each
        return [slice(bounds[i], bounds[i + 1]) for i in range(first, first + each)]


UNDIVIDED = Parallelism()


def asked_for() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device_wish: str) -> Iterator[None]:
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


def world_size() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if _started() else 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


# Values.


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over processes of a tensor of one shape."""
    if world_size() == 1:
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values


def all_reduce_max(number: int) -> int:
    """The largest over processes: what one of them noticed, all know."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def broadcast_from_rank0(action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, on every process; all must call this together.

    If it raises there, every process raises: rank 0 the error itself, the others a UserError or an interrupt
    alike, and a RuntimeError that names any other kind. So none is left waiting.
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
    """Each process's own result of `action`; an error on any process is raised on all, so that none waits."""
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
    """[b, ...] of each process -> [B, ...] in the order of processes.

    With `gradient`, the gradients that all processes send to a row are summed: of a loss that each of them
    computes alike, averaging gradients over processes then gives what one process would compute.
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
    """Every process's value, by process."""
    everywhere: list[Any] = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(everywhere, value)
    return everywhere


def reduce_rows(rows: Sequence[Mapping[str, Any]], fractions: Sequence[float]) -> dict[str, Any]:
    """A step's row from those of this process's micro-batches, which are these fractions of the step's batch.

    Losses become those of the whole batch. A method's logs become means over the micro-batches that have
    them: close to those of the whole batch, not equal where they are no means.
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
            if math.isfinite(value):  # a spread of one sample is none
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


# Weights and gradients.


def wrap(network: nn.Module, blocks: Iterable[nn.Module], parallelism: Parallelism) -> nn.Module:
    """The network whose backward averages gradients over processes; alone, the network itself.

    With FSDP2, the network's own parameters become this process's shards of them.
    """
    if world_size() == 1:
        return network
    if parallelism.fsdp:
        return fsdp(network, blocks)
    return DistributedDataParallel(network)


def fsdp(network: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
    """The network with its parameters sharded over the processes, in place; `blocks` are gathered singly."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(network.parameters()).device.type, (world_size(),))
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh)
    return network


def reshard(network: nn.Module) -> None:
    """After a call of a network outside training: FSDP2 keeps its outermost weights gathered until a backward
    comes, and none will."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.reshard()


def gradient_sync(network: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Around forward and backward of a micro-batch: gradients are averaged with the last one only."""
    if isinstance(network, DistributedDataParallel):
        return nullcontext() if last else network.no_sync()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    return nullcontext()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average over processes what `wrap` does not: the gradients of parameters outside the network."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
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
    norm = torch.stack([full_tensor(nn.utils.get_total_norm(kind)) for kind in gradients]).norm()
    for kind in kinds.values():
        nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm


def is_shard(tensor: Tensor) -> bool:
    """Whether the other processes hold the rest of it."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a shard; all processes must ask together."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`full_tensor` of every tensor, shards on the CPU: no device has room for all of them."""
    return {key: full_tensor(tensor).cpu() if is_shard(tensor) else tensor for key, tensor in state.items()}


def distribute_like(example: Tensor, value: Tensor) -> Tensor:
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
        {key: distribute_like(own[key], value) if key in own else value for key, value in state.items()}
    )
