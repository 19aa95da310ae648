"""Weights, gradients and micro-batches of a network that several processes train.

    DDP      every process has all weights; gradients are averaged
    FSDP2    every process has 1/W of weights, EMA and moments, and gathers the weights of one block at a time

A local batch may be split into micro-batches, whose gradients add up to those of the batch, and the
activations of blocks may be computed twice instead of being kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from bench.core import distributed
from bench.core.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Parallelism:
    """Division of batch, weights and activations. Results do not depend on it, up to rounding."""

    micro_batch: int = 0  # images per process and pass; 0: the whole local batch
    fsdp: bool = False  # shard weights, EMA and moments over the processes
    # Activation checkpointing: keep what is between blocks, compute the rest again in the backward pass.
    recompute: bool = False

    def micro_batches(self, batch_size: int) -> list[slice]:
        """The rows of each micro-batch of this process; all processes have the same number of micro-batches.

        Raises:
            UserError: if the batch has fewer images than there are micro-batches.
        """
        local = -(-batch_size // distributed.world_size())
        each = -(-local // self.micro_batch) if self.micro_batch else 1
        number = distributed.world_size() * each
        if number > batch_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be divided into {number} parts "
                f"({distributed.world_size()} processes, {each} micro-batches each): use fewer processes."
            )
        bounds = [i * batch_size // number for i in range(number + 1)]
        first = distributed.rank() * each
        return [slice(bounds[i], bounds[i + 1]) for i in range(first, first + each)]


UNDIVIDED = Parallelism()


def wrap(network: nn.Module, blocks: Iterable[nn.Module], parallelism: Parallelism) -> nn.Module:
    """The network with gradients averaged over processes; on a single process, the network itself.

    With FSDP2, the parameters of the network are replaced by the shards of this process.
    """
    blocks = list(blocks)
    if parallelism.recompute:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if distributed.world_size() == 1:
        return network
    if parallelism.fsdp:
        return fsdp(network, blocks)
    return DistributedDataParallel(network)


def fsdp(network: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
    """Shard the parameters of a network over the processes, in place; `blocks` are gathered one at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(network.parameters()).device.type, (distributed.world_size(),))
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh)
    return network


def reshard(network: nn.Module) -> None:
    """Free gathered weights after a forward pass without backward; FSDP2 keeps the outermost ones."""
    if distributed.world_size() == 1:
        return
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.reshard()


def gradient_sync(network: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Context of a micro-batch: gradients are averaged over processes in the last one only."""
    if isinstance(network, DistributedDataParallel):
        return nullcontext() if last else network.no_sync()
    if distributed.world_size() == 1:
        return nullcontext()
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    return nullcontext()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average over processes the gradients of parameters outside the wrapped network."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if distributed.world_size() == 1 or not gradients:
        return
    flat = distributed.all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
    flat = flat / distributed.world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clip the global norm of all gradients, sharded or not, to `limit`; returns the norm before clipping."""
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
    """Whether this is a shard of a tensor that is distributed over processes."""
    # Where nothing has imported the module there are no shards; importing it takes a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered if it is sharded; a collective."""
    return cast("DTensor", tensor).full_tensor() if is_shard(tensor) else tensor


def full_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`full_tensor` of every tensor, shards on the CPU, since they may not fit on one device."""
    return {key: full_tensor(tensor).cpu() if is_shard(tensor) else tensor for key, tensor in state.items()}


def distribute_like(example: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, sharded and placed like `example`."""
    value = value.to(example.device)
    if is_shard(example):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(example, DTensor)
        return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)
    return value


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module, which may be sharded."""
    own = module.state_dict()
    module.load_state_dict(
        {key: distribute_like(own[key], value) if key in own else value for key, value in state.items()}
    )
